"""What a query sees where columns are not positions: the mask function registered with transformers.

The model's own rules of sight (causal, sliding, chunked) are asked about positions: of texts that are packed behind one
row (`packing.py`), and of soft keys and values that stand before the row. Else it is the plain mask function.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from promptuary.backbones.packing import Packing
from promptuary.backbones.padding import expanded
from promptuary.errors import BackboneError
from promptuary.values import Call

NAME = "promptuary"

Rule = Callable[
    ..., Any
]  # of row, head, query and key, as numbers or as tensors of them: whether the query sees the key


@dataclass(frozen=True, eq=False)
class Before:
    """Soft keys that stand before the rows, in the positions 0, 1, ...; a row that starts at 0 sees its own always.

    `padding` counts the columns of padding in front of each row.
    """

    keep: Bool[Tensor, "#batch prompt"]
    start: Int[Tensor, " batch"]
    padding: Int[Tensor, " batch"]

    @cached_property
    def whole(self) -> bool:
        """Whether no soft key is absent."""
        return bool(self.keep.all())

    def seen(self, rule: Rule, packing: Packing | None, rows: int) -> Rule:
        """Which soft keys are seen, by the model's own rule; `rows` as beams multiplied them."""
        keep, start, padding = (expanded(t, rows) for t in (self.keep, self.start, self.padding))

        def sight(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            column = query - padding[batch] if packing is None else packing.position[batch, query]
            seen: Tensor = rule(batch, head, column + start[batch], key)
            return keep[batch, key] & (seen | (start[batch] == 0))

        return sight


def before(call: Call, padding: Int[Tensor, "*batch"], layers: int, name: str) -> Before | None:
    """What stands in positions before the rows of a call, where anything does, on a model of so many attention layers.

    Raises:
        BackboneError: where that is another thing in one layer than in another: the mask is one for all.
    """
    if call.start is None or not call.keys_values:
        return None
    keeps = [kv.keep for kv in call.keys_values.values()]
    if len(keeps) < layers or any(keep is not keeps[0] for keep in keeps):
        raise BackboneError(
            f"{name!r}: soft keys and values that stand in positions must be the same ones in every layer: "
            f"expected {layers} layers that share one `keep`. Leave out Call.start, and they stand nowhere."
        )
    return Before(keeps[0], call.start, padding.expand(call.start.shape))


class _Place(threading.local):
    packing: Packing | None = None
    before: Before | None = None


_PLACE = _Place()


class Sight:
    """A context in which this thread's models see packed texts, and soft keys before their rows, by positions."""

    def __init__(self, packing: Packing | None, before: Before | None) -> None:
        self._packing, self._before = packing, before

    def __enter__(self) -> None:
        _PLACE.packing, _PLACE.before = self._packing, self._before

    def __exit__(self, *_: object) -> None:
        _PLACE.packing = _PLACE.before = None


def sighted_mask(*, mask_function: Rule = causal_mask_function, **rest: Any) -> Tensor | None:
    """The mask by the model's rule of sight; columns of soft keys that stand before the row come first in it."""
    packing, before = _PLACE.packing, _PLACE.before
    mask: Tensor | None
    if packing is None:
        mask = sdpa_mask(mask_function=mask_function, **rest)
        if before is None:
            return mask
        if mask is None and before.whole and mask_function is causal_mask_function:
            return _open(before.keep.shape[1], **rest)
        if mask is None and before.whole and mask_function is bidirectional_mask_function:
            return None
    sight = mask_function if packing is None else _packed(mask_function, packing)
    rest["allow_is_causal_skip"] = rest["allow_is_bidirectional_skip"] = False
    mask = sdpa_mask(mask_function=sight, **rest)
    if before is None:
        return mask
    seen = before.seen(mask_function, packing, rest["batch_size"])
    of_soft = {**rest, "kv_length": before.keep.shape[1], "kv_offset": 0, "attention_mask": None}
    soft: Tensor | None = sdpa_mask(mask_function=seen, **of_soft)
    assert soft is not None
    assert mask is not None  # nothing was to be skipped
    return torch.cat([soft, mask], 3)


def _open(prompt: int, *, q_length: int, kv_length: int, device: torch.device, **_: Any) -> Tensor | None:
    """The mask without padding where every query sees all soft keys: one row for all, none for a single query."""
    if q_length == 1:
        return None
    return torch.ones(q_length, prompt + kv_length, dtype=torch.bool, device=device).tril(prompt)[None, None]


def _packed(rule: Rule, packing: Packing) -> Rule:
    position, text = packing.position, packing.text

    def sight(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = rule(batch, head, position[batch, query], position[batch, key])
        return seen & ((text[batch, key] == 0) | (text[batch, key] == text[batch, query]))

    return sight


AttentionMaskInterface.register(NAME, sighted_mask)
