"""A 5-gram model of the corpus: what counting alone knows, for the model cards.

Interpolated Kneser-Ney smoothing with one discount for each order (Kneser and Ney 1995; Chen and Goodman 1999, §2.7 and
§4.1.6), over the same tokens the models read. Every order is a sorted array, so that 95 million tokens are counted in
minutes and asked without a loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from objectives import SIZE

ORDER = 5


@dataclass(frozen=True)
class Order:
    """The distinct sequences of one length, sorted by their beginning (all tokens but the last) and last token.

    Arguments:
        keys: place of the beginning among the sequences one shorter, times the vocabulary, plus the last token.
        counts: how often each occurs; below the highest order, how many different tokens stand before it.
        sums: of the counts, for each beginning.
        firsts: where the sequences of each beginning start, and the end of all.
        discount: taken off each count.
    """

    keys: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    firsts: np.ndarray
    discount: float

    def find(self, beginnings: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Places of sequences, -1 for one that was never seen (or whose beginning was not)."""
        wanted = beginnings.astype(np.int64) * SIZE + tokens
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((beginnings >= 0) & (self.keys[places] == wanted), places, -1)

    def kinds(self, beginnings: np.ndarray) -> np.ndarray:
        """How many different tokens follow each beginning."""
        kinds: np.ndarray = self.firsts[beginnings + 1] - self.firsts[beginnings]
        return kinds


class Ngram:
    """A smoothed model of the next token.

    Arguments:
        arrays: token ids, each array one piece of running text.
        order: tokens in the longest sequence that is counted.
    """

    def __init__(self, arrays: Sequence[np.ndarray], order: int = ORDER) -> None:
        pieces = [np.asarray(array, np.int64) for array in arrays]
        places, found = [np.zeros(len(piece), np.int64) for piece in pieces], []
        ends = np.zeros(1, np.int64)  # of each sequence one shorter: the place of all its tokens but the first
        for n in range(order):
            keyed = [p[: len(piece) - n] * SIZE + piece[n:] for p, piece in zip(places, pieces, strict=True)]
            keys, where, counts = np.unique(np.concatenate(keyed), return_inverse=True, return_counts=True)
            places = np.split(where, np.cumsum([len(k) for k in keyed])[:-1])
            ends = np.searchsorted(found[-1][0], ends[keys // SIZE] * SIZE + keys % SIZE) if found else 0 * keys
            found.append((keys, ends, counts))
        self.orders = []
        for n, (keys, _, counted) in enumerate(found):
            # Below the highest order, what counts is how many different tokens come before, not how often it occurs.
            counts = counted if n + 1 == order else np.bincount(found[n + 1][1], minlength=len(keys))
            beginnings, of = keys // SIZE, len(found[n - 1][0]) if n else 1
            once, twice = (int((counts == times).sum()) for times in (1, 2))
            self.orders.append(
                Order(
                    keys=keys, counts=counts, sums=np.bincount(beginnings, counts, minlength=of),
                    firsts=np.concatenate([[0], np.bincount(beginnings, minlength=of).cumsum()]),
                    discount=once / max(1, once + 2 * twice),
                )
            )  # fmt: skip

    def probabilities(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """What each token has behind its context: contexts (rows, order - 1), tokens (rows,) -> (rows,)."""
        found = np.full(len(tokens), 1 / SIZE)
        for order, beginnings in zip(self.orders, self._beginnings(contexts), strict=True):
            places, asked = order.find(beginnings, tokens), np.maximum(beginnings, 0)
            left = np.where(places >= 0, np.maximum(order.counts[places] - order.discount, 0), 0)
            sums = order.sums[asked]
            mixed = (left + order.discount * order.kinds(asked) * found) / np.maximum(sums, 1)
            found = np.where((beginnings >= 0) & (sums > 0), mixed, found)
        return found

    def best(self, contexts: np.ndarray) -> np.ndarray:
        """The likeliest next token of each context: (rows, order - 1) -> (rows,)."""
        found = np.empty(len(contexts), np.int64)
        for row, beginnings in enumerate(np.stack(self._beginnings(contexts), axis=1)):
            chances = np.full(SIZE, 1 / SIZE)
            for order, beginning in zip(self.orders, beginnings, strict=True):
                if beginning < 0 or not order.sums[beginning]:
                    break
                own = slice(order.firsts[beginning], order.firsts[beginning + 1])
                chances *= order.discount * order.kinds(beginning) / order.sums[beginning]
                left = np.maximum(order.counts[own] - order.discount, 0)
                chances[order.keys[own] % SIZE] += left / order.sums[beginning]
            found[row] = chances.argmax()
        return found

    def _beginnings(self, contexts: np.ndarray) -> list[np.ndarray]:
        """For each order the place of the context's last tokens among the sequences one shorter, -1 if unseen."""
        rows, width = contexts.shape
        found = []
        for n in range(len(self.orders)):
            places = np.zeros(rows, np.int64)
            for order, tokens in zip(self.orders, contexts[:, width - n :].T, strict=False):
                places = order.find(places, tokens)
            found.append(places)
        return found
