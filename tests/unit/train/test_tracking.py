"""What a tracker is told is what the record says."""

import struct
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tensorboardX.proto.event_pb2 import Event

from promptuary import tune, tune_tasks
from promptuary.errors import SettingError
from promptuary.train import tracking
from promptuary.train.record import read
from promptuary.train.stepper import Stepper
from tests.saved import Shelf, refused
from tests.unit.test_multitask import planned
from tests.unit.test_tuning import described, interrupted


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars in TensorBoard's files of a run, by their names: steps and values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "tensorboard").glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)  # then four bytes of a checksum, and four behind the event
            event = Event.FromString(data[at + 12 : at + 12 + size])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
            at += 16 + size
    return found


@pytest.fixture(autouse=True)
def _own_state() -> None:
    AcceleratorState._reset_state(True)


def test_tensorboard_is_told_what_the_record_says(shelf: Shelf, tmp_path: Path) -> None:
    run = described(shelf, tmp_path, track=["tensorboard"], method="dp-length-instance")
    tune(run)
    seen, events = drawn(tmp_path), read(tmp_path / "record.jsonl")
    for tag, kind, value in (
        ("train/loss", "step", lambda e: e["loss"]),
        ("train/norm", "step", lambda e: e["norm"]),
        ("validation/accuracy", "scores", lambda e: e["accuracy"]),
        ("undecided/generator.choice", "choices", lambda e: e["share"]["generator.choice"]),
    ):
        expected = [(e["step"], pytest.approx(value(e))) for e in events if e["event"] == kind]
        assert expected
        assert seen[tag] == expected
    assert any(tag.startswith("rate/prompt") for tag in seen)
    assert "validation/best" not in seen


def test_a_run_that_goes_on_is_told_further(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = described(shelf, tmp_path, track=["tensorboard"], save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted(3))
        patch.setattr("promptuary.train.fit.SAVING", 1.0)
        with pytest.raises(KeyboardInterrupt):
            tune(run)
    assert [step for step, _ in drawn(tmp_path)["train/loss"]] == [1, 2]
    time.sleep(1.0)  # its files are named by the second
    for _ in range(2):  # the second time it has finished
        tune(run)
        assert [step for step, _ in drawn(tmp_path)["train/loss"]] == [1, 2, 3, 4]
    tune(described(shelf, tmp_path / "calm"))
    calm = [e["loss"] for e in read(tmp_path / "calm" / "record.jsonl") if e["event"] == "step"]
    assert [loss for _, loss in drawn(tmp_path)["train/loss"]] == pytest.approx(calm)


def test_a_mixture_is_told_of_with_the_scores_of_its_tasks(shelf: Shelf, tmp_path: Path) -> None:
    (found,) = tune_tasks(planned(shelf, tmp_path, track=["tensorboard"]))
    assert drawn(tmp_path)["validation/mood/accuracy"][-1][0] == found.result.steps


def test_what_cannot_be_told_is_refused_before_a_model_is_loaded(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = shelf.options("bert", "prompt-tuning", tmp_path / "out")
    assert "'tensorboard', 'wandb', 'trackio' or 'mlflow'" in refused(*options, "--track", "tensorbord")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs accelerate and wandb.*pip install 'promptuary\[track\]' wandb"):
        tune(described(shelf, tmp_path / "out", track=["wandb"], backbone="nowhere"))
