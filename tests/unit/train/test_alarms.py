"""Alarms fire on what is wrong and stay silent on what is not."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from promptuary.data.batch import Batch
from promptuary.model import SoftPrompted
from promptuary.readouts import Prediction, Readout
from promptuary.train import alarms
from promptuary.train.alarms import Watch
from promptuary.train.evaluation import Pairs
from promptuary.train.fit import fit
from promptuary.values import Instance, Output, Prompt, Targets
from tests.unit.train.toy import Head, Toy, parts, recipe

LN2 = math.log(2)


def pairs(true: list[int], said: list[int], task: int = 0) -> Pairs:
    batch = replace(Toy(size=len(true)).batch(0), labels=torch.tensor(true), task=torch.full((len(true),), task))
    return [(batch, Prediction(torch.tensor(said), torch.eye(3)[said]))]


@pytest.mark.parametrize(
    ("true", "said", "fires"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 0], True),
        ([0, 0, 0, 1], [0, 0, 1, 0], True),
        ([0, 1, 0, 1], [1, 1, 1, 1], True),
        ([0, 0, 0, 1], [0, 0, 0, 1], False),
        ([0, 1, 2, 0], [0, 1, 0, 0], False),
        ([1, 1], [1, 1], False),  # one class only: there is nothing better
    ],
)
def test_majority(true: list[int], said: list[int], fires: bool) -> None:
    assert (alarms.majority(pairs(true, said)) is not None) == fires


def test_majority_says_the_numbers() -> None:
    found = alarms.majority(pairs([0, 0, 0, 1], [0, 0, 0, 0]))
    assert found is not None
    assert "Accuracy 75.0% is not above the 75.0% of always answering class 0:" in found.sentence


def test_majority_names_the_label() -> None:
    found = alarms.majority(pairs([2, 2, 2, 1], [2, 2, 2, 2]), {"parcels": ("late", "lost", "broken")})
    assert found is not None
    assert "of always answering 'broken':" in found.sentence
    assert "parcels" not in found.sentence


def test_majority_looks_at_each_task_by_itself() -> None:
    names = {"parcels": ("late", "lost"), "mood": ("good", "bad")}
    learnt, stuck = pairs([0, 1, 1], [0, 1, 1]), pairs([1, 1, 0], [1, 1, 1], task=1)
    found = alarms.majority([*learnt, *stuck], names)
    assert found is not None
    assert found.sentence.startswith("Task 'mood': Accuracy 66.7% is not above the 66.7% of always answering 'bad':")
    assert "parcels" not in found.sentence
    assert alarms.majority(learnt, names) is None


def test_majority_needs_classes() -> None:
    batch = Toy().batch(0)
    object.__setattr__(batch, "labels", None)
    assert alarms.majority([(batch, object())]) is None


@given(seed=st.integers(0, 200), steps=st.integers(20, 200), noise=st.sampled_from([0.0, 0.01, 0.1]))
def test_a_falling_loss_raises_no_alarm(seed: int, steps: int, noise: float) -> None:
    source = random.Random(seed)
    losses = [0.7 - 0.6 * k / steps + source.gauss(0, noise) for k in range(steps)]
    assert alarms.still(losses) is None


def test_a_flat_or_rising_loss_raises_an_alarm() -> None:
    source = random.Random(0)
    flat = [[0.69 + source.gauss(0, 0.05) for _ in range(100)] for _ in range(50)]
    assert sum(alarms.still(losses) is not None for losses in flat) >= 35
    assert alarms.still([0.69] * 20) is not None
    assert alarms.still([0.5 + k / 100 for k in range(40)]) is not None


def test_a_loss_that_is_learnt_or_short_raises_no_alarm() -> None:
    assert alarms.still([0.01] * 100) is None
    assert alarms.still([0.69] * 19) is None
    assert alarms.still([]) is None


def curve(*points: float, steps: int = 100, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Lines between points that lie equally far apart."""
    source = random.Random(seed)
    found = []
    for k in range(steps):
        at = k / (steps - 1) * (len(points) - 1)
        left = min(int(at), len(points) - 2)
        exact = points[left] + (points[left + 1] - points[left]) * (at - left)
        found.append(exact + source.gauss(0, noise))
    return found


@pytest.mark.parametrize(
    "points",
    [(2.0, 0.2, LN2, LN2), (LN2, 0.2, LN2, LN2), (LN2, 0.1, 0.1, 0.1, LN2, LN2), (0.2, 0.2, LN2), (0.5, 0.9)],
    ids=str,
)
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_a_loss_that_was_lower_and_came_back_raises_an_alarm(
    points: tuple[float, ...], noise: float, steps: int
) -> None:
    assert alarms.risen(curve(*points, steps=steps, noise=noise)) is not None


def test_a_loss_that_came_back_says_where_it_was_lower() -> None:
    found = alarms.risen([LN2] * 20 + [0.2] * 40 + [LN2] * 40)
    assert found is not None
    assert found.name == "risen"
    assert found.sentence.startswith("The loss was 0.2 in steps 21 to 40 and is 0.6931 in the last 20: it rose again.")


@given(seed=st.integers(0, 200), steps=st.integers(20, 200), noise=st.sampled_from([0.0, 0.02, 0.1]))
def test_a_loss_that_falls_or_stays_did_not_rise(seed: int, steps: int, noise: float) -> None:
    for points in ((0.7, 0.1), (LN2, LN2), (0.7, 0.2, 0.1, 0.1), (2.0, 0.3, 0.35)):
        assert alarms.risen(curve(*points, steps=steps, noise=noise, seed=seed)) is None
    assert alarms.risen([0.001] * 60 + [0.04] * 40) is None  # learnt
    assert alarms.risen([0.1] * 10 + [1.0] * 9) is None  # too few to tell


def test_a_run_whose_loss_came_back_is_told_so_and_not_that_it_stood_still() -> None:
    class Forgets(Head):
        """Its answers are worth nothing in the second half of the run."""

        step = 0

        def loss(self, out: Output, batch: Batch) -> Tensor:
            self.step += 1
            return super().loss(out, batch) * (0.1 if 10 < self.step <= 30 else 1.0)

    model, _ = parts("bert")
    forgets = Forgets(2, model.backbone.shape.output)
    result = fit(model, forgets, Toy(), None, recipe(rate=1e-6, head_rate=1e-6, epochs=8))
    found = [alarm.name for alarm in result.alarms]
    assert "risen" in found
    assert "still" not in found


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("name", ["prompt-tuning", "deep-prompt-tuning", "prefix-tuning", "p-tuning-v2"])
def test_a_prompt_that_is_heard_raises_no_alarm(family: str, name: str) -> None:
    model, readout = parts(family, name)
    assert alarms.ineffective(model, readout, Toy().batch(0)) is None


def test_no_prompt_raises_no_alarm() -> None:
    assert alarms.ineffective(*parts("bert", "frozen"), Toy().batch(0)) is None


class Asks(Head):
    """A head that also has the backbone score a text."""

    def targets(self, batch: Batch) -> Targets:
        ids = batch.ids[:, None, :3]
        return Targets(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize("part", ["decoder", "cross"])
def test_a_prompt_that_only_the_decoder_hears_raises_no_alarm(part: str) -> None:
    model, _ = parts("t5", "p-tuning-v2", parts=[part])
    readout = Asks(2, model.backbone.shape.output)
    assert alarms.ineffective(model, readout, Toy().batch(0)) is None


@pytest.mark.parametrize(("family", "head"), [("bert", Head), ("t5", Head), ("t5", Asks)])
def test_a_prompt_that_is_not_heard_raises_an_alarm(family: str, head: type[Head]) -> None:
    model, _ = parts(family, "p-tuning-v2")
    readout = head(2, model.backbone.shape.output)
    heard = model.generator.forward

    def absent(x: Instance) -> Prompt:
        p = heard(x)
        return type(p)(p.values, torch.zeros_like(p.keep))

    model.generator.forward = absent  # type: ignore[method-assign]
    found = alarms.ineffective(model, readout, Toy().batch(0))
    assert found is not None
    assert found.name == "ineffective"


@pytest.mark.parametrize("name", ["prompt-tuning", "prefix-tuning", "p-tuning"])
def test_a_network_that_learns_is_not_saturated(name: str) -> None:
    model, _ = parts("bert", name)
    assert alarms.saturated(model, Toy().batch(0)) is None


@pytest.mark.parametrize(("factor", "fires"), [(1.0, False), (100.0, True)])
def test_a_network_whose_units_sit_at_their_bounds_is_saturated(factor: float, fires: bool) -> None:
    model, _ = parts("bert", "prefix-tuning")
    first = model.generator.transforms[0].network[0]
    first.weight.data *= factor
    units = (first(model.generator.inner.table).tanh().abs() > 0.99).float().mean()
    assert (float(units) > 0.5) == fires
    found = alarms.saturated(model, Toy().batch(0))
    assert (found is not None) == fires
    assert found is None or f"{float(units):.0%} of the units" in found.sentence


def noted(*shares: float, rows: int = 8) -> list[dict[str, Any]]:
    """What the record says of one choice, four steps apart."""
    return [
        {"event": "choices", "step": 4 * i, "rows": rows, "entropy": {"choice": share}, "share": {"choice": share}}
        for i, share in enumerate(shares, 1)
    ]


@pytest.mark.parametrize(
    ("shares", "fires"),
    [
        ((0.9, 0.8, 0.7, 0.6), False),
        ((0.9, 0.5, 0.02, 0.0), False),  # it has learnt what to choose
        ((0.04, 0.0, 0.0, 0.0), True),
        ((0.4, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), True),
        ((0.4, 0.06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), False),
        ((0.04,), True),  # the mean of the whole run
        ((0.2,), False),
        ((), False),
    ],
)
def test_a_trained_choice_without_entropy_at_a_quarter_of_the_run_is_settled(
    shares: tuple[float, ...], fires: bool
) -> None:
    assert bool(alarms.settled(noted(*shares), {"choice"})) == fires
    assert alarms.settled(noted(*shares), set()) == []


def test_a_settled_choice_is_told_with_its_numbers() -> None:
    (found,) = alarms.settled(noted(0.4, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), {"choice"})
    assert found.name == "settled"
    assert found.sentence.startswith("choice was decided too early: up to step 8 of 32 it had 3.0% of the largest")


@pytest.mark.parametrize("name", ["dp-position-instance", "dp-vector", "dp-length-instance"])
@pytest.mark.parametrize(("rate", "fires"), [(1e-2, False), (0.3, True)])
def test_a_run_at_the_published_rate_of_choices_is_alarmed_and_one_at_ours_is_not(
    name: str, rate: float, fires: bool
) -> None:
    result = fit(*parts("bert", name), Toy(), Toy(count=1, seed=9), recipe(epochs=8), rates={"choice": rate})
    assert ("settled" in [alarm.name for alarm in result.alarms]) == fires


def test_a_choice_that_does_not_learn_is_never_settled() -> None:
    model, readout = parts("bert", "dp-position", position="random")
    with torch.no_grad():
        next(iter(model.choices.values())).bias[:, 1] = 1e3
    result = fit(model, readout, Toy(), Toy(count=1, seed=9), recipe(epochs=4))
    assert "settled" not in [alarm.name for alarm in result.alarms]


def asked(family: str, chosen: list[str], head: type[Head]) -> tuple[SoftPrompted, Readout]:
    model, _ = parts(family, "p-tuning-v2", parts=chosen)
    return model, head(2, model.backbone.shape.output)


class Writes(Asks):
    """A head that learns a text, by summing the states that predict it."""

    def loss(self, out: Output, batch: Batch) -> Tensor:
        assert out.targets is not None
        return out.targets.float().square().sum()


@pytest.mark.parametrize(
    ("chosen", "head", "fires"),
    [
        (["encoder", "decoder"], Head, True),  # the classes are read off the encoder
        (["encoder", "cross"], Head, True),
        (["encoder"], Head, False),
        (["encoder", "decoder", "cross"], Writes, False),
    ],
)
def test_a_prefix_in_a_part_that_is_never_read_is_dead(chosen: list[str], head: type[Head], fires: bool) -> None:
    model, readout = asked("t5", chosen, head)
    found = alarms.unread(model, readout, Toy().batch(0))
    assert (found is not None) == fires
    if found is not None:
        shape = model.backbone.shape
        unread = sum(a.width for a in shape.attention if a.part in chosen and a.part != "encoder")
        assert found.name == "dead"
        assert f"{unread:,} of the {model.generator.width:,} numbers" in found.sentence


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("name", ["prompt-tuning", "deep-prompt-tuning", "prefix-tuning", "p-tuning", "frozen"])
def test_a_prompt_of_which_all_is_read_has_no_dead_part(family: str, name: str) -> None:
    model, _ = parts(family, name, **{"parts": ["encoder"]} if (family, name) == ("t5", "prefix-tuning") else {})
    assert alarms.unread(model, Head(2, model.backbone.shape.output), Toy().batch(0)) is None


def test_looking_for_dead_parts_leaves_no_gradient() -> None:
    model, readout = asked("t5", ["encoder", "decoder"], Head)
    alarms.unread(model, readout, Toy().batch(0))
    assert all(p.grad is None for p in (*model.parameters(), *readout.parameters()))


def watched(named: dict[str, nn.Parameter], move: float, steps: int = 3, quiet: tuple[str, ...] = ()) -> Watch:
    watch = Watch.of(named, 0.1)
    for step in range(1, steps + 1):
        for name, p in named.items():
            p.grad = torch.zeros_like(p) if name in quiet else torch.ones_like(p)
        watch.before(named, step)
        with torch.no_grad():
            for name, p in named.items():
                p.add_(0.0 if name in quiet else move)
        watch.after(named)
    return watch


def test_tensors_that_learn_raise_no_alarm() -> None:
    named = {"prompt": nn.Parameter(torch.randn(4, 4)), "bias": nn.Parameter(torch.zeros(4))}
    assert watched(named, 0.05).alarms() == []


def test_a_tensor_without_gradient_raises_an_alarm() -> None:
    named = {"one": nn.Parameter(torch.randn(4, 4)), "two": nn.Parameter(torch.randn(4, 4))}
    (found,) = watched(named, 0.05, quiet=("two",)).alarms()
    assert found.sentence.startswith("two got no gradient")


def test_a_tensor_that_never_moves_raises_an_alarm() -> None:
    (found,) = watched({"one": nn.Parameter(torch.randn(4, 4))}, 0.0).alarms()
    assert found.sentence.startswith("one never changed")


def test_a_step_longer_than_a_tensor_s_scale_raises_an_alarm() -> None:
    (found,) = watched({"prompt": nn.Parameter(torch.full((4, 4), 0.05))}, 0.6).alarms()
    assert found.name == "leap"
    assert "moved prompt by 6.0 times its own scale" in found.sentence


def test_a_tensor_that_starts_at_zero_is_measured_by_the_embedding_table() -> None:
    assert watched({"prompt": nn.Parameter(torch.zeros(4, 4))}, 0.09).alarms() == []


def test_a_watch_goes_on_from_its_notes() -> None:
    watch = watched({"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}, 0.1, quiet=("b",))
    assert Watch.from_notes(watch.notes()) == watch
