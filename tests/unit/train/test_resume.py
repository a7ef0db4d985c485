"""A run that was killed goes on as if it had not been: the same losses, scores and tensors, to the last bit."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from promptuary.errors import CheckpointError, TrainingError
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Silent
from promptuary.train.recipe import Recipe
from promptuary.train.state import NAME, State
from promptuary.train.state import save as write_state
from tests.unit.train.toy import Toy, numbers, parts, recipe

ROOT = Path(__file__).parents[3]
RECIPE = recipe(epochs=3, dropout=0.2, evaluations=2, accumulation=2, optimizer="adamw")
EVERY = {"save_every": 3}
STEPS = 9  # 5 batches, 2 a step: 3 steps an epoch


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


@dataclass
class Bomb(Silent):
    """Goes off at one of the moments a run tells of."""

    moment: str
    at: int

    def stepped(self, step: int, *_: Any) -> None:
        self._tick("stepped", step)

    def scored(self, step: int, *_: Any) -> None:
        self._tick("scored", step)

    def _tick(self, moment: str, step: int) -> None:
        if (moment, step) == (self.moment, self.at):
            raise Killed


def run(
    folder: Path | None,
    *,
    r: Recipe = RECIPE,
    progress: Any = None,
    name: str = "prompt-tuning",
    seed: int = 4,
    **more: Any,
) -> tuple[Result, dict[str, Tensor]]:
    model, readout = parts("bert", name, dropout=0.2)
    result = fit(
        model, readout, Toy(5), Toy(2, seed=9), r, seed=seed, folder=folder, progress=progress, **{**EVERY, **more}
    )
    return result, numbers(model, readout)


def events(result: Result) -> list[dict[str, Any]]:
    """The history without what time and place decide."""
    return [{k: v for k, v in event.items() if k != "seconds"} for event in result.history]


def same(one: tuple[Result, dict[str, Tensor]], other: tuple[Result, dict[str, Tensor]]) -> None:
    assert events(one[0]) == events(other[0])
    assert one[0].scores == other[0].scores
    assert one[0].best_step == other[0].best_step
    assert one[0].alarms == other[0].alarms
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][k], other[1][k]) for k in one[1])


@pytest.fixture(autouse=True)
def _saved_whenever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about going on from states; how often one is saved is the last test's matter."""
    monkeypatch.setattr("promptuary.train.fit.SAVING", 1.0)


@pytest.fixture(scope="module")
def whole() -> tuple[Result, dict[str, Tensor]]:
    return run(None)


@pytest.mark.parametrize("at", range(1, STEPS + 1))
@pytest.mark.parametrize("moment", ["stepped", "scored"])
def test_killed_at_any_step_it_goes_on_to_the_same_end(
    tmp_path: Path, whole: tuple[Result, dict[str, Tensor]], moment: str, at: int
) -> None:
    try:
        run(tmp_path, progress=Bomb(moment, at))
    except Killed:
        again = run(tmp_path)
        same(again, whole)
        written = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
        assert written == list(again[0].history)
    else:
        assert moment == "scored"  # not every step is scored


def dying(count: int, *, before: bool) -> Callable[[Path, State], None]:
    """A `save` that is killed before or after it writes for the `count`-th time."""
    left = [count]

    def save(path: Path, state: State) -> None:
        left[0] -= 1
        if left[0] or not before:
            write_state(path, state)
        if not left[0]:
            raise Killed

    return save


@given(moments=st.lists(st.integers(1, STEPS), min_size=2, max_size=4), before=st.booleans())
@settings(max_examples=4)
def test_killed_again_and_again_around_a_save_it_goes_on_to_the_same_end(
    whole: tuple[Result, dict[str, Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
    moments: list[int],
    before: bool,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for count in moments:
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr("promptuary.train.state.save", dying(count, before=before))
            run(folder)
    same(run(folder), whole)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("p-tuning-v2", {"optimizer": "adafactor", "clip": 0.0, "scaled": False, "rate": 0.05}),
        ("prefix-tuning", {"schedule": "cosine", "warmup": 0.3, "scaled": False, "rate": 0.01}),
        ("prompt-tuning", {"precision": "bf16", "patience": 2}),
        ("frozen", {"steps": 7}),
    ],
)
def test_other_recipes_go_on_too(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    r = recipe(**{**vars(RECIPE), **changes})
    with pytest.raises(Killed):
        run(tmp_path, name=name, r=r, progress=Bomb("stepped", 5))
    same(run(tmp_path, name=name, r=r), run(None, name=name, r=r))


@pytest.mark.parametrize("name", ["dp-position-instance", "dp-position"])
def test_the_temperature_of_a_hard_choice_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    def ran(folder: Path | None, **more: Any) -> tuple[list[tuple[int, float]], tuple[Result, dict[str, Tensor]]]:
        model, readout = parts("bert", name, dropout=0.2, temperature="linear:first=2.0,last=0.1,steps=8")
        (choice,) = model.choices.values()
        schedule, used = choice.temperature, list[tuple[int, float]]()

        def noting(step: int) -> float:
            if step:
                used.append((step, schedule(step)))
            return schedule(step)

        choice.temperature = noting
        with contextlib.suppress(Killed):
            result = fit(model, readout, Toy(5), Toy(2, seed=9), RECIPE, seed=4, folder=folder, **EVERY, **more)
            return used, (result, numbers(model, readout))
        return used, whole[1]

    whole = ran(None)
    before, _ = ran(tmp_path, progress=Bomb("stepped", 5))
    after, again = ran(tmp_path)
    same(again, whole[1])
    steps = dict(whole[0])
    assert [round(steps[n], 4) for n in (1, 4, 8, 9)] == [1.7625, 1.05, 0.1, 0.1]
    assert max(dict(before)) == 5
    assert 1 < min(dict(after)) <= 5  # it did go on
    assert all(steps[step] == temperature for step, temperature in (*before, *after))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    size = (tmp_path / "record.jsonl").stat().st_size
    second = run(tmp_path, progress=Bomb("stepped", 1))
    same(first, second)
    assert second[0].seconds == first[0].seconds
    assert (tmp_path / "record.jsonl").stat().st_size == size


CHILD = """
import sys
from pathlib import Path
from promptuary.train.progress import Silent
from tests.unit.train.test_resume import run

class Speaks(Silent):
    def stepped(self, step, loss):
        print(step, flush=True)

run(Path(sys.argv[1]), progress=Speaks())
"""


@pytest.mark.long
def test_a_process_killed_by_the_system_goes_on_to_the_same_end(
    tmp_path: Path, whole: tuple[Result, dict[str, Tensor]]
) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 5:
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert (tmp_path / NAME).is_file()
    again = run(tmp_path)
    same(again, whole)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r": recipe(**{**vars(RECIPE), "rate": 0.1})}, r"recipe\.rate is 0\.1 and was 0\.3"),
        ({"seed": 5}, "seed is 5 and was 4"),
        ({"name": "deep-prompt-tuning"}, r"tensors\.prompt\.generator\.table"),
        ({"settings": {"data": "other"}}, r'settings\.data is "other" and was nothing'),
        ({"metric": "loss"}, 'metric is "loss" and was "accuracy"'),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Killed):
        run(tmp_path, progress=Bomb("stepped", 5))
    with pytest.raises(CheckpointError, match=sentence):
        run(tmp_path, **changes)


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, progress=Bomb("stepped", 5))
    model, readout = parts("bert", dropout=0.2)
    with pytest.raises(CheckpointError, match="first_batch"):
        fit(model, readout, Toy(5, seed=1), Toy(2, seed=9), RECIPE, seed=4, folder=tmp_path)


def test_a_damaged_state_is_refused_and_a_missing_one_begins_anew(
    tmp_path: Path, whole: tuple[Result, dict[str, Tensor]]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, progress=Bomb("stepped", 5))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path)
    path.unlink()
    same(run(tmp_path), whole)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    tmp_path: Path, whole: tuple[Result, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    real, left = os.fsync, [count]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        run(tmp_path)
    monkeypatch.undo()
    assert not [p.name for p in tmp_path.iterdir() if p.name not in ("record.jsonl", NAME)]
    same(run(tmp_path), whole)


@dataclass
class Clock(Silent):
    """A clock that knows two things that take time: a step, and saving a state."""

    step_s: float
    save_s: float
    now: float = 0.0
    saved: int = 0

    def stepped(self, *_: Any) -> None:
        self.now += self.step_s

    def save(self, path: Path, state: State) -> None:
        self.now += self.save_s
        self.saved += 1
        write_state(path, state)


@pytest.mark.parametrize("save_s", [0.01, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.1, 1.0)), 30.0])
def test_saving_takes_a_twentieth_of_a_run_s_time_and_a_first_state_is_there_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_s: float
) -> None:
    clock = Clock(1.0, save_s)
    monkeypatch.undo()
    monkeypatch.setattr("promptuary.train.state.save", clock.save)
    monkeypatch.setattr("promptuary.train.fit.time.perf_counter", lambda: clock.now)
    model, readout = parts()
    fit(model, readout, Toy(6), None, recipe(epochs=20), folder=tmp_path, progress=clock, save_every=2)
    between = clock.saved - 2  # a first state at once, the last one at the end
    assert between * save_s <= 0.05 * clock.now
    assert between >= min(58, int(0.7 * 0.05 * clock.now / save_s))  # and no fewer states than that allows


def test_the_first_step_is_saved(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, progress=Bomb("stepped", 2), save_every=100)
    assert (tmp_path / NAME).is_file()
