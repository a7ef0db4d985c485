import pytest
import torch
from torch import nn

from promptuary.errors import SettingError
from promptuary.transforms import BiLSTM, Elementwise, Residual, Scaled, Slotwise, Transform
from promptuary.values import Prompt

P = Prompt(torch.randn(2, 3, 4), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    "made",
    [
        Slotwise(4, 6), Slotwise(4, 5, 6, activation=nn.ReLU), BiLSTM(4), Scaled(2.0), Residual(Slotwise(4, 5, 4)),
        Elementwise(nn.LayerNorm(4)),
    ],
)  # fmt: skip
def test_absent_slots_stay_absent_and_zero(made: Transform) -> None:
    absent = Prompt(P.values * P.keep[..., None], P.keep)
    q = made(absent)
    assert (q.values.shape[1], q.values.shape[2]) == made.shape(3, 4)
    assert torch.equal(q.keep, P.keep)
    assert torch.equal(q.values[1, 1], torch.zeros_like(q.values[1, 1]))
    assert bool((q.values[1, 0] != 0).any())


def test_slotwise_is_linear_activation_linear_on_each_slot() -> None:
    made = Slotwise(4, 5, 6)
    first, between, last = made.network
    assert isinstance(between, nn.Tanh)
    by_hand = torch.tanh(P.values @ first.weight.T + first.bias) @ last.weight.T + last.bias
    assert torch.allclose(made(P).values, by_hand * P.keep[..., None], atol=1e-6)
    assert len(Slotwise(4, 6).network) == 1  # nothing bounds the last layer


def test_bilstm_mixes_slots_in_both_directions_and_slotwise_does_not() -> None:
    for made, mixes in ((BiLSTM(4), True), (Slotwise(4, 4), False)):
        values = P.values.clone().requires_grad_()
        made(Prompt(values, torch.ones(2, 3))).values[0, 1].sum().backward()
        assert values.grad is not None
        reached = (values.grad[0].abs().sum(1) > 0).tolist()
        assert reached == ([True, True, True] if mixes else [False, True, False])
        assert not values.grad[1].any()  # rows never mix


def test_scaled_multiplies() -> None:
    assert torch.equal(Scaled(0.5)(P).values, P.values * 0.5)


def test_a_residual_adds_what_its_transforms_make_in_turn() -> None:
    down, norm = Slotwise(4, 5, 4, activation=nn.ReLU), Elementwise(nn.LayerNorm(4))
    first, _, last = down.network
    made = torch.relu(P.values @ first.weight.T + first.bias) @ last.weight.T + last.bias
    centred = made - made.mean(-1, keepdim=True)
    by_hand = P.values + 0.5 * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    found = Residual(down, norm, Scaled(0.5))(P).values
    assert torch.allclose(found, by_hand * P.keep[..., None], atol=1e-5)
    assert torch.equal(Residual(Scaled(0.0))(P).values, P.values * P.keep[..., None])
    with pytest.raises(SettingError, match=r"\(3, 6\) of \(3, 4\); expected the same"):
        Residual(Slotwise(4, 6)).shape(3, 4)


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(SettingError, match="at least two sizes"):
        Slotwise(4)
    with pytest.raises(SettingError, match="even width"):
        BiLSTM(5)
    for made in (Slotwise(4, 5), BiLSTM(4)):
        with pytest.raises(SettingError, match="4 numbers, got 3"):
            made.shape(2, 3)
