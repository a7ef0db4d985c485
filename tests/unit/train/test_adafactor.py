"""Adafactor against a loop in plain numpy, and against the one of transformers where the two agree."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from transformers.optimization import Adafactor as FactoredAdafactor

from promptuary.errors import SettingError
from promptuary.train.adafactor import Adafactor

Matrix = NDArray[np.float64]


def plain_loop(p: Matrix, gradients: list[Matrix], rate: float, decay: float, *, factored: bool) -> Matrix:
    """The update of specification A3, number by number."""
    v = np.zeros_like(p)
    rows, columns = np.zeros(len(p)), np.zeros(p.shape[1])
    for t, g in enumerate(gradients, start=1):
        b = 1 - t**-0.8
        squares = g**2 + 1e-30
        v = b * v + (1 - b) * squares
        rows = b * rows + (1 - b) * np.array([row.sum() / len(row) for row in squares])
        columns = b * columns + (1 - b) * np.array([column.sum() / len(column) for column in squares.T])
        moment = np.outer(rows, columns) / (rows.sum() / len(rows)) if factored else v
        u = g / np.sqrt(moment)
        u = u / max(1.0, float(np.sqrt((u**2).mean())))
        p = (1 - decay) * p - rate * u
    return p


def run(start: Matrix, gradients: list[Matrix], **settings: Any) -> tuple[Matrix, Adafactor]:
    p = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Adafactor([p], **settings)
    for g in gradients:
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return p.detach().numpy(), optimizer


@given(
    seed=st.integers(0, 99),
    steps=st.integers(1, 6),
    rate=st.sampled_from([1e-3, 0.3, 1.0]),
    decay=st.sampled_from([0.0, 1e-5, 0.1]),
    size=st.sampled_from([1e-8, 1e-2, 1.0, 1e6]),
)
def test_an_unfactored_run_is_the_plain_loop(seed: int, steps: int, rate: float, decay: float, size: float) -> None:
    source = np.random.default_rng(seed)
    start = source.normal(size=(7, 5))
    gradients = [source.normal(size=(7, 5)) * size for _ in range(steps)]
    found, _ = run(start, gradients, lr=rate, weight_decay=decay)
    wanted = plain_loop(start, gradients, rate, decay, factored=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(128, 128), (150, 130), (129, 300)])
def test_a_factored_run_is_the_plain_loop(shape: tuple[int, int]) -> None:
    source = np.random.default_rng(1)
    start, gradients = source.normal(size=shape), [source.normal(size=shape) * 0.1 for _ in range(4)]
    found, _ = run(start, gradients)
    wanted = plain_loop(start, gradients, 0.3, 1e-5, factored=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)
    assert np.abs(found - plain_loop(start, gradients, 0.3, 1e-5, factored=False)).max() > 1e-3


@pytest.mark.parametrize(("shape", "flat"), [((100, 768), True), ((150, 768), False)])
def test_the_paper_s_lengths_agree_with_the_factoring_optimizer_of_transformers(
    shape: tuple[int, int], flat: bool
) -> None:
    """It factors every matrix, and no vector: a prompt of 100 must be handed to it as a vector, one of 150 must not."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours = nn.Parameter(start.clone())
    theirs = nn.Parameter(start.flatten() if flat else start.clone())
    mine = Adafactor([ours], lr=0.3, weight_decay=0.0)
    other = FactoredAdafactor([theirs], lr=0.3, relative_step=False, scale_parameter=False, warmup_init=False)
    for _ in range(5):
        g = torch.randn(shape) * 0.01
        ours.grad, theirs.grad = g, g.reshape(theirs.shape)
        mine.step()
        other.step()
    assert torch.allclose(ours.detach(), theirs.detach().reshape(shape), atol=1e-5)


FULL = [(100, 768), (127, 768), (768, 127), (300,), (2, 200, 200)]
FACTORED = [(128, 128), (150, 768)]


@pytest.mark.parametrize(("shape", "factored"), [*((s, False) for s in FULL), *((s, True) for s in FACTORED)])
def test_a_tensor_is_factored_only_if_it_is_a_matrix_with_both_sides_128_or_more(
    shape: tuple[int, ...], factored: bool
) -> None:
    p = nn.Parameter(torch.zeros(shape))
    optimizer = Adafactor([p])
    p.grad = torch.ones(shape)
    optimizer.step()
    assert set(optimizer.state[p]) == {"step"} | ({"rows", "columns"} if factored else {"square"})


@given(power=st.integers(-12, 12), seed=st.integers(0, 99), rows=st.sampled_from([3, 130]))
def test_no_step_is_longer_than_the_rate_whatever_the_gradient_s_size(power: int, seed: int, rows: int) -> None:
    torch.manual_seed(seed)
    p = nn.Parameter(torch.randn(rows, 130))
    optimizer = Adafactor([p], lr=0.3, weight_decay=0.0)
    for step in range(4):
        before = p.detach().clone()
        p.grad = torch.randn(rows, 130) * 10.0 ** (power + 2 * step * (-1) ** step)
        optimizer.step()
        assert float((p.detach() - before).square().mean().sqrt()) <= 0.3 * (1 + 1e-5)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_first_step_has_exactly_the_length_of_the_rate(size: float) -> None:
    p = nn.Parameter(torch.zeros(10, 4))
    optimizer = Adafactor([p], lr=0.3)
    p.grad = torch.full((10, 4), size)
    optimizer.step()
    assert torch.allclose(p.detach(), torch.full((10, 4), -0.3), rtol=1e-6)


@pytest.mark.parametrize("rate", [1e-4, 0.3, 30.0])
def test_decay_is_not_multiplied_by_the_rate(rate: float) -> None:
    p = nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    optimizer = Adafactor([p], lr=rate, weight_decay=0.01)
    for _ in range(10):
        p.grad = torch.zeros(4, 4, dtype=torch.float64)
        optimizer.step()
    assert torch.allclose(p.detach(), torch.full_like(p, 0.99**10), rtol=1e-12)


def test_groups_have_their_own_rate_and_decay() -> None:
    one, two, untouched = [nn.Parameter(torch.ones(3, 3)) for _ in range(3)]
    optimizer = Adafactor([{"params": [one, untouched], "lr": 0.5, "weight_decay": 0.0}, {"params": [two]}], lr=0.1)
    one.grad, two.grad = torch.ones(3, 3), torch.ones(3, 3)
    optimizer.step()
    assert torch.allclose(one.detach(), torch.full((3, 3), 0.5))
    assert torch.allclose(two.detach(), torch.full((3, 3), 1 - 1e-5 - 0.1))
    assert torch.equal(untouched.detach(), torch.ones(3, 3))


def test_a_closure_is_called_with_gradients_on() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Adafactor([p], lr=0.1)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(p.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"weight_decay": 1.0}, {"weight_decay": -0.1}])
def test_a_rate_or_decay_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="expected lr > 0"):
        Adafactor([nn.Parameter(torch.zeros(1))], **wrong)
