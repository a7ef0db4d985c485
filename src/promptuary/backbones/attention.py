"""The attention function that is registered with transformers: the plain one, with soft keys and values before its own.

It extends the mask by visible columns and a relative position bias by zeros. What it lays there rides with the call
(`attachment.py` sees to that); without, it is the plain one.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from promptuary.backbones import cpu_attention
from promptuary.backbones.padding import expanded
from promptuary.backbones.sight import NAME
from promptuary.backbones.step import step, suits
from promptuary.values import KeyValue

# Grouped queries have more heads than keys and values; a mask is a boolean or what is added to the scores.
Query = Float[Tensor, "rows asking queries key"]
Key = Float[Tensor, "rows heads own key"]
Value = Float[Tensor, "rows heads own value"]
Mask = Shaped[Tensor, "#rows #asking queries seen"]
Bias = Float[Tensor, "#rows asking queries seen"]
# Those of the whole row, where a layer goes over some of its columns (`last_layer.py`, `blind.py`).
WholeMask = Shaped[Tensor, "#rows #asking _ _"]
WholeBias = Float[Tensor, "#rows asking _ _"]

Extended = tuple[
    Float[Tensor, "rows heads all key"],
    Float[Tensor, "rows heads all value"],
    Shaped[Tensor, "#rows #asking queries all"] | None,
    Float[Tensor, "#rows asking queries all"] | None,
]


@runtime_checkable
class Carried(Protocol):
    """What rides to an attention call: given its tensors, the tensors to use."""

    def __call__(
        self, module: nn.Module, query: Query, key: Key, value: Value, mask: Mask | None, bias: Bias | None
    ) -> Extended: ...


def prompted_attention(
    module: nn.Module,
    query: Query,
    key: Key,
    value: Value,
    attention_mask: WholeMask | None,
    position_bias: WholeBias | None = None,
    promptuary: Carried | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function registered with transformers: the plain one, after what is carried had its say."""
    if isinstance(promptuary, Prefix) and id(module) in promptuary.promised and suits(query, rest):
        soft = promptuary.promised[id(module)]
        seen = promptuary.seen(module, query, key, attention_mask, position_bias)
        return step(query, key, value, soft, _whole(module, query, key, *seen), rest.get("scaling")), None
    if promptuary is not None:
        key, value, attention_mask, position_bias = promptuary(module, query, key, value, attention_mask, position_bias)
    if rest.get("softcap") is not None or rest.get("s_aux") is not None:
        # Capped scores and attention sinks are the model file's own business: its plain function knows them.
        plain = sys.modules[type(module).__module__].eager_attention_forward
        attention_mask = told(module, query, key, attention_mask)
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            # Many take the softmax in float32, where the lowest number of float64 would be minus infinity.
            lowest = max(torch.finfo(query.dtype).min, torch.finfo(torch.float32).min)
            attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
        done: tuple[Tensor, Tensor | None] = plain(module, query, key, value, attention_mask, **rest)
        return done
    if position_bias is not None:
        rest["position_bias"] = position_bias
    if cpu_attention.pays(query, key, value):
        mask = _whole(module, query, key, attention_mask, position_bias)
        out = cpu_attention.attention(query, key, value, mask, rest.get("scaling"), rest.get("dropout") or 0.0)
        return out.transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)


def _whole(module: nn.Module, query: Query, key: Key, mask: Mask | None, bias: Bias | None) -> Mask | None:
    """The mask with what the fused kernel is told beside it: causality and the bias of relative positions."""
    mask = told(module, query, key, mask)
    if bias is None or mask is None:
        return mask if bias is None else bias
    if mask.dtype != torch.bool:
        return bias + mask
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


AttentionInterface.register(NAME, prompted_attention)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Soft keys and values for the attention calls of one layer, by the identity of the attention module.

    Arguments:
        whole: says of a `keep` whether no soft key is absent.
        start: the position of each row's first column, as in `Call`.
        toward: where the layers of one pass keep the bias toward soft keys, which the first of them makes for all.
    """

    promised: dict[int, KeyValue]
    whole: Callable[[Bool[Tensor, "batch prompt"]], bool]
    start: Int[Tensor, " batch"] | None
    toward: list[Tensor]

    def __call__(
        self, module: nn.Module, query: Query, key: Key, value: Value, mask: Mask | None, bias: Bias | None
    ) -> Extended:
        soft, rows = self.promised.get(id(module)), query.shape[0]
        if soft is None:
            return key, value, mask, bias
        mask, bias = self.seen(module, query, key, mask, bias)
        key = torch.cat([expanded(soft.key.to(key.dtype), rows), key], 2)
        value = torch.cat([expanded(soft.value.to(value.dtype), rows), value], 2)
        return key, value, mask, bias

    def seen(
        self, module: nn.Module, query: Query, key: Key, mask: Mask | None, bias: Bias | None
    ) -> tuple[Shaped[Tensor, "#rows #asking queries all"] | None, Float[Tensor, "#rows asking queries all"] | None]:
        """Mask and bias with the columns of the soft keys before those of the own."""
        soft = self.promised[id(module)]
        rows, queries, own = query.shape[0], query.shape[2], key.shape[2]
        mask = told(module, query, key, mask)
        if mask is None and not self.whole(soft.keep):
            mask = torch.ones(1, 1, queries, own, dtype=torch.bool, device=key.device)
        if mask is not None and mask.shape[3] == own:  # else it tells of soft keys already (`sight.py`)
            visible = repeat(expanded(soft.keep, rows), "b p -> b 1 q p", q=queries)
            if mask.dtype != torch.bool:
                visible = torch.zeros_like(visible, dtype=mask.dtype).masked_fill(~visible, torch.finfo(mask.dtype).min)
            mask = torch.cat([visible.expand(-1, mask.shape[1], -1, -1), mask.expand(rows, -1, queries, -1)], 3)
        if bias is not None:
            toward = self._bias(module, bias, soft.key.shape[2])
            bias = torch.cat([toward, bias.expand(len(toward), -1, -1, -1)], 3)
        return mask, bias

    def _bias(self, module: nn.Module, bias: Bias, prompt: int) -> Float[Tensor, "#rows asking queries {prompt}"]:
        """The bias toward the soft keys: by distance where they stand in positions before the row, else none."""
        if self.start is None:
            return bias.new_zeros(*bias.shape[:3], prompt)
        if not self.toward:  # of relative positions (T5): the first layer has their table
            queries = torch.arange(bias.shape[2], device=bias.device) + rearrange(self.start, "b -> b 1")
            by_position = cast("Any", module).compute_bias(bias.shape[2] + prompt, prompt)[0]
            there = rearrange(self.start > 0, "b -> b 1 1 1")
            self.toward.append(rearrange(by_position[:, queries], "h b q p -> b h q p") * there)
        return self.toward[0]


def told(module: nn.Module, query: Query, key: Key, mask: Mask | None) -> Mask | None:
    """The mask; where there is none and the fused kernel would infer causality from the shapes, it is said outright."""
    asking, own = query.shape[2], key.shape[2]
    if mask is not None or asking == 1 or not getattr(module, "is_causal", True):
        return mask
    return torch.ones(asking, own, dtype=torch.bool, device=key.device).tril(own - asking)[None, None]
