"""Linear layers of a frozen model on a CPU: oneDNN's matrix product, where it beats the one PyTorch takes.

In float32 PyTorch hands products to the mathematics library it was built with, which on some processors runs at less
than half of what oneDNN reaches. There oneDNN takes the weights as they lie, also transposed for the backward pass.

In bfloat16 PyTorch takes oneDNN itself, which lays the weights out for the processor's matrix units at every call. Here
a frozen weight is laid out once; transposed too, for the backward pass, where that is asked for with few tokens: with
many, the layout is the smaller part of the work. What is laid out takes memory beside the model, up to `ROOM` in all.

A frozen weight has no gradient: the backward pass is one product. The gains: `benchmarks/speed/linear.py`.

Results of the two roads differ in the last bits, so a decision is kept (`measured.py`), every record tells it
(`roads`), and `PRODUCTS` in the environment makes it.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from promptuary.backbones.measured import measured
from promptuary.errors import SettingError

PRODUCTS = "PROMPTUARY_PRODUCTS"  # the environment variable that says which road products take
GAIN = 1.2  # below, it is not worth another road
ROOM = 2 << 30  # bytes of laid out weights in a process; a layer that finds no room is multiplied as it lies
FEW = 512  # tokens, up to which a weight that was laid out is the faster one for the backward pass too


def prepare(model: nn.Module) -> None:
    """Let the linear layers of a frozen model take the faster product, where this machine has one.

    The layers stay what they were, with their weights and names; another device or precision, a compiler and a weight
    or bias that is trained take the plain road.
    """
    if not (pays() or lays()):
        return
    for module in model.modules():
        kind = KINDS.get(type(module))
        if kind is not None:
            module.__class__ = kind


class FrozenLinear(nn.Linear):
    """`nn.Linear` whose weight is frozen."""

    def forward(self, input: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        if not _suits(input, self.weight, self.bias):
            return super().forward(input)
        return product(input, self.weight, self.bias, self)


class FrozenConv1D(Conv1D):
    """The linear layer of GPT-2, whose weight lies transposed."""

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        if not _suits(x, self.weight, self.bias):
            return cast("Tensor", super().forward(x))  # type: ignore[no-untyped-call]
        return product(x, self.weight.t(), self.bias, self)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FrozenLinear, Conv1D: FrozenConv1D}


def product(
    input: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
    owner: nn.Module | None = None,
) -> Float[Tensor, "*rows outputs"]:
    """`F.linear` by oneDNN; a gradient reaches the input alone.

    Arguments:
        owner: the layer that the weight belongs to: in bfloat16 it is laid out once for it.
    """
    if torch.is_grad_enabled() and input.requires_grad:
        return cast("Tensor", _Product.apply(input, weight, bias, owner))  # type: ignore[no-untyped-call]
    return _product(input, _laid(weight, owner, turned=False), bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, owner: nn.Module | None) -> Tensor:
        ctx.weight, ctx.owner = weight, owner  # it is frozen: nobody writes into it between the passes
        return _product(input, _laid(weight, owner, turned=False), bias)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        [back] = given
        if back.dtype == torch.bfloat16 and back.numel() > FEW * back.shape[-1]:
            return back @ ctx.weight, None, None, None
        return _product(back, _laid(ctx.weight, ctx.owner, turned=True), None), None, None, None


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    done: Tensor = torch.ops.mkldnn._linear_pointwise(input.contiguous(), weight, bias, "none", [], "")
    return done


@dataclass
class _Layouts:
    """A layer's weight as it was laid out, for the pass forward (`False`) and the pass back (`True`).

    Arguments:
        mark: which numbers these are: a weight that moved or was written into (but for by way of `.data`, which leaves
            no trace) is laid out anew.
        by_pass: the weight as it lies, where it found no room.
    """

    mark: tuple[int, int]
    by_pass: dict[bool, Tensor] = field(default_factory=dict)
    bytes: int = 0


def forget(layer: nn.Module) -> None:
    """Give back what was laid out for a layer that is multiplied otherwise from now on."""
    with _LOCK:
        _LAYOUTS.pop(layer, None)


_LAYOUTS: WeakKeyDictionary[nn.Module, _Layouts] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _laid(weight: Tensor, owner: nn.Module | None, *, turned: bool) -> Tensor:
    """The weight as oneDNN multiplies it fastest, transposed if `turned`; as it lies in float32, and without room."""
    if owner is None or weight.dtype != torch.bfloat16 or weight.is_inference():
        return weight.t() if turned else weight
    mark = (weight.data_ptr(), weight._version)
    known = _LAYOUTS.get(owner)
    if known is not None and known.mark == mark and turned in known.by_pass:
        return known.by_pass[turned]
    with _LOCK, torch.no_grad():
        known = _LAYOUTS.get(owner)
        if known is None or known.mark != mark:
            known = _LAYOUTS[owner] = _Layouts(mark)
        plain, size = weight.t() if turned else weight, weight.numel() * weight.element_size()
        if sum(own.bytes for own in _LAYOUTS.values()) + size > ROOM:
            known.by_pass[turned] = plain
        else:
            known.by_pass[turned] = torch.ops.mkldnn._reorder_linear_weight(plain.contiguous())
            known.bytes += size
        return known.by_pass[turned]


def _suits(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if trained or input.device.type != "cpu" or input.dtype != weight.dtype or not input.numel():
        return False
    if torch.compiler.is_compiling():
        return False
    casting = torch.is_autocast_enabled("cpu")
    if input.dtype == torch.bfloat16:
        return lays() and (not casting or torch.get_autocast_dtype("cpu") == torch.bfloat16)
    return input.dtype == torch.float32 and not casting and pays()


@cache
def pays() -> bool:
    """Whether products in float32 take oneDNN's road: by default where a measurement of some milliseconds, the first
    one on such a machine, found it clearly the faster one.

    Raises:
        SettingError: for an unknown word in the environment (`PRODUCTS`).
    """
    return _taken("float32", _known(), _pays)


@cache
def lays() -> bool:
    """Whether products in bfloat16 take the road of weights that were laid out before; decided as `pays`."""
    return _taken("bfloat16", _known() and torch.ops.mkldnn._is_mkldnn_bf16_supported(), _lays)


def roads() -> dict[str, str]:
    """Which road products take in each precision: what a record tells of its run."""
    return {"float32": "onednn" if pays() else "plain", "bfloat16": "onednn" if lays() else "plain"}


def _taken(precision: str, there: bool, faster: Callable[[], bool]) -> bool:
    asked = os.environ.get(PRODUCTS, "measured")
    if asked not in ("measured", "onednn", "plain"):
        raise SettingError(
            f"{PRODUCTS}={asked!r} in the environment: expected 'onednn', 'plain' or 'measured', which is what holds "
            "where it is not set."
        )
    return there and asked != "plain" and (asked == "onednn" or bool(measured(f"products in {precision}", faster)))


def _pays() -> bool:
    source = torch.Generator().manual_seed(0)
    input, weight = (torch.rand(256, 384, generator=source) for _ in range(2))
    return _faster(lambda: F.linear(input, weight), lambda: _product(input, weight, None))


def _lays() -> bool:
    source = torch.Generator().manual_seed(0)
    input, weight = (torch.rand(rows, 384, generator=source).bfloat16() for rows in (128, 1536))
    laid = torch.ops.mkldnn._reorder_linear_weight(weight)
    return _faster(lambda: F.linear(input, weight), lambda: _product(input, laid, None))


@cache
def bfloat16_cost() -> float:
    """How many times as long a product takes in bfloat16 as in float32: processors without units for it are several
    times slower. By the first measurement on such a machine.
    """
    return measured("cost of bfloat16", _bfloat16_cost)


def _bfloat16_cost() -> float:
    source = torch.Generator().manual_seed(0)
    input, weight = (torch.rand(rows, 384, generator=source) for rows in (256, 1536))
    small = input.bfloat16(), weight.bfloat16()
    own, other = _best(lambda: F.linear(*small), lambda: F.linear(input, weight))
    return own / other


def _known() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))


def _faster(plain: Callable[[], Tensor], ours: Callable[[], Tensor]) -> bool:
    """Whether ours is clearly the faster way. They take turns: what else the machine does meets both."""
    first, second = _best(plain, ours)
    return first > GAIN * second


def _best(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> tuple[float, float]:
    """The shortest time of each, in seconds."""
    with torch.no_grad():
        turns = [(_seconds(one), _seconds(other)) for _ in range(16)]
    return min(first for first, _ in turns), min(second for _, second in turns)


def _seconds(way: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
