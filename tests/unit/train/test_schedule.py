"""Steps, epochs and rates as functions of the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.errors import SettingError, TrainingError
from promptuary.train.recipe import Recipe
from promptuary.train.schedule import factor, plan, steps
from tests.unit.train.toy import Listed, Toy, recipe

SCHEDULES = st.sampled_from(["constant", "linear", "cosine"])


@given(total=st.integers(1, 60), warmup=st.sampled_from([0.0, 0.06, 0.5, 0.99]), schedule=SCHEDULES)
def test_rates_rise_then_never_rise_again_and_are_never_zero(total: int, warmup: float, schedule: str) -> None:
    r = Recipe(warmup=warmup, schedule=schedule)  # type: ignore[arg-type]
    found = [factor(r, step, total) for step in range(1, total + 1)]
    top = math.ceil(warmup * total)
    assert all(0 < f <= 1 for f in found)
    assert found[max(top - 1, 0)] == 1.0
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_rates_in_plain_numbers() -> None:
    def rates(schedule: str, warmup: float) -> list[float]:
        r = Recipe(schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
        return [factor(r, step, 4) for step in range(1, 5)]

    assert rates("constant", 0.0) == [1, 1, 1, 1]
    assert rates("linear", 0.0) == [1, 0.75, 0.5, 0.25]
    assert rates("linear", 0.5) == [0.5, 1, 1, 0.5]
    assert rates("cosine", 0.0) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


@given(
    batches=st.integers(1, 9), accumulation=st.integers(1, 4), epochs=st.integers(1, 3), evaluations=st.integers(1, 5)
)
def test_an_epoch_uses_every_batch_once_and_ends_in_a_scoring(
    batches: int, accumulation: int, epochs: int, evaluations: int
) -> None:
    data = Toy(batches, 2)
    p = plan(recipe(accumulation=accumulation, epochs=epochs, evaluations=evaluations), batches)
    made = list(steps(p, data, 0))
    assert [step for step, _ in made] == list(range(1, p.total + 1))
    for epoch in range(epochs):
        of_epoch = made[epoch * p.per_epoch : (epoch + 1) * p.per_epoch]
        assert [b.rows.tolist() for _, g in of_epoch for b in g] == [b.rows.tolist() for b in data.epoch(epoch)]
        scored = [step for step, _ in of_epoch if p.scores(step)]
        assert scored[-1] == of_epoch[-1][0]
        assert len(scored) == min(evaluations, p.per_epoch)


@given(done=st.integers(0, 9), accumulation=st.integers(1, 3))
def test_steps_after_some_are_the_rest_of_all_steps(done: int, accumulation: int) -> None:
    p = plan(recipe(accumulation=accumulation, steps=10), 4)

    def of(begin: int) -> list[tuple[int, list[list[int]]]]:
        return [(step, [b.rows.tolist() for b in group]) for step, group in steps(p, Toy(4, 2), begin)]

    assert of(done) == of(0)[done:]


def test_steps_count_instead_of_epochs_where_given() -> None:
    p = plan(recipe(steps=5, epochs=100), 3)
    assert (p.total, p.scores(3), p.scores(4), p.scores(5)) == (5, True, False, True)


def test_data_that_breaks_its_promise_is_refused() -> None:
    class Short(Listed):
        def __len__(self) -> int:
            return 5

    with pytest.raises(TrainingError, match=r"Epoch 0 .* ended early: it announced 5 batches"):
        list(steps(plan(recipe(), 5), Short([Toy().batch(0)] * 4), 0))


def test_a_training_set_without_batches_is_refused() -> None:
    with pytest.raises(SettingError, match="no batches"):
        plan(recipe(), 0)
