"""Rows that report: sealed until the end, so that nothing can be chosen by them.

Whoever searches gets the rows that teach and the rows that select (`grounds.Ground`), and no way to the others. They
lie in a `Sealed`, which has no length, no rows and no path to show; only a `Permit` opens it, and only the store makes
permits: one for the choice that was made, written down before the rows are read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from promptuary.data.source import Row


@dataclass(frozen=True)
class Permit:
    """Leave to open the rows that report on one cell. Made by `Store.permit` alone, which keeps account of it.

    Arguments:
        cell: the name of what is reported on. chosen: the number of the trial that was chosen.
    """

    cell: str
    chosen: int


class Sealed:
    """Rows that report.

    Arguments:
        read: reads them; it is called when the seal is broken, and not before.
    """

    __slots__ = ("__read",)

    def __init__(self, read: Callable[[], Sequence[Row]]) -> None:
        self.__read = read

    def open(self, permit: Permit) -> Sequence[Row]:
        """The rows, for who was permitted to see them."""
        assert isinstance(permit, Permit), "rows that report are opened with a permit of the store"
        return self.__read()
