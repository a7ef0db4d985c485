"""Linear layers of a frozen model in float32 on a CPU: oneDNN's matrix product, where it beats the one PyTorch takes.

PyTorch hands products of float32 to the mathematics library it was built with, which on some processors runs at less
than half of what oneDNN reaches (`benchmarks/speed/linear.py`). oneDNN takes the weights as they lie, also transposed
for the backward pass, so nothing is copied or packed. A frozen weight has no gradient: that pass is one product.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

GAIN = 1.2  # below, it is not worth another road


def prepare(model: nn.Module) -> None:
    """Let the linear layers of a frozen model take the faster product, where this machine has one.

    The layers stay what they were, with their weights and names; another device or precision, autocast, a compiler and
    a weight or bias that is trained take the plain road.
    """
    if not pays():
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
        return product(input, self.weight, self.bias)


class FrozenConv1D(Conv1D):
    """The linear layer of GPT-2, whose weight lies transposed."""

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        if not _suits(x, self.weight, self.bias):
            return cast("Tensor", super().forward(x))  # type: ignore[no-untyped-call]
        return product(x, self.weight.t(), self.bias)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FrozenLinear, Conv1D: FrozenConv1D}


def product(
    input: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "*rows outputs"]:
    """`F.linear` by oneDNN; a gradient reaches the input alone."""
    if torch.is_grad_enabled() and input.requires_grad:
        return cast("Tensor", _Product.apply(input, weight, bias))  # type: ignore[no-untyped-call]
    return _product(input, weight, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # it is frozen: nobody writes into it between the passes
        return _product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        return _product(given[0], ctx.weight.t(), None), None, None


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    done: Tensor = torch.ops.mkldnn._linear_pointwise(input.contiguous(), weight, bias, "none", [], "")
    return done


def _suits(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    plain = input.dtype == weight.dtype == torch.float32 and input.device.type == "cpu" and not trained
    return plain and input.numel() > 0 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


@cache
def pays() -> bool:
    """Whether oneDNN's product is clearly the faster one on this machine, by a measurement of some milliseconds."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not known or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    source = torch.Generator().manual_seed(0)
    input, weight = (torch.rand(256, 384, generator=source) for _ in range(2))
    with torch.no_grad():
        ways: list[Callable[[], Tensor]] = [lambda: F.linear(input, weight), lambda: _product(input, weight, None)]
        plain, ours = (min(_seconds(way) for _ in range(7)) for way in ways)
    return plain > GAIN * ours


def _seconds(way: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
