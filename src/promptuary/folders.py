"""A folder of folders that come and go as a whole, whatever crashes, and whoever else has it open.

What is put in is laid beside the others under a hidden name, flushed to the disk and renamed into its place;
`NAME~new`, `NAME~old` and `NAME~gone` are what a crash may leave, and whoever comes next sets them right. Processes
that share the folder wait for one another by a lock on it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from promptuary.files import flushed

NEW, OLD, GONE = "~new", "~old", "~gone"


def passing(name: str) -> bool:
    """Whether a folder of this name is one that a change leaves for a moment."""
    return name.endswith((NEW, OLD, GONE))


class Folders:
    """The folders in `place`, which is made where it is missing. One thread at a time.

    Raises:
        OSError: here and below, where the disk is full or `place` cannot be written.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        if self._left():
            with self.alone():
                pass

    @contextmanager
    def alone(self, *, changes: bool = True) -> Iterator[None]:
        """While no other process changes the folder; with `changes`, while none reads it either."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if changes else fcntl.LOCK_SH)
            if changes:
                self._mend()
            yield
        finally:
            os.close(handle)

    def hold(self, name: str, file: str) -> bool:
        """Whether there is a folder of that name with this file, without waiting, also while it is being replaced."""
        place, old = self.place / name / file, self._hidden(name + OLD) / file
        return place.is_file() or old.is_file() or place.is_file()  # the last one goes when the new one is there

    @contextmanager
    def laid(self, name: str, files: Mapping[str, bytes]) -> Iterator[Path]:
        """A hidden folder with these files, flushed to the disk; it is gone at the end unless it was put in."""
        made = self._hidden(name + NEW)
        try:
            made.mkdir()
            for file, data in files.items():
                with (made / file).open("xb") as open_file:
                    open_file.write(data)
                    open_file.flush()
                    os.fsync(open_file.fileno())
            flushed(made)
            yield made
        finally:
            _clear(made)

    def put(self, made: Path, name: str) -> None:
        """Rename a folder into its place; what stood there goes when the new one is on the disk."""
        place, old = self.place / name, self._hidden(name + OLD)
        replaces = os.path.lexists(place)
        if replaces:
            place.rename(old)
        try:
            made.rename(place)
        except OSError:
            if replaces:
                old.rename(place)
            raise
        flushed(self.place)
        _clear(old)

    def take(self, name: str) -> None:
        """Take a folder out."""
        gone = self._hidden(name + GONE)
        (self.place / name).rename(gone)
        flushed(self.place)
        _clear(gone)

    def _hidden(self, name: str) -> Path:
        return self.place / f".{name}"

    def _mend(self) -> None:
        """Set right what a crash left: what was being replaced comes back, what was half done goes."""
        for hidden in (self.place / name for name in self._left()):
            place = self.place / hidden.name.removeprefix(".").removesuffix(OLD)
            if hidden.name.endswith(OLD) and not os.path.lexists(place):
                hidden.rename(place)
            _clear(hidden)

    def _left(self) -> list[str]:
        with os.scandir(self.place) as entries:
            return sorted(entry.name for entry in entries if passing(entry.name))


def _clear(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
