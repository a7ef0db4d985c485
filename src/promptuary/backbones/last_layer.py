"""The last layer of a tower, for those rows alone whose states are read: a classifier reads one token of a text.

Keys and values are those of all rows; queries, and all that stands behind the attention, only those of the rows read.
The layer's own code does it, in two passes: one over all rows, which is left at the attention call with the keys, the
values and the mask that have come there; and one over the rows read, whose attention call finds these. Gradient
checkpointing replays both, the first no further than it came. The backbone tries at load whether a family's code goes
along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from promptuary.backbones.attention import Bias, Carried, Extended, Key, Query, Value, WholeMask, told
from promptuary.backbones.padding import at, written
from promptuary.backbones.sight import NAME

READ = "promptuary_read"  # an argument of the last layer: the columns that are read
ROTARY = "position_embeddings"  # what layers with rotary positions are handed: cosines and sines by column

Columns = Int[Tensor, "rows read"]


def pays(columns: Columns, length: int) -> bool:
    """Whether the two passes are less than one over rows of that length: queries, keys and values are a quarter of a
    layer and more.
    """
    return 0 < 5 * columns.shape[1] <= 3 * length


def only(forward: Callable[..., Any], columns: Columns, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer makes of its rows at `columns`; 0 at all others, so that what follows finds the shape it expects."""
    positional = bool(args)
    hidden: Tensor = args[0] if positional else kwargs["hidden_states"]
    try:
        forward(*args, **{**kwargs, NAME: _Leaving(columns, kwargs.get(NAME))})
    except _Left as left:
        found = left.found
    else:
        raise RuntimeError("the layer called no attention")  # told at load, where it is tried
    own = {**kwargs, NAME: _Returned(found)}
    if kwargs.get(ROTARY) is not None:
        own[ROTARY] = tuple(at(part.expand(len(columns), -1, -1), columns) for part in kwargs[ROTARY])
    if positional:
        args = (at(hidden, columns), *args[1:])
    else:
        own["hidden_states"] = at(hidden, columns)
    made = forward(*args, **own)
    states = made[0] if isinstance(made, tuple) else made
    whole = _spread(states, columns, hidden.shape[1])
    return (whole, *made[1:]) if isinstance(made, tuple) else whole


class _Left(Exception):  # noqa: N818, no error: how a layer is left in the middle
    """The layer came to its attention call."""

    def __init__(self, found: Extended) -> None:
        super().__init__()
        self.found = found


@dataclass(frozen=True, eq=False)
class _Leaving:
    """Leaves the layer at its attention call with all keys and values, and the mask of some queries."""

    columns: Columns
    carried: Carried | None

    def __call__(
        self, module: nn.Module, query: Query, key: Key, value: Value, mask: WholeMask | None, bias: Bias | None
    ) -> Extended:
        if self.carried is not None:
            key, value, mask, bias = self.carried(module, query, key, value, mask, bias)
        mask = told(module, query, key, mask)
        raise _Left((key, value, _queries(mask, self.columns), _queries(bias, self.columns)))


@dataclass(frozen=True, eq=False)
class _Returned:
    """Puts what was found in the place of the keys and values of the few rows."""

    found: Extended

    def __call__(self, *_: Any) -> Extended:
        return self.found


def _queries(
    seen: Shaped[Tensor, "#rows #asking queries all"] | None, columns: Columns
) -> Shaped[Tensor, "#rows #asking read all"] | None:
    """The part of a mask or a bias that is about the queries at `columns`."""
    if seen is None or seen.shape[2] == 1:  # one line for all queries
        return seen
    seen = seen.expand(len(columns), -1, -1, -1)
    return seen.gather(2, repeat(columns, "b q -> b h q k", h=seen.shape[1], k=seen.shape[3]))


def _spread(
    states: Float[Tensor, "rows read hidden"], columns: Columns, length: int
) -> Float[Tensor, "rows {length} hidden"]:
    """States at their columns among zeros. A column that is named twice is written once: its gradient counts once."""
    again = (columns[:, :, None] == columns[:, None, :]).tril(-1).any(2)
    empty = torch.zeros(len(columns), length, states.shape[2], dtype=states.dtype, device=states.device)
    return written(empty, columns.masked_fill(again, length), states)
