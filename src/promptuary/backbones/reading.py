"""How a tower that reads in both directions is run on a call: over whole rows, or over the input alone."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptuary.backbones import blind
from promptuary.backbones.attachment import Attachment
from promptuary.backbones.padding import expanded
from promptuary.values import Call, KeyValue, Layout

Stack = Callable[[Layout], Float[Tensor, "rows length output"]]


def states(
    attachment: Attachment, stack: Stack, call: Call, columns: Int[Tensor, "batch read"] | None
) -> Float[Tensor, "batch length output"]:
    """The tower's last states, at least at `columns`.

    Soft tokens that do not see the input and stand before it are read by themselves, the input behind them.
    """
    ahead = blind.alone(call) if call.blind is not None and attachment.reads_apart else None
    if ahead is None:
        with attachment.carrying(call, columns):
            return stack(call.layout)
    with attachment.recording() as notes:
        own = stack(ahead)
    known = {i: KeyValue(key, value, ahead.mask) for i, (_, _, key, value) in enumerate(notes)}
    behind = None if columns is None else columns - own.shape[1]
    with attachment.carrying(call, behind, known):
        return torch.cat([expanded(own, len(call.layout.mask)), stack(call.layout)], 1)
