"""The largest amount of memory that a piece of work holds at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Asked inside or behind the block: the most bytes held since it began, on the GPU, else by this process.

    On a CPU Linux keeps account of it, with the model's weights and whatever else the process holds; elsewhere nobody
    does, and the answer is `None`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device))
        return
    try:
        CLEAR.write_text("5")  # sets the high-water mark back to what is held now
    except OSError:
        yield lambda: None
        return
    yield _high_water


def _high_water() -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
