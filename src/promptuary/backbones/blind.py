"""Soft tokens that do not see the input, in models that read in both directions: the input sees them, and they are the
same whatever it says.

Anywhere in the row, a mask does it. Before the input, they need not stand in the row at all: they are read once by
themselves, and each layer goes over the input alone, behind their keys and values. The row's positions are those of the
whole row: embeddings, masks and rotary angles are made for it, and its first columns left out before the first layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.backbones.attention import Bias, Carried, Extended, Key, Mask, Query, Value, WholeMask
from promptuary.backbones.last_layer import ROTARY
from promptuary.backbones.padding import expanded
from promptuary.backbones.sight import NAME
from promptuary.values import Call, KeyValue, Layout


def alone(call: Call) -> Layout | None:
    """The soft tokens as a row of their own, where they are the first columns of every row; else `None`.

    It is `None` too beside a prefix, which they would have to hear.
    """
    assert call.blind is not None
    if call.keys_values:
        return None
    p, prompts = call.blind, call.layout.prompts
    columns = torch.arange(prompts.shape[1], device=prompts.device)[None]
    if not prompts.shape[1] or not bool((p.keep > 0).all() & (prompts == columns).all()):
        return None
    values = p.values[:1] if p.values.stride(0) == 0 else p.values  # one row for all is laid out once
    whole = columns.expand(len(values), -1)
    return Layout(values, torch.ones_like(whole, dtype=torch.bool), whole * 0, whole[:, :0], whole)


def behind(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ahead: Mapping[int, KeyValue],
    beside: list[Any],
    *,
    first: bool,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments for the columns behind the soft tokens.

    Arguments:
        ahead: the soft tokens' keys and values, by the identity of the attention module.
        beside: where the layers of one pass keep what the first of them makes for all.
        first: whether it is the first layer: its states lose the soft tokens' columns.
    """
    count = next(iter(ahead.values())).key.shape[2]
    own = {**kwargs, NAME: _Behind(ahead, count, beside)}
    if kwargs.get(ROTARY) is not None:
        own[ROTARY] = tuple(part[:, count:] for part in kwargs[ROTARY])
    if first and args:
        args = (args[0][:, count:], *args[1:])
    elif first:
        own["hidden_states"] = kwargs["hidden_states"][:, count:]
    return args, own


def masked(kwargs: Mapping[str, Any], call: Call) -> dict[str, Any]:
    """A layer's arguments with a mask by which soft tokens see soft tokens only."""
    assert call.blind is not None
    none = torch.zeros(*call.layout.mask.shape[:1], call.layout.mask.shape[1] + 1, dtype=torch.bool)
    columns = call.layout.prompts.where(call.blind.keep > 0, call.layout.mask.shape[1])  # the absent are nowhere
    soft = none.to(columns.device).scatter(1, columns, True)[:, :-1]
    return {**kwargs, NAME: _Masked(soft, kwargs.get(NAME))}


@dataclass(frozen=True, eq=False)
class _Masked:
    """Hides every column that is no soft token from those that are; then what else rides to the layer has its say."""

    soft: Bool[Tensor, "rows length"]
    carried: Carried | None

    def __call__(
        self, module: nn.Module, query: Query, key: Key, value: Value, mask: Mask | None, bias: Bias | None
    ) -> Extended:
        seen = ~rearrange(self.soft, "b q -> b 1 q 1") | rearrange(self.soft, "b k -> b 1 1 k")
        if mask is not None:  # it may tell of soft keys too, which all see (`sight.py`)
            seen = F.pad(seen, (mask.shape[3] - seen.shape[3], 0), value=True)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
        else:
            mask = seen if mask is None else seen & mask
        return (key, value, mask, bias) if self.carried is None else self.carried(module, query, key, value, mask, bias)


@dataclass(frozen=True, eq=False)
class _Behind:
    """Lays the soft tokens' keys and values before the input's; of the whole row's mask, what is about the input."""

    ahead: Mapping[int, KeyValue]
    count: int
    beside: list[Any]

    def __call__(
        self,
        module: nn.Module,
        query: Query,
        key: Key,
        value: Value,
        mask: WholeMask | None,
        bias: Bias | None,
    ) -> Extended:
        soft, rows = self.ahead[id(module)], query.shape[0]
        if mask is not None and mask.shape[2] > 1:
            mask = mask[:, :, self.count :]
        key = torch.cat([expanded(soft.key, rows), key], 2)
        value = torch.cat([expanded(soft.value, rows), value], 2)
        if bias is not None:
            if not self.beside:  # of relative positions (T5): the first layer has their table
                self.beside.append(cast("Any", module).compute_bias(key.shape[2], key.shape[2])[:, :, self.count :])
            bias = self.beside[0]
        return key, value, mask, bias
