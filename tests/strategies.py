"""Texts as lists of ids, batches of them padded in every way, and hypothesis strategies for both."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from promptuary.values import Targets
from tests.backbones import VOCABULARY

Side = Literal["left", "right", "between"]
SIDES: tuple[Side, ...] = ("left", "right", "between")


@dataclass(frozen=True)
class Text:
    """One row: its ids (-1 marks a place for a soft token), segments, and continuations to score."""

    ids: list[int]
    types: list[int]
    choices: list[list[int]]


@dataclass(frozen=True)
class Padded:
    ids: Tensor
    mask: Tensor
    types: Tensor
    columns: list[list[int]]  # of each row's own tokens


def places(lengths: Sequence[int], side: Side, *, extra: int = 0, seed: int = 0) -> list[list[int]]:
    """Columns of each row's tokens in a batch of width max(lengths) + extra."""
    source = random.Random(seed)
    width = max(lengths) + extra
    chosen = {
        "right": lambda n: list(range(n)),
        "left": lambda n: list(range(width - n, width)),
        "between": lambda n: sorted(source.sample(range(width), n)),
    }[side]
    return [chosen(n) for n in lengths]


def pad(texts: Sequence[Text], side: Side, *, extra: int = 0, seed: int = 0) -> Padded:
    """One batch. What stands at padding is arbitrary on purpose: only the mask may decide."""
    columns = places([len(t.ids) for t in texts], side, extra=extra, seed=seed)
    noise = torch.Generator().manual_seed(seed)
    shape = (len(texts), max(len(t.ids) for t in texts) + extra)
    ids = torch.randint(-2, VOCABULARY, shape, generator=noise)
    types = torch.randint(0, 2, shape, generator=noise)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, columns[row]] = torch.tensor(text.ids, dtype=torch.long)
        types[row, columns[row]] = torch.tensor(text.types, dtype=torch.long)
        mask[row, columns[row]] = True
    return Padded(ids, mask, types, columns)


def pad_targets(
    texts: Sequence[Text], side: Side, *, extra: int = 0, seed: int = 0
) -> tuple[Targets, list[list[list[int]]]]:
    """The continuations of every row as `Targets`, and the columns of their steps by row and choice."""
    lengths = [len(choice) for text in texts for choice in text.choices]
    flat = places(lengths, side, extra=extra, seed=seed)
    choices = len(texts[0].choices)
    columns = [flat[i * choices : (i + 1) * choices] for i in range(len(texts))]
    shape = (len(texts), choices, max(lengths) + extra)
    ids = torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        for i, choice in enumerate(text.choices):
            ids[row, i, columns[row][i]] = torch.tensor(choice)
            mask[row, i, columns[row][i]] = True
    return Targets(ids, mask), columns


def text(length: int, *, seed: int, steps: Sequence[int] = (3, 1)) -> Text:
    """A text of random ids."""
    source = random.Random(seed)

    def ids(n: int) -> list[int]:
        return [source.randrange(5, VOCABULARY) for _ in range(n)]

    return Text(ids(length), [source.randrange(2) for _ in range(length)], [ids(n) for n in steps])


def ragged(*lengths: int, seed: int = 0) -> list[Text]:
    """Texts of the given lengths."""
    return [text(n, seed=100 * seed + i) for i, n in enumerate(lengths)]


sides = st.sampled_from(SIDES)
seeds = st.integers(0, 2**20)
prompt_lengths = st.integers(0, 5)


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """A prompt's length with the arguments of a `Split` that it fits: (length, before, head, tail)."""
    length = draw(prompt_lengths)
    return length, draw(st.integers(0, length)), draw(st.integers(0, 3)), draw(st.integers(0, 3))


@st.composite
def texts(draw: st.DrawFn, *, shortest: int = 1, longest: int = 9, most: int = 4) -> list[Text]:
    """A ragged batch."""
    lengths = draw(st.lists(st.integers(shortest, longest), min_size=1, max_size=most))
    steps = [draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in lengths]
    seed = draw(seeds)
    return [text(n, seed=seed + i, steps=steps[i]) for i, n in enumerate(lengths)]
