"""What a study promises: nothing lost, nothing done twice, nothing chosen by rows that report."""

import json
import os
import re
import signal
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from optuna.trial import TrialState
from pydantic import ValidationError

from promptuary.backbones.load import load
from promptuary.bench import loaded
from promptuary.bench import run as running
from promptuary.bench.baselines.adapters import Adapters
from promptuary.bench.baselines.bitfit import BitFit
from promptuary.bench.baselines.fine_tuning import FineTuning
from promptuary.bench.baselines.majority import Majority
from promptuary.bench.board import Board
from promptuary.bench.contender import Contender
from promptuary.bench.grounds import Ground, rows_of
from promptuary.bench.jobs import jobs
from promptuary.bench.plan import Plan
from promptuary.bench.prompts import Prompted
from promptuary.bench.records import unfolded
from promptuary.bench.run import run
from promptuary.bench.sealed import Permit, Sealed
from promptuary.bench.store import OUTCOME, Entry, Store
from promptuary.bench.study import compared, finished
from promptuary.data import source
from promptuary.errors import CheckpointError, DivergedError, MemoryShortError, SettingError
from promptuary.methods import METHODS
from promptuary.pretraining import pretrain
from promptuary.specs import Run
from promptuary.train import state
from promptuary.tuned import open_prompt
from tests.saved import Shelf, lines, opinions
from tests.unit.bench.toy import STEPS, forked, plan

once = cache(load)  # a backbone is frozen: all studies here may have the same one


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WAIT_S", 0.02)
    monkeypatch.setattr(loaded, "load", once)


def entries(folder: Path) -> list[Entry]:
    store = Store(folder)
    try:
        return store.entries()
    finally:
        store.close()


def whole(study: Plan, folder: Path) -> list[Entry]:
    """The entries of a study that is finished: every planned job is there once, with a result."""
    found = entries(folder)
    assert Counter(e.job.name for e in found) == Counter(job.name for job in jobs(study))
    assert {e.trial.state for e in found} == {TrialState.COMPLETE}
    return found


def until(there: Path) -> None:
    deadline = time.monotonic() + 60
    while not there.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_process_killed_in_the_middle_of_a_step_loses_no_trial_and_doubles_none(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    study = plan(shelf, tmp_path, "frozen", "majority", search={"trials": 2})
    there, out = tmp_path / "there", tmp_path / "out"

    def stuck() -> None:
        def stepped(self: Board, step: int, loss: float) -> None:
            if self.title.endswith("trial 1") and step == 2:
                there.touch()
                time.sleep(60)

        monkeypatch.setattr(Board, "stepped", stepped)
        run(study, out)

    process = forked(stuck)
    until(there)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    states = list(out.rglob(state.NAME))
    assert states
    for path in states if damaged else ():
        path.write_bytes(path.read_bytes()[:-100])
    before = {e.job.name: e for e in entries(out)}
    assert sorted(e.trial.state.name for e in before.values()) == ["COMPLETE", "RUNNING"] + ["WAITING"] * 3
    assert run(study, out)
    for entry in whole(study, out):
        was = before[entry.job.name]
        assert entry.starts == (2 if was.trial.state == TrialState.RUNNING else 1)
        assert not was.finished or entry.record == was.record
    undisturbed = tmp_path / "undisturbed"
    run(study, undisturbed)
    assert [e.score for e in entries(undisturbed)] == [e.score for e in entries(out)]


def test_two_processes_on_one_plan_share_it_and_double_nothing(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority", "frozen", "bag-of-words", seeds=(0, 1), search={"trials": 3})
    out = tmp_path / "out"
    processes = [forked(lambda: run(study, out)) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert {e.starts for e in whole(study, out)} == {1}


def test_a_finished_plan_runs_nothing_again_and_a_longer_one_only_what_is_new(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(plan(shelf, tmp_path, "majority"), out)
    before = {e.job.name: e.trial for e in entries(out)}
    learned: list[str] = []
    monkeypatch.setattr(Majority, "learn", lambda *a, **k: learned.append("again"))
    longer = plan(shelf, tmp_path, "majority", "bag-of-words")
    assert run(longer, out)
    assert not learned
    after = {e.job.name: e.trial for e in whole(longer, out)}
    assert all(after[name] == trial for name, trial in before.items())


def test_nothing_reports_while_a_trial_of_its_search_is_with_another_process(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "bag-of-words", search={"trials": 3})
    worker = running.Worker(study, tmp_path / "out", Board(None))
    try:
        worker.store.add(jobs(study), {})
        waiting = {entry.job.name: entry for entry in worker.store.entries()}
        [final] = [entry for entry in waiting.values() if entry.job.final]
        first, second, _ = (entry for entry in waiting.values() if not entry.job.final)
        assert worker._took(first, waiting)
        known = {entry.job.name: entry for entry in worker.store.entries()}
        with worker.store.claim(known[second.job.name]) as mine:
            assert mine
            assert not worker._took(known[final.job.name], known)
        assert not worker.store.now(final).finished
    finally:
        worker.store.close()


def test_a_variant_competes_under_its_own_name(shelf: Shelf, tmp_path: Path) -> None:
    variants = {"prompt-tuning@3": {"of": "prompt-tuning", "settings": {"length": 3}}}
    study = plan(shelf, tmp_path, "prompt-tuning", "prompt-tuning@3", variants=variants)
    assert run(study, tmp_path / "out")
    one, other = finished(study, tmp_path / "out")
    assert [one["method"], other["method"]] == ["prompt-tuning", "prompt-tuning@3"]
    assert one["of"] == other["of"] == "prompt-tuning"
    assert other["recipe"]["settings"]["length"] == 3
    assert one["cost"]["trained"] - other["cost"]["trained"] == (20 - 3) * 32


def test_a_variant_with_a_preset_spends_what_the_plan_says(shelf: Shelf, tmp_path: Path) -> None:
    variants = {"published": {"of": "ipt", "preset": "paper", "settings": {"length": 5}}}
    tasks = {"opinions": {**plan(shelf, tmp_path, "ipt").model_dump()["tasks"]["opinions"], "max_length": 40}}
    study = plan(shelf, tmp_path, "ipt", "published", against="ipt", variants=variants, tasks=tasks)
    assert run(study, tmp_path / "out")
    one, other = finished(study, tmp_path / "out")
    paper = METHODS["ipt"].preset("paper").recipe
    for name in ("rate", "head_rate", "decay", "schedule", "warmup", "clip"):
        assert other["recipe"][name] == getattr(paper, name)
    spent = ("steps", "batch", "accumulation", "patience", "evaluations", "precision")
    assert {name: other["recipe"][name] for name in spent} == {name: one["recipe"][name] for name in spent}
    assert (other["recipe"]["batch"], other["recipe"]["accumulation"], other["cost"]["steps"]) == (8, 1, STEPS)
    assert other["recipe"]["settings"]["length"] == 5
    assert other["settings"] == {"preset": "paper", "length": 5}
    begun = json.loads((tmp_path / "out" / other["prompt"] / "record.jsonl").read_text().splitlines()[0])
    assert begun["settings"]["dropout"]  # of the preset, where the task leaves it open; its longest text is the task's


def test_a_setting_may_say_where_something_of_the_task_lies(shelf: Shelf, tmp_path: Path) -> None:
    begun = {"ipt-begun": {"of": "ipt", "settings": {"pretrained": "{folder}/generators/{task}"}}}
    study = plan(shelf, tmp_path, "ipt-begun", against="ipt-begun", variants=begun)
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=re.escape(str(out / "generators" / "opinions"))):
        run(study, out)
    train = str(lines(tmp_path / "others.jsonl", opinions(12, start=90)))
    generator = Run(
        train=train, method="ipt", backbone=study.backbones[0], recipe={"steps": 2},
        out=str(out / "generators" / "opinions"),
    )  # fmt: skip
    pretrain(generator)
    assert run(study, out)
    [record] = finished(study, out)
    assert record["settings"] == begun["ipt-begun"]["settings"]
    assert str(tmp_path) not in str(record)  # a record tells of no machine


def test_a_plan_that_asks_for_something_else_does_not_take_over_what_was_found(shelf: Shelf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(plan(shelf, tmp_path, "majority"), out)
    other = plan(shelf, tmp_path, "majority", budget={"steps": STEPS + 1, "batch": 8})
    assert finished(other, out) == []
    assert run(other, out)
    assert len(finished(other, out)) == 1


def test_a_search_ends_before_anything_reports_and_its_best_trial_is_the_one_that_does(
    shelf: Shelf, tmp_path: Path
) -> None:
    study = plan(shelf, tmp_path, "frozen", seeds=(0, 1), search={"trials": 3})
    run(study, tmp_path / "out")
    found = whole(study, tmp_path / "out")
    trials, finals = [e for e in found if not e.job.final], [e for e in found if e.job.final]
    assert all("reports" not in (e.record or {}) for e in trials)
    ended = max(e.trial.datetime_complete for e in trials if e.trial.datetime_complete)
    assert all(e.trial.datetime_start and e.trial.datetime_start >= ended for e in finals)

    def worth(trial: dict[str, Any]) -> tuple[float, float]:
        scores = (trials[trial["number"]].record or {})["scores"]
        return scores["accuracy"], -scores["loss"]

    for final in finals:
        record = final.record or {}
        best = max(record["search"], key=worth)
        assert record["chosen"] == best["number"]
        assert record["settings"] == best["settings"]
        assert [o["chosen"] for o in record["opened"]] == [best["number"]]
    assert [(r.record or {})["seed"] for r in finals] == [0, 1]
    first = finals[0].record or {}
    assert first["scores"] == (trials[first["chosen"]].record or {})["scores"]


def test_the_rows_that_report_are_read_by_a_final_trial_and_by_nothing_before(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = plan(shelf, tmp_path, "frozen", search={"trials": 2}), tmp_path / "out"
    opened: list[Permit] = []

    def told(self: Sealed, permit: Permit) -> Any:
        assert sum(e.finished for e in entries(out)) == 2
        opened.append(permit)
        return original(self, permit)

    original = Sealed.open
    monkeypatch.setattr(Sealed, "open", told)
    run(study, out)
    assert len(opened) == 1
    texts = {str(row.fields) for row in rows_of(study, "opinions", "full", 0).train}
    about = {"task": "opinions", "regime": "full", "method": "frozen", "seed": 0, "backbone": study.backbones[0]}
    [ground] = loaded.Loaded(study).grounds(about).values()
    assert {str(row.fields) for row in ground.train} == texts
    assert not any(isinstance(value, Sealed) for value in vars(ground).values())
    assert not any(
        hasattr(rows_of(study, "opinions", "full", 0).report["opinions"], n) for n in ("__len__", "__iter__")
    )


def test_rows_that_report_are_not_opened_for_a_second_choice(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority")
    store = Store(tmp_path / "out")
    store.add(jobs(study), {})
    [final] = [e for e in store.entries() if e.job.final]
    assert store.permit(final, 0, "now") == Permit(final.job.name, 0)
    assert store.permit(final, 0, "later") == Permit(final.job.name, 0)  # a process died in between
    with pytest.raises(SettingError, match=r"were opened before, for trial 0\. They are opened once"):
        store.permit(final, 1, "later")
    assert [o["chosen"] for o in store.now(final).opened] == [0, 0]
    store.finish(final, {}, 0.5)
    with pytest.raises(SettingError, match="for its result"):
        store.permit(final, 0, "again")
    store.close()


def test_what_breaks_down_is_an_outcome_and_the_study_goes_on(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: dict[str, tuple[type[Contender], Exception, str]] = {
        "fine-tuning": (FineTuning, DivergedError("the loss is nan"), "diverged"),
        "bitfit": (BitFit, MemoryShortError("short"), "memory"),
        "adapters": (Adapters, MemoryError("none left"), "memory"),
    }
    for kind, error, _ in broken.values():
        monkeypatch.setattr(kind, "learn", Mock(side_effect=error))
    study, out = plan(shelf, tmp_path, *broken, "majority", search={"trials": 2}), tmp_path / "out"
    assert run(study, out)
    found = {e.job.name: e for e in entries(out)}
    for method, (_, error, outcome) in broken.items():
        lost = sorted((e for e in found.values() if e.job.about["method"] == method), key=lambda e: e.job.final)
        assert [e.trial.user_attrs[OUTCOME] for e in lost] == [outcome, outcome, "nothing chosen"]
        assert all(str(error) in (e.record or {})["sentence"] and e.starts == 1 for e in lost)
        assert lost[-1].opened == ()
    assert [r["outcome"] for r in finished(study, out)] == ["nothing chosen"] * 3 + ["finished"]
    assert run(study, out)
    assert {e.job.name: e.starts for e in entries(out)} == {name: e.starts for name, e in found.items()}


def test_one_of_several_trials_may_break_down(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(self: Majority, ground: Ground, settings: Any, **more: Any) -> Any:
        if settings:
            raise DivergedError("the loss is nan")
        return original(self, ground, settings, **more)

    original = Majority.learn
    monkeypatch.setattr(Majority, "learn", learn)
    monkeypatch.setattr(Majority, "default", {"x": 1})
    study = plan(shelf, tmp_path, "majority", search={"trials": 2, "space": {"majority": {"x": (1, 2)}}})
    assert run(study, tmp_path / "out")
    [record] = finished(study, tmp_path / "out")
    assert [t["outcome"] for t in record["search"]] == ["finished", "diverged"]
    assert record["chosen"] == 0


def test_few_shots_are_drawn_for_each_seed_disjoint_and_stratified(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority", seeds=(0, 1, 2, 3, 4), regimes={"few": {"each": 4}})
    drawn = [rows_of(study, "opinions", "few", seed) for seed in range(5)]
    for rows in drawn:
        for part in (rows.train, rows.selection):
            assert Counter(row.fields["label"] for row in part) == {"good": 4, "bad": 4}
        assert not {row.place for row in rows.train} & {row.place for row in rows.selection}
    assert len({tuple(row.place for row in rows.train) for rows in drawn}) == 5
    again = rows_of(study, "opinions", "few", 3)
    assert [row.place for row in again.train] == [row.place for row in drawn[3].train]
    assert sum(job.final for job in jobs(study)) == 5  # the majority draws nothing, its rows do


def test_what_was_learned_on_one_task_is_asked_of_another_by_its_own_labels(shelf: Shelf, tmp_path: Path) -> None:
    from tests.saved import lines

    other = [{"body": "I like this box", "mood": m} for m in ("happy", "happy", "sad")]
    files = {p: str(lines(tmp_path / f"other-{p}.jsonl", other * 2)) for p in ("train", "selection", "report")}
    study = plan(shelf, tmp_path, "majority")
    study = Plan(**{
        **study.model_dump(exclude={"tasks", "transfers"}),
        "tasks": {**study.model_dump()["tasks"], "moods": {**files, "text": "body", "label": "mood"}},
        "regimes": {"full": {"tasks": ("opinions",)}},
        "transfers": ({"from": "opinions", "to": "moods", "labels": {"good": "happy", "bad": "sad"}},),
    })  # fmt: skip
    run(study, tmp_path / "out")
    [record] = finished(study, tmp_path / "out")
    assert list(record["reports"]) == ["opinions", "moods"]
    assert record["labels"] == ["bad", "good"]
    assert record["reports"]["moods"]["true"] == "110110"


def mixed(shelf: Shelf, folder: Path, **more: Any) -> Plan:
    """Two tasks of other sizes, by themselves and as a mixture."""
    tasks = {}
    other = {"good": "bad", "bad": "good"}
    for name, count in (("small", 12), ("large", 36)):
        parts = {"train": opinions(count), "selection": opinions(8, start=40), "report": opinions(14, start=60)}
        if name == "large":  # which says the opposite
            parts = {k: [{**row, "label": other[row["label"]]} for row in rows] for k, rows in parts.items()}
        tasks[name] = {k: str(lines(folder / f"{name}-{k}.jsonl", rows)) for k, rows in parts.items()}
    mixtures = {"both": {"tasks": ["small", "large"], "methods": ["prompt-tuning"], "temperature": 2.0}}
    return plan(shelf, folder, "frozen", "prompt-tuning", **{"tasks": tasks, "mixtures": mixtures, **more})


@pytest.mark.long
def test_a_mixture_learns_once_and_is_reported_on_each_of_its_tasks(shelf: Shelf, tmp_path: Path) -> None:
    study, out = mixed(shelf, tmp_path, seeds=(0, 1), search={"trials": 2}), tmp_path / "out"
    assert run(study, out)
    final = [e for e in whole(study, out) if e.job.final and e.job.about["task"] == "both"]
    assert len(final) == 2  # seeds
    told = finished(study, out)
    found = compared(study, told)
    assert (found.finished, found.planned) == (len(told), 2 * 2 * (2 + 1))
    own = {r["task"]: r for r in told if r["method"] == "prompt-tuning @ both" and r["seed"] == 0}
    assert set(own) == {"small", "large"}
    for task, r in own.items():
        assert list(r["reports"]) == [task]
        assert r["metric"] == "accuracy"
        assert set(r["last"]) == set(r["scores"])
        tuned = open_prompt(out / r["prompt"], backbone=once(str(shelf.model("bert"))))
        rows_ = list(source.rows(study.tasks[task].report))
        said = [[a.probabilities[name] for name in tuned.task.labels] for a in tuned.predict(rows_)]
        assert np.abs(unfolded(r["reports"][task]["probabilities"], 2) - said).max() < 1e-3
        assert "tasks" not in r
    one, two = (unfolded(own[task]["reports"][task]["probabilities"], 2) for task in ("small", "large"))
    assert np.abs(one - two).max() > 2e-3
    shares = [own[task]["cost"]["seconds"] for task in ("small", "large")]
    assert shares[1] == pytest.approx(3 * shares[0])
    assert own["small"]["cost"]["trained"] == own["large"]["cost"]["trained"]
    [table] = found.tables
    assert {line.method for line in table.lines} == {"frozen", "prompt-tuning", "prompt-tuning @ both"}
    assert {d.method: set(d.tasks) for d in table.differences}["prompt-tuning @ both"] == {"small", "large"}


def test_tasks_of_a_mixture_agree_on_the_frozen_models_dropout(shelf: Shelf, tmp_path: Path) -> None:
    study = mixed(shelf, tmp_path)
    tasks = {name: {**task.model_dump(exclude_none=True)} for name, task in study.tasks.items()}
    tasks["small"]["dropout"] = True
    with pytest.raises(SettingError, match="differ in dropout"):
        mixed(shelf, tmp_path, tasks=tasks)


def test_a_mixture_that_breaks_down_is_lost_on_each_of_its_tasks(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(*given: Any, **more: Any) -> Any:
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(Prompted, "learn_together", learn)
    study = mixed(shelf, tmp_path)
    assert run(study, tmp_path / "out")
    lost = [r for r in finished(study, tmp_path / "out") if "reports" not in r]
    assert {(r["task"], r["method"], r["outcome"]) for r in lost} == {
        (task, "prompt-tuning @ both", "nothing chosen") for task in ("small", "large")
    }
    lines_ = compared(study, finished(study, tmp_path / "out")).tables[0].lines
    assert [line.lost for line in lines_ if line.method == "prompt-tuning @ both"] == [{"nothing chosen": 1}] * 2


def test_another_temperature_is_another_cell(shelf: Shelf, tmp_path: Path) -> None:
    one, other = mixed(shelf, tmp_path), mixed(shelf, tmp_path)
    warmer = other.mixtures["both"].model_copy(update={"temperature": 4.0})
    other = other.model_copy(update={"mixtures": {"both": warmer}})
    names = [{job.name for job in jobs(study) if job.about["task"] == "both"} for study in (one, other)]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("mixtures", "sentence"),
    [
        ({"both": {"tasks": ["small"], "methods": ["frozen"]}}, "at least 2"),
        ({"both": {"tasks": ["small", "lrge"], "methods": ["frozen"]}}, "there is no task 'lrge'"),
        ({"small": {"tasks": ["small", "large"], "methods": ["frozen"]}}, "has the name of a task"),
        ({"both": {"tasks": ["small", "large"], "methods": ["lora"]}}, "'lora' learns one task at a time"),
        ({"both": {"tasks": ["small", "large"], "methods": ["fozen"]}}, "fozen"),
        ({"both": {"tasks": ["small", "large"], "methods": ["frozen"], "heat": 2}}, "there is no key 'heat'"),
    ],
)
def test_a_mixture_that_cannot_be_is_told(shelf: Shelf, tmp_path: Path, mixtures: Any, sentence: str) -> None:
    with pytest.raises((SettingError, ValidationError), match=sentence):
        mixed(shelf, tmp_path, mixtures=mixtures)


def test_the_chosen_prompt_stays_ready_to_use_and_what_training_needs_goes(shelf: Shelf, tmp_path: Path) -> None:
    study, out = plan(shelf, tmp_path, "prompt-tuning", search={"trials": 2}), tmp_path / "out"
    run(study, out)
    [record] = finished(study, out)
    prompt = open_prompt(out / record["prompt"])
    rows = rows_of(study, "opinions", "full", 0)
    scores = prompt.evaluate(rows.selection)
    assert scores["accuracy"] == record["scores"]["accuracy"]
    assert scores["loss"] == pytest.approx(record["scores"]["loss"], rel=1e-5)
    assert list(out.rglob(state.NAME)) == []
    assert len(list((out / "work").iterdir())) == 1
