"""Encoded rows, batch by batch, epoch by epoch: what training and scoring iterate over."""

from collections.abc import Iterator, Sequence

from promptuary.data.batch import Batch
from promptuary.data.collate import batches, collate
from promptuary.data.example import Example
from promptuary.errors import DataError


class Loader:
    """Examples in batches of similar length; the same (seed, epoch) gives the same batches.

    Arguments:
        size: rows per batch. pad: the tokenizer's padding id.
        shuffle: a new order each epoch; otherwise the longest rows first. task: the number of the rows' task.

    Raises:
        DataError: when there are no examples.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        size: int,
        *,
        pad: int,
        seed: int = 0,
        shuffle: bool = False,
        task: int = 0,
    ) -> None:
        if not examples:
            raise DataError("There are no rows to make batches of. Expected at least one.")
        self.examples, self.size, self.pad, self.seed, self.shuffle = examples, size, pad, seed, shuffle
        self.task = task
        self._lengths = [len(e.ids) for e in examples]

    def __len__(self) -> int:
        return -(-len(self.examples) // self.size)

    def epoch(self, number: int) -> Iterator[Batch]:
        for rows in batches(self._lengths, self.size, seed=self.seed, epoch=number, shuffle=self.shuffle):
            yield collate([self.examples[r] for r in rows], rows, self.pad, task=self.task)
