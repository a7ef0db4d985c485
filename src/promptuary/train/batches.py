"""What training asks of its data: batches by epoch, the same ones whenever it asks again."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from promptuary.data.batch import Batch


@runtime_checkable
class Batches(Protocol):
    """A data set in batches.

    Resuming relies on two promises: `epoch(n)` gives the same batches in the same order each time it is called
    (their order is a function of a seed and `n`), and every epoch has `len()` of them.
    """

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int, /) -> Iterator[Batch]:
        """The batches of an epoch, from 0. Validation sets are asked for epoch 0 only."""
        ...
