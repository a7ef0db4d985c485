"""What the models learn from: each objective turns a step number into a batch, and nothing else matters.

Batch `step` is a pure function of the seed, the step and the tokens, so a resumed run sees what an uninterrupted one
saw, on any machine and with any number of loading processes. All batches of an objective have one shape.

- `SpanCorruption`: Raffel et al. 2020, §3.1.4 and appendix: 15 % of the tokens in spans of 3 on average, each replaced
  by a sentinel; the target is the sentinels with what they stand for. 568 tokens give 512 and 114 with the end tokens.
- `PrefixLanguageModel`: the LM adaptation of Lester et al. 2021, §3.2: a prefix of running text, then what follows it.
  The prefix ends with the end token, as every input of the tokenizer does; the loss ends with the document.
- `LanguageModel`: the next token, for a decoder alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SIZE, PAD, END, IGNORED = 16_384, 0, 1, -100
SENTINELS = SIZE - 100  # ids from here on


@dataclass(frozen=True)
class Mixture:
    """Windows of running text from several arrays of tokens, in an order that a seed decides.

    A pass takes the windows of each array `weight` times. Each pass has its own order and its own first token, so that
    windows of different passes are cut differently.
    """

    arrays: Sequence[np.ndarray]
    weights: Sequence[int]
    seed: int

    def windows(self, step: int, batch: int, width: int) -> np.ndarray:
        """The windows of one step, (batch, width)."""
        counts = [(len(array) - width) // width for array in self.arrays]
        a_pass = sum(n * weight for n, weight in zip(counts, self.weights, strict=True))
        first = step * batch
        return np.stack([self._window(*divmod(i, a_pass), counts, width) for i in range(first, first + batch)])

    def _window(self, number: int, position: int, counts: Sequence[int], width: int) -> np.ndarray:
        order, shifts = self._pass(number, tuple(counts), width)
        which, index = divmod(int(order[position]), 2**40)
        start = index * width + shifts[which]
        return self.arrays[which][start : start + width].astype(np.int64)

    def _pass(self, number: int, counts: tuple[int, ...], width: int) -> tuple[np.ndarray, np.ndarray]:
        known = self.__dict__.setdefault("_passes", {})
        if (number, width) not in known:
            known.clear()  # one pass is in use at a time
            drawn = np.random.default_rng((self.seed, 1, number, width))
            parts = zip(counts, self.weights, strict=True)
            all_of = [np.tile(np.arange(n) + which * 2**40, weight) for which, (n, weight) in enumerate(parts)]
            known[number, width] = drawn.permutation(np.concatenate(all_of)), drawn.integers(width, size=len(counts))
        return known[number, width]


class Objective(Protocol):
    """Windows become what a model of transformers is called with."""

    width: int

    def batch(self, windows: np.ndarray, drawn: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Inputs and labels from windows, (batch, width)."""


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective; see the top of this file. `width` tokens hold `noise` hidden ones in `spans` spans."""

    width: int = 568
    noise: int = 85
    spans: int = 28

    def batch(self, windows: np.ndarray, drawn: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids`, (batch, width - noise + spans + 1), and `labels`, (batch, noise + spans + 1)."""
        rows = len(windows)
        shown = _parts(self.width - self.noise, self.spans, rows, drawn)
        hidden = _parts(self.noise, self.spans, rows, drawn)
        # Shown and hidden spans take turns, a shown one first: the ends of all of them, then who owns each token.
        ends = np.stack([shown, hidden], axis=2).reshape(rows, -1).cumsum(axis=1)
        owner = (np.arange(self.width)[None, :, None] >= ends[:, None, :]).sum(axis=2)
        masked, number = owner % 2 == 1, owner // 2
        first = np.diff(owner, axis=1, prepend=-1) > 0
        sentinels = SIZE - 1 - number
        inputs = np.where(masked, sentinels, windows)[~masked | first].reshape(rows, -1)
        # A hidden span is told by its sentinel, then its tokens: one more place before each span's first token.
        places = np.stack([np.where(first, sentinels, -1), windows], axis=2)
        kept = np.stack([masked & first, masked], axis=2)
        return {"input_ids": _ended(inputs), "labels": _ended(places[kept].reshape(rows, -1))}


@dataclass(frozen=True)
class PrefixLanguageModel:
    """Lester's LM adaptation; see the top of this file. At least `least` tokens stand on either side of the cut."""

    width: int = 512
    least: int = 32

    def batch(self, windows: np.ndarray, drawn: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids`, `attention_mask` and `labels`, each (batch, width - least + 1), padded."""
        rows, room = len(windows), self.width - self.least + 1
        cuts = drawn.integers(self.least, self.width - self.least + 1, size=rows)
        place = np.arange(room)[None, :]
        inputs = np.where(place < cuts[:, None], windows[:, :room], np.where(place == cuts[:, None], END, PAD))
        following = np.minimum(cuts[:, None] + place, self.width - 1)
        labels = np.where(cuts[:, None] + place < self.width, np.take_along_axis(windows, following, 1), IGNORED)
        ended = np.cumsum(labels == END, axis=1) - (labels == END) > 0  # behind the end of the document
        return {
            "input_ids": inputs,
            "attention_mask": (place <= cuts[:, None]).astype(np.int64),
            "labels": np.where(ended, IGNORED, labels),
        }


@dataclass(frozen=True)
class LanguageModel:
    """The next token at every place."""

    width: int = 512

    def batch(self, windows: np.ndarray, drawn: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids` and `labels`, both (batch, width): transformers shifts the labels."""
        return {"input_ids": windows, "labels": windows.copy()}


@dataclass(frozen=True)
class Steps(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Batch `step` of an objective over a mixture."""

    mixture: Mixture
    objective: Objective
    rows: int

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        drawn = np.random.default_rng((self.mixture.seed, 2, step))
        found = self.objective.batch(self.mixture.windows(step, self.rows, self.objective.width), drawn)
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}


def first_hidden(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of a batch of span corruption: where the sentinels stand in the inputs, and what each hides first.

    Returns: places and tokens, both (rows, spans).
    """
    inputs, labels = batch["input_ids"], batch["labels"]
    places, told = ((ids >= SENTINELS).nonzero()[:, 1].view(len(ids), -1) for ids in (inputs, labels))
    return places, labels.gather(1, told + 1)


def _parts(total: int, count: int, rows: int, drawn: np.random.Generator) -> np.ndarray:
    """`count` positive numbers that sum to `total`, all ways equally likely: (rows, count)."""
    cuts = np.sort(np.argsort(drawn.random((rows, total - 1)), axis=1)[:, : count - 1] + 1, axis=1)
    return np.diff(cuts, axis=1, prepend=0, append=total)


def _ended(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([ids, np.full((len(ids), 1), END)], axis=1)
