"""Attention with gradients in bfloat16 on a CPU: matrix products over blocks of rows.

PyTorch's fused kernel has no fast backward pass there: for 32 rows of 45 tokens it takes six times the time of
these products, and half of a whole training step (`benchmarks/speed/attention.py`). Without gradients the fused
kernel is as fast and rounds less, so it stays in charge of everything else.
"""

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 19  # scores of a block of rows: what is made of them stays in the cache of a core
KEPT = 1 << 23  # weights of a layer that are kept for the backward pass; above, they are computed again
# Numbers of bfloat16 in a register: a softmax over another number takes twice as long (`benchmarks/speed/products.py`).
WIDE = 32

Grouped = Float[Tensor, "rows heads asking key"]  # the queries that share a head of keys stand below one another
Scores = Float[Tensor, "rows #heads asking own"]


def pays(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attention` is the faster way to the result and its gradients."""
    wanted = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return wanted and query.dtype == torch.bfloat16 and query.device.type == "cpu"


def attention(
    query: Float[Tensor, "rows queries asking key"],
    key: Float[Tensor, "rows heads own key"],
    value: Float[Tensor, "rows heads own value"],
    mask: Shaped[Tensor, "#rows #queries #asking own"] | None,
    scale: float | None,
    dropout: float = 0.0,
) -> Float[Tensor, "rows queries asking value"]:
    """Softmax attention; scores and weights are rounded to bfloat16, the softmax itself is in float32.

    Arguments:
        mask: what is seen, or what is added to the scores (T5's positions, which may be trained).
        scale: of the scores; `None` is one over the root of the key's width.
        dropout: share of the weights that are dropped, to the nearest of 65,536 parts.
    """
    heads, each = key.shape[1], query.shape[1] // key.shape[1]
    if mask is not None:
        mask = _added(mask, query.dtype if _even(key) else torch.float32, torch.finfo(query.dtype).min)
        mask = mask.expand(query.shape[0], -1, query.shape[2], -1)
        if mask.shape[1] > 1:  # a score for each query head
            mask = rearrange(mask, "b (h g) q k -> b h (g q) k", h=heads)
        elif each > 1:
            mask = mask.repeat(1, 1, each, 1)
    grouped = rearrange(query, "b (h g) q d -> b h (g q) d", h=heads)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    out = _Blocks.apply(grouped, key, value, mask, factor, dropout)  # type: ignore[no-untyped-call]
    return rearrange(cast("Tensor", out), "b h (g q) d -> b (h g) q d", g=each)


def _even(key: Tensor) -> bool:
    """Whether a softmax over bfloat16 fills whole registers; else it goes by float32, which costs less."""
    return key.shape[2] % WIDE == 0


def _added(mask: Tensor, dtype: torch.dtype, lowest: float) -> Tensor:
    """What a mask adds to scores."""
    if mask.dtype != torch.bool:
        return mask.clamp(min=lowest).to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest)


class _Room:
    """Memory for the scores of a block of rows, which every block writes into: new memory must be given pages first."""

    def __init__(self, query: Grouped, key: Tensor, rows: int) -> None:
        shape = (min(rows, len(query)), *query.shape[1:3], key.shape[2])
        self.scores, self.weights, self.moved = (query.new_empty(shape) for _ in range(3))
        self.even = _even(key)
        wide = 0 if self.even else shape[0]
        self.wide, self.soft = (query.new_empty(wide, *shape[1:], dtype=torch.float32) for _ in range(2))

    def weigh(self, query: Grouped, key: Tensor, mask: Scores | None, scale: float, into: Scores | None) -> Scores:
        """The softmax of a block's scores."""
        n = len(query)
        scores, into = self.scores[:n], self.weights[:n] if into is None else into
        torch.bmm(_flat(query), _flat(key).mT, out=_flat(scores))
        if not self.even:
            scores = self.wide[:n].copy_(scores)
        if mask is None:
            scores.mul_(scale)
        else:
            torch.add(mask, scores, alpha=scale, out=scores)
        if self.even:
            return torch.softmax(scores, -1, out=into)
        return into.copy_(torch.softmax(scores, -1, out=self.soft[:n]))


def _flat(block: Shaped[Tensor, "rows heads _ _"]) -> Shaped[Tensor, "rows*heads _ _"]:
    return block.flatten(0, 1)


Left = tuple[Bool[Tensor, "rows heads asking own"], float]  # what is not dropped, and what makes up for the rest


def _left(weights: Scores, dropout: float) -> Left:
    """A draw of what stays: sixteen random bits for each weight, which is several times faster than a real number."""
    parts = min(round(dropout * 2**16), 2**16 - 1)
    bits = torch.empty(-(-weights.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    stays = bits.view(torch.int16)[: weights.numel()].view(weights.shape) >= parts - 2**15
    return stays, 2**16 / (2**16 - parts)


def _thinned(values: Scores, left: Left) -> Scores:
    stays, factor = left
    return (values * stays).mul_(factor)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Grouped, key: Tensor, value: Tensor, mask: Scores | None, scale: float, dropout: float
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        rows, *scored = *query.shape[:3], key.shape[2]
        scores = scored[0] * scored[1] * scored[2]
        ctx.scale, ctx.rows, ctx.left = scale, max(1, BLOCK // scores), []
        room, out = _Room(query, key, ctx.rows), query.new_empty(*query.shape[:3], value.shape[3])
        kept = query.new_empty(rows, *scored) if rows * scores <= KEPT else None
        for block in _blocks(rows, ctx.rows):
            hidden = None if mask is None else mask[block]
            weights = room.weigh(query[block], key[block], hidden, scale, None if kept is None else kept[block])
            if dropout:
                ctx.left.append(_left(weights, dropout))
                weights = _thinned(weights, ctx.left[-1])
            torch.bmm(_flat(weights), _flat(value[block]), out=_flat(out[block]))
        ctx.save_for_backward(query, key, value, mask, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, kept = ctx.saved_tensors
        given, room = given.contiguous(), _Room(query, key, ctx.rows)
        wanted = zip((query, key, value, mask), ctx.needs_input_grad, strict=False)
        to_query, to_key, to_value, to_mask = (torch.empty_like(t) if needed else None for t, needed in wanted)
        for number, block in enumerate(_blocks(len(query), ctx.rows)):
            out, hidden = given[block], None if mask is None else mask[block]
            weights = room.weigh(query[block], key[block], hidden, ctx.scale, None) if kept is None else kept[block]
            left = ctx.left[number] if ctx.left else None
            if to_value is not None:
                thin = weights if left is None else _thinned(weights, left)
                torch.bmm(_flat(thin).mT, _flat(out), out=_flat(to_value[block]))
            if to_query is None and to_key is None and to_mask is None:
                continue
            scores = room.scores[: len(out)]
            torch.bmm(_flat(out), _flat(value[block]).mT, out=_flat(scores))
            scores = scores if left is None else _thinned(scores, left)
            # The derivative of the softmax, as PyTorch itself computes it.
            moved = torch.ops.aten._softmax_backward_data.out(
                scores, weights, -1, weights.dtype, grad_input=room.moved[: len(out)]
            )
            if to_mask is not None:
                to_mask[block] = moved if to_mask.shape[1] > 1 else moved.sum(1, keepdim=True)
            moved.mul_(ctx.scale)
            if to_query is not None:
                torch.bmm(_flat(moved), _flat(key[block]), out=_flat(to_query[block]))
            if to_key is not None:
                torch.bmm(_flat(moved).mT, _flat(query[block]), out=_flat(to_key[block]))
        return to_query, to_key, to_value, to_mask, None, None


def _blocks(rows: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, rows, size)]
