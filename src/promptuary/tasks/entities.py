"""Entities and relations between them: WNUT 2017, SemEval-2010 task 8."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from promptuary.metrics import relation_f1
from promptuary.tasks.named import Fields, NamedTask, Wording, as_published, label_of, without

PAIRS = (
    *("Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination", "Entity-Origin"),
    *("Instrument-Agency", "Member-Collection", "Message-Topic", "Product-Producer"),
)
RELATIONS = (*(f"{pair}({way})" for pair in PAIRS for way in ("e1,e2", "e2,e1")), "Other")


def _related(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
    """The row as a text with `<e1> ... </e1>` and `<e2> ... </e2>` around its entities, one space at each mark.

    Rows have a list of words with two spans (the first word, and the one after the last), or such a text.
    """
    if "sentence" in row:
        text = " ".join(re.sub(r"(</?e[12]>)", r" \1 ", row["sentence"]).split())
    else:
        before = {row[of]["pos"][0]: mark for of, mark in (("h", "<e1>"), ("t", "<e2>"))}
        behind = {row[of]["pos"][1]: mark for of, mark in (("h", "</e1>"), ("t", "</e2>"))}
        words = [part for i, word in enumerate([*row["token"], ""]) for part in (behind.get(i), before.get(i), word)]
        text = " ".join(part for part in words if part)
    return [{**without(row, "relation"), "text": text, **label_of(row, *RELATIONS, column="relation")}]


def _relation_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    return {"relation_f1": relation_f1([row["relation"] for row in rows], [answer["label"] for answer in said])}


_RELATION: dict[str, Any] = {"classes": RELATIONS, "score": _relation_scores}
TASKS = (
    NamedTask(
        "wnut17", "emerging entities in messages, six kinds (Derczynski et al. 2017)", ("entity_f1",),
        {"classifier": Wording(as_published, {}, kind="tagging")}, ("wnut17",),
    ),
    NamedTask(
        "semeval2010_task8", "how two nouns are related, nine relations and which way (Hendrickx et al. 2010)",
        ("relation_f1",),
        {
            "classifier": Wording(_related, {"label": "relation", "readout": "classifier"}, **_RELATION),
            "text-to-text": Wording(
                _related,
                {"label": "relation", "template": "{text}", "words": {name: name for name in RELATIONS}},
                **_RELATION,
            ),
        },
        ("semeval2010_task8",), "SemEvalWorkshop/sem_eval_2010_task_8",
    ),
)  # fmt: skip
