"""A search on a user's own rows: divided once, estimated once, and honest about what there is to learn."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptuary.bench import advice
from promptuary.bench import recommend as searching
from promptuary.bench.advice import advise
from promptuary.bench.halving import SHORTEST, Candidate, Pace, entrants, last_steps, promoted
from promptuary.bench.hurry import Hurried, OutOfTimeError
from promptuary.bench.own_rows import divide, same, warnings
from promptuary.bench.question import Question, candidates
from promptuary.bench.recommend import DOUBTFUL, PROMPT, RESULT, recommend
from promptuary.bench.records import packed
from promptuary.bench.sealed import Permit, Sealed
from promptuary.checkpoint import PROMPT as PROMPT_FILE
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.data.task import Task, classification
from promptuary.errors import DataError, SettingError
from promptuary.specs import Run
from promptuary.train import state
from promptuary.tuned import open_prompt
from tests.saved import Shelf, done, lines, opinions, refused
from tests.toys import answered, tagged, written


def rows_of(made: list[dict[str, Any]]) -> tuple[list[Row], Task]:
    rows = [Row(fields, f"row {i}") for i, fields in enumerate(made)]
    return rows, classification(rows, name="own")


def distinct(count: int) -> list[dict[str, Any]]:
    return [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(opinions(count))]


def question(shelf: Shelf, out: Path, made: list[dict[str, Any]], **more: Any) -> Question:
    rows, task = rows_of(made)
    given = {"asked": {"max_length": 40}, "backbone": str(shelf.model("bert")), "budget_s": 60.0, "out": out}
    return Question(rows, task, **{**given, **more})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few candidates and short runs."""
    few = [Candidate("p-tuning-v2"), Candidate("frozen", control=True)]
    monkeypatch.setattr(searching, "candidates", lambda *_: few)
    monkeypatch.setattr(searching, "entrants", lambda c, seconds, pace, epoch: (few, 3))
    monkeypatch.setattr(searching, "last_steps", lambda *a: 12)
    monkeypatch.setattr(searching, "PILOT", 2)


# --- the rows ---


def test_copies_stay_on_one_side_and_classes_keep_their_shares() -> None:
    made = distinct(300)
    made += [{**row, "text": row["text"].upper() + " "} for row in made[:60]]
    rows, task = rows_of(made)
    parts = divide(rows, task)
    sealed = parts.estimate.open(Permit("x", 0))
    sides = [{same(task.texts(row)) for row in side} for side in (parts.train, parts.selection, sealed)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(parts.train) + len(parts.selection) + len(sealed) == 360
    for side in (parts.train, parts.selection, sealed):
        assert 0.4 <= sum(row.fields["label"] == "good" for row in side) / len(side) <= 0.6
    assert parts.counts["estimate"] == len(sealed)
    assert 50 <= len(sealed) <= 95
    again = divide(rows, task)
    assert [row.place for row in again.train] == [row.place for row in parts.train]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (distinct(30), "30 rows are too few to compare methods on"),
        ([{"text": "same", "label": "good"}] * 30 + [{"text": "other", "label": "bad"}] * 30, "2 different texts"),
        ([{"text": f"t {i}", "label": i // 4} for i in range(60)], "15 classes in 60 rows.*numbers are no classes"),
        ([{"text": f"t {i}", "label": f"c{i // 4}"} for i in range(60)], "one method .`promptuary tune`.\\.$"),
    ],
)
def test_rows_that_cannot_be_divided_are_refused(made: list[dict[str, Any]], said: str) -> None:
    rows, task = rows_of(made)
    with pytest.raises(DataError, match=said):
        divide(rows, task)


def test_what_is_wrong_with_rows_is_told_and_good_rows_are_left_alone() -> None:
    assert warnings(*rows_of(distinct(80))) == []
    made = [*distinct(80), {"text": "Once more", "label": "good"}, {"text": "once  more", "label": "bad"}]
    found = " ".join(warnings(*rows_of([*made, {"text": "rare", "label": "new"}])))
    assert "1 of 83 rows are copies" in found
    assert "1 texts stand there with different labels (2 rows)" in found
    assert "Class 'new' has 1 rows" in found
    leaked = [{**row, "text": f"{row['text']} [{row['label']}]"} for row in distinct(80)]
    assert "stands in nearly every text of its class" in " ".join(warnings(*rows_of(leaked)))


def test_a_rare_class_is_divided_too_without_a_word() -> None:
    made = [*distinct(200), *({"text": f"rare {i}", "label": "rare"} for i in range(19))]
    rows, task = rows_of(made)
    parts = divide(rows, task)
    sides = (parts.train, parts.selection, parts.estimate.open(Permit("x", 0)))
    counted = [sum(row.fields["label"] == "rare" for row in side) for side in sides]
    assert sum(counted) == 19
    assert counted[0] >= 11
    assert min(counted) >= 1


# --- who runs for how long ---


def test_the_clock_tells_steps_from_scorings(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    board = Hurried(None)
    assert (board.step_s(7.0), board.score_s(8.0)) == (7.0, 8.0)  # nothing was made: what is given
    board.takes("a run")
    for step in range(1, 5):  # an epoch is one step: every other moment is a scoring
        now += 2.0
        board.stepped(step, 0.5)
        now += 30.0
        board.scored(step, {"chrf": 0.1}, "chrf", True)
    assert (board.made, board.step_s(7.0), board.score_s(8.0)) == (4, 2.0, 30.0)
    assert board.rest(whole=140.0, step=2.0) == pytest.approx(140.0 - 4 * 2.0 - 4 * 30.0)
    board.takes("another run")
    assert (board.made, board.step_s(7.0)) == (0, 7.0)
    board.deadline = now + 1.0
    board.stepped(1, 0.5)
    now += 2.0
    with pytest.raises(OutOfTimeError):
        board.stepped(2, 0.5)


def test_the_first_round_takes_its_share_of_the_time() -> None:
    field = [Candidate(f"m{i}") for i in range(9)]
    pace = Pace(step=0.1, score=1.0, begin=0.5)
    entered, steps = entrants(field, 600.0, pace, epoch=1000)
    assert entered == field
    assert 9 * pace.run(steps, 1000) == pytest.approx(0.3 * 600, rel=0.05)
    fewer, least = entrants(field, 60.0, pace, epoch=1000)
    assert 2 <= len(fewer) < 9
    assert least >= SHORTEST
    assert len(fewer) * pace.run(least, 1000) <= 0.3 * 60
    control = Candidate("frozen", control=True)
    three, _ = entrants([*field, control], 60.0, pace, epoch=1000)
    assert three == [*fewer[:-1], control]
    two, few = entrants([*field, control], 10.0, pace, epoch=1000)
    assert two == [field[0], control]
    assert 2 * pace.run(few, 1000) <= 0.8 * 10 + 0.2


def test_a_third_goes_on_the_best_first_and_the_smaller_loss_before_the_larger() -> None:
    scores = {Candidate(f"m{i}"): (0.1 * (i // 2), 1.0 - 0.1 * i) for i in range(7)}
    assert [c.method for c in promoted(scores)] == ["m6", "m5", "m4"]
    assert promoted({}) == []


def test_the_last_runs_fit_into_what_is_left() -> None:
    paces = [Pace(0.1, 1.0, 0.5), Pace(0.05, 1.0, 0.5)]
    steps = last_steps(100.0, paces, epoch=100, most=10_000)
    assert sum(p.run(steps, 100) for p in paces) == pytest.approx(100.0, rel=0.03)
    assert last_steps(100.0, paces, epoch=100, most=50) == 50
    assert last_steps(0.5, paces, epoch=100, most=50) == 0


def test_candidates_are_defaults_first_and_those_that_were_asked_for() -> None:
    found = candidates()
    assert [c.method for c in found[:3]] == ["p-tuning-v2", "prompt-tuning", "frozen"]
    assert not found[0].settings
    assert sum(c.control for c in found) == 1
    assert {c.method for c in candidates(["smop"])} == {"smop", "frozen"}
    with pytest.raises(SettingError, match="--method lora: no method of prompts is called so"):
        candidates(["lora"])


# --- the answer ---


def test_a_search_ends_with_an_estimate_and_a_prompt_that_says_the_same(
    shelf: Shelf, tmp_path: Path, short: None
) -> None:
    made, out = distinct(120), tmp_path / "out"
    asked = question(shelf, out, made, precision="fp32")
    result = recommend(asked)
    assert result["precision"] == "fp32"
    assert next(iter(result["estimates"])) == "prompt"
    assert {"bag-of-words", "majority"} < set(result["estimates"])
    own = result["estimates"]["prompt"]
    scores = [t["selection"] for t in result["tried"] if t["method"] in ("p-tuning-v2", "frozen")]
    assert own["selection"] == max(scores)
    sealed = divide(asked.rows, asked.task).estimate.open(Permit("x", 0))
    assert result["true"] == packed(asked.task.index(row) for row in sealed)
    prompt = open_prompt(out / PROMPT)
    assert prompt.evaluate(sealed)["accuracy"] == pytest.approx(own["scores"]["accuracy"])
    assert not list((out / PROMPT).glob("state*"))
    assert json.loads((out / RESULT).read_text()) == json.loads(json.dumps(result))
    assert (out / DOUBTFUL).is_file()
    assert recommend(asked) == json.loads(json.dumps(result))  # it is known: nothing runs


def unlike(kind: str, count: int) -> list[dict[str, Any]]:
    """Rows of a kind, no two alike."""
    match kind:
        case "text":
            return [{**row, "text": f"{row['text']} {i}", "target": f"{i % 3}"} for i, row in enumerate(written(count))]
        case "tagging":
            return [
                {"tokens": [*row["tokens"], f"{i}"], "tags": [*row["tags"], "O"]} for i, row in enumerate(tagged(count))
            ]
        case _:
            return [{**row, "context": f"{row['context']} {i}"} for i, row in enumerate(answered(count))]


@pytest.mark.parametrize(
    ("kind", "family", "metric"),
    [("tagging", "bert", "entity_f1"), ("answering", "bert", "token_f1"), ("text", "t5", "chrf")],
)
@pytest.mark.long
def test_a_search_answers_for_any_kind_of_task(
    kind: str, family: str, metric: str, shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "candidates", lambda methods, kind: candidates(["p-tuning-v2"], kind)[:2])
    monkeypatch.setattr(searching, "entrants", lambda field, *_: (field, 3))
    data, out = lines(tmp_path / "own.jsonl", 2 * unlike(kind, 60)), tmp_path / "out"
    options = ("--task", kind, "--backbone", shelf.model(family), "--budget", "60s", "--max-length", "40", "--out", out)
    found = json.loads(done("compare", data, *options, "--json"))
    rivals = {"tagging": {"frozen", "majority"}, "answering": {"frozen", "majority"}, "text": {"zero-shot", "majority"}}
    assert {"prompt", *rivals[kind]} - set(found["estimates"]) <= {"frozen"}  # which may be the choice itself
    assert found["metric"] == found["advice"]["metric"] == metric
    run = Run(train=str(data), out="-", task=kind, metric=metric)
    rows = list(source.rows(str(data)))
    sealed = divide(rows, run.kind.task(rows, "own", run)).estimate.open(Permit("x", 0))
    own = found["estimates"]["prompt"]
    assert open_prompt(out / PROMPT).evaluate(sealed)[metric] == pytest.approx(own["scores"][metric])
    assert len(own["contributions"]) == len(set(found["texts"])) == len(sealed) // 2  # copies are one observation
    assert np.mean(own["contributions"]) == pytest.approx(own["scores"][metric])
    assert any(
        f"{metric} {100 * own['scores'][metric]:.1f} % on {len(sealed)} rows" in w for w in found["advice"]["words"]
    )
    page = (out / "report.html").read_text()
    assert f"{metric}, %" in page
    assert "Mistakes of the prompt" not in page
    assert not (out / DOUBTFUL).read_text()


def test_questions_on_one_context_stay_on_one_side() -> None:
    made = [
        {"question": f"q {i}", "context": f"in {i // 5} now", "answers": [{"text": "in", "answer_start": 0}]}
        for i in range(200)
    ]
    rows, run = [Row(fields, f"row {i}") for i, fields in enumerate(made)], Run(train="-", out="-", task="answering")
    parts = divide(rows, run.kind.task(rows, "own", run))
    sealed = parts.estimate.open(Permit("x", 0))
    sides = [{row.fields["context"] for row in part} for part in (parts.train, parts.selection, sealed)]
    assert sum(map(len, sides)) == 40 == len(set().union(*sides))
    assert (len(parts.train), len(parts.selection), len(sealed)) == (120, 40, 40)


def test_a_loss_is_no_score_to_compare_by(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "own.jsonl", unlike("text", 60))
    said = refused("compare", data, "--task", "text", "--metric", "loss", "--out", tmp_path / "out")
    assert "--metric loss: that says nothing of how good an answer is" in said


@pytest.mark.slow
def test_what_few_rows_leave_of_the_time_is_for_whoever_has_not_run_as_long(
    shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = searching.candidates()
    field = [entered[0], Candidate("prompt-tuning"), Candidate("p-tuning-v2", (("length", 4),)), entered[1]]
    monkeypatch.setattr(searching, "candidates", lambda *_: field)
    found = recommend(question(shelf, tmp_path / "out", distinct(100)))
    ran = {t["trial"] for t in found["tried"]}
    assert {f"{c}, 12 steps" for c in field} <= ran
    monkeypatch.setattr(Pace, "run", lambda *_: 1e9)  # nothing more fits
    short_of_time = recommend(question(shelf, tmp_path / "late", distinct(100)))
    assert not {f"{c}, 12 steps" for c in field[1:3]} & {t["trial"] for t in short_of_time["tried"]}


@pytest.mark.slow
def test_the_sealed_rows_are_opened_once_after_everything_ran(
    shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, opened = list[str](), list[int]()
    learn, reveal = searching._Search.run, Sealed.open

    def run(self: Any, candidate: Candidate, steps: int) -> Any:
        assert not opened
        ran.append(str(candidate))
        return learn(self, candidate, steps)

    def told(self: Sealed, permit: Permit) -> Any:
        opened.append(len(ran))
        return reveal(self, permit)

    monkeypatch.setattr(searching._Search, "run", run)
    monkeypatch.setattr(Sealed, "open", told)
    recommend(question(shelf, tmp_path / "out", distinct(100)))
    assert opened == [len(ran)]


@pytest.mark.slow
def test_an_interrupted_search_keeps_what_finished_and_goes_on(
    shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, learned = tmp_path / "out", list[str]()
    original: Callable[..., Any] = searching._Search.learned

    def counted(self: Any, candidate: Candidate, steps: int) -> Any:
        if candidate.method == "frozen" and "stop" in learned:
            raise KeyboardInterrupt
        learned.append(f"{candidate} {steps}")
        return original(self, candidate, steps)

    monkeypatch.setattr(searching._Search, "learned", counted)
    monkeypatch.setattr(searching, "fastest", lambda device: "bf16")
    learned.append("stop")
    with pytest.raises(KeyboardInterrupt):
        recommend(question(shelf, out, distinct(100)))
    first = [name for name in learned if name != "stop"]
    assert "p-tuning-v2 3" in first
    learned.clear()
    monkeypatch.setattr(searching, "fastest", lambda device: "fp32")  # it goes on in what it began with
    result = recommend(question(shelf, out, distinct(100)))
    assert (result["precision"], open_prompt(out / PROMPT).precision) == ("bf16", "bf16")
    ended = learned[-len(result["estimates"]) :]  # at the end what was chosen is asked, not trained
    assert not set(first) & set(learned[: -len(ended)])
    assert json.loads((out / "search.json").read_text())["spent_s"] > 0
    with pytest.raises(SettingError, match="holds a search on other rows"):
        recommend(question(shelf, out, distinct(101)))


@pytest.mark.slow
def test_a_search_that_dies_before_its_answer_is_kept_need_not_train_again(
    shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original = tmp_path / "out", searching.write

    def dying(path: Path, data: bytes) -> None:
        if path.name == RESULT:
            raise KeyboardInterrupt
        original(path, data)

    monkeypatch.setattr(searching, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        recommend(question(shelf, out, distinct(100)))
    trained = [place for place in (out / "work").iterdir() if (place / PROMPT_FILE).is_file()]
    assert trained
    assert all(list(place.rglob(state.NAME)) for place in trained)
    monkeypatch.setattr(searching, "write", original)
    assert recommend(question(shelf, out, distinct(100)))["estimates"]
    assert not list(out.rglob(state.NAME))


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_over_and_the_search_answers_with_what_it_has(
    shelf: Shelf, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = searching._Search.learned

    def slow(self: Any, candidate: Candidate, steps: int) -> Any:
        if steps > 3:
            self.board.deadline = 0.0
        return original(self, candidate, steps)

    monkeypatch.setattr(searching._Search, "learned", slow)
    result = recommend(question(shelf, tmp_path / "out", distinct(100)))
    assert {t["steps"] for t in result["tried"]} == {0, 3}


# --- in words ---


def told(prompt: float, others: dict[str, float], rows: int = 400, **more: Any) -> dict[str, Any]:
    source = np.random.default_rng(0)
    true = source.integers(0, 2, rows)

    def own(method: str, share: float) -> dict[str, Any]:
        said = np.where(source.random(rows) < share, true, 1 - true)
        scores = {"accuracy": float((said == true).mean()), "macro_f1": 0.5}
        return {"method": method, "settings": {}, "steps": 100, "said": packed(said.tolist()), "scores": scores,
                "cost": {"stored": 3080}, "alarms": {}}  # fmt: skip

    return {
        "backbone": "minilm", "labels": ["a", "b"], "rows": {"estimate": rows, "selection": 100}, "warnings": [],
        "doubtful": 0, "true": packed(true.tolist()), "texts": list(range(rows)),
        "estimates": {"prompt": own("ipt", prompt), **{name: own(name, share) for name, share in others.items()}},
        **more,
    }  # fmt: skip


def test_a_good_prompt_is_recommended_with_its_interval_and_its_rivals() -> None:
    advice = advise(told(0.9, {"frozen": 0.7, "bag-of-words": 0.89, "majority": 0.5}))
    words = " ".join(advice.words)
    assert advice.learned
    assert words.startswith("Use ipt, 100 steps, on minilm. It answers")
    assert "It beats the frozen model with a trained head (100 steps) by" in words
    assert "It is not clearly better than bag of words" in words
    best = advice.estimates[0]
    assert best.interval[0] < best.score < best.interval[1]


def test_scores_that_are_no_share_of_rows_are_advised_on_by_what_texts_contribute() -> None:
    draw = np.random.default_rng(3)

    def result(prompt: float) -> dict[str, Any]:
        made = told(0.5, {"frozen": 0.5, "majority": 0.5}, true=None, metric="entity_f1")
        for name, middle in (("prompt", prompt), ("frozen", 0.4), ("majority", 0.0)):
            own = made["estimates"][name]
            values = draw.normal(middle, 0.3, 100) if middle else np.zeros(100)
            own["contributions"], own["scores"] = values.tolist(), {"entity_f1": float(values.mean()), "accuracy": 0.9}
        return made

    found = result(0.6)
    advice = advise(found)
    score = found["estimates"]["prompt"]["scores"]["entity_f1"]
    assert advice.learned
    assert advice.estimates[0].score == score
    assert advice.estimates[0].macro_f1 is None
    assert advice.words[0].startswith(
        f"Use ipt, 100 steps, on minilm. It has entity_f1 {100 * score:.1f} % on 400 rows"
    )
    assert "Always saying the commonest answer reaches 0.0 %." in advice.words
    assert not advise(result(0.01)).learned


def test_a_better_rival_is_named_and_doubts_are_told() -> None:
    words = " ".join(advise(told(0.7, {"bag-of-words": 0.95, "majority": 0.5}, doubtful=7, warnings=["Copies."])).words)
    assert "But bag of words is better by" in words
    assert "7 of 100 rows that select are answered otherwise" in words
    assert "Copies." in words


def test_the_table_names_the_choice_in_full_and_rivals_once() -> None:
    result = told(0.9, {"bag-of-words": 0.6, "majority": 0.5})
    result["estimates"]["prompt"]["method"] = "prompt-tuning"
    result["estimates"]["bag-of-words"].update(method="bag-of-words", settings={"c": 10.0})
    _, (_, cells) = advice.table(advise(result), 100)
    what = {line[0].text: line[1].text for line in cells}
    assert what["prompt"].startswith("prompt-tuning")
    assert what["bag-of-words"].startswith("c 10")


def test_between_sure_and_chance_the_rows_are_too_few() -> None:
    found = {said.words[0].partition(":")[0] for share in np.linspace(0.5, 0.7, 41)
             if not (said := advise(told(float(share), {"majority": 0.5}, rows=60))).learned}  # fmt: skip
    assert found == {
        "There is nothing to learn here that this search could find",
        "These rows are too few to be sure that there is something to learn",
    }
    worse = advise(told(0.4, {"majority": 0.9})).words[0]
    assert "nothing to learn" in worse
    assert "(p =" not in worse


def test_chance_is_nothing_to_learn_in_99_of_100_experiments() -> None:
    assert "There is nothing to learn here" in advise(told(0.5, {"majority": 0.5})).words[0]
    assert advise(told(0.7, {"majority": 0.5})).learned
    source, found = np.random.default_rng(1), list[bool]()
    for _ in range(60):
        result = told(0.5, {"majority": 0.5}, rows=100)
        result["estimates"]["prompt"]["said"] = packed(source.integers(0, 2, 100).tolist())
        found.append(advise(result).learned)
    assert sum(found) <= 2


def test_copies_of_a_text_do_not_make_chance_sure() -> None:
    source, found = np.random.default_rng(2), list[bool]()
    for _ in range(60):
        result = told(0.5, {"majority": 0.5}, rows=400)
        result["texts"] = [i // 10 for i in range(400)]  # 40 texts, each ten times, and ten times answered alike
        result["true"] = packed(np.repeat(source.integers(0, 2, 40), 10).tolist())
        for name in ("prompt", "majority"):
            result["estimates"][name]["said"] = packed(np.repeat(source.integers(0, 2, 40), 10).tolist())
        advice = advise(result)
        found.append(advice.learned)
        low, high = advice.estimates[0].interval
        assert high - low > 0.2  # of 40 texts; of 400 rows it would be 0.1
    assert sum(found) <= 2


@pytest.mark.slow
def test_the_command_says_of_random_labels_that_there_is_nothing_to_learn(
    shelf: Shelf, tmp_path: Path, short: None
) -> None:
    draw = random.Random(0)
    made = [{"body": f"{row['text']}", "topic": draw.choice("ab")} for row in distinct(200)]
    data, out = lines(tmp_path / "own.jsonl", made), tmp_path / "out"
    options = ("--text", "body", "--label", "topic", "--backbone", shelf.model("bert"), "--budget", "60s")
    printed = done("compare", data, *options, "--max-length", "40", "--out", out)
    assert "There is nothing to learn here" in printed
    assert "The prompt is in" not in printed
    found = json.loads(done("compare", data, *options, "--max-length", "40", "--out", out, "--json"))
    assert found["advice"]["learned"] is False
    assert Counter(t["method"] for t in found["tried"])["bag-of-words"] == 3
