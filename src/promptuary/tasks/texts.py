"""Texts to write and answers to find: E2E, WebNLG, and questions in the manner of SQuAD."""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from promptuary.metrics import bleu, chrf, exact_match, rouge, token_f1
from promptuary.tasks.named import Fields, NamedTask, Wording, as_published, without

TRIPLE = " : "
_PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")  # RE2's [[:punct:]], which T5 uses
GENERATION = ("bleu", "chrf", "rouge_l")
QUESTIONS = (
    ("squad", "questions on Wikipedia (Rajpurkar et al. 2016)", "rajpurkar/squad"),
    ("squad_xquad", "the questions of SQuAD that XQuAD took (Artetxe et al. 2020)", None),
    ("nq_qed", "Natural Questions with a short answer (Lamm et al. 2021)", None),
    *((f"subjqa_{of}", f"opinions in reviews: {of} (Bjerva et al. 2020)", None)
      for of in ("books", "electronics", "movies", "restaurants")),
    ("quoref", "questions that need coreference (Dasigi et al. 2019)", None),
    ("drop_contrast", "questions that need arithmetic (Gardner et al. 2020)", None),
)  # fmt: skip


def _references(column: str) -> Any:
    """A row with `column` as its text and its first reference as target; where it teaches, one for each reference."""

    def rows(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
        given = row[column]
        # A list of triples is written as prefix tuning writes it (Li and Liang 2021): "| subject : relation : object".
        text = given if isinstance(given, str) else " ".join(f"| {TRIPLE.join(triple)}" for triple in given)
        own = {**without(row, column), "text": text}
        return [{**own, "target": target} for target in (row["references"] if teaching else row["references"][:1])]

    return rows


def _generation_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    """Against all references; each text once, though rows may repeat it for each of its references."""
    first: dict[str, tuple[list[str], str]] = {}
    for row, answer in zip(rows, said, strict=True):
        first.setdefault(row["text"], (row["references"], answer["prediction"]))
    gold, texts = zip(*first.values(), strict=True)
    return {"bleu": bleu(gold, texts), "chrf": chrf(gold, texts), "rouge_l": rouge(gold, texts)}


def _accepted(row: Fields) -> list[str]:
    """The texts of a row's answers; the hub has them as an object of lists."""
    answers = row["answers"]
    return list(answers["text"]) if isinstance(answers, dict) else [answer["text"] for answer in answers]


def spaced(text: str) -> str:
    """The text with spaces around ASCII punctuation, as T5 writes questions, contexts and answers."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", text).split())


def _asked(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
    """The row with its first answer as the text to write; what is accepted is spaced alike (T5's `squad`)."""
    texts = {name: spaced(row[name]) for name in ("question", "context")}
    accepted = [spaced(text) for text in _accepted(row)]
    return [{**row, **texts, "accepted": accepted, "target": (accepted or [""])[0]}]


def _answer_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    gold, texts = [row["accepted"] or [""] for row in rows], [answer["prediction"] for answer in said]
    return {"token_f1": token_f1(gold, texts), "exact_match": exact_match(gold, texts)}


ANSWERS = {
    "classifier": Wording(as_published, {}, kind="answering"),
    "text-to-text": Wording(
        _asked,
        {
            "text": "context", "text_pair": "question", "label": "target",
            "template": "question: {question} context: {context}",
        },
        kind="text",
        score=_answer_scores,
    ),
}  # fmt: skip

TASKS = (
    *(
        NamedTask(
            name, summary, GENERATION,
            {
                "text-to-text": Wording(
                    _references(column),
                    {"label": "target", "template": "{text}", "max_new_tokens": 128, "metric": "loss"},
                    kind="text",
                    score=_generation_scores,
                    unit="text",
                )
            },
            (name,),
        )
        for name, column, summary in (
            ("e2e_nlg", "mr", "sentences on a restaurant (Novikova et al. 2017)"),
            ("webnlg2017", "triples", "sentences on facts of Wikidata (Gardent et al. 2017)"),
        )
    ),
    *(NamedTask(name, summary, ("token_f1", "exact_match"), ANSWERS, (name,), hub) for name, summary, hub in QUESTIONS),
)  # fmt: skip
