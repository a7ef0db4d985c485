"""The record: lines that are only added, and that say where a number comes from."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from promptuary.backbones.cpu_linear import lays, pays
from promptuary.errors import CheckpointError, TrainingError
from promptuary.train.record import Record, spread, surroundings


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(path: Path, count: int = 3) -> Record:
    record = Record(path)
    record.begin({"seed": 1})
    for step in range(1, count + 1):
        record.add("step", step=step, loss=1 / step)
    return record


def test_the_file_holds_the_events(tmp_path: Path) -> None:
    record = made(tmp_path / "r.jsonl")
    assert lines(tmp_path / "r.jsonl") == record.events
    assert record.events[0] == {"event": "config", "seed": 1}
    assert record.events[3] == {"event": "step", "step": 3, "loss": 1 / 3}


def test_without_a_path_events_stay_in_memory() -> None:
    record = Record(None)
    record.begin({})
    record.add("step", step=1)
    record.settle()
    assert [e["event"] for e in record.events] == ["config", "step"]


def test_going_on_drops_later_lines_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    made(path, 5)
    with path.open("a") as file:
        file.write('{"event": "st')
    record = Record(path)
    record.resume(step=2, count=3)
    record.add("step", step=3, loss=0.0)
    assert lines(path) == record.events
    assert [e.get("step") for e in record.events] == [None, 1, 2, 3]


@pytest.mark.parametrize("content", [None, "", '{"event": "config"}\n', '{"event": "config"}\n{"event": "step", "st'])
def test_a_record_without_the_state_s_events_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"does not hold the 2 events .* step 1"):
        Record(path).resume(step=1, count=2)


def test_a_record_of_later_steps_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "r.jsonl", 5)
    with pytest.raises(CheckpointError, match="does not hold"):
        Record(tmp_path / "r.jsonl").resume(step=3, count=6)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = made(tmp_path / "r.jsonl")
    before = lines(tmp_path / "r.jsonl")
    plain_open = Path.open

    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            with plain_open(tmp_path / "r.jsonl", "ab") as file:
                file.write(data[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    with pytest.raises(TrainingError, match=r"No space left on device.*Make room"):
        record.add("step", step=4)
    monkeypatch.undo()
    assert lines(tmp_path / "r.jsonl") == before


def test_a_full_disk_shows_when_lines_are_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = made(tmp_path / "r.jsonl")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="flushed"):
        record.settle()


def test_seeds_are_summed_up_by_mean_and_sample_deviation() -> None:
    found = spread([{"accuracy": 0.8, "loss": 1.0}, {"accuracy": 0.9, "loss": 2.0}, {"accuracy": 1.0}])
    assert list(found) == ["accuracy"]
    assert found["accuracy"].mean == pytest.approx(0.9)
    assert found["accuracy"].deviation == pytest.approx(0.1)
    assert str(found["accuracy"]) == "0.9000 ± 0.1000 (3 seeds)"
    assert spread([{"accuracy": 0.8}])["accuracy"].deviation == 0.0
    assert spread([]) == {}


def test_surroundings_name_versions_hardware_and_threads() -> None:
    found = json.loads(json.dumps(surroundings()))
    assert {"python", "torch", "transformers", "promptuary"} <= found["versions"].keys()
    assert found["hardware"]["threads"] >= 1
    products = found["hardware"]["products"]
    assert products == {"float32": "onednn" if pays() else "plain", "bfloat16": "onednn" if lays() else "plain"}
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40


def test_a_commit_is_named_only_where_the_code_belongs_to_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("promptuary.train.record.__file__", str(tmp_path / "record.py"))
    assert surroundings()["commit"] is None
