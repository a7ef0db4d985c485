"""Eight bits: what is rounded, by how much, and that a prompt stays at home on the rounded model."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.identity import same_model
from promptuary.backbones.load import wrap
from promptuary.errors import SettingError
from promptuary.model import SoftPrompted
from promptuary.train.evaluation import arithmetic
from tests.answers import EXACT, gap, parts
from tests.backbones import FAMILIES, fresh
from tests.saved import Shelf, command, done, refused

pytest.importorskip("torchao")  # pip install 'promptuary[int8]'

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def own(family: str) -> Backbone:
    """A model that may be rounded."""
    return wrap(fresh(family), family)


def layers(b: Backbone) -> dict[str, nn.Module]:
    """The linear layers of all towers, whose weights lie as `[outputs, inputs]` or the other way."""
    return {
        f"{n} {path}": module
        for n, (tower, _) in enumerate(b.towers(b.model))
        for path, module in tower.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def states(b: Backbone, method: str = "p-tuning-v2") -> Tensor:
    prompt = SoftPrompted(b, *parts(b.name, method)).eval()
    with torch.no_grad():
        return prompt(prompt.instance(IDS, MASK)).hidden


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deberta"])
def test_rounded_weights_say_what_weights_rounded_by_hand_say(family: str) -> None:
    ours, by_hand = own(family), own(family)
    share = ours.to_int8("weights")
    made: dict[str, Any] = layers(ours)
    for name, layer in layers(by_hand).items():
        whole, step = made[name].weight.qdata.float(), made[name].weight.scale
        plain: Any = layer.weight.data.t() if isinstance(layer, Conv1D) else layer.weight.data  # type: ignore[operator,union-attr]
        assert torch.allclose(step, plain.abs().amax(1, keepdim=True) / 127.5)
        assert ((whole * step - plain).abs() <= 0.501 * step).all()
        layer.weight.data = (whole * step).t().contiguous() if isinstance(layer, Conv1D) else whole * step
    assert gap(states(ours)[MASK], states(by_hand)[MASK]) <= EXACT
    assert 1e-4 < share < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", ["weights", "dynamic"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_a_rounded_model_says_nearly_what_the_model_says_under_a_prompt(family: str, how: Any, precision: str) -> None:
    b = own(family)
    with arithmetic(b.device, precision):
        plain = states(b).float()
        b.to_int8(how)
        found = states(b).float()
    assert not torch.equal(plain, found)
    assert (found - plain)[MASK].norm() < 0.1 * plain[MASK].norm()


@pytest.mark.parametrize("how", ["weights", "dynamic"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_it_is_the_same_model_with_other_bytes_and_fewer(family: str, how: Any) -> None:
    b = own(family)
    name, bytes_of = b.fingerprint(), b.digest()
    b.to_int8(how)
    assert same_model(name, b.fingerprint())
    assert b.digest() != bytes_of
    assert b.digest() == b.digest()
    found: list[Any] = list(layers(b).values())
    assert all(m.weight.qdata.dtype == torch.int8 and not m.weight.requires_grad for m in found)
    assert found


def test_it_is_rounded_once_and_by_a_known_word() -> None:
    b = own("bert")
    with pytest.raises(SettingError, match="expected 'weights'"):
        b.to_int8("int4")  # type: ignore[arg-type]
    b.to_int8("weights")
    with pytest.raises(SettingError, match="rounded already"):
        b.to_int8("dynamic")


@pytest.mark.parametrize("how", ["weights", "dynamic"])
def test_a_user_is_told_what_rounding_costs(how: str, shelf: Shelf) -> None:
    prompt = shelf.prompt("bert", "p-tuning-v2")
    plain = json.loads(done("evaluate", prompt, "--data", shelf.dev, "--json"))
    told = command("evaluate", prompt, "--data", shelf.dev, "--json", "--int8", how)
    assert f"in eight bits ({how}): its last states on a trial text are" in told.stderr
    found = json.loads(told.stdout)
    assert found.pop("as_it_is") == plain
    assert found["n"] == plain["n"]
    assert found["loss"] == pytest.approx(plain["loss"], abs=0.1)
    assert found["loss"] != plain["loss"]
    assert "is of one prompt" in refused("evaluate", prompt, "--ensemble", prompt, "--data", shelf.dev, "--int8", how)
