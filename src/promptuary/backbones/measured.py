"""What was measured of this machine, kept: a run that goes on another day, under another load, does as it did.

There is a small file for each measurement beside the hub's cache, named after what was measured and after the
processor, PyTorch and number of threads. The first process to finish says what holds for all; a file that cannot be
read, or a place that cannot be written, leaves each process to itself.
"""

import json
import os
import platform
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from huggingface_hub import constants

FOLDER = "promptuary"  # in the folder of the hub (HF_HOME)


def measured(what: str, measure: Callable[[], float]) -> float:
    """What `measure` found when it was asked on such a machine for the first time."""
    about = {
        "what": what, "processor": _processor(), "torch": torch.__version__, "threads": torch.get_num_threads()
    }  # fmt: skip
    name = blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()
    path = Path(constants.HF_HOME) / FOLDER / f"{name}.json"
    known = _value(path)
    if known is not None:
        return known
    found = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, encoding="utf-8") as file:
            json.dump({**about, "value": found}, file)
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)  # unlike a rename, it leaves what another process wrote meanwhile
    except OSError:
        known = _value(path)
    return found if known is None else known


def _value(path: Path) -> float | None:
    try:
        value = json.loads(path.read_bytes())["value"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int | float) else None


def _processor() -> str:
    """The processor's model, or what the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
