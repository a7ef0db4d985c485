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

BLOCK = 1 << 20  # scores of a block of rows: its 2 MB stay in the cache of a core
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
        mask: what is seen, or what is added to the scores; no gradient reaches it.
        scale: of the scores; `None` is one over the root of the key's width.
        dropout: share of the weights that are dropped, to the nearest of 65,536 parts.
    """
    heads, each = key.shape[1], query.shape[1] // key.shape[1]
    if mask is not None:
        mask = _added(mask, query.dtype)
        mask = mask.expand(query.shape[0], -1, query.shape[2], -1)
        if mask.shape[1] > 1:  # a score for each query head
            mask = rearrange(mask, "b (h g) q k -> b h (g q) k", h=heads)
        elif each > 1:
            mask = mask.repeat(1, 1, each, 1)
    grouped = rearrange(query, "b (h g) q d -> b h (g q) d", h=heads)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    out = _Blocks.apply(grouped, key, value, mask, factor, dropout)  # type: ignore[no-untyped-call]
    return rearrange(cast("Tensor", out), "b h (g q) d -> b (h g) q d", g=each)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.clamp(min=torch.finfo(dtype).min).to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _weights(query: Grouped, key: Tensor, mask: Scores | None, scale: float) -> Scores:
    scores = query @ key.mT
    if scores.shape[-1] % WIDE:  # by way of float32, which costs less than that
        scores, mask = (scores.float(), None) if mask is None else (scores, mask.float())
    scores = scores.mul_(scale) if mask is None else torch.add(mask, scores, alpha=scale)
    return scores.softmax(-1).to(query.dtype)


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
        scores = query.shape[1] * query.shape[2] * key.shape[2]
        ctx.scale, ctx.rows = scale, max(1, BLOCK // scores)
        keep = query.shape[0] * scores <= KEPT
        kept, out, left = [], [], []
        for block in _blocks(query.shape[0], ctx.rows):
            weights = _weights(query[block], key[block], None if mask is None else mask[block], scale)
            if dropout:
                left.append(_left(weights, dropout))
            out.append((_thinned(weights, left[-1]) if dropout else weights) @ value[block])
            if keep:
                kept.append(weights)
        ctx.left = left
        ctx.save_for_backward(query, key, value, mask, *kept)
        return torch.cat(out)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, *kept = ctx.saved_tensors
        to_query, to_key, to_value, *_ = ctx.needs_input_grad
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = [], [], []
        for number, block in enumerate(_blocks(query.shape[0], ctx.rows)):
            out = given[0][block]
            weights = (
                kept[number]
                if kept
                else _weights(query[block], key[block], None if mask is None else mask[block], ctx.scale)
            )
            left = ctx.left[number] if ctx.left else None
            if to_value:
                found[2].append((weights if left is None else _thinned(weights, left)).mT @ out)
            if to_query or to_key:
                scores = out @ value[block].mT
                scores = scores if left is None else _thinned(scores, left)
                # The derivative of the softmax, as PyTorch itself computes it.
                scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
                scores.mul_(ctx.scale)
                if to_query:
                    found[0].append(scores @ key[block])
                if to_key:
                    found[1].append(scores.mT @ query[block])
        return *(torch.cat(parts) if parts else None for parts in found), None, None, None


def _blocks(rows: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, rows, size)]
