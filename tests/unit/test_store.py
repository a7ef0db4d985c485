"""A folder of prompts: it is read when asked, changed as a whole or not at all, and nothing in it takes it down."""

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from promptuary import folders
from promptuary import store as stores
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.data.source import Row
from promptuary.errors import CheckpointError, MissingError, SettingError, TrainingError
from promptuary.store import BASE, Store
from promptuary.tuned import Tuned
from tests.kept import Made, every, keep
from tests.saved import save

ROW = Row({"text": "I like this box"}, "row")
FILES = ("manifest.json", "prompt.safetensors")
STRANGE = ("", ".", "..", "../up", "a/b", "a\\b", ".hidden", "-x", "a~new", "a\n", "a\x00b", "é", "a" * 128, BASE)


@cache
def backbone() -> Backbone:
    return load(str(save("bert", Path(mkdtemp(prefix="promptuary-")) / "bert")))


def made(method: str = "prompt") -> Made:
    return every("bert")[method]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Versions of one prompt by seed."""
    place = tmp_path_factory.mktemp("versions")
    return {seed: keep(place / str(seed), backbone(), made(), seed=seed) for seed in (1, 2)}


def said(store: Store, name: str) -> Any:
    return next(store.get(name).predict([ROW])).probabilities


def data(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_prompts_are_added_found_replaced_and_removed(tmp_path: Path, versions: dict[int, Path]) -> None:
    store = Store(tmp_path / "new" / "store", backbone())
    assert store.names() == []
    with pytest.raises(MissingError, match="The store is empty"):
        store.get("mood")
    store.add("mood", versions[1])
    store.add("tone.v1_b-2", data(versions[2]))
    assert store.names() == ["mood", "tone.v1_b-2"]
    assert "mood" in store
    assert store.get("mood") is store.get("mood")
    assert store.get("mood").backbone is backbone()
    one, two = said(store, "mood"), said(store, "tone.v1_b-2")
    assert one != two
    old = store.get("mood")
    store.add("mood", versions[2])
    assert said(store, "mood") == two
    assert next(old.predict([ROW])).probabilities == one  # who has it in use keeps it
    store.remove("mood")
    assert store.names() == ["tone.v1_b-2"]
    for gone in (store.get, store.remove, store.reload):
        with pytest.raises(MissingError, match="There is no prompt 'mood' here"):
            gone("mood")
    with pytest.raises(MissingError, match=r"Did you mean 'tone\.v1_b-2'"):
        store.get("tone.v1")
    assert [p.name for p in store.folder.iterdir()] == ["tone.v1_b-2"]


def test_names_are_told_without_reading_a_prompt(
    tmp_path: Path, versions: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / f"task-{number}").symlink_to(versions[1])
    (tmp_path / "notes.txt").write_text("no prompt")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(stores, "open_prompt", None)
    store = Store(tmp_path, backbone())
    assert len(store.names()) == 30
    assert "empty" not in store
    assert store.errors() == {}


def size(*prompts: Tuned) -> int:
    """Bytes of the numbers of prompts, told by their modules."""
    parts = [part for tuned in prompts for part in (tuned.model, tuned.readout)]
    return sum(t.numel() * t.element_size() for part in parts for t in (*part.parameters(), *part.buffers()))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that were opened, as they are."""
    names: list[str] = []
    plain = stores.open_prompt

    def noted(folder: Path, **more: Any) -> Tuned:
        names.append(folder.name)
        return plain(folder, **more)

    monkeypatch.setattr(stores, "open_prompt", noted)
    return names


def test_no_more_prompts_are_held_than_have_room(tmp_path: Path, opened: list[str]) -> None:
    large = keep(tmp_path / "ipt", backbone(), made("ipt"))
    small = keep(tmp_path / "prompt", backbone(), made("prompt"))
    one, other = (size(stores.open_prompt(folder, backbone=backbone())) for folder in (large, small))
    assert one > 100 * other
    store = Store(tmp_path / "store", backbone(), held_bytes=2 * (one + stores.BESIDE))
    for name in "abc":
        store.add(name, large)
    store.add("small", small)
    opened.clear()
    for name in ("a", "b", "a", "c"):
        store.get(name)
    assert opened == ["a", "b", "c"]
    store.get("a")
    assert opened == ["a", "b", "c"]
    store.get("b")  # it was asked for longest ago, and went
    assert opened == ["a", "b", "c", "b"]
    for name in ("small", "b", "small", "a", "small"):  # with the small one there is room for one large one
        store.get(name)
    assert opened == ["a", "b", "c", "b", "small", "a"]
    with pytest.raises(SettingError, match="held_bytes=0"):
        Store(tmp_path, backbone(), held_bytes=0)


def test_what_is_in_use_is_there_once_though_there_is_no_room(
    tmp_path: Path, versions: dict[int, Path], opened: list[str]
) -> None:
    store = Store(tmp_path, backbone(), held_bytes=1)
    for name in "ab":
        store.add(name, versions[1])
    opened.clear()
    used = store.get("a")
    answer = said(store, "a")
    for _ in range(3):
        store.get("b")
        assert store.get("a") is used
    assert opened == ["a", *"bbb"]
    store.get("b")
    store.reload("a")  # it reads again all the same
    assert opened == ["a", *"bbbba"]
    assert next(used.predict([ROW])).probabilities == answer
    gone = weakref.ref(used)
    del used
    store.get("b")
    gc.collect()
    assert gone() is None


def test_what_is_compiled_counts_with_its_prompt(tmp_path: Path, opened: list[str]) -> None:
    folder = keep(tmp_path / "prefix", backbone(), made("prefix"))
    plain = size(stores.open_prompt(folder, backbone=backbone())) + stores.BESIDE
    store = Store(tmp_path / "store", backbone(), held_bytes=2 * plain + 8)
    for name in "ab":
        store.add(name, folder)
    opened.clear()
    for name in "abab":
        store.get(name)
    assert opened == ["a", "b"]
    store.compiled(store.get("a"))
    store.get("a")
    store.get("b")  # what had room before has none beside keys and values
    assert opened == ["a", "b", "b"]


def test_a_prompt_is_compiled_once_and_what_was_made_of_it_goes_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", backbone())
    for method in ("prefix", "ipt"):
        store.add(method, keep(tmp_path / method, backbone(), made(method)))
        tuned, answer = store.get(method), said(store, method)
        short = store.compiled(tuned)
        assert store.compiled(store.get(method)) is short
        assert (short.model is tuned.model) == (method == "ipt")
        assert store.get(method) is tuned  # what is shown and described is the prompt itself
        assert next(short.predict([ROW])).probabilities == pytest.approx(answer, abs=1e-5)
        store.reload(method)
        again = store.compiled(store.get(method))
        assert again is not short
        gone = [weakref.ref(one) for one in (tuned, short, store.get(method), again)]
        store.remove(method)
        del tuned, short, again
        gc.collect()
        assert [ref() for ref in gone] == [None] * 4


@pytest.mark.parametrize("name", STRANGE)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, versions: dict[int, Path], name: str) -> None:
    store = Store(tmp_path / "store", backbone())
    store.add("mood", versions[1])
    (tmp_path / "up").symlink_to(versions[2])
    before = everything(tmp_path)
    with pytest.raises(SettingError, match=r"is no name for a prompt|stands for the model"):
        store.add(name, versions[2])
    for ask in (store.get, store.remove, store.reload):
        with pytest.raises(MissingError):
            ask(name)
    assert name not in store
    assert everything(tmp_path) == before


def cut(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"prompt.safetensors": files["prompt.safetensors"][:-7]}


def changed(**fields: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        return files | {"manifest.json": json.dumps({**json.loads(files["manifest.json"]), **fields}).encode()}

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "cut short": (cut, "cut short or was changed"),
    "no tensors": (lambda files: {"manifest.json": files["manifest.json"]}, "prompt.safetensors is missing"),
    "no manifest": (lambda files: {"prompt.safetensors": b""}, "manifest.json is missing"),
    "a pickle beside": (lambda files: files | {"state.pt": b"\x80\x04."}, "'state.pt' is no file of a prompt"),
    "a path for a name": (lambda files: files | {"../evil": b""}, "'../evil' is no file of a prompt"),
    "no JSON": (lambda files: files | {"manifest.json": b"\xff{"}, "damaged"),
    "another model": (changed(fingerprint="bfloat16:0"), "was tuned on"),
    "another method": (changed(method="magic"), "magic"),
    "settings that are none": (changed(settings={"length": [3]}), "cannot be opened"),
    "another length": (changed(settings={"length": 4}), "do not fit"),
    "a list": (lambda files: files | {"manifest.json": b"[]"}, "damaged"),
    "training cut": (lambda files: files | {"training.safetensors": b"no"}, "training.safetensors is cut short"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_prompt_of_this_model_changes_nothing(tmp_path: Path, versions: dict[int, Path], what: str) -> None:
    breaks, message = BROKEN[what]
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    before, answer = everything(tmp_path), said(store, "mood")
    for name in ("mood", "new"):
        with pytest.raises(CheckpointError, match=message) as caught:
            store.add(name, breaks(data(versions[2])))
        assert "~" not in str(caught.value)  # the hidden folder is nobody's business
    assert everything(tmp_path) == before
    assert said(store, "mood") == answer
    assert store.errors() == {}


@pytest.mark.parametrize("what", ["cut short", "another model", "settings that are none", "no JSON"])
def test_a_broken_folder_is_listed_with_its_error_and_the_others_serve(
    tmp_path: Path, versions: dict[int, Path], what: str
) -> None:
    for name, files in (("good", data(versions[1])), ("bad", BROKEN[what][0](data(versions[2])))):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    (tmp_path / "my prompt").symlink_to(versions[1])
    store = Store(tmp_path, backbone())
    assert store.names() == ["bad", "good"]
    for _ in range(2):
        with pytest.raises(CheckpointError, match=BROKEN[what][1]):
            store.get("bad")
    assert said(store, "good")
    assert set(store.errors()) == {"bad", "my prompt"}
    assert "is no name for a prompt" in store.errors()["my prompt"]
    store.add("bad", versions[2])
    assert said(store, "bad")
    assert set(store.errors()) == {"my prompt"}


def test_a_changed_folder_is_read_again_and_a_half_changed_one_is_not_used(
    tmp_path: Path, versions: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    one, new = said(store, "mood"), data(versions[2])
    (tmp_path / "mood" / "prompt.safetensors").write_bytes(new["prompt.safetensors"])
    assert [said(store, "mood") for _ in range(3)] == [one] * 3
    assert "cut short or was changed" in store.errors()["mood"]
    [told] = caplog.records  # once, and by name: the old one answers on, and nobody would notice
    assert told.fields["task"] == "mood"  # type: ignore[attr-defined]
    (tmp_path / "mood" / "manifest.json").write_bytes(new["manifest.json"])
    assert said(store, "mood") != one
    assert store.errors() == {}


def test_a_prompt_is_read_again_when_told(tmp_path: Path, versions: dict[int, Path]) -> None:
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    first = store.get("mood")
    store.reload()
    second = store.get("mood")
    store.reload("mood")
    assert len({id(first), id(second), id(store.get("mood"))}) == 3
    (tmp_path / "mood" / "prompt.safetensors").write_bytes(b"no")
    third = store.get("mood")
    with pytest.raises(CheckpointError, match="cut short"):
        store.reload("mood")
    assert store.get("mood") is third


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", range(16))
def test_a_crash_at_any_moment_leaves_the_old_prompt_or_the_new_one(
    tmp_path: Path, versions: dict[int, Path], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    answers = {seed: next(stores.open_prompt(v, backbone=backbone()).predict([ROW])).probabilities
               for seed, v in versions.items()}  # fmt: skip
    left = step

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:  # and nothing that would tidy up runs either
                raise Crash
            return plain(*given, **more)

        return call

    with monkeypatch.context() as patched:
        for owner, name in (
            (Path, "rename"),
            (Path, "mkdir"),
            (os, "fsync"),
            (folders, "_clear"),
            (folders, "flushed"),
        ):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        try:
            store.add("mood", versions[2])
            finished = True
        except Crash:
            finished = False
    again = Store(tmp_path, backbone())
    assert again.names() == ["mood"]
    assert said(again, "mood") in ([answers[2]] if finished else list(answers.values()))
    assert [p.name for p in tmp_path.iterdir()] == ["mood"]


def test_a_removal_that_was_interrupted_is_finished(
    tmp_path: Path, versions: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    with monkeypatch.context() as patched:
        patched.setattr(folders, "_clear", lambda path: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            store.remove("mood")
    assert Store(tmp_path, backbone()).names() == []
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_is_there_in_the_moment_in_which_it_is_replaced(
    tmp_path: Path, versions: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plain, seen = Store(tmp_path, backbone()), Path.rename, list[tuple[bool, bool]]()
    store.add("mood", versions[1])

    def watched(path: Path, target: Path) -> Path:
        if path.name.endswith(folders.NEW):
            seen.append(((tmp_path / "mood").exists(), "mood" in store))
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    store.add("mood", versions[2])
    assert seen == [(False, True)]
    store.remove("mood")
    assert "mood" not in store


def test_a_folder_that_went_away_is_told(tmp_path: Path, versions: dict[int, Path]) -> None:
    store = Store(tmp_path / "store", backbone())
    store.add("mood", versions[1])
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for change in (lambda: store.add("mood", versions[2]), lambda: store.remove("mood")):
        with pytest.raises(TrainingError, match="mood: the store could not be changed"):
            change()


def test_a_full_disk_changes_nothing(
    tmp_path: Path, versions: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, backbone())
    store.add("mood", versions[1])
    before, plain = everything(tmp_path), Path.rename

    def unwritten(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", unwritten)
        with pytest.raises(TrainingError, match="No space left on device"):
            store.add("mood", versions[2])
    assert everything(tmp_path) == before  # half of the new one would fill the disk further

    def full(path: Path, target: Path) -> Path:
        if target.name == "mood" and path.name.endswith(folders.NEW):
            raise OSError(28, "No space left on device")
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        store.add("mood", versions[2])
    assert everything(tmp_path) == before
    with pytest.raises(SettingError, match="cannot be a folder of prompts"):
        Store(tmp_path / "mood" / "manifest.json", backbone())


def test_two_stores_on_one_folder_never_show_half_a_change(tmp_path: Path, versions: dict[int, Path]) -> None:
    one, other = Store(tmp_path, backbone()), Store(tmp_path, backbone())
    one.add("mood", versions[1])
    answers = [next(stores.open_prompt(v, backbone=backbone()).predict([ROW])).probabilities for v in versions.values()]
    stop, errors = threading.Event(), []

    def change() -> None:
        try:
            for n in range(20):
                one.add("mood", versions[1 + n % 2])
        except Exception as error:
            errors.append(error)
        stop.set()

    changing = threading.Thread(target=change)
    changing.start()
    while not stop.is_set():
        assert said(other, "mood") in answers
    changing.join()
    assert not errors
    assert other.errors() == {}
