"""A lazy table's row is an AdamW of its own, and a row without a gradient is not there.

Oracle: torch's AdamW on one tensor for each row, stepped when that row has a gradient.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.errors import SettingError
from promptuary.train import groups
from promptuary.train.adafactor import Adafactor
from promptuary.train.fit import Result, fit
from promptuary.train.lazy import LazyAdamW, gathered
from promptuary.train.recipe import Recipe
from tests.strategies import seeds
from tests.unit.train.test_resume import Bomb, Killed, same
from tests.unit.train.toy import Toy, numbers, parts, recipe

ROWS, WIDTH = 12, 5
# The toy task has the tokens 5 or 7 in each row, and others from 10 to 89.
MARKED, UNREAD = [5, 7], [*range(5), *range(90, 99)]


def steps(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Ids that are looked up (twice, in part) and what their vectors are multiplied by."""
    source = torch.Generator().manual_seed(seed)
    return [
        (torch.randint(0, ROWS - 3, (4,), generator=source), torch.randn(4, WIDTH, generator=source))
        for _ in range(count)
    ]


@given(seeds, st.integers(1, 12), st.sampled_from([0.0, 0.1]), st.booleans())
def test_a_row_is_an_adamw_of_its_own(seed: int, count: int, decay: float, one_pass: bool) -> None:
    start = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))
    table, other = nn.Parameter(start.clone()), nn.Parameter(torch.ones(3))
    ours = LazyAdamW([table, other], lr=0.1, weight_decay=decay, fused=one_pass)
    rows = [nn.Parameter(row.clone()) for row in start]
    theirs = [torch.optim.AdamW([row], lr=0.1, weight_decay=decay) for row in rows]
    plain = nn.Parameter(torch.ones(3))
    beside = torch.optim.AdamW([plain], lr=0.1, weight_decay=decay)
    for ids, weights in steps(seed, count):
        ours.zero_grad(), beside.zero_grad(), [row.grad is None or row.grad.zero_() for row in rows]
        ((F.embedding(ids, table, sparse=True) * weights).sum() + other.square().sum()).backward()
        ours.step()
        plain.square().sum().backward()
        beside.step()
        (torch.stack([rows[i] for i in ids.tolist()]) * weights).sum().backward()
        for i in set(ids.tolist()):
            theirs[i].step()
    torch.testing.assert_close(table.detach(), torch.stack([row.detach() for row in rows]), rtol=1e-5, atol=1e-6)
    assert torch.equal(table[-3:], start[-3:])
    # What is not sparse is torch's own step, to the last bit or in one pass.
    torch.testing.assert_close(other, plain, rtol=1e-6 if one_pass else 0.0, atol=0.0)


def test_a_tensor_that_lies_apart_in_memory_is_not_stepped_in_one_pass() -> None:
    for start, one_pass in ((torch.zeros(3, 4), True), (torch.zeros(3, 8)[:, :4], False)):
        group = {
            "name": "x",
            "params": [nn.Parameter(start)],
            "names": ["x"],
            "rate": 0.1,
            "lr": 0.1,
            "weight_decay": 0.0,
        }
        assert groups.optimizer(Recipe(), [group]).defaults["fused"] is one_pass


def test_a_row_with_a_gradient_of_zeros_has_none() -> None:
    table = nn.Parameter(torch.ones(3, 2))
    optimizer = LazyAdamW([table], lr=0.1, weight_decay=0.5)
    (F.embedding(torch.tensor([0, 2]), table, sparse=True) * torch.tensor([[0.0], [1.0]])).sum().backward()
    optimizer.step()
    assert torch.equal(table[:2], torch.ones(2, 2))
    assert not torch.equal(table[2], torch.ones(2))


def test_a_closure_is_called_with_gradients_on() -> None:
    table = nn.Parameter(torch.ones(3, 2))

    def closure() -> float:
        loss = F.embedding(torch.tensor([1]), table, sparse=True).sum()
        loss.backward()
        return loss.item()

    assert LazyAdamW([table], lr=0.1).step(closure) == 2.0
    assert table[1].max() < 1


def test_clipping_sees_each_row_once_and_cuts_it_in_place() -> None:
    ids = torch.tensor([1, 2, 1])
    made = []
    for sparse in (True, False):
        table, other = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(3))
        (F.embedding(ids, table, sparse=sparse).sum() + 2 * other.sum()).backward()
        norm = nn.utils.clip_grad_norm_(list(gathered({"a": table, "b": other})), 0.5)
        assert table.grad is not None
        made.append((norm, table.grad.to_dense() if sparse else table.grad, other.grad))
    for one, another in zip(*made, strict=True):
        torch.testing.assert_close(one, another)


@pytest.mark.parametrize("settings", [{}, {"rank": 3}, {"combine": "add", "pad": "task"}])
@pytest.mark.parametrize("changes", [{}, {"accumulation": 2, "clip": 0.05}])
def test_a_tuned_lazy_table_leaves_what_was_never_read_to_the_last_bit(
    settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    made = {}
    for lazy in (True, False):
        model, readout = parts("bert", "ipt", length=6, lazy=lazy, **settings)
        before = numbers(model, readout)
        result = fit(model, readout, Toy(), Toy(2, seed=9), recipe(rate=0.01, scaled=False, decay=0.1, **changes))
        made[lazy] = result, before, numbers(model, readout)
    (name,) = [n for n in made[True][1] if n.endswith(("table.weight", "codes"))]
    _, before, after = made[True]
    assert torch.equal(after[name][UNREAD], before[name][UNREAD])
    assert not torch.equal(after[name][MARKED], before[name][MARKED])
    _, before, after = made[False]
    assert not torch.equal(after[name][UNREAD], before[name][UNREAD])  # dense: decayed
    # In the first step all rows are at their own first step, and the two agree wherever there is a gradient.
    assert made[True][0].history[1] == made[False][0].history[1]


def test_the_first_step_is_the_dense_one() -> None:
    made = {}
    for lazy in (True, False):
        model, readout = parts("bert", "ipt", length=6, lazy=lazy)
        fit(model, readout, Toy(), None, recipe(rate=0.01, scaled=False, decay=0.1, steps=1, warmup=0.0))
        made[lazy] = numbers(model, readout)["generator.inner.table.weight"]
    torch.testing.assert_close(made[True][MARKED], made[False][MARKED], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("epochs", "at"), [(3, 1), (3, 4), (3, 7), (1, 3)])  # in one epoch no row comes again
def test_a_lazy_run_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, at: int
) -> None:
    monkeypatch.setattr("promptuary.train.fit.SAVING", 1.0)
    r = recipe(rate=0.02, scaled=False, decay=0.1, accumulation=2, dropout=0.2, epochs=epochs)

    def run(folder: Path | None, progress: Any = None) -> tuple[Result, dict[str, Tensor]]:
        model, readout = parts("bert", "ipt", length=6, lazy=True, dropout=0.2)
        found = fit(model, readout, Toy(5), Toy(2, seed=9), r, folder=folder, progress=progress, save_every=2, seed=4)
        return found, numbers(model, readout)

    with pytest.raises(Killed):
        run(tmp_path, Bomb("stepped", at))
    whole, again = run(None), run(tmp_path)
    same(again, whole)
    assert again[0].counts == whole[0].counts


def test_adafactor_refuses_a_lazy_table_before_anything_moves() -> None:
    model, readout = parts("bert", "ipt", lazy=True)
    before = numbers(model, readout)
    with pytest.raises(SettingError, match="lazy=False, or optimizer='adamw'"):
        fit(model, readout, Toy(), None, recipe(optimizer="adafactor", clip=0.0))
    assert all(torch.equal(p, before[name]) for name, p in numbers(model, readout).items())
    table = nn.Parameter(torch.ones(3, 2))
    F.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
    with pytest.raises(SettingError):
        Adafactor([table]).step()
