"""What keys become when everything behind them stands some positions further on.

A soft key stands nowhere. An engine that keeps a prefix in its cache gives it the positions 0 to P - 1, and every
query behind it then stands P positions further on than it did while the prefix was tuned. Where positions are
rotations of queries and keys (RoFormer, Su et al. 2021, section 3.2), soft keys turned by the same P positions say
the very same. How far that is, is measured in each layer on the model's own keys: so every family's way to pair
numbers, its frequencies and their scaling are the model's.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from promptuary.backbones.backbone import Backbone, call_with
from promptuary.errors import BackboneError

Pairs = tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]


def turned(backbone: Backbone, table: Float[Tensor, "prompt width"], by: int) -> Float[Tensor, "prompt width"]:
    """Soft keys and values of a causal model for an input that stands `by` positions further on (back, if negative).

    Raises:
        BackboneError: where positions are more than rotations of queries and keys (GPT-2 adds them to the input).
    """
    if by == 0:
        return table
    loose = torch.finfo(backbone.dtype).eps ** 0.75
    here, there = (_keys_values(backbone, position) for position in ((0, by) if by > 0 else (-by, 0)))
    sizes = [n for a in backbone.shape.attention for n in (a.heads * a.key, a.heads * a.value)]
    parts = list(torch.split(table.cpu(), sizes, dim=1))
    for layer, (a, (key, value), (moved, same)) in enumerate(zip(backbone.shape.attention, here, there, strict=True)):
        angles = None if _apart(value, same, loose) else _angles(key, moved, loose)
        if angles is None:
            raise BackboneError(
                f"{backbone.name!r} ({backbone.shape.family}) does more with a position than turn queries and keys, "
                "so this prefix cannot be given positions. Tune one that has them: --set counted=true."
            )
        soft = rearrange(parts[2 * layer], "p (heads k) -> p heads k", heads=a.heads)
        parts[2 * layer] = rearrange(_turn(soft.double(), *angles).to(table.dtype), "p heads k -> p (heads k)")
    return torch.cat(parts, 1)


def _keys_values(backbone: Backbone, position: int) -> list[tuple[Float[Tensor, "n key"], Float[Tensor, "n value"]]]:
    """Each layer's keys and values of some tokens, each by itself at this position."""
    ids = torch.linspace(0, backbone.shape.vocabulary - 1, 64, device=backbone.device).long()
    ids = rearrange(ids, "n -> n 1")
    with torch.no_grad(), backbone.attachment.recording() as notes:
        call_with(
            backbone.towers(backbone.model)[0][0],
            input_ids=ids,
            position_ids=torch.full_like(ids, position),
            use_cache=False,
        )
    return [(_flat(key), _flat(value)) for _, _, key, value in notes]


def _flat(states: Float[Tensor, "rows heads 1 numbers"]) -> Float[Tensor, "n numbers"]:
    return rearrange(states, "rows heads 1 numbers -> (rows heads) numbers").double().cpu()


def _angles(
    keys: Float[Tensor, "n key"], moved: Float[Tensor, "n key"], loose: float
) -> tuple[Pairs, Float[Tensor, " pairs"]] | None:
    """Which numbers of a key turn together, and how far; `None` where keys are not turned."""
    for first, second in _pairings(keys.shape[1]):
        old = torch.complex(keys[:, first], keys[:, second])
        new = torch.complex(moved[:, first], moved[:, second])
        angles = (old.conj() * new).sum(0).angle()
        if not _apart(_turn(keys, (first, second), angles), moved, loose):
            return (first, second), angles
    return None


def _pairings(width: int) -> Iterator[Pairs]:
    """Ways to pair the numbers of a key: its halves or neighbours (GPT-J), of all numbers or of the first ones."""
    for rotated in range(width - width % 2, 0, -2):
        numbers = torch.arange(rotated)
        yield numbers[: rotated // 2], numbers[rotated // 2 :]
        yield numbers[::2], numbers[1::2]


def _turn(
    keys: Float[Tensor, "*rows key"], pairs: Pairs, angles: Float[Tensor, " pairs"]
) -> Float[Tensor, "*rows key"]:
    first, second = pairs
    one, other = keys[..., first], keys[..., second]
    turned = keys.clone()
    turned[..., first] = one * angles.cos() - other * angles.sin()
    turned[..., second] = one * angles.sin() + other * angles.cos()
    return turned


def _apart(one: Tensor, other: Tensor, loose: float) -> bool:
    """Whether two tensors differ by more than that share of their largest number."""
    return bool((one - other).abs().max() > loose * one.abs().max())
