import dataclasses

import pytest
import torch

from promptuary.values import Attention, Instance, Prompt, Shape


def instance() -> Instance:
    ids = torch.ones(1, 2, dtype=torch.long)
    return Instance(ids, ids > 0, torch.zeros(1, 2, 3), ids, ids[:, 0])


def test_once_computes_once_and_per_instance() -> None:
    asked: list[Instance] = []

    def query(x: Instance) -> int:
        asked.append(x)
        return len(asked)

    one, other = instance(), instance()
    assert [one.once(query), one.once(query), other.once(query), one.once(query)] == [1, 1, 2, 1]
    assert asked == [one, other]


def test_once_remembers_none_too() -> None:
    asked: list[int] = []
    x = instance()
    assert x.once(lambda _: asked.append(1)) is None

    def nothing(_: Instance) -> None:
        asked.append(2)

    assert x.once(nothing) is x.once(nothing) is None
    assert asked == [1, 2]


def test_what_was_made_without_a_gradient_is_made_again_with_one_and_a_changed_value_remembers_nothing() -> None:
    weight, x = torch.ones(1, requires_grad=True), instance()

    def doubled(_: Instance, times: int) -> torch.Tensor:
        return weight * times

    with torch.no_grad():
        assert not x.once(doubled, 2).requires_grad
    assert x.once(doubled, 2).requires_grad
    assert x.once(doubled, 2) is x.once(doubled, 2)
    assert x.once(doubled, 3) is not x.once(doubled, 2)
    assert dataclasses.replace(x).once(doubled, 2) is not x.once(doubled, 2)


def test_values_cannot_be_changed() -> None:
    p = Prompt(torch.zeros(1, 2, 3), torch.ones(1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.keep = p.keep  # type: ignore[misc]


def test_width_counts_all_heads_keys_and_values_of_the_chosen_parts() -> None:
    shape = Shape(
        "toy",
        1,
        1,
        1,
        1,
        1,
        None,
        1.0,
        (Attention("encoder", 2, 3, 5), Attention("cross", 1, 7, 7), Attention("encoder", 2, 3, 5)),
    )
    assert [a.width for a in shape.attention] == [16, 14, 16]
    assert shape.key_value_width(frozenset({"encoder"})) == 32
    assert shape.key_value_width(frozenset({"encoder", "cross"})) == 46
    assert shape.key_value_width(frozenset({"decoder"})) == 0
