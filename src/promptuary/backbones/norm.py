"""The root mean square norm (Zhang and Sennrich 2019) of T5, Llama and their relatives as one step of the chain rule.

transformers writes it as seven operations in float32, and each keeps what its own way back needs. The weight of a
frozen model has no gradient: the input and one number a token are all that is kept, and the way back takes half the
time or less (`benchmarks/speed/norm.py`). Families whose norm is another function (Gemma adds 1 to the weight) keep
theirs: it is tried when a model is loaded.
"""

import copy
import inspect
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

States = Float[Tensor, "*rows width"]


def fuse(model: nn.Module) -> None:
    """Let a frozen model's norms be one operation, where they are this function; modules keep names and weights."""
    same: dict[type[nn.Module], bool] = {}
    for module in model.modules():
        kind = type(module)
        if not _looks_so(module):  # Gemma 3n has norms of one class with and without a weight
            continue
        if kind not in same:
            same[kind] = _is_so(module)
        if same[kind]:
            module.__class__ = _frozen(kind)


def norm(x: States, weight: Float[Tensor, " width"], eps: float) -> States:
    """`weight * x / rms(x)`, with `eps` under the root; the root is taken in float32. A gradient reaches `x` alone."""
    return cast("Tensor", _Norm.apply(x, weight, eps))  # type: ignore[no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = _dot(wide, wide).div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse)
        ctx.weight = weight  # it is frozen: nobody writes into it between the passes
        unit = wide * inverse if wide is x else wide.mul_(inverse)
        return unit.to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse = ctx.saved_tensors
        back, unit = _wide(given * ctx.weight), _wide(x).mul_(inverse)
        along = _dot(back, unit).div_(x.shape[-1])
        return back.sub_(unit.mul_(along)).mul_(inverse).to(x.dtype), None, None


def _dot(a: States, b: States) -> Float[Tensor, "*rows 1"]:
    """Products of rows in float32, which an autocast would take in half precision."""
    with torch.autocast(a.device.type, enabled=False):
        found: Tensor = torch.linalg.vecdot(a, b)
        return found.unsqueeze(-1)


def _wide(x: Tensor) -> Tensor:
    """A copy in float32, to be written into."""
    return x.to(torch.float32, copy=True)


class _Frozen(nn.Module):
    """A family's norm whose weight is frozen; where no gradient is wanted, the family's own code is as fast."""

    weight: Tensor

    def forward(self, hidden_states: States) -> States:
        x, weight = hidden_states, self.weight
        wanted = torch.is_grad_enabled() and x.requires_grad and not weight.requires_grad
        if not wanted or x.dtype != weight.dtype or x.dtype == torch.float64 or torch.compiler.is_compiling():
            return cast("Tensor", super().forward(x))
        return norm(x, weight, _eps(self))


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _KINDS:
        _KINDS[kind] = type(f"Frozen{kind.__name__}", (_Frozen, kind), {})
    return _KINDS[kind]


def _eps(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)))


def _looks_so(module: nn.Module) -> bool:
    """Whether it has a vector and a small number, and nothing else, as such norms do."""
    parts = dict(module.named_parameters())
    named = type(module).__module__.startswith("transformers.") and not isinstance(module, _Frozen)
    if not named or set(parts) != {"weight"} or _eps(module) <= 0:
        return False
    if len(inspect.signature(module.forward).parameters) != 1:  # a norm with a gate
        return False
    return parts["weight"].dim() == 1 and parts["weight"].dtype != torch.float64


@torch.no_grad()
def _is_so(module: nn.Module) -> bool:
    """Whether it says of random numbers, under a random weight, what `norm` says."""
    twin, source = copy.deepcopy(module), torch.Generator().manual_seed(0)
    weight = cast("Tensor", twin.weight)
    weight.copy_(torch.randn(weight.shape, generator=source))
    x = (3 * torch.randn(3, *weight.shape, generator=source)).to(weight)
    try:
        theirs, ours = twin(x), norm(x, weight, _eps(twin))
    except Exception:  # whatever it wants beside the states, it is no such norm
        return False
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return False
    return bool(torch.allclose(theirs, ours, rtol=4 * torch.finfo(x.dtype).eps, atol=0.0))
