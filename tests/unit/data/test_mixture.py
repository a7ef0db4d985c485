"""Mixing tasks: at which rates, in which order, and that learning from mixed batches is learning from each."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.batch import Batch
from promptuary.data.example import Example
from promptuary.data.loader import Loader
from promptuary.data.mixture import InTurn, Mixture, rates
from promptuary.errors import DataError, SettingError
from promptuary.mixing import Share, run
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier
from tests.answers import EXACT, prompted
from tests.backbones import backbone

NAMES = ("a", "bb")


def examples(count: int, *, seed: int) -> list[Example]:
    return [
        Example([5 + (seed * i + k) % 80 for k in range(1 + i % 7)], [0] * (1 + i % 7), i % 2) for i in range(count)
    ]


def mixture(sizes: dict[str, int], **more: float) -> Mixture:
    own = {name: examples(size, seed=len(name)) for name, size in sizes.items()}
    return Mixture(own, 4, pad=0, **more)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.floats(0.1, 100))
def test_rates_are_powers_of_the_sizes(sizes: list[int], temperature: float) -> None:
    found = rates(sizes, temperature)
    assert sum(found) == pytest.approx(1)
    for one, size in zip(found, sizes, strict=True):
        assert one / found[0] == pytest.approx((size / sizes[0]) ** (1 / temperature))


def test_at_one_tasks_are_mixed_as_large_as_they_are_and_far_above_alike() -> None:
    assert rates([10, 30]) == [0.25, 0.75]
    assert rates([10, 1000], float("inf")) == [0.5, 0.5]
    with pytest.raises(SettingError, match="temperature=0"):
        rates([1], 0)


def rows(batches: list[Batch]) -> list[tuple[str, int]]:
    return [(NAMES[task], row) for b in batches for task, row in zip(b.task.tolist(), b.rows.tolist(), strict=True)]


def test_an_epoch_has_as_many_rows_as_there_are_drawn_at_the_rates() -> None:
    mixed = mixture({"a": 40, "bb": 1960}, temperature=2.0)
    steps = list(mixed.epoch(0))
    assert len(steps) == len(mixed) == 500
    seen = Counter(rows(steps))
    share = sum(n for (name, _), n in seen.items() if name == "a") / 2000
    assert share == pytest.approx(mixed.rates["a"], abs=0.03)
    for name in ("a", "bb"):  # no row comes twice before all came once
        own = [seen[name, row] for row in range(len(mixed.examples[name]))]
        assert max(own) - min(own) <= 1
    assert any(len(step.parts) == 2 for step in steps)
    for step in steps:
        assert len(step.ids) == 4
        for part in step.parts:
            assert len(part.task.unique()) == 1
            assert part.ids.shape[1] == step.ids.shape[1]
        for name in ("ids", "mask", "types", "task", "rows"):
            assert torch.equal(torch.cat([getattr(part, name) for part in step.parts]), getattr(step, name))
        for task, row, ids, mask in zip(step.task.tolist(), step.rows.tolist(), step.ids, step.mask, strict=True):
            assert ids[mask].tolist() == mixed.examples[NAMES[task]][row].ids


def test_an_epoch_repeats_and_another_is_another() -> None:
    mixed = mixture({"a": 10, "bb": 30})
    assert rows(list(mixed.epoch(3))) == rows(list(mixed.epoch(3)))
    assert Counter(rows(list(mixed.epoch(3)))) != Counter(rows(list(mixed.epoch(4))))


def test_in_turn_each_batch_is_of_one_task_and_no_row_is_missing() -> None:
    own = [Loader(examples(size, seed=2), 4, pad=0, task=task) for task, size in enumerate((5, 9))]
    batches = list(InTurn(own).epoch(0))
    assert len(batches) == len(InTurn(own)) == 2 + 3
    assert [b.task.unique().tolist() for b in batches] == [[0]] * 2 + [[1]] * 3
    assert sorted(rows(batches)) == [("a", n) for n in range(5)] + [("bb", n) for n in range(9)]


def test_there_must_be_rows_of_every_task() -> None:
    with pytest.raises(DataError, match="Task 'bb' has no rows"):
        mixture({"a": 1, "bb": 0})
    with pytest.raises(DataError, match="no tasks"):
        mixture({})


@pytest.mark.parametrize("shared", [False, True])
def test_learning_from_mixed_batches_is_learning_from_each_tasks_rows(shared: bool) -> None:
    first = prompted("bert", "prompt-tuning")
    models = {"a": first, "bb": first if shared else prompted("bert", "p-tuning-v2")}
    heads = {name: Classifier(2, backbone("bert").shape.output, seed=n) for n, name in enumerate(models)}
    steps = list(mixture({"a": 10, "bb": 30}).epoch(0))

    def learnt(together: bool) -> list[torch.Tensor]:
        own, read = copied(models), copy.deepcopy(heads)
        trained = torch.nn.ModuleList([*own.values(), *read.values()])
        optimizer = torch.optim.SGD(trained.parameters(), 0.05)
        for step in steps:
            optimizer.zero_grad()
            parts = [(NAMES[int(part.task[0])], part) for part in step.parts]
            shares = [Share(own[name], own[name].instance_of(part)) for name, part in parts]
            outs = run(shares) if together else [share.model(share.x) for share in shares]
            losses = [read[name].loss(out, part) for (name, part), out in zip(parts, outs, strict=True)]
            torch.stack(losses).sum().backward()
            optimizer.step()
        return [p.detach() for p in trained.parameters()]

    start = [p.detach().clone() for p in torch.nn.ModuleList([*models.values(), *heads.values()]).parameters()]
    mixed, separate = learnt(True), learnt(False)
    assert sum(not torch.equal(one, begun) for one, begun in zip(mixed, start, strict=True)) == len(mixed)
    for one, other in zip(mixed, separate, strict=True):
        assert (one - other).abs().max() <= 20 * EXACT * other.abs().max().clamp(min=1)


def copied(models: dict[str, SoftPrompted]) -> dict[str, SoftPrompted]:
    """Copies of the prompts on the same backbone; a prompt that tasks share is copied once."""
    made: dict[int, SoftPrompted] = {}
    for model in models.values():
        parts = copy.deepcopy((model.generator, model.injection))
        made.setdefault(id(model), SoftPrompted(model.backbone, *parts))
    return {name: made[id(model)] for name, model in models.items()}
