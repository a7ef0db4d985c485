"""The numbers that papers and their code state: how many a prompt has, its networks, and how it is trained."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from promptuary.generators import Concatenated, Summed
from promptuary.lookups import Dense, Hashed
from promptuary.methods import METHODS
from promptuary.values import Attention, Instance, Shape
from tests.backbones import backbone

DEVIATION = 0.5


def shape(dim: int, layers: int, heads: int, *, family: str = "encoder", vocabulary: int = 50) -> Shape:
    """Sizes of a published model, with a small vocabulary."""
    towers = {"encoder": ("encoder",), "decoder": ("decoder",), "t5": ("encoder", "decoder", "cross")}[family]
    attention = tuple(Attention(part, heads, 64, 64) for part in towers for _ in range(layers))  # type: ignore[arg-type]
    encodes, decodes = family != "decoder", family != "encoder"
    return Shape(family, dim, dim, dim, layers, vocabulary, None, DEVIATION, attention, decodes, encodes)


T5_SMALL, T5_LARGE = shape(512, 8, 6, family="t5"), shape(1024, 24, 16, family="t5")
ROBERTA, GPT2 = shape(1024, 24, 16), shape(1024, 24, 16, family="decoder")
TABLE = 50 * 1024  # of a vocabulary, whose size is ours

COUNTS: list[tuple[str, Shape, dict[str, Any], int]] = [
    ("prompt-tuning", T5_SMALL, {"length": 100}, 51_200),
    ("prompt-tuning", T5_LARGE, {"length": 20}, 20_480),
    ("multitask-prompt-tuning", shape(768, 12, 12, family="t5"), {"length": 100}, 77_668),
    ("p-tuning-v2", ROBERTA, {"length": 8}, 393_216),
    ("p-tuning-v2", ROBERTA, {"length": 128}, 6_291_456),
    ("p-tuning-v2", GPT2, {"length": 5}, 245_760),
    ("p-tuning-v2", T5_SMALL, {"length": 1}, 2 * 6 * 64 * (8 + 2 * 8)),  # heads are narrower than the model is
    ("prefix-tuning", GPT2, {"length": 5, "middle": 512}, 5 * 1024 + 1025 * 512 + 513 * 49_152),
    ("ipt", ROBERTA, {"length": 100}, TABLE),
    ("ipt-cnn", ROBERTA, {"length": 100}, TABLE + 421_891),
    ("ipt-lstm", ROBERTA, {"length": 100}, TABLE + 13_867_008),
    ("ipt-mlp", ROBERTA, {"length": 3}, TABLE + 1025 * 3 * 1024),
    ("ipt-prefix", ROBERTA, {"length": 100}, 2 * TABLE + 4_915_200),
    ("ipt-prefix", ROBERTA, {"length": 100, "encoder": "cnn"}, 2 * TABLE + 4_915_200 + 843_779),
    ("idpg", ROBERTA, {}, 1025 * 256 + 257 * 5 * 1024),
    ("dp-position", T5_LARGE, {}, 20_501),
    ("dp-position-instance", T5_LARGE, {}, 42_005),
    ("dp-length", T5_LARGE, {"least": 0}, 20_501),
    ("dp-length-instance", T5_LARGE, {"least": 0}, 42_005),
    ("dp-vector", T5_LARGE, {}, 86_020),
    ("dp-vector-position", T5_LARGE, {}, 107_545),
    ("dp-position-vector", T5_LARGE, {}, 86_041),
    ("dp-bank", T5_LARGE, {}, 430_101),
    ("dp-bank", T5_LARGE, {"position": "instance"}, 451_605),
]


@pytest.mark.parametrize(("name", "sizes", "settings", "expected"), COUNTS, ids=[f"{c[0]}-{c[3]}" for c in COUNTS])
def test_a_prompt_has_as_many_numbers_as_published(
    name: str, sizes: Shape, settings: dict[str, Any], expected: int
) -> None:
    made = METHODS[name].parts(sizes, **settings)
    trained = {p for part in made for p in part.parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained) == expected


RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    # Lester et al. 2021, section 3 and the published configuration
    ("prompt-tuning", "paper"): {
        "optimizer": "adafactor", "rate": 0.3, "scaled": False, "decay": 1e-5, "schedule": "constant", "warmup": 0.0,
        "batch": 32, "steps": 30_000, "clip": 0.0, "dropout": 0.0, "precision": "bf16", "length": 100,
    },
    # Li and Liang 2021, published scripts
    ("prefix-tuning", "paper-e2e"): {
        "rate": 5e-5, "scaled": False, "schedule": "linear", "warmup": 0.0, "decay": 0.0, "batch": 5, "epochs": 5,
        "length": 5, "middle": 512,
    },
    ("prefix-tuning", "paper-xsum"): {
        "rate": 5e-5, "scaled": False, "schedule": "linear", "warmup": 0.0, "decay": 0.0, "batch": 16,
        "accumulation": 3, "epochs": 30, "length": 200, "middle": 800,
    },
    # Liu et al. 2022, published scripts on BERT-large
    ("p-tuning-v2", "paper-boolq"): {
        "rate": 5e-3, "scaled": False, "schedule": "linear", "warmup": 0.0, "decay": 0.0, "epochs": 100, "length": 40,
        "dropout": 0.1,
    },
    ("p-tuning-v2", "paper-rte"): {
        "rate": 1e-2, "scaled": False, "schedule": "linear", "warmup": 0.0, "decay": 0.0, "epochs": 60, "length": 20,
        "dropout": 0.1,
    },
    # Liu et al. 2021, published code
    ("p-tuning", "paper-lama"): {
        "rate": 1e-5, "scaled": False, "decay": 5e-4, "batch": 8, "patience": 20, "schedule": "constant", "warmup": 0.0,
    },
    ("p-tuning", "rte-few-shot-frozen"): {
        "rate": 1e-4, "scaled": False, "batch": 2, "steps": 3500, "warmup": 150 / 3500, "schedule": "linear",
    },
    # Jiang et al. 2022, published configuration
    **{
        (name, "paper"): {
            "optimizer": "adamw", "rate": 0.03, "scaled": False, "decay": 0.0, "batch": 32, "accumulation": 2,
            "epochs": 100, "clip": 1.0, "length": 100,
        }
        for name in ("ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix")
    },
}  # fmt: skip


def test_a_papers_recipe_has_the_papers_numbers() -> None:
    assert set(RECIPES) == {(name, preset) for name, m in METHODS.items() for preset in m.presets}
    for (name, preset), published in RECIPES.items():
        found = METHODS[name].presets[preset]
        given = {**METHODS[name].settings(), **found.settings, **asdict(found.recipe)}
        assert {field: given[field] for field in published} == published, (name, preset)


def reading(ids: torch.Tensor) -> Instance:
    return Instance(ids, ids >= 0, torch.zeros(*ids.shape, 32), ids * 0, ids[:, 0])


IDS = torch.arange(5, 95).view(9, 10)


@torch.no_grad()
def test_the_mlp_writes_nothing_below_zero_and_drops_half_while_it_trains() -> None:
    generator, _ = METHODS["ipt-mlp"].parts(backbone("bert").shape, length=10)
    still = generator.eval()(reading(IDS)).values
    assert still.min() == 0
    assert torch.equal(generator(reading(IDS)).values, still)
    made = generator.train()(reading(IDS)).values
    on = still > 0
    assert 0.45 < float((made[on] > 0).float().mean()) < 0.55
    torch.testing.assert_close(made[made > 0], 2 * still[made > 0])


@torch.no_grad()
def test_prompts_of_the_cnn_lie_in_three_dimensions() -> None:
    generator, _ = METHODS["ipt-cnn"].parts(backbone("bert").shape, length=10)
    made = generator.eval()(reading(IDS)).values.flatten(1)
    assert torch.linalg.matrix_rank(made - made.mean(0), rtol=1e-4) == 3


@torch.no_grad()
def test_an_instance_adds_a_twentieth_to_the_keys_and_values_of_the_first_layer() -> None:
    sizes = backbone("bert").shape
    generator, _ = METHODS["ipt-prefix"].parts(sizes, length=4)
    assert isinstance(generator, Summed)
    own, (table,) = generator.generators[0], (m.weight for m in generator.modules() if isinstance(m, Dense))
    added = generator(reading(IDS)).values - own(reading(IDS)).values
    first = sizes.attention[0].width
    torch.testing.assert_close(added[..., :first], 0.05 * table[IDS[:, :4]], rtol=0, atol=1e-6)
    assert not added[..., first:].any()
    assert abs(float(own.table.std()) - 1) < 0.1  # type: ignore[union-attr]


def test_a_prompt_of_the_tasks_own_stands_before_the_instances() -> None:
    generator, _ = METHODS["ipt"].parts(backbone("bert").shape, length=4, combine="concatenate")
    assert isinstance(generator, Concatenated)
    assert torch.equal(generator(reading(IDS)).values[0, :4], generator.generators[0].table)  # type: ignore[union-attr]


@torch.no_grad()
def test_a_hashed_vector_is_the_mean_of_the_rows_that_the_hashes_name() -> None:
    """Carter and Wegman 1979: a multiplier and an addend for each hash, modulo a prime, modulo the buckets."""
    table = Hashed(1000, 4, 13, lambda length, width, seed: torch.randn(length, width, generator=seed), hashes=3)
    for token in (0, 7, 999):
        rows = [(int(a) * token + int(b)) % (2**31 - 1) % 13 for a, b in table.multipliers]
        torch.testing.assert_close(table(torch.tensor([[token]]))[0, 0], table.weight[rows].mean(0))
    assert len({tuple(pair) for pair in table.multipliers.tolist()}) == 3


def test_late_prompts_join_in_the_middle() -> None:
    _, injection = METHODS["lpt"].parts(ROBERTA, instance=False)
    assert injection.layer == 12  # type: ignore[union-attr]
