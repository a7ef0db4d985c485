"""A study that goes on elsewhere, from its records alone."""

import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from promptuary.backbones.load import load
from promptuary.bench import loaded
from promptuary.bench.plan import Plan
from promptuary.bench.prompts import Prompted
from promptuary.bench.records import RECORDS
from promptuary.bench.run import run
from promptuary.bench.store import Store
from promptuary.bench.study import NUMBERS, export, finished
from promptuary.errors import DataError, DivergedError
from tests.saved import Shelf
from tests.unit.bench.toy import plan


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "load", cache(load))


def moved(study: Plan, there: Path, here: Path) -> None:
    """Another machine, to which only the records were brought."""
    export(study, there)
    here.mkdir()
    shutil.copy(there / RECORDS, here / RECORDS)


def starts(folder: Path) -> Counter[str]:
    """How often each job was run that has more than what was brought."""
    store = Store(folder)
    try:
        return Counter({e.job.title: e.starts for e in store.entries() if "curve" in (e.record or {})})
    finally:
        store.close()


def scores(folder: Path) -> list[float | None]:
    """Of all trials that searched."""
    store = Store(folder)
    try:
        return [e.score for e in store.entries() if not e.job.final]
    finally:
        store.close()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.long
def test_what_was_finished_elsewhere_is_not_run_again_and_says_the_same(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed: bool
) -> None:
    more: dict[str, Any] = {}
    if mixed:
        small = plan(shelf, tmp_path, "frozen").tasks["opinions"]
        more = {
            "tasks": {"one": small, "other": small},
            "mixtures": {"both": {"tasks": ["one", "other"], "methods": ["prompt-tuning"], "temperature": 2.0}},
        }
    study = plan(shelf, tmp_path, "frozen", "bag-of-words", seeds=(0, 1), search={"trials": 2}, **more)
    there, here = tmp_path / "there", tmp_path / "here"
    assert run(study, there)
    moved(study, there, here)
    learned: list[str] = []
    monkeypatch.setattr(Prompted, "learn", lambda *a, **k: learned.append("again"))
    assert run(study, here)
    assert not learned
    export(study, here)
    assert [(here / name).read_bytes() == (there / name).read_bytes() for name in (RECORDS, NUMBERS)] == [True, True]


def test_the_tables_alone_keep_what_was_brought(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority", "frozen")
    there, here = tmp_path / "there", tmp_path / "here"
    assert run(study, there)
    moved(study, there, here)
    export(study, here)
    assert (here / RECORDS).read_bytes() == (there / RECORDS).read_bytes()


@pytest.mark.long
def test_other_seeds_run_what_the_search_elsewhere_chose(shelf: Shelf, tmp_path: Path) -> None:
    def of(*seeds: int) -> Plan:
        space = {"frozen": {"head_rate": [1e-6, 0.1, 1.0]}}
        return plan(shelf, tmp_path, "frozen", seeds=seeds, search={"trials": 3, "space": space})

    there, here, whole = (tmp_path / name for name in ("there", "here", "whole"))
    assert run(of(0), there)
    moved(of(0), there, here)
    assert run(of(0, 1), here)
    assert not any("trial" in title for title in starts(here))
    assert run(of(0, 1), whole)
    ours, theirs = finished(of(0, 1), here), finished(of(0, 1), whole)
    assert scores(here) == scores(whole)
    assert len({trial["loss"] for trial in ours[0]["search"]}) == 3  # there was something to choose
    told = ("seed", "chosen", "settings", "edges", "scores", "reports", "score", "job")
    for one, other in zip(ours, theirs, strict=True):
        assert {name: _timeless(one[name]) for name in told} == {name: _timeless(other[name]) for name in told}


def _timeless(value: Any) -> Any:
    """A value without what a clock said."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k != "inference_ms"}
    return value


def test_what_was_lost_elsewhere_stays_lost_with_its_sentence(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise DivergedError("the loss is nan")

    study = plan(shelf, tmp_path, "frozen", "majority", search={"trials": 2})
    there, here = tmp_path / "there", tmp_path / "here"
    with monkeypatch.context() as patched:
        patched.setattr(Prompted, "learn", broken)
        assert run(study, there)
    moved(study, there, here)
    assert run(study, here)
    first, second = finished(study, here)
    assert (first["outcome"], first["sentence"]) == ("nothing chosen", "the loss is nan")
    assert second["outcome"] == "finished"


def test_records_of_another_plan_are_not_taken_up(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority")
    there, here = tmp_path / "there", tmp_path / "here"
    assert run(study, there)
    moved(study, there, here)
    other = plan(shelf, tmp_path, "majority", budget={"steps": 4, "batch": 8})
    assert finished(other, here) == []


def test_a_line_that_is_no_record_is_told_before_anything_runs(shelf: Shelf, tmp_path: Path) -> None:
    study = plan(shelf, tmp_path, "majority")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORDS).write_text(json.dumps({"task": "opinions"}) + "\n")
    with pytest.raises(DataError, match="line 1: no record"):
        run(study, tmp_path / "out")
