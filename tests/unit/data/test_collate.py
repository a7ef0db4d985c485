"""Batches hold every row once, in an order that seed and epoch alone decide; padding changes nothing."""

import itertools
from collections.abc import Iterator

import torch
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.collate import POOL, batches, collate, stream, within
from promptuary.data.example import Example

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_every_row_is_in_one_batch_of_an_epoch(
    lengths: list[int], batch: int, seed: int, epoch: int, shuffle: bool
) -> None:
    found = batches(lengths, batch, seed=seed, epoch=epoch, shuffle=shuffle)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= batch for rows in found)
    assert len(found) == -(-len(lengths) // batch)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
def test_seed_and_epoch_decide_the_order(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    torch.manual_seed(seed)  # the global generators have no part in it
    first = batches(lengths, batch, seed=seed, epoch=epoch)
    assert first == batches(lengths, batch, seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(200))
    orders = {str(batches(lengths, 8, seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(LENGTHS, st.integers(1, 40))
def test_without_shuffling_the_longest_rows_come_first(lengths: list[int], batch: int) -> None:
    found = [lengths[row] for row in itertools.chain(*batches(lengths, batch, shuffle=False))]
    assert found == sorted(lengths, reverse=True)


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = [5 + (i * 37) % 100 for i in range(16 * POOL * 2)]
    spent = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches(lengths, 16))
    assert spent < 1.05 * sum(lengths)


@given(st.lists(st.integers(1, 50), max_size=120), st.integers(1, 9), st.integers(1, 40))
def test_a_stream_keeps_the_order(lengths: list[int], batch: int, window: int) -> None:
    items = list(enumerate(lengths))
    sizes: list[int] = []

    def double(rows: list[tuple[int, int]]) -> list[int]:
        sizes.append(len(rows))
        return [2 * i for i, _ in rows]

    assert list(stream(items, lambda item: item[1], batch, double, window=window)) == [2 * i for i, _ in items]
    assert max(sizes, default=0) <= batch


def test_a_stream_reads_no_further_than_its_window() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read) + 1)
            yield read[-1]

    results = stream(endless(), lambda item: item, 4, lambda rows: rows, window=16)
    assert list(itertools.islice(results, 5)) == [1, 2, 3, 4, 5]
    assert len(read) == 16


EXAMPLES = st.lists(st.lists(st.integers(-1, 90), min_size=1, max_size=9), min_size=1, max_size=5)


@given(EXAMPLES, st.integers(0, 99))
def test_a_batch_holds_its_rows_and_padding_only(texts: list[list[int]], pad: int) -> None:
    made = [Example(ids, [i % 2 for i, _ in enumerate(ids)], label=k, target=ids[:2]) for k, ids in enumerate(texts)]
    rows = [7 * k for k, _ in enumerate(texts)]
    batch = collate(made, rows, pad, task=3)
    assert batch.ids.shape == (len(texts), max(map(len, texts)))
    assert [batch.ids[k][batch.mask[k]].tolist() for k in range(len(texts))] == texts
    assert [batch.types[k][batch.mask[k]].tolist() for k in range(len(texts))] == [e.types for e in made]
    assert bool((batch.ids[~batch.mask] == pad).all())
    assert bool((batch.types[~batch.mask] == 0).all())
    assert batch.rows.tolist() == rows
    assert batch.labels is not None
    assert batch.labels.tolist() == list(range(len(texts)))
    assert batch.task.tolist() == [3] * len(texts)
    assert batch.targets is not None
    assert [batch.targets.ids[k, 0][batch.targets.mask[k, 0]].tolist() for k in range(len(texts))] == [
        t[:2] for t in texts
    ]
    assert batch.words is batch.tags is batch.spans is batch.context is batch.blanks is None


def test_what_belongs_to_tokens_is_padded_with_them() -> None:
    batch = collate(
        [
            Example(
                [5, 6, 7], [0, 0, 0], words=[-1, 0, 1], tags=[-1, 2, 0], span=(1, 2), context=[None, (0, 1), (1, 4)]
            ),
            Example([5], [0], words=[0], tags=[1], span=(-1, -1), context=[None]),
        ],
        [0, 1],
        0,
    )
    assert batch.words is not None
    assert batch.words.tolist() == [[-1, 0, 1], [0, -1, -1]]
    assert batch.tags is not None
    assert batch.tags.tolist() == [[-1, 2, 0], [1, -1, -1]]
    assert batch.spans is not None
    assert batch.spans.tolist() == [[1, 2], [-1, -1]]
    assert batch.context is not None
    assert batch.context.tolist() == [[False, True, True], [False, False, False]]
    assert batch.labels is None


@given(lengths=st.lists(st.integers(1, 40), max_size=30), tokens=st.integers(1, 200))
def test_batches_within_a_budget_hold_every_row_once_and_no_more_tokens_than_that(
    lengths: list[int], tokens: int
) -> None:
    found = within(lengths, tokens)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in rows) for rows in found]
    assert longest == sorted(longest, reverse=True)
    for i, rows in enumerate(found):
        assert len(rows) * longest[i] <= tokens or len(rows) == 1
        if i + 1 < len(found):  # no row of the next batch would have gone in
            assert (len(rows) + 1) * longest[i] > tokens
