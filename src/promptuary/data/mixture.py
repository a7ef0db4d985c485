"""Rows of several tasks: in mixed batches for training on all of them, and one task after the other for scoring."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from promptuary.data.batch import Batch
from promptuary.data.collate import batches, collate, together
from promptuary.data.example import Example
from promptuary.data.loader import Loader
from promptuary.errors import DataError, SettingError


def rates(sizes: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Each task's share of the rows, in proportion to n^(1/temperature) (Raffel et al. 2020, section 3.5.2).

    At 1 it is the task's share of all rows; the higher the temperature, the more alike the shares.

    Raises:
        SettingError: for a temperature of 0 or less.
    """
    if not temperature > 0:
        raise SettingError(f"temperature={temperature}: expected a number above 0; 1 mixes tasks as large as they are.")
    weights = [size ** (1 / temperature) for size in sizes]
    return [weight / sum(weights) for weight in weights]


class Mixture:
    """Batches of rows of several tasks, of similar length; the same (seed, epoch) gives the same batches.

    Each row's task is drawn by `rates`; a task's rows come in a new order each time all of them were seen. An epoch has
    as many rows as there are, so that small tasks repeat theirs where the temperature is above 1.

    Arguments:
        examples: of each task, by its name.
        size: rows per batch, of all tasks. pad: the tokenizer's padding id.
        temperature: see `rates`.

    Raises:
        DataError: for a task without examples, or no task.
        SettingError: as `rates`.
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        size: int,
        *,
        pad: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        empty = [name for name, own in examples.items() if not own]
        if empty or not examples:
            raise DataError(f"Task {empty[0]!r} has no rows." if empty else "There are no tasks to mix.")
        self.examples, self.size, self.pad, self.seed = dict(examples), size, pad, seed
        self._lengths = {name: [len(e.ids) for e in own] for name, own in examples.items()}
        self.rates = dict(zip(examples, rates([len(own) for own in examples.values()], temperature), strict=True))

    def __len__(self) -> int:
        return -(-sum(map(len, self.examples.values())) // self.size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, from 0. `Batch.task` is a task's number; `parts` are its rows, task by task."""
        draw = random.Random(f"mixture/{self.seed}/{number}")
        orders = {name: _order(len(own), draw) for name, own in self.examples.items()}
        total = sum(map(len, self.examples.values()))
        names = draw.choices(list(self.rates), list(self.rates.values()), k=total)
        drawn = [(name, next(orders[name])) for name in names]
        lengths = [self._lengths[name][row] for name, row in drawn]
        for numbers in batches(lengths, self.size, seed=self.seed, epoch=number):
            yield self._batch([drawn[n] for n in numbers])

    def _batch(self, drawn: Sequence[tuple[str, int]]) -> Batch:
        rows = {name: [row for own, row in drawn if own == name] for name in self.examples}
        width = max(self._lengths[name][row] for name, row in drawn)
        return together(
            [
                collate([self.examples[name][row] for row in own], own, self.pad, task=task, width=width)
                for task, (name, own) in enumerate(rows.items())
                if own
            ]
        )


class InTurn:
    """The loaders of several tasks, one after the other: each batch is of one task, whose number `Batch.task` says."""

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def epoch(self, number: int) -> Iterator[Batch]:
        for loader in self.loaders:
            yield from loader.epoch(number)


def _order(rows: int, draw: random.Random) -> Iterator[int]:
    """All row numbers in some order, then all in another, without end."""
    for _ in count():
        yield from draw.sample(range(rows), rows)
