"""A trained linear layer on one pooled state: how P-tuning v2 classifies (Liu et al. 2022), and the usual probe."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.data.batch import Batch
from promptuary.errors import SettingError, nearest
from promptuary.readouts.readout import ClassReadout, head, in_float32
from promptuary.values import Output

States = Float[Tensor, "batch tokens hidden"]
Mask = Bool[Tensor, "batch tokens"]
Column = Int[Tensor, " batch"]
Pooled = Float[Tensor, "batch hidden"]


def first_column(mask: Mask) -> Column:
    """Where each row's first real token stands."""
    return mask.int().argmax(1)


def last_column(mask: Mask) -> Column:
    """Where each row's last real token stands."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


def first(states: States, mask: Mask) -> Pooled:
    """The state of each row's first real token ([CLS] in BERT)."""
    return states[torch.arange(len(states), device=states.device), first_column(mask)]


def last(states: States, mask: Mask) -> Pooled:
    """The state of each row's last real token, which in a causal model has read the whole row."""
    return states[torch.arange(len(states), device=states.device), last_column(mask)]


def mean(states: States, mask: Mask) -> Pooled:
    """The mean state of each row's real tokens."""
    # States at padding are undefined: they are replaced, since a product with 0 would keep a NaN.
    total = states.float().masked_fill(rearrange(~mask, "b t -> b t 1"), 0.0).sum(1)
    return total / rearrange(mask.sum(1).clamp(min=1), "b -> b 1")


POOLS: Mapping[str, Callable[[States, Mask], Pooled]] = MappingProxyType({"first": first, "mean": mean, "last": last})
COLUMNS: Mapping[str, Callable[[Mask], Column]] = MappingProxyType({"first": first_column, "last": last_column})


class Classifier(ClassReadout):
    """A linear layer from a pooled state to class scores, in float32.

    Arguments:
        classes: how many.
        dim: width of the backbone's last states (`backbone.shape.output`).
        pool: which state of the caller's own tokens: `first` (BERT's [CLS]), `mean`, or `last` (causal models).
            Soft tokens are not pooled, except where a template of the caller marks their places.
        dropout: share of the pooled state dropped while training.
        seed: of the initial weights.

    Raises:
        SettingError: for fewer than two classes, an unknown pool, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        pool: Literal["first", "mean", "last"] = "first",
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise SettingError(f"Classifier(classes={classes}): expected 2 or more.")
        if pool not in POOLS:
            raise SettingError(f"Classifier(pool={pool!r}): there is no such pool. {nearest(pool, POOLS)}")
        if not 0.0 <= dropout < 1.0:
            raise SettingError(f"Classifier(dropout={dropout}): expected a share from 0 up to 1.")
        self.head, self.pool, self.dropout = head(classes, dim, seed=seed), pool, dropout

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"] | None:
        place = COLUMNS.get(self.pool)
        return None if place is None else rearrange(place(batch.mask), "b -> b 1")

    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        pooled = POOLS[self.pool](out.hidden, batch.mask)
        return in_float32(self.head, F.dropout(pooled, self.dropout, self.training))
