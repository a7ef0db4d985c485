"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import os
import tempfile
from pathlib import Path

from promptuary.errors import TrainingError


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: a temporary file beside it, flushed to the disk, then renamed over it.

    Raises:
        TrainingError: when the disk is full or not writable; whatever stood at `path` is untouched and no
            temporary file is left.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_mask())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        if handle is not None:
            Path(name).unlink(missing_ok=True)
        raise TrainingError(
            f"{path}: could not be written ({error.strerror or error}). What stood there before is untouched; "
            "make room or choose another --out, and run the same command again."
        ) from error


def _mask() -> int:
    """The user's umask: temporary files are made private, files that stay are made as any other file is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
