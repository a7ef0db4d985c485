"""Linear layers of a frozen model on a CPU are linear layers: against einsum in float64, and the layer as it was."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from promptuary.backbones import cpu_linear
from promptuary.backbones.cpu_linear import FrozenConv1D, FrozenLinear, prepare, product
from tests.backbones import FAMILIES, fresh

CLOSE = 1e-5


def parts(*rows: int, bias: bool = True, transposed: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(*rows, 24, generator=source)
    weight = torch.randn(24, 40, generator=source).t() if transposed else torch.randn(40, 24, generator=source)
    return x, weight, torch.randn(40, generator=source) if bias else None, torch.randn(*rows, 40, generator=source)


@pytest.mark.parametrize("rows", [(7,), (1, 1), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_results_and_gradients_are_those_of_float64(rows: tuple[int, ...], bias: bool, transposed: bool) -> None:
    x, weight, offset, back = parts(*rows, bias=bias, transposed=transposed)
    exact = x.double().requires_grad_()
    expected = torch.einsum("...i,oi->...o", exact, weight.double()) + (0 if offset is None else offset.double())
    expected.backward(back.double())
    ours = x.clone().requires_grad_()
    found = product(ours, weight, offset)
    found.backward(back)
    assert exact.grad is not None
    assert ours.grad is not None
    assert (expected - found.double()).abs().max() < CLOSE * expected.abs().max()
    assert (exact.grad - ours.grad.double()).abs().max() < CLOSE * exact.grad.abs().max()
    with torch.no_grad():
        assert torch.equal(product(x, weight, offset), found)


def test_rows_that_lie_apart_in_memory_are_read_where_they_lie() -> None:
    x, weight, offset, _ = parts(5, 6)
    assert torch.allclose(product(x.transpose(0, 1), weight, offset).transpose(0, 1), product(x, weight, offset))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prepared_model_is_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, weights and answers stay, for every family; a copy is prepared too."""
    monkeypatch.setattr(cpu_linear, "pays", lambda: True)
    model = fresh(family).requires_grad_(False).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    weights, plain = {n: p.clone() for n, p in model.named_parameters()}, model(input_ids=ids, **more).logits
    prepare(model)
    kinds = {type(m) for m in model.modules()}
    assert not kinds & {nn.Linear, Conv1D}
    assert kinds & {FrozenLinear, FrozenConv1D}
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    found = model(input_ids=ids, **more).logits
    assert (found - plain).abs().max() <= CLOSE * plain.abs().max()


def test_what_does_not_suit_takes_the_plain_road(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FrozenLinear(24, 40)
    x, _, _, back = parts(3)
    with monkeypatch.context() as no:
        no.setattr(cpu_linear, "product", lambda *_: pytest.fail("took oneDNN's"))
        layer(x).backward(back)  # its weight is trained
        assert layer.weight.grad is not None
        layer.requires_grad_(False)
        layer.double()(x.double())
        layer.float()(x[:0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_where_it_does_not_pay_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "pays", lambda: False)
    model = nn.Sequential(nn.Linear(2, 3), Conv1D(3, 2))
    prepare(model)
    assert [type(m) for m in model] == [nn.Linear, Conv1D]
