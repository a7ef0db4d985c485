"""Label words as token ids, and the score of a label from the log-probabilities of its words' tokens."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from promptuary.errors import SettingError
from promptuary.values import Output, Targets

Combination = Literal["sum", "mean"]


class Words(nn.Module):
    """The words of every label, padded to one length; it trains nothing and is no part of a checkpoint.

    A word's score is the sum or mean of its tokens' log-probabilities. A label's score is the log of its words'
    summed probability (`words="sum"`; a label with more words starts ahead), or the mean of its words' scores.

    Arguments:
        ids: for each label its words, for each word its token ids.
        prior: log-probability of each label on an input without content, to be divided out (contextual calibration,
            Zhao et al. 2021); `None` for no calibration.

    Raises:
        SettingError: for fewer than two labels, a label without words, a word without tokens, an unknown
            combination, or a prior of another length.
    """

    ids: Tensor  # int [words, steps]
    mask: Tensor  # bool [words, steps]
    owns: Tensor  # bool [labels, words]
    prior: Tensor  # float [labels]

    def __init__(
        self,
        ids: Sequence[Sequence[Sequence[int]]],
        *,
        tokens: Combination,
        words: Combination,
        prior: Float[Tensor, " classes"] | None,
    ) -> None:
        super().__init__()
        _check(ids, {"tokens": tokens, "words": words}, prior)
        flat = [word for label in ids for word in label]
        owner = torch.tensor([number for number, label in enumerate(ids) for _ in label])
        padded, mask = padded_texts(flat)
        self.tokens, self.words = tokens, words
        self.register_buffer("ids", padded, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("owns", rearrange(torch.arange(len(ids)), "c -> c 1") == owner, persistent=False)
        self.register_buffer("prior", torch.zeros(len(ids)) if prior is None else prior.float(), persistent=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest word."""
        return int(self.ids.shape[1])

    def scores(self, log_probability: Float[Tensor, "batch words steps"]) -> Float[Tensor, "batch classes"]:
        """Scores of the labels from the log-probabilities of every word's tokens."""
        each = log_probability.masked_fill(~self.mask, 0.0).sum(2)
        if self.tokens == "mean":
            each = each / self.mask.sum(1)
        of_label = rearrange(each, "b w -> b 1 w")
        if self.words == "sum":
            return of_label.masked_fill(~self.owns, -torch.inf).logsumexp(2) - self.prior
        return of_label.masked_fill(~self.owns, 0.0).sum(2) / self.owns.sum(1) - self.prior


class Beginnings(nn.Module):
    """All beginnings of several texts, each scored once: one state predicts whatever may follow it in any of them.

    The backbone is given the fewest texts in which every beginning occurs (words of one token: a single one).

    Arguments:
        texts: the token ids of each.
    """

    ids: Tensor  # int [choices, steps]: the texts for the backbone
    mask: Tensor  # bool [choices, steps]
    choice: Tensor  # int [beginnings]: the choice that goes on from each beginning
    step: Tensor  # int [beginnings]: with which of its tokens
    of: Tensor  # int [texts, steps]: the beginning that each token goes on from

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        grown = {tuple(text[:n]): text[: n + 1] for text in texts for n in range(len(text))}
        inner = {beginning[:-1] for beginning in grown if beginning}
        longest = [beginning for beginning in grown if beginning not in inner]
        places = {beginning[:n]: (i, n) for i, beginning in enumerate(longest) for n in range(len(beginning) + 1)}
        number = {beginning: i for i, beginning in enumerate(grown)}
        ids, mask = padded_texts([grown[beginning] for beginning in longest])
        choice, step = torch.tensor([places[beginning] for beginning in grown]).unbind(1)
        of, _ = padded_texts([[number[tuple(text[:n])] for n in range(len(text))] for text in texts])
        for name, value in (("ids", ids), ("mask", mask), ("choice", choice), ("step", step), ("of", of)):
            self.register_buffer(name, value, persistent=False)

    def targets(self, rows: int) -> Targets:
        """The texts for the backbone, as continuations of each of `rows` rows."""
        return Targets(repeat(self.ids, "c s -> b c s", b=rows), repeat(self.mask, "c s -> b c s", b=rows))

    def logits(self, out: Output) -> Float[Tensor, "batch beginnings vocabulary"]:
        """Scores over the vocabulary, in float32, of what follows each beginning."""
        assert out.targets is not None, "the backbone was not given the targets it is to score"
        return out.logits(out.targets[:, self.choice, self.step]).float()


def padded_texts(texts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "texts steps"], Bool[Tensor, "texts steps"]]:
    """Token ids padded behind with 0, and the mask of the real ones."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    return ids, torch.arange(longest) < torch.tensor([[len(text)] for text in texts])


def target_logits(out: Output, targets: Targets) -> Float[Tensor, "tokens vocabulary"]:
    """Scores over the vocabulary, in float32, at every real target token."""
    assert out.targets is not None, "the backbone was not given the targets it is to score"
    # Only real tokens are scored: the vocabulary is the widest axis there is.
    return out.logits(out.targets[targets.mask]).float()


def target_log_probabilities(out: Output, targets: Targets) -> Float[Tensor, "batch choices steps"]:
    """The log-probability of every target token given those before it; 0 at padding."""
    scores = out.once(target_logits, targets).log_softmax(1)
    real = scores.gather(1, rearrange(targets.ids[targets.mask], "n -> n 1"))[:, 0]
    return torch.zeros(targets.ids.shape, device=real.device).masked_scatter(targets.mask, real)


def _check(ids: Sequence[Sequence[Sequence[int]]], combinations: dict[str, str], prior: Tensor | None) -> None:
    if len(ids) < 2:
        raise SettingError(f"There are words for {len(ids)} labels: expected 2 labels or more.")
    for number, label in enumerate(ids):
        if not label or not all(len(word) for word in label):
            raise SettingError(f"Label {number} has no word, or an empty one: expected one word of one token or more.")
    owners: dict[tuple[int, ...], int] = {}
    for number, label in enumerate(ids):
        for word in label:
            if owners.setdefault(tuple(word), number) != number:
                raise SettingError(
                    f"Labels {owners[tuple(word)]} and {number} have a word of the same tokens {list(word)}. "
                    "Expected words that can be told apart (unknown characters all become one token)."
                )
    for name, value in combinations.items():
        if value not in ("sum", "mean"):
            raise SettingError(f"{name}={value!r}: expected 'sum' or 'mean'.")
    if prior is not None and tuple(prior.shape) != (len(ids),):
        raise SettingError(f"prior has shape {tuple(prior.shape)}: expected ({len(ids)},), a log-probability a label.")
