"""Work on many at once, of whom one that cannot be worked on must not spoil the others."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def apart(
    items: Sequence[T], work: Callable[[Sequence[T]], R], fail: Callable[[T, Exception], object]
) -> Iterator[tuple[Sequence[T], R]]:
    """What the work on the items says: on all of them together, or where that raises, on each half of them apart.

    An item with which it raises even alone is the one to blame; it and the exception go to `fail`. With one such item
    among n the work is begun about 2 log2(n) times more.

    Arguments:
        items: at least one.
    """
    try:
        said = work(items)
    except Exception as error:
        if len(items) == 1:
            fail(items[0], error)
            return
        for half in (items[: len(items) // 2], items[len(items) // 2 :]):
            yield from apart(half, work, fail)
    else:
        yield items, said
