"""Every trained tensor is in exactly one group, with the rate that its name calls for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from promptuary.errors import SettingError
from promptuary.train.adafactor import Adafactor
from promptuary.train.groups import groups, optimizer, trained
from promptuary.train.recipe import Recipe
from tests.unit.train.toy import parts, recipe

EVERY = ("prompt-tuning", "deep-prompt-tuning", "prefix-tuning", "p-tuning-v2", "p-tuning", "frozen")


@given(name=st.sampled_from(EVERY), family=st.sampled_from(["bert", "gpt2", "t5"]), own=st.booleans())
def test_every_trained_tensor_is_in_one_group_and_no_weight_of_the_backbone_is(
    name: str, family: str, own: bool
) -> None:
    model, readout = parts(family, name)
    rates = {"prompt.generator": 1e-4} if own and name != "frozen" else {}
    found = [p for group in groups(model, readout, Recipe(), rates) for p in group["params"]]
    wanted = [p for module in (model, readout) for p in module.parameters() if p.requires_grad]
    assert len(found) == len({id(p) for p in found})
    assert {id(p) for p in found} == {id(p) for p in wanted}
    assert not {id(p) for p in found} & {id(p) for p in model.backbone.model.parameters()}


@pytest.mark.parametrize("scaled", [True, False])
def test_the_prompt_s_rate_is_in_units_of_the_embedding_table_where_the_recipe_says_so(scaled: bool) -> None:
    model, readout = parts()
    made = {g["name"]: g for g in groups(model, readout, recipe(rate=0.2, head_rate=0.01, scaled=scaled))}
    assert made["prompt"]["rate"] == 0.2 * (model.backbone.shape.deviation if scaled else 1.0)
    assert made["readout"]["rate"] == 0.01


def test_biases_are_not_decayed_and_matrices_are() -> None:
    model, readout = parts("bert", "prefix-tuning")
    for group in groups(model, readout, recipe(decay=0.1)):
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}
    assert [g["name"] for g in groups(model, readout, recipe(decay=0.1))] == [
        "prompt", "prompt, not decayed", "readout", "readout, not decayed",
    ]  # fmt: skip


def test_the_biases_of_a_choice_are_not_decayed() -> None:
    model, readout = parts("bert", "dp-position-instance")
    decayed = {n: g["weight_decay"] > 0 for g in groups(model, readout, recipe(decay=0.1)) for n in g["names"]}
    [bias] = [name for name in decayed if name.endswith("choice.bias")]
    [weight] = [name for name in decayed if name.endswith("choice.weight")]
    assert (decayed[bias], decayed[weight]) == (False, True)


def test_the_longest_prefix_decides() -> None:
    model, readout = parts("bert", "prefix-tuning")
    rates = {"prompt.generator.transforms": 1.0, "prompt.generator": 2.0}
    by_name = {n: g["rate"] for g in groups(model, readout, recipe(), rates) for n in g["names"]}
    inner = {rate for name, rate in by_name.items() if name.startswith("prompt.generator.inner")}
    outer = {rate for name, rate in by_name.items() if name.startswith("prompt.generator.transforms")}
    assert (inner, outer) == ({2.0}, {1.0})


@pytest.mark.parametrize("prefix", ["prompt.generater", "prompt.generator.tabl", "pro"])
def test_a_prefix_that_no_tensor_has_is_refused_with_the_nearest_name(prefix: str) -> None:
    with pytest.raises(SettingError, match="no trained tensor is under"):
        groups(*parts(), recipe(), {prefix: 1.0})


def test_a_read_out_that_holds_a_weight_of_the_backbone_is_refused() -> None:
    model, readout = parts()
    weight = next(iter(model.backbone.model.parameters()))
    weight.requires_grad_(True)
    readout.stolen = weight
    try:
        with pytest.raises(SettingError, match=r"readout\.stolen is a weight of the frozen backbone"):
            trained(model, readout)
    finally:
        weight.requires_grad_(False)
    assert "readout.stolen" not in trained(model, readout)


def test_a_tensor_shared_by_prompt_and_read_out_is_the_prompt_s() -> None:
    model, readout = parts()
    readout.shared = model.generator.table
    assert [n for n, p in trained(model, readout).items() if p is model.generator.table] == ["prompt.generator.table"]


def test_trained_tensors_in_half_precision_are_refused() -> None:
    model, readout = parts()
    with pytest.raises(SettingError, match=r"readout\.head\.weight is torch\.bfloat16.*float32"):
        trained(model, readout.to(torch.bfloat16))


def test_nothing_to_train_is_refused() -> None:
    model, readout = parts("bert", "frozen")
    with pytest.raises(SettingError, match="nothing to train"):
        trained(model, readout.requires_grad_(False))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adafactor", Adafactor)])
def test_the_recipe_names_the_optimizer(name: str, kind: type[torch.optim.Optimizer]) -> None:
    made = optimizer(recipe(optimizer=name), groups(*parts(), recipe()))
    assert isinstance(made, kind)
    assert all(isinstance(p, nn.Parameter) for group in made.param_groups for p in group["params"])
