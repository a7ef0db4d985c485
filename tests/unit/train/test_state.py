"""A state comes back as it was, or not at all: never half, never another run's."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from promptuary.errors import CheckpointError, SettingError, TrainingError
from promptuary.train.state import (
    State,
    copied,
    load,
    optimizer_tensors,
    plain,
    random_tensors,
    restore,
    restore_optimizer,
    restore_random,
    save,
)

SETTINGS = plain({"seed": 0, "recipe": {"rate": 0.3, "epochs": 10}, "words": ("a", "b")})


def state(step: int = 3) -> State:
    tensors = {
        "parameter/prompt": torch.arange(6.0).reshape(2, 3),
        "best/prompt": torch.ones(2, 3),
        "optimizer/prompt/step": torch.tensor(3.0),
        "random/cpu": torch.arange(9, dtype=torch.uint8),
    }
    return State(SETTINGS, {"step": step, "seconds": 0.1 + 0.2, "best": None}, tensors)


def only(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path / "state", state())
    found = load(tmp_path / "state", SETTINGS)
    assert found is not None
    assert found.notes == state().notes
    assert found.tensors.keys() == state().tensors.keys()
    assert all(
        torch.equal(found.tensors[k], v) and found.tensors[k].dtype == v.dtype for k, v in state().tensors.items()
    )
    assert list(found.under("parameter")) == ["prompt"]
    assert only(tmp_path) == ["state"]


def test_where_there_is_no_file_there_is_no_state(tmp_path: Path) -> None:
    assert load(tmp_path / "state", SETTINGS) is None


def test_a_state_holds_no_pickle(tmp_path: Path) -> None:
    save(tmp_path / "state", state())
    size = int.from_bytes((tmp_path / "state").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "state").read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["state"])["settings"] == SETTINGS


@given(share=st.floats(0, 0.999))
def test_a_state_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    save(path, state())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"damaged.*Delete the folder"):
        load(path, SETTINGS)


@given(share=st.floats(0, 0.999))
def test_a_state_with_one_changed_bit_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    save(path, state())
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    try:
        found = load(path, SETTINGS)
    except CheckpointError:
        return
    # Blanks that fill up the header may change: they say nothing.
    assert found is not None
    assert found.notes == state().notes
    assert all(torch.equal(found.tensors[k], v) for k, v in state().tensors.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "seed is 1 and was 0"),
        ({"recipe": {"rate": 0.1, "epochs": 10}}, "recipe.rate is 0.1 and was 0.3"),
        ({"words": ["a"]}, r'words is \["a"\] and was \["a", "b"\]'),
        ({"more": True}, "more is true and was nothing"),
    ],
)
def test_a_state_of_another_run_is_refused_and_the_difference_named(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    save(tmp_path / "state", state())
    with pytest.raises(CheckpointError, match=sentence):
        load(tmp_path / "state", {**SETTINGS, **change})


def test_a_state_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptuary.train.state.FORMAT", 99)
    save(tmp_path / "state", state())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        load(tmp_path / "state", SETTINGS)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_state_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path / "state", state(step=3))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(TrainingError, match="No space left on device"):
        save(tmp_path / "state", state(step=4))
    monkeypatch.undo()
    assert only(tmp_path) == ["state"]
    found = load(tmp_path / "state", SETTINGS)
    assert found is not None
    assert found.notes["step"] == 3


def test_settings_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(SettingError, match=r"settings: .*not JSON serializable.*Expected text, numbers"):
        plain({"init": object()})


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_an_optimizer_goes_on_from_its_tensors(kind: type[torch.optim.Optimizer]) -> None:
    def fresh() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        named = {"a": nn.Parameter(torch.ones(3, 2)), "b.c": nn.Parameter(torch.ones(4))}
        return named, kind(list(named.values()), lr=0.1)  # type: ignore[call-arg]

    def step(named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, count: int) -> None:
        for k in range(count):
            for p in named.values():
                p.grad = torch.full_like(p, 0.5 + k)
            optimizer.step()

    named, optimizer = fresh()
    step(named, optimizer, 3)
    values, inner = copied(named, "p"), copied(optimizer_tensors(optimizer, named), "o")
    again, resumed = fresh()
    restore(again, {k.removeprefix("p/"): v for k, v in values.items()})
    restore_optimizer(resumed, again, {k.removeprefix("o/"): v for k, v in inner.items()})
    step(named, optimizer, 2)
    step(again, resumed, 2)
    assert all(torch.equal(named[k], again[k]) for k in named)


def test_randomness_goes_on_where_it_was() -> None:
    device = torch.device("cpu")
    saved = random_tensors(device)
    one = torch.rand(5)
    restore_random(saved, device)
    assert torch.equal(torch.rand(5), one)
