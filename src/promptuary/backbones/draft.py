"""Texts that are being written, token by token: a value, from which rows are taken and beside which others are laid.

A step makes a new draft of an old one and leaves the old one as it was. So a step that fails can be tried again with
fewer rows, and rows of any age stand in one draft: their last tokens in the last column, padding before their first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from promptuary.values import Call, KeyValue, Layout

# Keys and values of one layer; names that begin with _ may differ from one to another of the same function.
Layer = tuple[Float[Tensor, "_rows _heads _columns _key"], Float[Tensor, "_rows _heads _columns _value"]]
Padded = tuple[tuple[Layer, ...], Bool[Tensor, "_rows _columns"]]


@dataclass(frozen=True, eq=False)
class Source:
    """What an encoder-decoder writes from: keys and values of the encoder's states in each cross attention."""

    layers: tuple[Layer, ...]
    mask: Bool[Tensor, "rows length"]


@dataclass(frozen=True, eq=False)
class Draft:
    """Rows that a model has read and goes on with.

    Arguments:
        scores: of the next token.
        layers: keys and values of what was read and written so far.
        mask: true in the columns of `layers` where a row has a token.
        next: the position of the next token.
        call: the soft keys and values that ride with every step; its layout is of no account.
    """

    scores: Float[Tensor, "rows vocabulary"]
    layers: tuple[Layer, ...]
    mask: Bool[Tensor, "rows columns"]
    next: Int[Tensor, " rows"]
    call: Call
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def kept(self, rows: Sequence[int]) -> "Draft":
        """Some of the rows, one or more, without the columns and places that only others need."""
        index = torch.tensor(rows, device=self.mask.device)
        first = int(self.mask[index].int().argmax(1).min())
        layers = tuple((key[index, :, first:], value[index, :, first:]) for key, value in self.layers)
        return Draft(
            self.scores[index], layers, self.mask[index, first:], self.next[index], _kept_call(self.call, index),
            None if self.source is None else _kept_source(self.source, index),
        )  # fmt: skip


def aligned(drafts: Sequence[Draft]) -> list[Padded]:
    """The layers and mask of each, with padding in front of the shorter ones."""
    columns = max(draft.mask.shape[1] for draft in drafts)
    return [padded(draft, columns - draft.mask.shape[1]) for draft in drafts]


def padded(draft: Draft, columns: int) -> Padded:
    """The layers and mask with so many columns of padding in front."""
    if not columns:
        return draft.layers, draft.mask
    layers = tuple((F.pad(key, (0, 0, columns, 0)), F.pad(value, (0, 0, columns, 0))) for key, value in draft.layers)
    return layers, F.pad(draft.mask, (columns, 0))


def riding(call: Call) -> Call:
    """What of a call rides with every step: its soft keys and values, with a layout of one token."""
    rows = call.layout.mask.shape[0]
    none = call.layout.tokens.new_zeros(rows, 1)
    one = Layout(call.layout.embeds[:, :1], none == 0, none, none, none[:, :0])
    return Call(one, call.keys_values, start=call.start)


def cache_of(layers: Sequence[Layer]) -> DynamicCache:
    """A cache that begins with these keys and values; what it adds does not change them.

    Every layer keeps all columns, those with a sliding window too: the mask alone says what is in sight.
    """
    cache, make = DynamicCache(), cast("Callable[[], DynamicLayer]", DynamicLayer)
    for key, value in layers:
        layer = make()
        layer.lazy_initialization(key, value)
        layer.keys, layer.values = key, value
        cache.layers.append(layer)
    return cache


def layers_of(cache: DynamicCache) -> tuple[Layer, ...]:
    """The keys and values that a cache holds."""
    held: Any = cache.layers
    return tuple((layer.keys, layer.values) for layer in held)


def _kept_call(call: Call, index: Int[Tensor, " kept"]) -> Call:
    keeps = {id(kv.keep): _rows(kv.keep, index) for kv in call.keys_values.values()}  # one for all layers, as before
    keys_values = {
        i: KeyValue(_rows(kv.key, index), _rows(kv.value, index), keeps[id(kv.keep)])
        for i, kv in call.keys_values.items()
    }
    own = call.layout
    layout = Layout(own.embeds[index], own.mask[index], own.types[index], own.tokens[index], own.prompts[index])
    return replace(call, layout=layout, keys_values=_shortened(keys_values))


def _rows(given: Tensor, index: Int[Tensor, " kept"]) -> Tensor:
    """The given rows; what all rows share stays shared."""
    return given if len(given) == 1 else given[index]


def _shortened(given: dict[int, KeyValue]) -> dict[int, KeyValue]:
    """Prefixes without the places that no row has any more."""
    keeps = {id(kv.keep): kv.keep[:, : _used(kv.keep)] for kv in given.values()}
    found = {}
    for index, kv in given.items():
        keep = keeps[id(kv.keep)]
        places = keep.shape[1]
        if places:
            found[index] = KeyValue(kv.key[:, :, :places], kv.value[:, :, :places], keep)
    return found


def _kept_source(source: Source, index: Int[Tensor, " kept"]) -> Source:
    mask = source.mask[index]
    length = _used(mask)
    layers = tuple((key[index, :, :length], value[index, :, :length]) for key, value in source.layers)
    return Source(layers, mask[:, :length])


def _used(mask: Bool[Tensor, "rows places"]) -> int:
    """How many places there are up to the last one that any row has."""
    return int(mask.any(0).nonzero().max()) + 1 if bool(mask.any()) else 0
