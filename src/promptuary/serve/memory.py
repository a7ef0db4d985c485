"""Memory that was freed goes back to the machine.

The C library keeps what is freed between blocks that are in use. Batches of ever other shapes leave ever other holes,
so that a server grows for minutes without holding more (`benchmarks/serve_load.py`). Given back now and then, it stays.
"""

import ctypes
import time
from collections.abc import Callable
from functools import cache

EVERY_S = 5.0


class Keeper:
    """Whoever works in batches asks it between two of them. Where the C library cannot give back, nothing happens.

    Arguments:
        clock: seconds of some clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due = clock, clock() + EVERY_S

    def give_back(self) -> None:
        """Give back what is free, if the last time is long enough ago: it takes some milliseconds."""
        if self._clock() >= self._due:
            _trim()(0)
            self._due = self._clock() + EVERY_S


@cache
def _trim() -> Callable[[int], int]:
    """What `malloc_trim` of glibc is, or nothing."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _: 0
    return found
