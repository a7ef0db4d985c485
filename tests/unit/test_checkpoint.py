"""A saved prompt comes back as it was, or is refused with the reason; half of one is never taken for a whole."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from promptuary.checkpoint import PROMPT, TRAINING, flat, read_manifest, read_tensors, restore, save_prompt
from promptuary.errors import CheckpointError, TrainingError
from promptuary.files import write
from promptuary.generators import Free
from promptuary.initial import normal
from promptuary.manifests import MANIFEST
from promptuary.methods import METHODS, method
from promptuary.readouts import Classifier
from promptuary.tuned import open_prompt
from tests.backbones import backbone
from tests.laws.checks import STATIC
from tests.saved import Shelf, refused

DESCRIBED: dict[str, Any] = {"seed": 0, "backbone": "bert", "fingerprint": "f", "family": "bert", "dim": 32, "run": {}}


def _saved(folder: Path, name: str = "prompt-tuning", seed: int = 0, **settings: Any) -> Any:
    generator, injection = method(name).parts(backbone("bert").shape, seed=seed, **settings)
    readout = Classifier(3, 32, pool="first", seed=seed)
    manifest = save_prompt(folder, {**DESCRIBED, "method": name, "settings": settings}, generator, injection, readout)
    return generator, injection, readout, manifest


def _built(name: str, **settings: Any) -> Any:
    generator, injection = method(name).parts(backbone("bert").shape, seed=99, **settings)
    return generator, injection, Classifier(3, 32, pool="first", seed=99)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("trainable", [False, True])
def test_what_is_saved_comes_back(tmp_path: Path, name: str, trainable: bool) -> None:
    generator, _, readout, manifest = _saved(tmp_path, name)
    parts = _built(name)
    found = restore(tmp_path, read_manifest(tmp_path), *parts, trainable=trainable)
    assert read_manifest(tmp_path) == manifest
    if name in STATIC:
        with torch.no_grad():
            assert torch.equal(found.fixed().values, generator.fixed().values)
    else:
        state, saved = found.state_dict(), generator.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[k], saved[k]) for k in saved)
    for one, two in zip(parts[2].parameters(), readout.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", STATIC)
def test_a_prompt_is_kept_flat_and_its_network_beside_it(tmp_path: Path, name: str) -> None:
    generator, _, _, manifest = _saved(tmp_path, name)
    tensors = load_file(tmp_path / PROMPT)
    assert manifest.form == "flat"
    assert tensors["prompt"].shape == (generator.length, generator.width)
    assert set(tensors) == {"prompt", *(f"readout.{k}" for k in _built(name)[2].state_dict())}
    assert (tmp_path / TRAINING).is_file() == (not isinstance(generator, Free))
    parts = _built(name)
    assert isinstance(restore(tmp_path, manifest, *parts, trainable=False), Free)
    again = restore(tmp_path, manifest, *_built(name), trainable=True)
    assert type(again) is type(generator)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in generator.state_dict().items()
    }


def test_a_prompt_that_depends_on_more_than_a_table_is_kept_in_parts(tmp_path: Path) -> None:
    generator, injection = method("prompt-tuning").parts(backbone("bert").shape, length=3)
    injection.register_parameter("gate", torch.nn.Parameter(torch.tensor(0.5)))
    assert flat(generator, injection) is None
    readout = Classifier(3, 32, pool="first", seed=0)
    manifest = save_prompt(
        tmp_path, {**DESCRIBED, "method": "prompt-tuning", "settings": {}}, generator, injection, readout
    )
    assert manifest.form == "parts"
    assert not (tmp_path / TRAINING).exists()
    other, entering = method("prompt-tuning").parts(backbone("bert").shape, length=3, seed=9)
    entering.register_parameter("gate", torch.nn.Parameter(torch.tensor(0.0)))
    found = restore(tmp_path, manifest, other, entering, readout, trainable=False)
    assert torch.equal(found.state_dict()["table"], generator.state_dict()["table"])
    assert entering.gate.item() == 0.5


def test_a_prompt_is_a_few_kilobytes(tmp_path: Path) -> None:
    _saved(tmp_path, "prefix-tuning", length=4, middle=512)
    assert (tmp_path / PROMPT).stat().st_size < 4 * 128 * 4 + 99 * 4 + 1000 < (tmp_path / TRAINING).stat().st_size


@pytest.mark.parametrize("name", [PROMPT, TRAINING])
@pytest.mark.parametrize("change", ["cut", "bit", "gone"])
def test_a_damaged_tensor_file_is_refused(tmp_path: Path, name: str, change: str) -> None:
    manifest = _saved(tmp_path, "prefix-tuning", length=2, middle=8)[3]
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-5]),
        "bit": lambda: path.write_bytes(bytes(data)),
        "gone": path.unlink,
    }[change]()
    with pytest.raises(CheckpointError, match="missing" if change == "gone" else "cut short or was changed"):
        read_tensors(tmp_path, manifest, name)


def test_tensors_of_another_prompt_are_refused(tmp_path: Path) -> None:
    manifest = _saved(tmp_path, length=4)[3]
    with pytest.raises(CheckpointError, match=r"do not fit its manifest \(a prompt of \[4, 32\], expected \[5, 32\]\)"):
        restore(tmp_path, manifest, *_built("prompt-tuning", length=5), trainable=False)
    generator, injection, _ = _built("prompt-tuning", length=4)
    with pytest.raises(CheckpointError, match="do not fit its manifest") as told:
        restore(tmp_path, manifest, generator, injection, Classifier(2, 32, pool="first", seed=0), trainable=False)
    assert "\n" not in str(told.value)


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edited(path: Path) -> None:
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return edited


def _set(*names: str, to: Any) -> Callable[[Path], None]:
    def change(found: dict[str, Any]) -> None:
        for name in names[:-1]:
            found = found[name]
        found[names[-1]] = to

    return _edit(change)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half": (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "a list": (lambda path: path.write_bytes(b"[1]"), "is damaged"),
    "gone": (lambda path: path.unlink(), "has no manifest.json"),
    "format": (_set("format", to=9), "format 9; this version reads format 1"),
    "more": (_set("extra", to=1), "'extra'"),
    "less": (_edit(lambda found: found.pop("method")), "'method'"),
    "method": (_set("method", to="prompt-tunning"), "Did you mean 'prompt-tuning'?"),
    "settings": (_set("settings", to=[1]), "'settings'"),
    "length": (_set("settings", to={"length": 7}), "do not fit"),
    "seed": (_set("seed", to="x"), "'seed'"),
    "backbone": (_set("backbone", to=None), "'backbone'"),
    "run": (_set("run", to=None), "'run'"),
    "form": (_set("form", to="parts"), "do not fit"),
    "hashes": (_set("hashes", to=None), "'hashes'"),
    "no hash": (_set("hashes", to={}), "hash"),
    "task": (_set("run", "task", to={}), "no task"),
    "readout": (_set("run", "readout", to="x"), "'readout'"),
    "pool": (_set("run", "pool", to="x"), "'pool'"),
    "words": (_set("run", "words", to=[["x"]]), "words for 1 labels"),
    "template": (_set("run", "template", to=4), "'template'"),
    "max_length": (_set("run", "max_length", to="x"), "'max_length'"),
    "columns": (_set("run", "columns", to=None), "'columns'"),
    "blanks": (_set("run", "blanks", to=None), "'blanks'"),
    "precision": (_set("run", "precision", to="fp8"), "'precision'"),
    "lacking": (_edit(lambda found: found["run"].pop("words")), "'words': field required"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_manifest_is_one_sentence(shelf: Shelf, tmp_path: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    folder = tmp_path / "prompt"
    shutil.copytree(shelf.prompt("bert", "prompt-tuning"), folder)
    damage(folder / MANIFEST)
    assert expected in refused("evaluate", folder, "--data", shelf.dev, "--json")


def test_what_is_no_prompt_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    assert "does not exist" in refused("show", tmp_path / "nosuch")
    assert "is a file" in refused("show", shelf.dev)
    assert "has no manifest.json" in refused("show", tmp_path)


def test_a_prompt_is_refused_on_another_backbone(shelf: Shelf) -> None:
    prompt = shelf.prompt("bert", "prompt-tuning")
    said = refused("evaluate", prompt, "--data", shelf.dev, "--backbone", shelf.model("gpt2"))
    assert "has other weights" in said
    assert "(bert, width 32)" in said
    assert "(gpt2, width 32)" in said


def test_a_prompt_whose_backbone_moved_says_how_to_name_it(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "prompt"
    shutil.copytree(shelf.prompt("bert", "prompt-tuning"), folder)
    _set("backbone", to=str(tmp_path / "gone"))(folder / MANIFEST)
    assert "name it with --backbone" in refused("show", folder)
    moved = open_prompt(folder, backbone=str(shelf.model("bert")))
    assert moved.backbone.name == str(shelf.model("bert"))


class _FullDisk:
    """The n-th flush to the disk fails."""

    def __init__(self, n: int) -> None:
        self.left, self.call = n, os.fsync

    def __call__(self, handle: int) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.call(handle)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_full_disk_never_leaves_a_prompt_that_opens_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    _saved(tmp_path, "prefix-tuning", length=2, middle=8)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _FullDisk(n))
        with pytest.raises(TrainingError, match="No space left on device"):
            _saved(tmp_path, "prefix-tuning", seed=5, length=2, middle=8)
    now = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(now) == set(old)
    assert now[MANIFEST] == old[MANIFEST]
    if n == 1:
        assert now == old
    else:  # the manifest's hashes tell
        with pytest.raises(CheckpointError, match="cut short or was changed"):
            restore(tmp_path, read_manifest(tmp_path), *_built("prefix-tuning", length=2, middle=8), trainable=True)


def test_writing_makes_folders_and_leaves_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write(tmp_path / "a" / "b" / "c", b"12")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"12"
    assert (tmp_path / "a" / "b" / "c").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c"]
    with pytest.raises(TrainingError, match="other/x: could not be written"):
        write(tmp_path / "other" / "x", b"")


def test_a_frozen_control_is_a_prompt_of_no_length(tmp_path: Path) -> None:
    generator = _saved(tmp_path, "frozen")[0]
    assert generator.length == 0
    assert load_file(tmp_path / PROMPT)["prompt"].shape == (0, 32)
    assert isinstance(Free(0, 32, normal(1.0)), Free)
