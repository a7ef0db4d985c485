"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from promptuary.errors import SettingError, TrainingError


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; after an error nothing is left of it.

    It is a temporary file beside `path`, flushed to the disk, then renamed over it in one step.

    Raises:
        OSError: when it cannot be written; whatever stood at `path` is untouched.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_mask())
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step; folders above it are made.

    Raises:
        TrainingError: when the disk is full or not writable; whatever stood at `path` is untouched and no
            temporary file is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            file.write(data)
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be written ({error.strerror or error}). What stood there before is untouched; "
            "make room or choose another --out, and run the same command again."
        ) from error


def no_file(folder: Path) -> None:
    """Refuse a place for a folder where a file stands.

    Raises:
        SettingError: for a folder that is a file, or lies below one.
    """
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir():
        raise SettingError(
            f"out={str(folder)!r}: {above} is a file. Expected a folder, or a name that is free (--out)."
        )


def flushed(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; what they name must be flushed by itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mask() -> int:
    """The user's umask: temporary files are made private, files that stay are made as any other file is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
