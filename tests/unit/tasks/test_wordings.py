"""What a row of a named task is written as: Lester's strings on real rows, on invented ones, and what they become.

The expected strings are put together here from the raw files, by other code than the library's. Real rows are read from
the folder that the environment calls PROMPTUARY_DATA; without it only invented rows are looked at.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from promptuary import Run
from promptuary.data.source import Row, rows
from promptuary.data.task import Task
from promptuary.data.wording import Wording
from promptuary.kinds import KINDS
from promptuary.tasks import FAMILIES, TASKS, chosen, superglue
from promptuary.tasks.texts import spaced
from tests.saved import lines
from tests.unit.data.vocabularies import VOCABULARIES

WORDED = [f"{name}/{how}" for name, task in TASKS.items() for how in task.wordings]
MANY, FEW = 200, 10


def written(task: str, row: Row) -> str:
    """What the model reads of a row, by a tokenizer that loses nothing."""
    run = Run(task=task, out="x")
    template = run.template and run.template.replace("<mask>", "[blank]")  # this tokenizer has no mask
    columns = Task("x", "classification", run.text, run.text_pair)
    wording = Wording(VOCABULARIES["gpt2"](), columns, template=template, columns=row.fields, causal=True)
    [example] = wording.encode([row], labelled=False)
    return str(VOCABULARIES["gpt2"]().decode(example.ids))


def answer(task: str, row: Row) -> str:
    """What a text-to-text model is to write for a row."""
    run = Run(task=task, out="x")
    value = row.fields[run.label]
    word = run.words.get(value, value)
    assert isinstance(word, str)
    return word


def flat(text: str) -> str:
    """The text with single spaces: T5's vocabulary sees no other."""
    return " ".join(text.split())


def published(name: str, *splits: str) -> Iterator[dict[str, Any]]:
    """Real rows, read by hand."""
    if "PROMPTUARY_DATA" not in os.environ:
        pytest.skip("real rows are read from the folder PROMPTUARY_DATA, which is not set")
    for split in splits:
        [path] = Path(os.environ["PROMPTUARY_DATA"], name).glob(f"{split}.jsonl*")
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="\n") as file:
            yield from (json.loads(line) for line in file)


def _boolq(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield f"passage: {row['passage']} question: {row['question']}", str(row["label"])


def _nli(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield f"hypothesis: {row['hypothesis']} premise: {row['premise']}", row["label"]


def _copa(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    text = f"choice1: {row['choice1']} choice2: {row['choice2']} premise: {row['premise']} question: {row['question']}"
    yield text, "choice2" if row["label"] else "choice1"


def _multirc(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for q in row["passage"]["questions"]:
        for a in q["answers"]:
            text = f"question: {q['question']} answer: {a['text']} paragraph: {row['passage']['text']}"
            bare = text.replace("<br>", " ").replace("<b>", "").replace("</b>", "")
            yield bare, "True" if a["label"] == 1 else "False"


def _record(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """One for each query: with its first answer in alphabetical order."""
    text = row["passage"]["text"]
    names = sorted({text[e["start"] : e["end"] + 1] for e in row["passage"]["entities"]})
    first, *others = text.split("\n@highlight\n")
    for other in others:
        first += (" " if first[-1:] in tuple(".?!\"'") else ". ") + other
    for q in row["qas"]:
        yield f"query: {q['query']} entities: {', '.join(names)} passage: {first}", min(a["text"] for a in q["answers"])


def _wic(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield f"sentence1: {row['sentence1']} sentence2: {row['sentence2']} word: {row['word']}", str(row["label"])


def _wsc(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    pronoun, words = row["target"]["span2_text"], row["text"].split(" ")
    index = row["target"]["span2_index"]
    if words[index] == pronoun:
        text = " ".join([*words[:index], f"*{pronoun}*", *words[index + 1 :]])
    else:  # the four rows that T5 names one by one: its special cases put the pronoun into "for _ ," and "use _ ,"
        before = "for" if pronoun == "him" else "use"
        text = row["text"].replace(f"{before} {pronoun},", f"{before} *{pronoun}* ,")
        text = text.replace(f"{before} {pronoun} ,", f"{before} *{pronoun}* ,")
    yield text, row["target"]["span1_text"]


LESTER: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Iterator[tuple[str, str]]]]] = {
    "boolq": (("validation",), _boolq),
    "cb": (("train", "validation"), _nli),
    "copa": (("train", "validation"), _copa),
    "multirc": (("validation",), _multirc),
    "fewglue_record": (("validation",), _record),
    "rte": (("train", "validation"), _nli),
    "wic": (("validation",), _wic),
    "wsc": (("validation",), _wsc),
}


@pytest.mark.parametrize("name", LESTER)
def test_real_rows_are_written_as_lester_et_al_write_them(name: str) -> None:
    splits, expected = LESTER[name]
    for split in splits:
        wanted = [pair for row in published(name, split) for pair in expected(row)]
        found = list(rows(f"task:{name}/{split}"))
        assert len(found) == len(wanted)
        for row, (text, target) in islice(zip(found, wanted, strict=True), MANY if name != "wsc" else None):
            assert flat(written(name, row)) == flat(text), row.place
            said = answer(name, row)
            assert said == target or (name == "wsc" and said.lower() == flat(target).lower().rstrip(".")), row.place


def test_the_four_odd_rows_of_wsc_have_their_pronoun_marked_once() -> None:
    seen = 0
    for row in published("wsc", "train", "validation"):
        words, pronoun = row["text"].split(), row["target"]["span2_text"]
        text = superglue.marked(row["text"], pronoun, row["target"]["span2_index"])
        assert text.count(f"*{pronoun}*") == 1
        assert text.replace("*", "").replace(" ", "") == row["text"].replace(" ", "").replace("\n", "")
        odd = words[row["target"]["span2_index"]] != pronoun
        seen += odd
        assert odd or text.split()[row["target"]["span2_index"]] == f"*{pronoun}*"
    assert seen == 4


def test_training_rows_of_wsc_are_positive_and_those_of_record_have_a_target_each() -> None:
    raw = list(published("wsc", "train"))
    assert sum(row["label"] for row in raw) == len(list(rows("task:wsc/train"))) == 259
    assert len(list(rows("task:wsc/cloze/train"))) == len(raw)
    queries = [q for row in published("fewglue_record", "train") for q in row["qas"]]
    answers = [{a["text"] for a in q["answers"]} for q in queries]
    found = list(rows("task:fewglue_record/train"))
    assert len(found) == sum(map(len, answers)) > len(queries)
    assert {row.fields["target"] for row in found} == set().union(*answers)


COUNTS = {"boolq": 3270, "cb": 56, "copa": 100, "multirc": 4848, "rte": 277, "wic": 638, "wsc": 104}


@pytest.mark.parametrize("name", TASKS)
def test_every_row_of_the_data_folder_is_read_in_every_wording(name: str) -> None:
    folder = Path(os.environ.get("PROMPTUARY_DATA", "none"), name)
    if not folder.is_dir():
        pytest.skip(f"there is no folder {name} in PROMPTUARY_DATA")
    for how, wording in TASKS[name].wordings.items():
        for split in (path.name.split(".")[0] for path in folder.iterdir()):
            run, count = Run(task=f"{name}/{how}", out="x"), 0
            kind = KINDS[wording.kind]
            for row in rows(f"task:{name}/{how}/{split}"):
                count += 1
                assert count > FEW or kind is KINDS["tagging"] or flat(written(f"{name}/{how}", row))
                assert row.fields.get(run.label) is not None, row.place
                assert not wording.classes or row.fields[run.label] in wording.classes, row.place
            assert count
            assert split != "validation" or how != "text-to-text" or count == COUNTS.get(name, count)


# Invented rows, as the official files have them.
BOOLQ = {"question": "can a kettle sing", "passage": "Kettle -- Some kettles whistle.", "label": True, "idx": 0}
CB = {"premise": "He said he might call.", "hypothesis": "he will call", "label": "neutral", "idx": 3}
COPA = {
    "premise": "The lamp fell.", "choice1": "It broke.", "choice2": "It sang.", "question": "effect",
    "label": 0, "idx": 7,
}  # fmt: skip
MULTIRC = {
    "idx": 4,
    "passage": {
        "text": "<b>Sent 1: </b>Ann has a dog.<br>It is old.",
        "questions": [
            {"idx": 9, "question": "Who is old?", "answers": [{"text": "Ann", "idx": 1, "label": 0}]},
            {
                "idx": 10,
                "question": "What has Ann?",
                "answers": [{"text": "A dog", "idx": 2, "label": 1}, {"text": "A cat", "idx": 3, "label": 0}],
            },
        ],
    },
}
_NEWS = "Ann Lee met Bo in Rome\n@highlight\nBo won.\n@highlight\nAnn Lee lost"
RECORD = {
    "idx": 5,
    "passage": {
        "text": _NEWS,
        "entities": [{"start": 12, "end": 13}, {"start": 0, "end": 6}, {"start": 18, "end": 21}],
    },
    "qas": [
        {
            "idx": 8,
            "query": "The cup went to @placeholder.",
            "answers": [{"text": "Rome"}, {"text": "Bo"}, {"text": "Bo"}],
        }
    ],
}
RTE = {"premise": "It rains.", "hypothesis": "It is wet.", "label": "not_entailment", "idx": 1}
WIC = {"word": "bank", "sentence1": "The bank is shut.", "sentence2": "A river bank.", "label": False, "idx": 2}
WSC = {
    "text": "The cook thanked the guest because he was kind.",
    "target": {"span1_text": "The guest", "span1_index": 3, "span2_text": "he", "span2_index": 6},
    "label": True, "idx": 6,
}  # fmt: skip
INVENTED: dict[str, dict[str, Any]] = {
    "boolq": BOOLQ, "cb": CB, "copa": COPA, "multirc": MULTIRC, "record": RECORD, "rte": RTE, "wic": WIC, "wsc": WSC,
}  # fmt: skip
WRITTEN = {
    "boolq": [("passage: Kettle -- Some kettles whistle. question: can a kettle sing", "True")],
    "cb": [("hypothesis: he will call premise: He said he might call.", "neutral")],
    "copa": [("choice1: It broke. choice2: It sang. premise: The lamp fell. question: effect", "choice1")],
    "multirc": [
        ("question: Who is old? answer: Ann paragraph: Sent 1: Ann has a dog. It is old.", "False"),
        ("question: What has Ann? answer: A dog paragraph: Sent 1: Ann has a dog. It is old.", "True"),
        ("question: What has Ann? answer: A cat paragraph: Sent 1: Ann has a dog. It is old.", "False"),
    ],
    "record": [
        (
            "query: The cup went to @placeholder. entities: Ann Lee, Bo, Rome passage: "
            "Ann Lee met Bo in Rome. Bo won. Ann Lee lost",
            "Bo",
        )
    ],
    "rte": [("hypothesis: It is wet. premise: It rains.", "not_entailment")],
    "wic": [("sentence1: The bank is shut. sentence2: A river bank. word: bank", "False")],
    "wsc": [("The cook thanked the guest because *he* was kind.", "the guest")],
}


def worded(tmp_path: Path, name: str, row: dict[str, Any], split: str = "validation") -> list[Row]:
    """A published row as a task reads it."""
    return list(rows(f"task:{name}/{split}:{lines(tmp_path / 'd.jsonl', [row])}"))


@pytest.mark.parametrize("name", INVENTED)
def test_invented_rows_are_written_as_lester_et_al_write_them(tmp_path: Path, name: str) -> None:
    found = worded(tmp_path, name, INVENTED[name])
    assert [(written(name, row), answer(name, row)) for row in found] == WRITTEN[name]


CLOZES = {
    "boolq": ["Kettle -- Some kettles whistle. Question: can a kettle sing? Answer: [blank]."],
    "cb": ['"he will call"? | [blank], "He said he might call."'],
    "copa": [
        "The lamp fell. so It broke. Is that right? [blank].",
        "The lamp fell. so It sang. Is that right? [blank].",
    ],
    "record": [
        f"Ann Lee met Bo in Rome. Bo won. Ann Lee lost The cup went to {name}. Is that right? [blank]."
        for name in ("Ann Lee", "Bo", "Rome")
    ],
    "wic": ['"The bank is shut." / "A river bank." Similar sense of "bank"? [blank].'],
    "wsc": [
        "The cook thanked the guest because *he* was kind. In the previous sentence, does the pronoun "
        '"*he*" refer to the guest? [blank].'
    ],
}


@pytest.mark.parametrize("name", CLOZES)
def test_invented_rows_as_clozes(tmp_path: Path, name: str) -> None:
    found = worded(tmp_path, f"{name}/cloze", INVENTED[name])
    assert [written(f"{name}/cloze", row) for row in found] == CLOZES[name]
    right = {"copa": ["True", "False"], "record": ["False", "True", "True"]}
    assert name not in right or [row.fields["label"] for row in found] == right[name]


HUB: dict[str, list[dict[str, Any]]] = {
    "boolq": [{**BOOLQ, "label": 1}],
    "cb": [{**CB, "label": 2}],
    "rte": [{**RTE, "label": 1}],
    "wic": [{**WIC, "label": 0}],
    "multirc": [
        {
            "paragraph": MULTIRC["passage"]["text"], "question": q["question"], "answer": a["text"],
            "label": a["label"], "idx": {"paragraph": 4, "question": q["idx"], "answer": a["idx"]},
        }
        for q in MULTIRC["passage"]["questions"] for a in q["answers"]
    ],
    "record": [
        {
            "passage": _NEWS, "query": RECORD["qas"][0]["query"], "entities": ["Rome", "Bo", "Ann Lee", "Bo"],
            "answers": ["Rome", "Bo"], "idx": {"passage": 5, "query": 8},
        }
    ],
    "wsc": [{"text": WSC["text"], **WSC["target"], "label": 1, "idx": 6}],
}  # fmt: skip


@pytest.mark.parametrize("task", [f"{name}/{how}" for name in HUB for how in TASKS[name].wordings])
def test_the_hubs_rows_become_what_the_official_rows_become(tmp_path: Path, task: str) -> None:
    name = task.partition("/")[0]
    official = [row.fields for row in worded(tmp_path, task, INVENTED[name])]
    hub = [row.fields for row in rows(f"task:{task}/validation:{lines(tmp_path / 'h.jsonl', HUB[name])}")]
    assert hub == official


def test_rows_without_a_label_can_be_predicted(tmp_path: Path) -> None:
    for name, row in INVENTED.items():
        bare: dict[str, Any] = {k: v for k, v in row.items() if k != "label"}
        if name == "multirc":
            questions = [{**q, "answers": [{"text": "x", "idx": 0}]} for q in MULTIRC["passage"]["questions"]]
            bare["passage"] = {**MULTIRC["passage"], "questions": questions}
        if name == "record":
            bare["qas"] = [{"idx": 8, "query": RECORD["qas"][0]["query"]}]
        for how in TASKS[name].wordings:
            label = Run(task=f"{name}/{how}", out="x").label
            for made in worded(tmp_path, f"{name}/{how}", bare, "test"):
                assert label not in made.fields or name == "wsc"
                assert written(f"{name}/{how}", made)


OTHERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "sst2": ({"sentence": "a warm film", "label": 1, "idx": 0}, "sentence: a warm film", "positive"),
    "sst5": ({"text": "so dull", "label": 0}, "sentence: so dull", "very negative"),
    "trec": ({"text": "Where is it ?", "label": 4, "fine_label": "LOC:x"}, "sentence: Where is it ?", "location"),
    "mrpc": ({"sentence1": "a", "sentence2": "b", "label": 0}, "sentence1: a sentence2: b", "not_equivalent"),
    "qqp": ({"question1": "a ?", "question2": "b ?", "label": 1}, "question1: a ? question2: b ?", "duplicate"),
    "snli": ({"premise": "a", "hypothesis": "b", "label": 2}, "hypothesis: b premise: a", "contradiction"),
    "e2e_nlg": (
        {"mr": "name[X], area[Y]", "references": ["X is in Y.", "In Y is X."]}, "name[X], area[Y]", "X is in Y."
    ),
    "webnlg2017": (
        {"triples": [["A_B", "is", "C"], ["C", "has", "D"]], "references": ["one text"]},
        "| A_B : is : C | C : has : D",
        "one text",
    ),
    "squad/text-to-text": (
        {
            "question": "Who's that?", "context": "It is Ann (34), I think.",
            "answers": {"text": ["Ann (34)"], "answer_start": [6]},
        },
        "question: Who ' s that ? context: It is Ann ( 34 ) , I think .",
        "Ann ( 34 )",
    ),
    "semeval2010_task8": (
        {"sentence": "The <e1>fire</e1> caused <e2>damage</e2>.", "relation": 1},
        "The <e1> fire </e1> caused <e2> damage </e2> .",
        "Cause-Effect(e2,e1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_rows_of_other_tasks(tmp_path: Path, name: str) -> None:
    row, text, target = OTHERS[name]
    of, _, how = name.partition("/")
    task = f"{of}/{how or 'text-to-text'}"
    [found] = worded(tmp_path, task, row)
    assert (written(task, found), answer(task, found)) == (text, target)


@pytest.mark.parametrize(("task", "row"), [("boolq", BOOLQ), ("sst2", {"text": "x"}), ("mrpc", OTHERS["mrpc"][0])])
def test_a_class_of_minus_one_is_none(tmp_path: Path, task: str, row: dict[str, Any]) -> None:
    [found] = worded(tmp_path, task, {**row, "label": -1}, "test")
    assert "label" not in found.fields


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("how", TASKS["snli"].wordings)
def test_pairs_of_snli_without_a_verdict_are_left_out(tmp_path: Path, how: str, split: str) -> None:
    row = OTHERS["snli"][0]
    data = lines(tmp_path / "d.jsonl", [row, {**row, "label": -1}, {"premise": "a", "hypothesis": "b"}, row])
    found = list(rows(f"task:snli/{how}/{split}:{data}"))
    assert [row.fields.get("label") for row in found] == ["contradiction", None, "contradiction"]


def test_relations_are_marked_in_lists_of_words(tmp_path: Path) -> None:
    row = {
        "token": ["the", "fire", "did", "harm"], "relation": "Other",
        "h": {"name": "harm", "pos": [3, 4]}, "t": {"name": "the fire", "pos": [0, 2]},
    }  # fmt: skip
    [found] = worded(tmp_path, "semeval2010_task8", row)
    assert found.fields["text"] == "<e2> the fire </e2> did <e1> harm </e1>"


def test_generation_learns_from_each_reference_and_is_scored_on_all(tmp_path: Path) -> None:
    row = OTHERS["e2e_nlg"][0]
    assert [r.fields["target"] for r in worded(tmp_path, "e2e_nlg", row, "train")] == row["references"]
    [found] = worded(tmp_path, "e2e_nlg", row, "test")
    score = chosen("e2e_nlg")[1].score
    perfect = score([found.fields] * 2, [{"prediction": "In Y is X."}] * 2)
    assert perfect["chrf"] == pytest.approx(1)
    assert perfect["rouge_l"] == pytest.approx(1)


@pytest.mark.parametrize("text", ["the U.S.", "Levi's", "1,000", "Ann (34)", "a-b"])
def test_a_reply_as_it_was_taught_is_right(tmp_path: Path, text: str) -> None:
    row = {"question": "who?", "context": text, "answers": [{"text": text, "answer_start": 0}]}
    [taught] = worded(tmp_path, "squad/text-to-text", row, "train")
    [found] = worded(tmp_path, "squad/text-to-text", row)
    score = chosen("squad/text-to-text")[1].score
    assert score([found.fields], [{"prediction": taught.fields["target"]}]) == {"token_f1": 1, "exact_match": 1}
    assert score([found.fields], [{"prediction": "another"}]) == {"token_f1": 0, "exact_match": 0}


def test_spaces_around_ascii_punctuation() -> None:
    assert spaced("Été—naïve_x?! $5") == "Été—naïve _ x ? ! $ 5"
    assert spaced("a-b  (c).") == "a - b ( c ) ."


@pytest.mark.parametrize("task", WORDED)
def test_every_wording_is_a_run(task: str) -> None:
    named, wording = chosen(task)
    run = Run(task=task, out="x")
    assert (run.train, run.validation) == (f"task:{task}/train", f"task:{task}/validation")
    assert run.kind is KINDS[wording.kind]
    assert run.metric in {*run.kind.metrics, *named.metrics, "mean"}
    assert not wording.classes or set(run.words) <= set(wording.classes)
    assert set(wording.settings) <= set(Run.model_fields)
    assert named.summary
    assert any(named in family.TASKS for family in FAMILIES) or named.name.startswith("fewglue_")
