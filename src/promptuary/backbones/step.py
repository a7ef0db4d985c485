"""The attention of one query a row beside soft keys and values, which are not copied: a step of generation.

Laying soft keys before the row's own copies all of them, for every layer and every token that is written. For a single
query the two sets of scores are short: they are laid side by side instead. Where all rows share the soft keys, these
are one matrix for all.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from promptuary.backbones.padding import expanded
from promptuary.values import KeyValue


def suits(query: Tensor, rest: dict[str, Any]) -> bool:
    """Whether `step` does what the plain function does: a single query, and nothing that it does not know.

    In half precision it would round the scores, which the fused kernel does not.
    """
    known = query.shape[2] == 1 and query.dtype == torch.float32
    return known and not rest.get("dropout") and rest.get("softcap") is None and rest.get("s_aux") is None


def step(
    query: Float[Tensor, "rows queries 1 key"],
    key: Float[Tensor, "rows heads own key"],
    value: Float[Tensor, "rows heads own value"],
    soft: KeyValue,
    mask: Shaped[Tensor, "#rows #queries 1 all"] | None,
    scale: float | None,
) -> Float[Tensor, "rows 1 queries value"]:
    """Softmax attention over the soft keys and the row's own; `mask` and `scale` as everywhere."""
    heads, prompt = key.shape[1], soft.key.shape[2]
    grouped = rearrange(query, "b (h g) 1 d -> b h g d", h=heads)
    scores = torch.cat([_product(grouped, soft.key.to(key.dtype).mT), grouped @ key.mT], 3)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        each = mask if mask.shape[1] == 1 else rearrange(mask, "b (h g) 1 k -> b h g k", h=heads)
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~each, lowest) if each.dtype == torch.bool else scores + each
    weights = scores.softmax(-1)
    out = _product(weights[..., :prompt], soft.value.to(value.dtype)) + weights[..., prompt:] @ value
    return rearrange(out, "b h g d -> b 1 (h g) d")


def _product(
    left: Float[Tensor, "rows heads asking inner"], right: Float[Tensor, "batch heads inner outer"]
) -> Float[Tensor, "rows heads asking outer"]:
    """The product row by row; where one `right` serves all, of all rows below one another."""
    if right.shape[0] > 1:
        return left @ expanded(right, left.shape[0])
    below = rearrange(left, "b h g i -> h (b g) i") @ right[0]
    return rearrange(below, "h (b g) o -> b h g o", b=left.shape[0])
