"""What the list of methods says of parts and numbers on a backbone."""

import json

import pytest

from promptuary.catalogue import entry, expression
from promptuary.errors import SettingError
from promptuary.generators import Free, Pool
from promptuary.initial import normal
from promptuary.methods import METHODS
from promptuary.parts import Choice, Elementwise, Mapped, Slotwise
from tests.backbones import backbone
from tests.laws.checks import REFUSED
from tests.saved import Shelf, done


def test_an_expression_names_our_parts_alone() -> None:
    pool = Pool(Choice(3, dim=4), *(Free(2, 4, normal(1.0)) for _ in range(3)))
    assert expression(pool) == "Pool(Choice, 3 Free)"
    assert expression(Mapped(pool, Slotwise(4, 3, 4))) == "Mapped(Pool(Choice, 3 Free), Slotwise)"
    assert expression(Elementwise(Free(1, 1, normal(1.0)))) == "Elementwise(Free)"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_entry_or_a_reason(name: str) -> None:
    for family in ("bert", "gpt2", "deberta"):
        found = entry(name, backbone(family), 4)
        assert (found.refused is not None) == ((family, name) in REFUSED)
        assert (found.counts is None) == (found.parts == "") == (found.refused is not None)


def test_numbers_of_known_methods() -> None:
    b, dim = backbone("bert"), backbone("bert").shape.dim
    sizes = {name: entry(name, b, 4).counts for name in ("prompt-tuning", "dp-vector", "ipt", "frozen")}
    assert {name: (c.nominal, c.active) for name, c in sizes.items() if c} == {
        "prompt-tuning": (4 * dim, 4 * dim),
        "dp-vector": (4 * 4 * dim + 4 * dim + 4, 4 * 4 * dim + 4 * dim + 4),
        "ipt": (b.shape.vocabulary * dim, 4 * dim),
        "frozen": (0, 0),
    }
    with pytest.raises(SettingError, match="no room"):
        entry("prompt-tuning", b, b.shape.positions or 0)


def test_the_list_on_a_backbone(shelf: Shelf) -> None:
    model = shelf.model("bert")
    shown = done("methods", "--backbone", model, "--length", 3)
    assert "Mapped(Free, BiLSTM, Slotwise, Scaled)" in shown.replace("\n", "") or "BiLSTM" in shown
    listed = {m["name"]: m for m in json.loads(done("methods", "--backbone", model, "--length", 3, "--json"))}
    assert list(listed) == list(METHODS)
    assert listed["prompt-tuning"]["parts"] == "Free, Embeddings(Split)"
    assert listed["prompt-tuning"]["counts"]["nominal"] == 3 * backbone("bert").shape.dim
    assert all(m["paper"] and m["refused"] is None for m in listed.values())
