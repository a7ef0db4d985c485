"""Attention written out: four lines of einsum and one explicit softmax, with soft keys and values by number of call.

It is put under a bare model of transformers through the attention interface, so that every family has an oracle
for prefixes that shares no line with the library: no concatenation of keys, no mask arithmetic, no hooks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from promptuary.values import Shape


@dataclass
class Soft:
    """Keys [prompt, heads, key] and values [prompt, heads, value] that the n-th attention call sees besides its own."""

    keys: Tensor
    values: Tensor
    keep: Tensor  # bool [prompt]


@dataclass
class _Script:
    soft: Sequence[Soft | None] = ()
    calls: int = 0
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)


_SCRIPT = _Script()


def naive_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    number, _SCRIPT.calls = _SCRIPT.calls, _SCRIPT.calls + 1
    _SCRIPT.seen.append((key, value))
    each = query.shape[1] // key.shape[1]  # query heads to a key-value head
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling

    def score(keys: Tensor) -> Tensor:
        raw = torch.einsum("bhqd,bhkd->bhqk", query, keys) * scale
        return raw if softcap is None else torch.tanh(raw / softcap) * softcap

    logits = score(key.repeat_interleave(each, 1))
    logits = logits if position_bias is None else logits + position_bias
    weights = (logits if attention_mask is None else logits + attention_mask).exp()
    top = torch.einsum("bhqk,bhkd->bhqd", weights, value.repeat_interleave(each, 1))
    below = weights.sum(-1, keepdim=True)
    soft = _SCRIPT.soft[number] if number < len(_SCRIPT.soft) else None
    if soft is not None:
        keys, values = (t[soft.keep].transpose(0, 1)[None].repeat_interleave(each, 1) for t in (soft.keys, soft.values))
        more = score(keys.expand(query.shape[0], -1, -1, -1)).exp()
        top = top + torch.einsum("bhqk,bhkd->bhqd", more, values.expand(query.shape[0], -1, -1, -1))
        below = below + more.sum(-1, keepdim=True)
    return (top / below).transpose(1, 2).contiguous(), None


AttentionInterface.register("naive", naive_attention)
AttentionMaskInterface.register("naive", eager_mask)


@contextmanager
def seeing(soft: Sequence[Soft | None]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The n-th attention call of each model call inside sees `soft[n]`; yields the keys and values that were seen."""
    _SCRIPT.soft, _SCRIPT.calls, _SCRIPT.seen = soft, 0, []
    try:
        yield _SCRIPT.seen
    finally:
        _SCRIPT.soft = ()


def begin() -> None:
    """The next attention call is the first one again."""
    _SCRIPT.calls = 0


def cut(row: Tensor, shape: Shape, parts: frozenset[str], keep: Tensor) -> list[Soft | None]:
    """A prompt [prompt, width] by attention call: for each layer of `parts`, all heads' keys, then values."""
    soft: list[Soft | None] = []
    at = 0
    for a in shape.attention:
        if a.part not in parts:
            soft.append(None)
            continue
        keys = row[:, at : at + a.heads * a.key].reshape(-1, a.heads, a.key)
        at += a.heads * a.key
        values = row[:, at : at + a.heads * a.value].reshape(-1, a.heads, a.value)
        at += a.heads * a.value
        soft.append(Soft(keys, values, keep))
    assert at == row.shape[1]
    return soft
