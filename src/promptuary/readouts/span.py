"""Extractive question answering: the answer is a span of the context, found by its first and last token."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError
from promptuary.readouts.readout import Readout, head, in_float32, known, known_entropy
from promptuary.values import Output


@dataclass(frozen=True, eq=False)
class Spans:
    """Columns of each answer's first and last token (-1 where a row has no context), and the answer's score.

    The score is the sum of the two unnormalised scores: it compares the windows of one long document.
    """

    columns: Int[Tensor, "batch 2"]
    score: Float[Tensor, " batch"]


class Span(Readout):
    """Two linear scores a token, of being the first and of being the last of the answer, within the context only.

    The loss is the mean of both cross-entropies. The best span begins no later than it ends; among equal ones the
    earlier, then the shorter is taken.

    Arguments:
        dim: width of the backbone's last states (`backbone.shape.output`).
        longest: tokens of the longest answer that is looked for (SQuAD's usual 30).
        dropout: share of the states dropped while training.
        seed: of the initial weights.

    Raises:
        SettingError: for a `longest` below 1, or a dropout outside [0, 1).
    """

    def __init__(self, dim: int, *, longest: int = 30, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if longest < 1:
            raise SettingError(f"Span(longest={longest}): expected 1 or more.")
        if not 0.0 <= dropout < 1.0:
            raise SettingError(f"Span(dropout={dropout}): expected a share from 0 up to 1.")
        # No bias: what is added to the scores of all tokens chooses none of them and would never learn.
        self.head, self.longest, self.dropout = head(2, dim, seed=seed, bias=False), longest, dropout

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        context, spans = _context(batch), _spans(batch)
        if bool((~context.gather(1, spans.clamp(min=0)) & (spans != -1)).any()):
            raise DataError("An answer lies outside its context. Expected Batch.context true at both its ends, or -1.")
        # The lowest number rather than minus infinity: rows without any context stay finite.
        scores = self._scores(out, batch).masked_fill(
            ~rearrange(context, "b t -> b 1 t"), torch.finfo(torch.float32).min
        )
        return known_entropy(scores, spans)

    def count(self, batch: Batch) -> int:
        return known(_spans(batch))

    def predict(self, out: Output, batch: Batch) -> Spans:
        context = _context(batch)
        start, end = self._scores(out, batch).unbind(1)
        rank = batch.mask.cumsum(1)  # distance is counted in real tokens, wherever the padding stands
        distance = rank[:, None, :] - rank[:, :, None]  # [batch, start, end]
        possible = context[:, :, None] & context[:, None, :] & (distance >= 0) & (distance < self.longest)
        both = (start[:, :, None] + end[:, None, :]).masked_fill(~possible, -torch.inf).flatten(1)
        score, place = both.max(1)
        columns = torch.stack([place // context.shape[1], place % context.shape[1]], 1)
        return Spans(columns.masked_fill(~possible.flatten(1).any(1)[:, None], -1), score)

    def _scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch 2 tokens"]:
        # States at padding are undefined, and one NaN among them would reach the layer's gradient.
        states = out.hidden.masked_fill(rearrange(~batch.mask, "b t -> b t 1"), 0.0)
        states = F.dropout(states, self.dropout, self.training)
        return rearrange(in_float32(self.head, states), "b t ends -> b ends t")


def _context(batch: Batch) -> Bool[Tensor, "batch tokens"]:
    if batch.context is None:
        raise DataError("This batch has no context. Expected Batch.context, true where an answer may be.")
    return batch.context & batch.mask


def _spans(batch: Batch) -> Int[Tensor, "batch 2"]:
    if batch.spans is None:
        raise DataError("This batch has no spans to compare with. Expected Batch.spans, -1 where unanswerable.")
    return batch.spans
