"""A frozen norm as one operation is the one that transformers writes, and no other norm is taken for it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from promptuary.backbones import norm
from tests.backbones import FAMILIES, backbone, bare

WIDTH = 48


def made(kind: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen norm with a weight of its own."""
    module: nn.Module = kind(WIDTH)
    source = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=source)
    return module.to(dtype).requires_grad_(False)


def fused(module: nn.Module) -> nn.Module:
    twin = nn.Sequential(copy.deepcopy(module))
    norm.fuse(twin)
    return twin[0]


def exact(x: Tensor, weight: Tensor, eps: float, back: Tensor) -> tuple[Tensor, Tensor]:
    """Result and gradient in float64, by the definition."""
    wide = x.double().requires_grad_()
    rms = (torch.einsum("...w,...w->...", wide, wide) / x.shape[-1] + eps).sqrt()
    out = torch.einsum("w,...w,...->...w", weight.double(), wide, 1 / rms)
    (gradient,) = torch.autograd.grad(out, wide, back.double())
    return out.detach(), gradient


@pytest.mark.parametrize("kind", [T5LayerNorm, LlamaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(5,), (3, 7), (2, 3, 4)])
def test_results_and_gradients_are_those_of_the_definition(
    kind: Any, dtype: torch.dtype, rows: tuple[int, ...]
) -> None:
    plain = made(kind, dtype)
    ours, source = fused(plain), torch.Generator().manual_seed(2)
    assert isinstance(ours, kind)
    assert type(ours) is not kind
    x, back = (2 * torch.randn(*rows, WIDTH, generator=source).to(dtype) for _ in range(2))
    expected, gradient = exact(x, plain.weight, norm._eps(plain), back)  # type: ignore[arg-type]
    given = x.clone().requires_grad_()
    found = ours(given)
    found.backward(back)
    assert given.grad is not None
    near = (4 if dtype == torch.bfloat16 else 64) * torch.finfo(dtype).eps
    for got, true in ((found, expected), (given.grad, gradient)):
        assert got.dtype == dtype
        assert (got.double() - true).abs().max() <= near * true.abs().max()
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))
    assert torch.equal(given, x)  # the input is not written into


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_root_is_taken_in_float32_too(dtype: torch.dtype) -> None:
    plain, source = made(LlamaRMSNorm, dtype), torch.Generator().manual_seed(5)
    x, back = (2 * torch.randn(9, WIDTH, generator=source).to(dtype) for _ in range(2))
    found = []
    for casting in (False, True):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=casting):
            out = fused(plain)(given)
            out.backward(back)
        found.append((out, given.grad))
    for alone, cast in zip(*found, strict=True):
        assert torch.equal(alone, cast)


def test_norms_of_one_class_with_and_without_a_weight_are_looked_at_one_by_one() -> None:
    class Optional(LlamaRMSNorm):  # type: ignore[misc]
        def __init__(self, width: int, with_scale: bool = True) -> None:
            super().__init__(width)
            if not with_scale:
                del self.weight

        def forward(self, hidden_states: Tensor) -> Tensor:
            if hasattr(self, "weight"):
                return super().forward(hidden_states)
            return hidden_states * hidden_states.pow(2).mean(-1, keepdim=True).add(self.variance_epsilon).rsqrt()

    Optional.__module__ = LlamaRMSNorm.__module__
    for order in ((True, False), (False, True)):
        both = nn.Sequential(*(Optional(WIDTH, with_scale) for with_scale in order)).requires_grad_(False)
        x = torch.randn(3, WIDTH, requires_grad=True)
        before = both(x)
        norm.fuse(both)
        torch.testing.assert_close(both(x), before)
        assert [type(module) is Optional for module in both] == [not with_scale for with_scale in order]


def test_a_norm_that_is_another_function_stays() -> None:
    class Gated(LlamaRMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
            normed: Tensor = super().forward(hidden_states)
            return normed if gate is None else normed * gate

    class Shifted(LlamaRMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) + 1e-3

    for kind in (GemmaRMSNorm, nn.LayerNorm, nn.RMSNorm):
        assert type(fused(made(kind))) is kind
    for kind in (Shifted, Gated):
        kind.__module__ = LlamaRMSNorm.__module__
        assert type(fused(made(kind))) is kind


def test_a_weight_that_is_trained_and_another_precision_take_the_plain_road(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, x = fused(made(LlamaRMSNorm)), torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(norm, "norm", lambda *_: pytest.fail("took the one operation"))
    assert ours(x.bfloat16().requires_grad_()).dtype == torch.float32  # as transformers' own
    copy.deepcopy(ours).double()(x.double().requires_grad_())
    ours.requires_grad_(True)
    ours(x.requires_grad_()).sum().backward()
    assert ours.weight.grad is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_such_norms_takes_it_and_the_model_says_the_same(family: str) -> None:
    found, plain = backbone(family).model, bare(family)
    theirs = {type(m).__name__ for m in plain.modules()}
    ours = {type(m).__name__ for m in found.modules()}
    expected = {name for name in theirs if name.endswith("RMSNorm") or name == "T5LayerNorm"}
    expected = {name for name in expected if not name.startswith("Gemma")}
    assert {f"Frozen{name}" for name in expected} <= ours
    assert not expected & ours
    assert [n for n, _ in found.named_parameters()] == [n for n, _ in plain.named_parameters()]
