"""Two processes that tune together make the steps of one; killed, they go on; the first one alone writes and talks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptuary import open_prompt
from promptuary.data.source import rows
from promptuary.errors import SettingError
from promptuary.train.record import read
from promptuary.train.team import Team, alone
from tests.saved import Shelf
from tests.unit.train.together import DRAWN, SAME, run, shelf_in, told, tuned

pytestmark = pytest.mark.long
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROOT = Path(__file__).parents[3]


def together(*command: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes."""
    return subprocess.run([*TORCHRUN, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def shelf(place: Path) -> Shelf:
    return shelf_in(place)


@pytest.fixture(scope="module")
def found(place: Path, shelf: Shelf) -> list[dict[str, Any]]:
    """What both processes say of every case."""
    made = together("-m", "tests.unit.train.together", place)
    assert made.returncode == 0, made.stderr
    return [json.loads((place / f"{rank}.json").read_text()) for rank in (0, 1)]


def numbers(history: list[dict[str, Any]], event: str, *names: str) -> list[float]:
    return [e[name] for e in history if e["event"] == event for name in names]


@pytest.mark.parametrize("name", SAME)
def test_two_processes_make_the_steps_of_one(name: str, found: list[dict[str, Any]], place: Path, shelf: Shelf) -> None:
    one, two = told(tuned(SAME[name], shelf, place / "one" / name)), found[0][name]
    for event, values in (("step", ("loss", "norm")), ("scores", ("loss",))):
        expected = numbers(one["history"], event, *values)
        assert expected
        assert numbers(two["history"], event, *values) == pytest.approx(expected, rel=1e-4)
    assert two["score"] == one["score"]
    assert one["learnt"][0]
    for ours, theirs in zip(two["learnt"], one["learnt"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)


def test_all_processes_arrive_at_the_same_numbers(found: list[dict[str, Any]]) -> None:
    for name in (*SAME, *DRAWN):
        first, second = (one[name] for one in found)
        assert first["learnt"] == second["learnt"]
        assert numbers(first["history"], "step", "loss", "norm") == numbers(second["history"], "step", "loss", "norm")


def test_what_was_killed_goes_on_to_the_same_numbers(found: list[dict[str, Any]]) -> None:
    calm, killed = found[0]["position"], found[0]["killed"]
    assert len(numbers(calm["history"], "step", "loss")) == 9
    assert calm["learnt"] == killed["learnt"]
    for event, *values in (("step", "loss", "norm"), ("scores", "loss"), ("choices", "rows")):
        assert numbers(calm["history"], event, *values) == numbers(killed["history"], event, *values)


def test_choices_are_told_of_the_rows_of_all_processes(found: list[dict[str, Any]]) -> None:
    assert sum(numbers(found[0]["position"]["history"], "choices", "rows")) == 63  # three epochs of 21


def test_no_two_processes_and_no_two_steps_draw_the_same() -> None:
    drawn = [Team(rank, 3).seed(run, step) for run in range(2) for rank in range(3) for step in range(1, 5)]
    assert len(set(drawn)) == len(drawn) == 24
    assert drawn[0] == Team(0, 3).seed(0, 1)


def test_the_prompt_and_the_record_are_those_of_any_run(found: list[dict[str, Any]], place: Path, shelf: Shelf) -> None:
    folder = place / "two" / "classes"
    assert {p.name for p in folder.iterdir()} >= {"manifest.json", "prompt.safetensors", "record.jsonl"}
    events = read(folder / "record.jsonl")
    assert events == found[0]["classes"]["history"]
    assert events[0]["processes"] == 2
    assert open_prompt(folder).evaluate(rows(str(shelf.dev)))["accuracy"] == found[0]["classes"]["score"]


def test_a_folder_of_another_run_is_refused_in_all_processes(found: list[dict[str, Any]]) -> None:
    assert [one["refused"]["said"] for one in found] == [found[0]["refused"]["said"]] * 2
    assert "belongs to another run" in found[0]["refused"]["said"]


def test_the_first_process_alone_talks(place: Path, shelf: Shelf) -> None:
    asked = ["tune", "--backbone", shelf.place / "bert", "--train", shelf.train, "--validation", shelf.dev]
    said = together("-m", "promptuary", *asked, "--epochs", 1, "--out", place / "told")
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("Saved in") == said.stderr.count("21 rows for training") == 1


def test_what_runs_in_one_process_says_so(monkeypatch: pytest.MonkeyPatch, place: Path, shelf: Shelf) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="A study runs in one process and was started in 2"):
        alone("A study")
    with pytest.raises(SettingError, match=r"started among 2 .*torchrun --nproc-per-node"):
        tuned(run(), shelf, place / "lost")  # nobody said where the others are
