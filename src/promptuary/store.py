"""A folder of tuned prompts for one loaded frozen model: `STORE/NAME/manifest.json`, as `tune --out` writes it.

Names are what the folder holds at the moment; a prompt is read when it is first asked for, and again when its files
are others than they were (hot reload). Whoever asks gets one whole version and keeps it while it is in use: files that
do not fit together are refused by their hashes, and the version that was read before stays in service.

Changes are safe against crashes, and between processes that share the folder (`folders.py`). A prompt that is added is
opened as if it were to be used before it takes its place.
"""

import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from promptuary.backbones.backbone import Backbone
from promptuary.checkpoint import PROMPT, TRAINING, read_tensors
from promptuary.errors import CheckpointError, MissingError, PromptuaryError, SettingError, TrainingError, nearest
from promptuary.folders import Folders, passing
from promptuary.manifests import MANIFEST
from promptuary.tuned import Tuned, open_prompt

LOG = logging.getLogger(__name__)
HELD_BYTES = 2 << 30
BESIDE = 64 << 10  # bytes that a prompt takes beside its numbers: 20 to 50 KB of Python's objects were measured
BASE = "base"  # how whoever serves a store calls the model without a prompt
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
FILES = (MANIFEST, PROMPT, TRAINING)

Stamp = tuple[tuple[int, int, int], ...]  # of each file: when it was written, its size, its number on the disk


@dataclass(frozen=True, eq=False)
class _Version:
    """What was read of a folder: a prompt, or what is wrong with its files and the prompt that was there before."""

    stamp: Stamp | None
    tuned: Tuned | None
    error: str | None = None


class Store:
    """The tuned prompts in a folder, by name, on one loaded model. Any thread may ask and change it.

    Arguments:
        folder: it is made where it is missing.
        backbone: the model they were tuned on.
        held_bytes: of the prompts that are kept in memory, with what is compiled of them; those that were asked for
            longest ago go first. One is kept whatever its size, and one in use is there once, let go of or not.

    Raises:
        SettingError: where the folder cannot be one.
    """

    def __init__(self, folder: Path | str, backbone: Backbone, *, held_bytes: int = HELD_BYTES) -> None:
        if held_bytes < 1:
            raise SettingError(f"Store(held_bytes={held_bytes}): expected bytes of prompts kept in memory, 1 or more.")
        self.folder, self.backbone, self.held_bytes = Path(folder), backbone, held_bytes
        self._versions: OrderedDict[str, _Version] = OrderedDict()
        self._compiled: WeakKeyDictionary[Tuned, Tuned] = WeakKeyDictionary()
        self._alive: WeakValueDictionary[tuple[str, Stamp], Tuned] = WeakValueDictionary()  # held, or only in use
        self._bytes: WeakKeyDictionary[Tuned, int] = WeakKeyDictionary()  # with what is compiled of it
        self._lock = threading.RLock()
        try:
            self._folders = Folders(self.folder)
        except OSError as error:
            raise SettingError(f"{self.folder} cannot be a folder of prompts ({error.strerror}).") from error

    def __contains__(self, name: str) -> bool:
        return _allowed(name) and self._folders.hold(name, MANIFEST)

    def names(self) -> list[str]:
        """The names of all prompts in the folder; none of them is read."""
        with os.scandir(self.folder) as entries:
            return sorted(entry.name for entry in entries if entry.name in self)

    def errors(self) -> dict[str, str]:
        """What is wrong with a prompt, by name, where something is known to be."""
        with self._lock:
            found = {name: version.error for name, version in self._versions.items() if version.error is not None}
        with os.scandir(self.folder) as entries:
            strange = [e.name for e in entries if not _ours(e.name) and (self.folder / e.name / MANIFEST).is_file()]
        return found | {name: _refused(name) for name in strange}

    def get(self, name: str) -> Tuned:
        """The prompt of that name as its files are now; it may take some milliseconds.

        Raises:
            MissingError: for a name that is not in the folder, with the nearest one that is.
            CheckpointError: where it is damaged, or belongs to another backbone.
        """
        with self._lock:
            try:
                version = self._current(name)
            except MissingError:
                self._versions.pop(name, None)
                raise
            changed = version is not self._versions.get(name)
            self._versions[name] = version
            self._versions.move_to_end(name)
            if changed:
                self._fit()
        if version.tuned is None:
            raise CheckpointError(str(version.error))
        return version.tuned

    def compiled(self, tuned: Tuned) -> Tuned:
        """The same prompt for answers (`Tuned.compiled`): made when it is first asked for, gone when the prompt is.

        Arguments:
            tuned: what `get` gave, also if that is taken out or replaced now.
        """
        with self._lock:
            known = self._compiled.get(tuned)
        if known is None:
            made = tuned.compiled()  # without the lock: the model reads the soft tokens
            with self._lock:
                known = self._compiled.setdefault(tuned, made)
                self._bytes[tuned] = _bytes(tuned, known)
                self._fit()
        return known

    def add(self, name: str, source: Path | str | Mapping[str, bytes]) -> None:
        """Put a prompt in, in the place of one of this name, after it was opened as if it were to be used.

        Arguments:
            source: the folder that `tune` wrote, or its files by name.

        Raises:
            SettingError: for a name that may not be used.
            CheckpointError: for files that are no prompt of this backbone; nothing is changed then.
            TrainingError: where the disk is full or not writable; nothing is changed then.
        """
        if not _allowed(name):
            raise SettingError(_refused(name))
        files = _files(name, source)
        with self._lock, _disk(name), self._folders.alone(), self._folders.laid(name, files) as made:
            self._opened(name, made, wholly=True)
            self._folders.put(made, name)

    def remove(self, name: str) -> None:
        """Take a prompt out of the folder. Who has it in use keeps it.

        Raises:
            MissingError: for a name that is not in the folder.
        """
        with self._lock, _disk(name), self._folders.alone():
            self._stamp(name)
            self._folders.take(name)
            self._versions.pop(name, None)

    def reload(self, name: str | None = None) -> None:
        """Read a prompt again whether its files changed or not; `None`: every one, when it is next asked for.

        Raises:
            MissingError, CheckpointError: as `get`. A version that was read before stays in service.
        """
        with self._lock:
            self._alive.clear()
            for known in [name] if name is not None else list(self._versions):
                if known in self._versions:
                    self._versions[known] = _Version(None, self._versions[known].tuned)
            if name is not None:
                self.get(name)
                if self._versions[name].error is not None:
                    raise CheckpointError(str(self._versions[name].error))

    def _fit(self) -> None:
        """Let go of prompts until the others fit, those that were asked for longest ago first."""
        excess = sum(map(self._size, self._versions.values())) - self.held_bytes
        while excess > 0 and len(self._versions) > 1:
            _, version = self._versions.popitem(last=False)
            excess -= self._size(version)

    def _size(self, version: _Version) -> int:
        return 0 if version.tuned is None else self._bytes[version.tuned]

    def _current(self, name: str) -> _Version:
        """What was read of the folder, if its files are still the same, or else what is read now."""
        known = self._versions.get(name)
        if known is not None and known.stamp is not None and known.stamp == self._found(name):
            return known
        with self._folders.alone(changes=False):  # a name that is being replaced is missing for a moment
            stamp = self._stamp(name)
            try:
                alive = self._alive.get((name, stamp)) if known is None else None  # no second copy of what is in use
                tuned = self._alive[name, stamp] = alive or self._opened(name, self.folder / name)
                return _Version(stamp, tuned)
            except CheckpointError as error:
                before = None if known is None else known.tuned
                if before is not None:
                    LOG.warning(
                        "a changed prompt cannot be read", extra={"fields": {"task": name, "error": str(error)}}
                    )
                return _Version(stamp, before, str(error))

    def _stamp(self, name: str) -> Stamp:
        found = self._found(name) if _allowed(name) else None
        if found is None:
            names = self.names()
            raise MissingError(
                f"There is no prompt {name!r} here. {nearest(name, names) if names else 'The store is empty.'}"
            )
        return found

    def _found(self, name: str) -> Stamp | None:
        """What tells the files of a folder from others, or `None` where there are none."""
        try:
            states = [(self.folder / name / file).stat() for file in (MANIFEST, PROMPT)]
        except OSError:
            return () if (self.folder / name / MANIFEST).is_file() else None
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in states)

    def _opened(self, name: str, folder: Path, *, wholly: bool = False) -> Tuned:
        """A prompt from its folder; `wholly`: after the files that only training needs were read too."""
        try:
            tuned = open_prompt(folder, backbone=self.backbone)
            if wholly and (folder / TRAINING).exists():
                read_tensors(folder, tuned.manifest, TRAINING)
            self._bytes[tuned] = _bytes(tuned)
            return tuned
        except PromptuaryError as error:
            raise CheckpointError(str(error).replace(str(folder), name)) from error
        except Exception as error:  # whatever a manifest that somebody made up may break
            raise CheckpointError(
                f"{name} cannot be opened ({type(error).__name__}: {error}). Tune the prompt again, or copy it again."
            ) from error


def _bytes(*versions: Tuned) -> int:
    """Of one prompt in memory, in one or several forms; numbers that these share count once."""
    storages = [tensor.untyped_storage() for tuned in versions for tensor in tuned.tensors()]
    return BESIDE + sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _allowed(name: str) -> bool:
    return NAME.fullmatch(name) is not None and name != BASE


def _ours(name: str) -> bool:
    """Whether a folder is a prompt, or one of those that a change leaves for a moment."""
    return _allowed(name) or passing(name)


def _refused(name: str) -> str:
    if name == BASE:
        return f"{name!r} stands for the model without a prompt. Give the prompt another name."
    return (
        f"{name!r} is no name for a prompt. Expected letters, digits, '.', '_' and '-', "
        "a letter or digit first, 127 at most."
    )


def _files(name: str, source: Path | str | Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a prompt by name.

    Raises:
        CheckpointError: where one is missing, or is none of a prompt's.
    """
    if isinstance(source, Path | str):
        places = {file: Path(source) / file for file in FILES}
        given = {file: place.read_bytes() for file, place in places.items() if place.is_file()}
    else:
        given = dict(source)
    unknown = sorted(set(given) - set(FILES))
    if unknown:
        raise CheckpointError(f"{name}: {unknown[0]!r} is no file of a prompt. Expected {_listed(FILES)}.")
    missing = [file for file in (MANIFEST, PROMPT) if file not in given]
    if missing:
        raise CheckpointError(
            f"{name}: {missing[0]} is missing. Expected the files that `promptuary tune --out` wrote."
        )
    return given


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


@contextmanager
def _disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{name}: the store could not be changed ({error.strerror or error}). What stood there is untouched; "
            "make room on its disk, or let this process write there."
        ) from error
