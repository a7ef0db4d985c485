"""Rows of several batches below one another, padded to the largest of every axis with what is masked or not read."""

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from promptuary.values import Targets


def stack(parts: Sequence[Shaped[Tensor, "_ *own"]]) -> Shaped[Tensor, "rows *shape"]:
    """Rows below one another, every other axis padded behind with zeros to the longest."""
    sizes = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [size - own for size, own in zip(sizes, part.shape[1:], strict=True)]
        padded.append(F.pad(part, [n for size in reversed(missing) for n in (0, size)]) if any(missing) else part)
    return torch.cat(padded)


def targets(each: Sequence[Targets | None], rows: Sequence[int]) -> Targets | None:
    """The texts of all rows; those of a batch without any are masked.

    Arguments:
        rows: of each batch.
    """
    given = [own for own in each if own is not None]
    if not given or len(each) == 1:
        return given[0] if given else None
    empty = [given[0].ids.new_zeros(count, 0, 0) for count in rows]
    ids = [none if own is None else own.ids for own, none in zip(each, empty, strict=True)]
    mask = [none.bool() if own is None else own.mask for own, none in zip(each, empty, strict=True)]
    # Many short texts in one batch and a long one in another: no row has as many tokens as the padding has room for.
    return Targets(stack(ids), stack(mask), fed=max(t.ids.shape[1] * (t.ids.shape[2] - 1) for t in given))


def columns(each: Sequence[Int[Tensor, "_ _"] | None]) -> Int[Tensor, "rows read"] | None:
    """What is read of all rows, or `None` where a batch does not say; of a row with fewer columns than another, its
    first token too.
    """
    known = [own for own in each if own is not None]
    return stack(known) if len(known) == len(each) else None
