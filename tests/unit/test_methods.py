import warnings
from itertools import combinations
from typing import Any

import pytest
import torch

from promptuary.errors import SettingError
from promptuary.initial import from_prompt, uniform
from promptuary.injections import Embeddings, KeyValues
from promptuary.methods import METHODS, method
from promptuary.placements import Slots
from tests.answers import parts
from tests.backbones import backbone
from tests.laws.checks import PROMPTED

SHAPE = backbone("bert").shape
ON_BERT = [m for f, m in PROMPTED if f == "bert"]


def test_the_table_names_every_method_by_its_own_name() -> None:
    assert list(METHODS) == [m.name for m in METHODS.values()]
    assert all(method(name) is m for name, m in METHODS.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_whose(name: str) -> None:
    m = METHODS[name]
    assert m.summary
    assert m.paper
    assert m.build.__doc__
    assert not {"init", "seed", "shape"} & set(m.settings())


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_the_defaults_of_a_method_can_be_built(name: str) -> None:
    generator, injection = METHODS[name].parts(SHAPE, **METHODS[name].settings())
    assert generator.width == injection.width


@pytest.mark.parametrize("name", [n for n in ON_BERT if "length" in METHODS[n].settings()])
@torch.no_grad()
def test_length_is_the_number_of_soft_tokens(name: str) -> None:
    for length in (1, 5):
        generator, _ = METHODS[name].parts(SHAPE, length=length)
        assert generator.length == length
        fixed = generator.fixed()
        assert fixed is None or fixed.values.shape == (1, length, generator.width)


@pytest.mark.parametrize("name", ON_BERT)
@torch.no_grad()
def test_equal_seeds_give_equal_prompts_and_draw_nothing_else(name: str) -> None:
    def built(seed: int) -> dict[str, torch.Tensor]:
        before = torch.get_rng_state()
        generator, _ = METHODS[name].parts(SHAPE, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return dict(generator.state_dict())

    one, other, third = built(1), built(1), built(2)
    assert all(torch.equal(one[k], other[k]) for k in one)
    drawn = [k for k in one if one[k].unique().numel() > 1 and "choice" not in k]  # the others start at constants
    assert drawn
    assert all(not torch.equal(one[k], third[k]) for k in drawn)


DRAWN: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ON_BERT),
    ("ipt", {"combine": "add"}),
    ("ipt", {"combine": "concatenate"}),
    ("ipt", {"rank": 4}),
    ("ipt-prefix", {"encoder": "lstm"}),
    ("ipt-prefix", {"combine": "concatenate", "layers": [0, 1]}),
    ("smop", {"control": "frozen"}),
    ("dp-vector-position", {"control": "frozen"}),
]


@pytest.mark.parametrize(("name", "settings"), DRAWN, ids=str)
def test_what_starts_at_random_starts_apart(name: str, settings: dict[str, Any]) -> None:
    """A network that is a multiple of the table it reads would start as a detector of the first tokens."""
    drawn = [p.detach().flatten() for part in METHODS[name].parts(SHAPE, **settings) for p in part.parameters()]
    for one, other in combinations([p for p in drawn if p.unique().numel() > 1], 2):
        count = min(len(one), len(other))
        if count >= 64:
            alike = torch.corrcoef(torch.stack([one[:count], other[:count]]))[0, 1]
            assert abs(float(alike)) < max(0.3, 5 * count**-0.5)


@pytest.mark.parametrize("name", METHODS)
def test_building_a_method_warns_of_nothing(name: str) -> None:
    torch.set_warn_always(True)  # else only the first time in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            METHODS[name].parts(SHAPE)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("name", ["prompt-tuning", "deep-prompt-tuning", "p-tuning-v2"])
def test_a_start_is_taken_over(name: str) -> None:
    wanted = torch.randn(3, METHODS[name].parts(SHAPE, length=3)[0].width)
    generator, _ = METHODS[name].parts(SHAPE, length=3, init=from_prompt(wanted))
    assert torch.equal(generator.fixed().values[0], wanted)


@torch.no_grad()
def test_inputs_start_at_the_scale_of_the_embedding_table() -> None:
    for name in ("prompt-tuning", "p-tuning"):
        generator, _ = METHODS[name].parts(SHAPE, length=50)
        assert abs(float(generator.fixed().values.std()) / SHAPE.deviation - 1) < 0.1


@torch.no_grad()
def test_p_tuning_has_the_published_encoders() -> None:
    lstm, _ = METHODS["p-tuning"].parts(SHAPE, length=3)
    mlp, _ = METHODS["p-tuning"].parts(SHAPE, length=3, encoder="mlp")
    assert sum(p.numel() for p in mlp.parameters()) == 3 * 32 + 2 * 32 * 33
    assert sum(p.numel() for p in lstm.parameters()) > sum(p.numel() for p in mlp.parameters())
    with pytest.raises(SettingError, match="'lstm' or 'mlp'"):
        METHODS["p-tuning"].parts(SHAPE, encoder="gru")
    _, injection = METHODS["p-tuning"].parts(SHAPE, length=3, template=True)
    assert isinstance(injection, Embeddings)
    assert isinstance(injection.placement, Slots)


def test_prefixes_of_chosen_parts() -> None:
    shape = backbone("t5").shape
    for name in ("prefix-tuning", "p-tuning-v2"):
        generator, injection = METHODS[name].parts(shape, length=2, parts=["cross"])
        assert isinstance(injection, KeyValues)
        assert injection.parts == {"cross"}
        assert generator.width == shape.key_value_width(frozenset({"cross"}))


def test_a_given_start_goes_into_the_prompt_and_the_frozen_control_has_none() -> None:
    generator, _ = METHODS["prompt-tuning"].parts(SHAPE, length=2, init=uniform(3.0, 4.0))
    assert bool((generator.fixed().values >= 3).all())
    generator, injection = METHODS["frozen"].parts(SHAPE)
    assert generator.length == 0
    assert injection.occupies(0) == 0
    assert not [p for p in generator.parameters() if p.requires_grad]


@torch.no_grad()
def test_test_size_is_what_the_laws_use() -> None:
    assert all(parts("bert", name)[0].length == 3 for name in ON_BERT)
