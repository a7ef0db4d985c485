"""From encoded rows to batches: which rows go together, and how they are padded.

Rows of similar length go together, so that little of a batch is padding; which ones is a function of seed and
epoch alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.data.example import Example
from promptuary.values import Targets

POOL = 50  # batches that are sorted by length together: almost all of the gain of a full sort, and still shuffled
T = TypeVar("T")
U = TypeVar("U")


def collate(examples: Sequence[Example], rows: Sequence[int], pad: int, *, task: int = 0, width: int = 0) -> Batch:
    """Examples as one batch, padded on the right.

    Arguments:
        rows: the number of each example in its data set.
        pad: the tokenizer's padding id (any id will do: the mask alone says what is real).
        task: index of the task all rows belong to. width: tokens of a padded row, if the longest has fewer.
    """
    ids, width = [e.ids for e in examples], max(width, *(len(e.ids) for e in examples))
    return Batch(
        ids=_padded(ids, pad, width),
        mask=_padded([[1] * len(row) for row in ids], 0, width).bool(),
        types=_padded([e.types for e in examples], 0, width),
        task=torch.full((len(examples),), task),
        rows=torch.tensor(list(rows)),
        labels=_all([e.label for e in examples], torch.tensor),
        targets=_all([e.target for e in examples], lambda texts: _targets(texts, pad)),
        blanks=_all([e.blanks for e in examples], torch.tensor),
        words=_all([e.words for e in examples], lambda rows: _padded(rows, -1, width)),
        tags=_all([e.tags for e in examples], lambda rows: _padded(rows, -1, width)),
        spans=_all([e.span for e in examples], torch.tensor),
        context=_all([e.context for e in examples], lambda rows: _covered(rows, width)),
        fields=_all([e.fields for e in examples], lambda rows: _padded(rows, 0, width)),
    )


def together(parts: Sequence[Batch]) -> Batch:
    """Batches of one width, of one task each, as a batch of all their rows, in order; they are its `parts`."""
    fields = [part.fields for part in parts if part.fields is not None]
    return Batch(
        ids=torch.cat([part.ids for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        types=torch.cat([part.types for part in parts]),
        task=torch.cat([part.task for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
        fields=torch.cat(fields) if fields else None,
        parts=tuple(parts),
    )


def batches(
    lengths: Sequence[int], batch: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
) -> list[list[int]]:
    """Row numbers in batches of similar length; every row is in exactly one of them.

    Arguments:
        lengths: the number of tokens of each row.
        batch: rows per batch (the last one may hold fewer).
        shuffle: draw the order from `seed` and `epoch`; otherwise sort by length, the longest first, so that a
            batch that does not fit the memory fails at once.
    """
    order = list(range(len(lengths)))
    if not shuffle:
        order.sort(key=lambda row: -lengths[row])
        return _split(order, batch)
    draw = random.Random(f"{seed}/{epoch}")
    draw.shuffle(order)
    found = []
    for pool in _split(order, batch * POOL):
        found += _split(sorted(pool, key=lambda row: lengths[row]), batch)
    draw.shuffle(found)
    return found


def within(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, the longest first, each of at most `tokens` tokens.

    Padding counts: a batch has as many tokens as rows times its longest row. A row that is longer by itself is alone.
    """
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not found or (len(found[-1]) + 1) * lengths[found[-1][0]] > tokens:
            found.append([])
        found[-1].append(row)
    return found


def stream(
    items: Iterable[T],
    length: Callable[[T], int],
    batch: int,
    apply: Callable[[list[T]], Sequence[U]],
    *,
    window: int = 1024,
) -> Iterator[U]:
    """Apply a function of batches to an endless row of items: results in the items' order, in constant memory.

    Arguments:
        length: by which items are put together within a window.
        window: how many items are read at a time.
    """
    remaining = iter(items)
    while held := list(islice(remaining, window)):
        results: dict[int, U] = {}
        for rows in batches([length(item) for item in held], batch, shuffle=False):
            results.update(zip(rows, apply([held[row] for row in rows]), strict=True))
        yield from (results[row] for row in range(len(held)))


def _split(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def _padded(rows: Sequence[Sequence[int]], fill: int, width: int) -> Int[Tensor, "batch tokens"]:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _all(values: Sequence[T | None], make: Callable[[list[T]], U]) -> U | None:
    known = [value for value in values if value is not None]
    assert len(known) in (0, len(values)), "the rows of a batch come from one wording"
    return make(known) if known else None


def _targets(texts: Sequence[Sequence[int]], pad: int) -> Targets:
    steps = max(len(text) for text in texts)
    ids = _padded(texts, pad, steps)[:, None]  # [batch, 1, steps]
    return Targets(ids, _padded([[1] * len(text) for text in texts], 0, steps).bool()[:, None])


def _covered(contexts: Sequence[Sequence[tuple[int, int] | None]], width: int) -> Bool[Tensor, "batch tokens"]:
    return _padded([[int(part is not None) for part in row] for row in contexts], 0, width).bool()
