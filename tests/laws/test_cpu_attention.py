"""Attention on a CPU with gradients in bfloat16 is attention: against einsum and an explicit softmax in float64."""

import pytest
import torch
from torch import Tensor

from promptuary.backbones import cpu_attention

ROUNDING = 2.0**-8  # of one number in bfloat16


def oracle(query: Tensor, key: Tensor, value: Tensor, added: Tensor, scale: float) -> Tensor:
    each = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    weights = (torch.einsum("bhqd,bhkd->bhqk", query, key) * scale + added).exp()
    return torch.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdim=True), value)


def tensors(rows: int, queries: int, heads: int, asking: int, own: int) -> list[Tensor]:
    made = [(rows, queries, asking, 8), (rows, heads, own, 8), (rows, heads, own, 6), (rows, queries, asking, 6)]
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draw).bfloat16() for shape in made]


MASKS = {
    "none": None,
    "rows": torch.arange(7)[None, None, None] < torch.tensor([7, 3, 1, 5, 6])[:, None, None, None],
    "causal": torch.ones(4, 7, dtype=torch.bool).tril(3)[None, None],
    "added": -(torch.arange(4 * 7.0).reshape(1, 1, 4, 7) % 5).bfloat16(),
    "added in float32": torch.zeros(1, 1, 4, 7).index_fill(3, torch.tensor([2]), torch.finfo(torch.float32).min),
    "each head": (torch.arange(4 * 4 * 7.0).reshape(1, 4, 4, 7) % 3).bfloat16(),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(("block", "kept"), [(1 << 20, 1 << 23), (1, 1 << 23), (224, 0)])
def test_results_and_gradients_are_those_of_float64(
    mask: str, heads: int, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "BLOCK", block)  # all rows at once, each alone, two at a time
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    query, key, value, back = tensors(5, 4, heads, 4, 7)
    given = MASKS[mask]
    added = torch.zeros(1, 1, 1, 7) if given is None else given
    added = torch.where(added, 0.0, -1e30) if added.dtype == torch.bool else added
    exact = [t.double().requires_grad_() for t in (query, key, value)]
    ours = [t.requires_grad_() for t in (query, key, value)]
    expected = oracle(*exact, added.double(), 0.3)
    found = cpu_attention.attention(*ours, given, 0.3)
    expected.backward(back.double())
    found.backward(back)
    for name, a, b in zip("oqkv", [expected, *(t.grad for t in exact)], [found, *(t.grad for t in ours)], strict=True):
        assert a is not None
        assert b is not None
        assert b.dtype == torch.bfloat16
        assert (a - b.double()).abs().max() < 4 * ROUNDING * a.abs().max(), name


@pytest.mark.parametrize("own", [7, 32])
@pytest.mark.parametrize("of", ["each head", "all heads", "each row"])
@pytest.mark.parametrize(("block", "kept"), [(1, 1 << 23), (1 << 20, 1 << 23), (1 << 20, 0)])
def test_what_is_added_to_the_scores_has_its_gradient_where_it_is_trained(
    own: int, of: str, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "BLOCK", block)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    query, key, value, back = tensors(5, 4, 2, 4, own)
    shape = {"each head": (1, 4, 4, own), "all heads": (1, 1, 4, own), "each row": (5, 1, 4, own)}[of]
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    exact = [t.double().requires_grad_() for t in (query, key, value, bias)]
    ours = [t.requires_grad_() for t in (query, key, value, bias)]
    oracle(*exact, 0.3).backward(back.double())
    cpu_attention.attention(*ours, 0.3).backward(back)
    for a, b in zip(exact, ours, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad - b.grad.double()).abs().max() < 4 * ROUNDING * a.grad.abs().max()


@pytest.mark.parametrize("own", [31, 32, 33, 64])
@pytest.mark.parametrize("masked", [True, False])
def test_rows_as_long_as_registers_and_others_are_the_same_attention(own: int, masked: bool) -> None:
    query, key, value, back = tensors(3, 4, 2, 5, own)
    mask = torch.arange(own)[None, None, None] < torch.tensor([own, 1, own - 3])[:, None, None, None]
    exact = [t.double().requires_grad_() for t in (query, key, value)]
    ours = [t.requires_grad_() for t in (query, key, value)]
    expected = oracle(*exact, torch.where(mask, 0.0, -1e30).double() if masked else torch.zeros(1).double(), 0.3)
    found = cpu_attention.attention(*ours, mask if masked else None, 0.3)
    assert found.dtype == torch.bfloat16
    expected.backward(back.double())
    found.backward(back)
    for a, b in zip([expected, *(t.grad for t in exact)], [found, *(t.grad for t in ours)], strict=True):
        assert (a - b.double()).abs().max() < 4 * ROUNDING * a.abs().max()


def test_only_wanted_gradients_are_made() -> None:
    query, key, value, back = tensors(2, 4, 4, 4, 7)
    key.requires_grad_()
    cpu_attention.attention(query, key, value, None, None).backward(back)
    assert query.grad is None
    assert value.grad is None
    assert key.grad is not None


def test_under_autocast_the_type_of_the_rest_stays() -> None:
    query, key, value, back = (t.requires_grad_() for t in tensors(2, 4, 4, 4, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cpu_attention.attention(query, key, value, MASKS["added in float32"], None)
    found.backward(back)
    assert found.dtype == torch.bfloat16


def test_it_is_for_gradients_in_bfloat16_alone() -> None:
    query, key, value, _ = tensors(2, 4, 4, 4, 7)
    assert not cpu_attention.pays(query, key, value)
    wanted = key.clone().requires_grad_()
    assert cpu_attention.pays(query, wanted, value)
    with torch.no_grad():
        assert not cpu_attention.pays(query, wanted, value)
    assert not cpu_attention.pays(query.float(), wanted, value)


@pytest.mark.parametrize("kept", [0, 1 << 23])
def test_what_is_dropped_is_dropped_in_both_passes(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "BLOCK", 224)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    query, key, _, _ = tensors(5, 4, 2, 4, 7)
    unit = torch.eye(7).bfloat16().expand(5, 2, 7, 7).clone()  # with these values the result is the weights themselves
    ours = [t.requires_grad_() for t in (query, key, unit)]
    found = cpu_attention.attention(*ours, None, 0.3, dropout=0.25)
    back = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found.backward(back)
    left = found.detach() != 0
    assert 0.1 < 1 - left.double().mean() < 0.4
    exact = [t.detach().double().requires_grad_() for t in ours]
    expected = oracle(*exact[:2], torch.eye(7).double().expand(5, 2, 7, 7), torch.zeros(1).double(), 0.3) * left / 0.75
    expected.backward(back.double())
    assert (expected - found.double()).abs().max() < 4 * ROUNDING
    for a, b in zip(exact[:2], ours[:2], strict=True):
        assert (a.grad - b.grad.double()).abs().max() < 4 * ROUNDING * a.grad.abs().max()
    each = expected.detach().reshape(5, 2, 8, 7).mT @ back.double().reshape(5, 2, 8, 7)
    assert (each - unit.grad.double()).abs().max() < 4 * ROUNDING * each.abs().max()


def test_so_many_are_dropped_and_the_mean_stays() -> None:
    stays, factor = cpu_attention._left(torch.zeros(64, 64, 4, 63), 0.1)
    assert abs(1 - stays.double().mean() - 0.1) < 0.002
    assert abs(factor - 1 / 0.9) < 1e-4
    halves = stays.double().mean((0, 1, 2))
    assert (halves - 0.9).abs().max() < 0.02, "every column is as likely"
