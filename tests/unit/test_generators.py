import pytest
import torch

from promptuary.errors import SettingError
from promptuary.generators import Concatenated, Free, Generator, Mapped, Multiplied, RankOne, Summed
from promptuary.initial import normal
from promptuary.transforms import BiLSTM, Scaled, Slotwise
from promptuary.values import Instance, Prompt


def instance(batch: int = 2) -> Instance:
    ids = torch.arange(batch * 3).reshape(batch, 3)
    return Instance(ids, ids >= 0, torch.zeros(batch, 3, 4), torch.zeros_like(ids), ids[:, 0])


class Reading(Generator):
    """A generator that depends on the input: slot i is the row's i-th id, present where that is even."""

    length, width = 3, 4

    def forward(self, x: Instance) -> Prompt:
        keep = (x.ids % 2 == 0).float()
        return Prompt(x.ids[..., None].float().expand(-1, -1, 4) * keep[..., None], keep)


def test_free_is_a_table_for_every_row() -> None:
    made = Free(3, 4, normal(1.0), seed=5)
    p = made(instance())
    assert (made.length, made.width) == (3, 4)
    assert p.values.shape == (2, 3, 4)
    assert torch.equal(p.values[0], made.table)
    assert torch.equal(p.values[1], made.table)
    assert p.keep.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_seeds_tell_tables_apart_and_repeat_them() -> None:
    tables = [Free(3, 4, normal(1.0), seed=seed).table for seed in (1, 1, 2)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_a_table_is_float32_whatever_it_starts_from() -> None:
    assert (
        Free(2, 4, lambda length, width, _: torch.ones(length, width, dtype=torch.bfloat16)).table.dtype
        == torch.float32
    )


def test_no_soft_tokens_are_allowed_and_nothing_trains() -> None:
    made = Free(0, 4, normal(1.0))
    assert made(instance()).values.shape == (2, 0, 4)
    assert not any(p.requires_grad for p in made.parameters())


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(SettingError, match="length=-1"):
        Free(-1, 4, normal(1.0))


def test_mapped_runs_its_transforms_in_turn() -> None:
    inner = Free(3, 4, normal(1.0))
    made = Mapped(inner, Scaled(2.0), Slotwise(4, 5, 6))
    assert (made.length, made.width) == (3, 6)
    expected = made.transforms[1](made.transforms[0](inner.fixed())).values
    assert torch.allclose(made(instance()).values, expected.expand(2, -1, -1))
    assert torch.allclose(made.fixed().values, expected)


def test_over_a_fixed_generator_transforms_run_once_for_the_whole_batch() -> None:
    made = Mapped(Free(3, 4, normal(1.0)), BiLSTM(4))
    rows: list[int] = []
    made.transforms[0].register_forward_pre_hook(lambda _, given: rows.append(given[0].values.shape[0]))
    made(instance(5))
    assert rows == [1]


def test_over_a_generator_that_reads_the_input_transforms_run_on_every_row() -> None:
    made = Mapped(Reading(), Scaled(3.0))
    assert made.fixed() is None
    x = instance()
    assert torch.equal(made(x).values, Reading()(x).values * 3)
    assert torch.equal(made(x).keep, Reading()(x).keep)


def test_a_transform_of_another_width_is_refused() -> None:
    with pytest.raises(SettingError, match="expected soft tokens of 5 numbers, got 4"):
        Mapped(Free(3, 4, normal(1.0)), Slotwise(5, 6))


def test_a_sum_is_present_where_any_summand_is() -> None:
    free = Free(3, 4, normal(1.0))
    x = instance()
    p = Summed(free, Reading())(x)
    assert torch.allclose(p.values, free.table + Reading()(x).values)
    assert p.keep.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert Summed(Reading(), Reading())(x).keep.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert Summed(free, Reading()).fixed() is None
    assert torch.allclose(Summed(free, free).fixed().values, 2 * free.table[None])


def test_a_product_is_present_where_all_factors_are() -> None:
    free, x = Free(3, 4, normal(1.0)), instance()
    p = Multiplied(free, Reading())(x)
    assert torch.equal(p.values, free.table * Reading()(x).values)
    assert p.keep.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert Multiplied(free, Reading()).fixed() is None
    assert torch.equal(Multiplied(free, free).fixed().values, free.table[None] ** 2)


def test_factors_are_those_of_a_rows_task_and_settle_to_it() -> None:
    made, x = RankOne(3, 4, tasks=5), instance(2)
    torch.nn.init.normal_(made.tokens)
    torch.nn.init.normal_(made.dims)
    assert x.task.tolist() == [0, 3]
    expected = [torch.outer(1 + made.tokens[n], 1 + made.dims[n]) for n in (0, 3)]
    assert torch.allclose(made(x).values, torch.stack(expected))
    assert made.fixed() is None
    assert made.idle() == 4 * (3 + 4)  # a row's prompt depends on one task's numbers
    made.settle(3)
    assert torch.allclose(made.fixed().values[0], expected[1])
    assert made.idle() == 0
    made.settle(0)  # it is one task's already
    assert torch.allclose(made(x).values[0], expected[1])


def test_no_tasks_are_refused() -> None:
    with pytest.raises(SettingError, match=r"RankOne\(tasks=0\): expected 1 or more"):
        RankOne(3, 4, tasks=0)


@pytest.mark.parametrize("joint", [Summed, Multiplied])
def test_parts_of_different_shape_are_refused(joint: type[Summed] | type[Multiplied]) -> None:
    with pytest.raises(SettingError, match=joint.__name__ + r".*one \(length, width\)"):
        joint(Free(3, 4, normal(1.0)), Free(2, 4, normal(1.0)))


def test_prompts_one_after_the_other() -> None:
    free, x = Free(2, 4, normal(1.0)), instance()
    made = Concatenated(free, Reading())
    assert (made.length, made.width) == (5, 4)
    p = made(x)
    assert torch.equal(p.values[1, :2], free.table)
    assert torch.equal(p.values[:, 2:], Reading()(x).values)
    assert p.keep.tolist() == [[1, 1, 1, 0, 1], [1, 1, 0, 1, 0]]
    assert made.fixed() is None
    assert Concatenated(free, free).fixed().values.shape == (1, 4, 4)
    with pytest.raises(SettingError, match="one width"):
        Concatenated(free, Free(2, 5, normal(1.0)))
