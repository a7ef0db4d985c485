"""A batch's rows among their padding: which columns are kept, on which side padding stands, what is read where."""

from dataclasses import replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from promptuary.errors import SettingError
from promptuary.values import Call, Layout


def fitting(call: Call, limit: int | None, positions: Int[Tensor, "batch length"] | None = None) -> Call:
    """The call without columns that are padding in every row, where these pass the last position.

    Rows that fit by themselves must fit together: padding takes up columns, and a model that learned its positions
    has none for the columns past its table.

    Arguments:
        positions: of the columns, where a row is packed with its texts. Where the model is told positions, as with
            these or with a `start`, all columns fit: padding has none.

    Raises:
        SettingError: for a row that is too long by itself.
    """
    if limit is None or (call.start is None and call.layout.mask.shape[1] <= limit):
        return call
    longest = int(ends(call, positions).max())
    if longest > limit:
        raise SettingError(
            f"A row has {longest} tokens with its prompt, the backbone {limit} positions. Cut the text or the prompt."
        )
    told = positions is not None or call.start is not None
    return call if told else replace(call, layout=trimmed(call.layout, longest))


def ends(call: Call, positions: Int[Tensor, "batch length"] | None = None) -> Int[Tensor, " batch"]:
    """The position behind each row's last item."""
    own = call.layout.mask.sum(1) if positions is None else positions.amax(1) + 1
    return own if call.start is None else own + call.start


def trimmed(layout: Layout, length: int) -> Layout:
    """The first `length` columns; what stood at padding beyond them is said to stand in the last one."""
    return Layout(
        embeds=layout.embeds[:, :length],
        mask=layout.mask[:, :length],
        types=layout.types[:, :length],
        tokens=layout.tokens.clamp(max=length - 1),
        prompts=layout.prompts.clamp(max=length - 1),
        placed=None if layout.placed is None else layout.placed[:, :length],
    )


def expanded(given: Shaped[Tensor, "batch *rest"], rows: int) -> Shaped[Tensor, "rows *rest"]:
    """Each row of `given` as often as beams or returned sequences multiplied it; a single one serves all."""
    if given.shape[0] == rows:
        return given
    if given.shape[0] == 1:
        return given.expand(rows, *given.shape[1:])
    return given.repeat_interleave(rows // given.shape[0], dim=0)


def read(call: Call) -> Int[Tensor, "batch read"]:
    """The columns of the row whose states the caller reads: none of the soft tokens'."""
    return call.layout.tokens if call.columns is None else call.layout.tokens.gather(1, call.columns)


def at(
    states: Float[Tensor, "batch length hidden"], columns: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n hidden"]:
    """The states at the given columns of each row."""
    return states.gather(1, rearrange(columns, "b n -> b n 1").expand(-1, -1, states.shape[2]))


def written(
    hidden: Float[Tensor, "rows length hidden"], columns: Int[Tensor, "rows n"], states: Float[Tensor, "rows n hidden"]
) -> Float[Tensor, "rows length hidden"]:
    """Hidden states with others at the given columns of each row.

    What is absent goes into one more column, which is taken off again: its own in the layout may be another item's.
    """
    index = repeat(columns, "b n -> b n h", h=hidden.shape[2])
    return F.pad(hidden, (0, 0, 0, 1)).scatter(1, index, states)[:, : hidden.shape[1]].contiguous()


def flush_right(layout: Layout) -> Layout:
    """The same rows with padding in front, as generation from a causal model needs them."""
    length = layout.mask.shape[1]
    shift = length - rearrange(layout.mask.sum(1), "b -> b 1")  # [batch, 1]
    source = (torch.arange(length, device=shift.device) - shift) % length
    return Layout(
        embeds=at(layout.embeds, source),
        mask=layout.mask.gather(1, source),
        types=layout.types.gather(1, source),
        tokens=(layout.tokens + shift) % length,
        prompts=(layout.prompts + shift) % length,
    )
