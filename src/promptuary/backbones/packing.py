"""Several texts behind one row of a causal model: the row is read once for all of them, and no text sees another.

Row and texts stand in one packed row. Each text goes on from the row's last item, in its positions and in what it sees
(`sight.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from promptuary.backbones.padding import at, trimmed
from promptuary.values import Layout, Targets

Embed = Callable[[Int[Tensor, "batch tokens"]], Float[Tensor, "batch tokens dim"]]


@dataclass(frozen=True, eq=False)
class Packing:
    """Of each column its position in its text, and which text it belongs to: 0 is the row itself, which all see."""

    position: Int[Tensor, "batch length"]
    text: Int[Tensor, "batch length"]


@dataclass(frozen=True, eq=False)
class Continued:
    """Rows with texts behind them.

    Arguments:
        before: the column whose state predicts each target token.
        packing: `None` where there are no texts that could see one another.
    """

    layout: Layout
    before: Int[Tensor, "batch choices steps"]
    packing: Packing | None


def continued(layout: Layout, targets: Targets, embed: Embed) -> Continued:
    """Each row with its target texts behind it, but for their last tokens: nothing is predicted after these."""
    length, (choices, steps) = layout.mask.shape[1], targets.ids.shape[1:]
    row = rearrange(layout.mask.sum(1), "b -> b 1 1")  # items of the row itself
    rank = targets.mask.cumsum(2) - 1  # [batch, choices, steps]: real tokens of the text before this one
    fed = targets.mask & (rank < rank[..., -1:])
    count = fed.sum(2, keepdim=True)
    earlier = count.cumsum(1) - count  # tokens of the texts before this one
    before = row - 1 + torch.where(rank > 0, earlier + rank, 0)

    embeds = torch.cat([layout.embeds, embed(_flat(targets.ids)).to(layout.embeds.dtype)], 1)
    present = torch.cat([layout.mask, _flat(fed)], 1)
    source = (~present).int().argsort(dim=1, stable=True)  # column -> item
    column = source.argsort(dim=1)  # item -> column
    grown = Layout(
        embeds=at(embeds, source),
        mask=present.gather(1, source),
        types=F.pad(layout.types, (0, choices * steps)).gather(1, source),
        tokens=column.gather(1, layout.tokens),
        prompts=column.gather(1, layout.prompts),
        placed=None if layout.placed is None else at(F.pad(layout.placed, (0, 0, 0, choices * steps)), source),
    )
    width = length + (choices * (steps - 1) if targets.fed is None else targets.fed)
    packing = None
    if choices > 1 and steps > 1:
        columns = torch.arange(length, device=row.device).expand(layout.mask.shape)
        texts = torch.arange(1, choices + 1, device=row.device)[:, None].expand(fed.shape)
        position = torch.cat([columns, _flat(row + rank)], 1).masked_fill(~present, 0)
        text = torch.cat([torch.zeros_like(columns), _flat(texts)], 1)
        packing = Packing(position.gather(1, source)[:, :width], text.gather(1, source)[:, :width])
    return Continued(trimmed(grown, width), before.clamp(min=0), packing)


def _flat(each: Shaped[Tensor, "batch choices steps"]) -> Shaped[Tensor, "batch {each.shape[1]*each.shape[2]}"]:
    return rearrange(each, "b c s -> b (c s)")
