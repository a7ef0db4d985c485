"""Named tasks from the command line: found, filled in, tuned, scored as their publishers score them, and refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary import Run
from promptuary.data.source import rows
from promptuary.errors import CheckpointError, DataError, SettingError
from promptuary.material import gather
from promptuary.metrics import exact_match, same_referent, token_f1
from promptuary.specs import read_run
from promptuary.tasks import FAMILIES, TASKS, chosen, superglue
from promptuary.tuned import open_prompt
from tests.saved import done, lines, read, refused, save
from tests.unit.tasks import test_wordings as invented

SUPERGLUE = tuple(task.name for task in superglue.TASKS)
FOLDERS = {"boolq": "BoolQ", "cb": "CB", "copa": "COPA", "multirc": "MultiRC", "record": "ReCoRD"}
FOLDERS |= {"rte": "RTE", "wic": "WiC", "wsc": "WSC"}


def several(name: str) -> list[dict[str, Any]]:
    """The invented row of a task with its answer both ways, so that there is something to tell apart."""
    row = invented.INVENTED[name]
    other = {"boolq": False, "cb": "entailment", "copa": 1, "rte": "entailment", "wic": True, "wsc": False}
    turned = {**row, "idx": row["idx"] + 20, **({"label": other[name]} if name in other else {})}
    return [row, turned]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files named as SuperGLUE's are."""
    place = tmp_path_factory.mktemp("SuperGLUE")
    for name, folder in FOLDERS.items():
        (place / folder).mkdir()
        for split in ("train", "val"):
            lines(place / folder / f"{split}.jsonl", several(name))
    return place


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for family in ("bert", "t5"):
        save(family, place / family)
    return place


def probable(row: Mapping[str, Any]) -> float:
    return float(row["probability"] if row["label"] == "True" else 1 - row["probability"])


def _multirc(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    right = [row["label"] == row["given_label"] for row in found]
    groups = {row["group"] for row in found}
    whole = [all(r for r, row in zip(right, found, strict=True) if row["group"] == group) for group in groups]
    said, true = ({i for i, row in enumerate(found) if row[c] == "True"} for c in ("label", "given_label"))
    f1a = 2 * len(said & true) / (len(said) + len(true))
    return {"em": sum(whole) / len(whole), "f1a": f1a, "mean": (f1a + sum(whole) / len(whole)) / 2}


def _copa(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    pairs = [found[i : i + 2] for i in range(0, len(found), 2)]
    return {"accuracy": sum(max(pair, key=probable)["given_label"] == "True" for pair in pairs) / len(pairs)}


def _record_chosen(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    asked = [max(found[i : i + 3], key=probable) for i in range(0, len(found), 3)]
    gold, said = [row["answers"] for row in asked], [row["candidate"] for row in asked]
    return {"f1": token_f1(gold, said), "em": exact_match(gold, said)}


def _record(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    gold, said = [row["answers"] for row in found], [row["prediction"] for row in found]
    return {"f1": token_f1(gold, said), "em": exact_match(gold, said)}


def _wsc(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    right = [same_referent("the guest", row["prediction"]) is (row["label"] == "True") for row in found]
    return {"accuracy": sum(right) / len(right)}


def _accuracy(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {"accuracy": sum(row["label"] == row["given_label"] for row in found) / len(found)}


RUNS: dict[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]]] = {
    "boolq": ("t5", _accuracy),
    "cb": ("t5", _accuracy),
    "multirc": ("t5", _multirc),
    "multirc/classifier": ("bert", _multirc),
    "copa/classifier": ("bert", _copa),
    "copa/cloze": ("bert", _copa),
    "record": ("t5", _record),
    "record/classifier": ("bert", _record_chosen),
    "rte/cloze": ("bert", _accuracy),
    "wic/classifier": ("bert", _accuracy),
    "wsc": ("t5", _wsc),
    "wsc/cloze": ("bert", _accuracy),
}
SHORT = ("--method", "prompt-tuning", "--length", 3, "--epochs", 1, "--batch", 4)


@pytest.mark.parametrize("task", RUNS)
def test_a_named_task_is_tuned_and_scored_as_its_publishers_score_it(
    official: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("PROMPTUARY_DATA", str(official))
    (family, wanted), out = RUNS[task], tmp_path / "out"
    more: list[Any] = ["--max-length", 40] if family == "bert" else []
    if task.endswith("cloze"):  # the small vocabulary has few whole words
        own = zip(chosen(task)[1].classes, ("a", "i"), strict=True)
        (tmp_path / "words.toml").write_text("[run.words]\n" + "".join(f'{name} = "{word}"\n' for name, word in own))
        more.append(tmp_path / "words.toml")
    done("tune", *more, "--task", task, "--backbone", models / family, "--out", out, *SHORT)
    kept = json.loads((out / "manifest.json").read_text())["run"]
    assert kept["named"] == task
    data = f"task:{task}/validation"
    scores = json.loads(done("evaluate", out, "--data", data, "--json"))
    done("predict", out, "--input", data, "--output", tmp_path / "said.jsonl")
    found = read(tmp_path / "said.jsonl")
    assert scores["n"] == len(found)
    for name, value in wanted(found).items():
        assert scores[name] == pytest.approx(value), name
    named = chosen(task)[0]
    assert {*named.measured} <= set(scores)
    assert named.metric in kept["scores"]


QUERIES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["Bo", "Ann Lee", "the Ann", ""]), st.integers(1, 3)),
    min_size=1, unique_by=lambda query: query[0],
)  # fmt: skip


@given(QUERIES, st.randoms())
def test_a_query_of_record_counts_once_however_often_it_is_asked(
    queries: list[tuple[str, str, int]], random: Any
) -> None:
    gold = ["Ann Lee", "Bo"]
    asked = [({"group": group, "answers": gold}, {"prediction": text}) for group, text, n in queries for _ in range(n)]
    random.shuffle(asked)
    found = chosen("record")[1].score(*map(list, zip(*asked, strict=True)))
    words = [set(text.replace("the ", "").split()) for _, text, _ in queries]
    best = [max(2 * len(w & set(g.split())) / (len(w) + len(g.split())) for g in gold) for w in words]
    assert found["f1"] == pytest.approx(sum(best) / len(best))
    assert found["em"] == pytest.approx(sum(text in gold for _, text, _ in queries) / len(queries))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from([0.5, 0.6, 0.9])), min_size=1))
def test_the_likeliest_candidate_of_each_group_is_chosen(said: list[tuple[int, bool, float]]) -> None:
    found = [{"group": group, "number": i} for i, (group, _, _) in enumerate(said)]
    answers = [{"label": str(true), "probability": sure} for _, true, sure in said]
    true = [sure if says else 1 - sure for _, says, sure in said]
    for row in superglue.group_choices(found, answers):
        own = [(-true[i], i) for i, (group, _, _) in enumerate(said) if group == row["group"]]
        assert row["number"] == min(own)[1]


def test_nothing_legal_scores_nothing() -> None:
    rows = [{"label": "True", "group": "a"}, {"label": "False", "group": "b"}]
    none = [{"label": None}] * 2
    assert chosen("multirc")[1].score(rows, none) == {"f1a": 0.0, "em": 0.0}
    pairs = [{"label": "equivalent"}, {"label": "not_equivalent"}]
    assert chosen("mrpc")[1].score(pairs, none) == {"f1": 0.0}


def test_free_decoding_scores_questions_too(
    official: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTUARY_DATA", str(official))
    out = tmp_path / "out"
    done("tune", "--task", "multirc", "--backbone", models / "t5", "--out", out, *SHORT)
    scores = json.loads(done("evaluate", out, "--data", "task:multirc/validation", "--decode", "free", "--json"))
    assert scores["illegal"] == 1  # an untrained model writes no label: every answer counts as the opposite
    assert (scores["f1a"], scores["em"], scores["accuracy"]) == (0, 0, 0)


def test_a_prompt_of_an_unknown_task_is_told(
    official: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTUARY_DATA", str(official))
    out = tmp_path / "out"
    done("tune", "--task", "rte/classifier", "--backbone", models / "bert", "--out", out, *SHORT)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace("rte/classifier", "rta/classifier"))
    with pytest.raises(CheckpointError, match=r"no task 'rta'. Did you mean 'rte'\?"):
        open_prompt(out)


def test_what_is_stated_wins_over_what_a_task_fills_in(tmp_path: Path) -> None:
    own = Run(task="boolq", train="mine.jsonl", template="{passage} {question}", metric="macro_f1", out="x")
    assert (own.train, own.validation, own.template, own.metric) == (
        "mine.jsonl", None, "{passage} {question}", "macro_f1"
    )  # fmt: skip
    assert (own.text, own.text_pair, own.kind.name) == ("passage", "question", "classification")
    assert Run(task="rte/cloze", words={"entailment": "sure"}, out="x").words == {
        "entailment": "sure", "not_entailment": "no"
    }  # fmt: skip
    assert Run(task="multirc", metric="em", out="x").metric == "em"
    preset = Run(task="rte", method="p-tuning", preset="rte-few-shot-frozen", out="x")
    assert preset.template == "{text} Question: {pair} ? <soft> Answer: <mask> ."


def test_the_classes_of_a_named_task_are_all_there_though_rows_show_one(tmp_path: Path) -> None:
    data = lines(tmp_path / "cb.jsonl", [invented.CB] * 4)
    source = f"task:cb/train:{data}"
    found = gather(Run(task="cb", train=source, validation=source, out="x")).task
    assert found.values == ("entailment", "contradiction", "neutral")
    odd = lines(tmp_path / "odd.jsonl", [{**invented.CB, "label": "perhaps"}])
    with pytest.raises(DataError, match="'perhaps' does not occur"):
        gather(Run(task="cb", train=f"task:cb/train:{odd}", validation=source, out="x"))


def test_five_lines_describe_a_task_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("body,topic\n" + "a card,cards\na box,boxes\n" * 10, encoding="utf-8")
    run = tmp_path / "run.toml"
    text = f"""[run]
train = '{tmp_path / "mine.csv"}'
text = "body"
label = "topic"
out = "runs/mine"
"""
    assert len(text.splitlines()) == 5
    run.write_text(text, encoding="utf-8")
    found = gather(read_run(run))
    assert found.task.values == ("boxes", "cards")
    assert (len(found.train), len(found.validation)) == (18, 2)


def test_the_average_of_superglue_is_of_all_eight_tasks() -> None:
    assert SUPERGLUE == ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
    scores = {task.name: dict.fromkeys(task.metrics, 0.5) | {"loss": 9.0} for task in superglue.TASKS}
    scores["cb"] = {"accuracy": 1.0, "macro_f1": 0.8, "mean": 0.9}
    assert superglue.average(scores) == pytest.approx((7 * 0.5 + 0.9) / 8)
    del scores["multirc"]["em"]
    with pytest.raises(DataError, match="'multirc: em' is missing"):
        superglue.average(scores)


def test_every_task_has_its_own_name_and_files() -> None:
    named = [task.name for family in FAMILIES for task in family.TASKS]
    assert len(set(named)) == len(named)
    assert set(named) <= set(TASKS)
    assert {f"fewglue_{name}" for name in SUPERGLUE} <= set(TASKS)


REFUSED: dict[str, tuple[str, str]] = {
    "unknown": ("task:boolk/train", "There is no task 'boolk'. Did you mean 'boolq'?"),
    "wording": ("task:rte/closed/train", "Task 'rte' has no wording 'closed'. Did you mean 'cloze'?"),
    "no split": ("task:rte", "expected task:rte/train, task:rte/text-to-text/train, or either with :FILE"),
    "too much": ("task:rte/cloze/train/x", "expected task:rte/train"),
    "no file": ("task:cb/test", "there is no test.jsonl (.csv, ...) in"),
    "no folder": ("task:trec/test", "which is no folder. Name a file: task:trec/test:FILE"),
    "nothing there": ("task:cb/train:none.jsonl", "There is no file 'none.jsonl'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_not_there_are_told(official: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PROMPTUARY_DATA", str(official))
    source, expected = REFUSED[name]
    with pytest.raises((DataError, SettingError)) as told:
        list(rows(source))
    assert expected in str(told.value)


def test_without_a_folder_rows_are_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTUARY_DATA", raising=False)
    with pytest.raises(DataError, match="'aps/super_glue/cb:train' is no file here"):
        list(rows("task:cb/train"))
    with pytest.raises(DataError, match="set PROMPTUARY_DATA to the folder that has 'trec'"):
        list(rows("task:trec/train"))


def test_the_split_may_be_named_apart(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTUARY_DATA", str(official))
    for source in ("task:cb", "task:cb/train"):
        assert len(list(rows(source, "train"))) == 2
    with pytest.raises(SettingError, match="with split='train'"):
        list(rows("task:cb/validation", "train"))


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "another task's": ("copa", invented.RTE, "no row of 'copa' as it was published (KeyError: 'question')"),
    "label": ("rte", {**invented.RTE, "label": 5}, "label 5 is none of entailment, not_entailment"),
    "a degree": ("rte", {**invented.RTE, "label": 0.7}, "label 0.7 is none of entailment, not_entailment"),
    "pronoun": (
        "wsc",
        {**invented.WSC, "text": "No such word is in this text ."},
        "no word of the text is the pronoun",
    ),
    "shape": ("multirc", {"idx": 3, "paragraph": "x"}, "no row of 'multirc'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_that_were_not_published_so_are_told_with_their_place(tmp_path: Path, name: str) -> None:
    task, row, expected = BROKEN[name]
    data = lines(tmp_path / "d.jsonl", [invented.INVENTED[task], row])
    with pytest.raises(DataError) as told:
        list(rows(f"task:{task}/cloze/train:{data}"))
    assert expected in str(told.value)
    assert f"{data}, line 2" in str(told.value)


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path) -> None:
    said = refused("tune", "--task", "bolq", "--out", tmp_path / "x")
    assert "there is no kind 'bolq', and no task of that name. Did you mean 'boolq'?" in said
    assert "no wording 'clozes'" in refused("tune", "--task", "boolq/clozes", "--out", tmp_path / "x")
    said = refused("tune", "--task", "cb", "--metric", "macro_f2", "--out", tmp_path / "x")
    assert "task='cb' does not measure 'macro_f2'. Did you mean 'macro_f1'?" in said


def test_the_named_tasks_are_listed() -> None:
    listed = json.loads(done("tasks", "--json"))
    assert [task["name"] for task in listed] == list(TASKS)
    assert listed[0]["wordings"]["text-to-text"]["template"] == "passage: {passage} question: {question}"
    assert "semeval2010_task8" in done("tasks")
