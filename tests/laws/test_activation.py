"""The activation as one operation is the one that transformers writes, and every model that has it takes it."""

import pytest
import torch
from torch import Tensor
from transformers.activations import NewGELUActivation

from promptuary.backbones.activation import FusedGELU, fuse
from tests.backbones import backbone, bare


def parts(way: torch.nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    """Its values, and the gradient of their sum."""
    given = given.clone().requires_grad_()
    found = way(given)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    return found.detach(), gradient


@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 8), (torch.float64, 64)])
def test_values_and_gradient_are_those_of_transformers(dtype: torch.dtype, units: int) -> None:
    given = torch.linspace(-9, 9, 3001, dtype=dtype)
    exact = [t.to(dtype) for t in parts(NewGELUActivation(), given.double())]
    for found, expected in zip(parts(FusedGELU(), given), exact, strict=True):
        assert (found - expected).abs().max() <= units * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_nearer_to_the_function_than_transformers_is(dtype: torch.dtype) -> None:
    given = torch.linspace(-9, 9, 3001, dtype=dtype)
    exact = parts(NewGELUActivation(), given.double())
    ours, theirs = (parts(way, given) for way in (FusedGELU(), NewGELUActivation()))
    for true, own, other in zip(exact, ours, theirs, strict=True):
        errors = [(found.double() - true).abs() for found in (own, other)]
        assert errors[0].mean() < errors[1].mean()
        assert errors[0].max() <= errors[1].max()
        assert torch.allclose(own.double(), true, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_a_model_takes_it_and_another_stays_as_it_was() -> None:
    kinds = {type(m) for m in backbone("gpt2").model.modules()}
    assert FusedGELU in kinds
    assert NewGELUActivation not in kinds
    assert FusedGELU not in {type(m) for m in bare("gpt2").modules()}
    own = torch.nn.Sequential(torch.nn.GELU(), NewGELUActivation())
    fuse(own)
    assert [type(m) for m in own] == [torch.nn.GELU, FusedGELU]
