"""The models that come along: they load by their names, they are small, and they know something."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from promptuary.backbones.load import SHORT_NAMES, available, load
from promptuary.data.source import rows
from promptuary.errors import BackboneError
from promptuary.specs import Run
from promptuary.tuning import tune

sys.path.insert(0, str(Path(__file__).parents[2] / "pretraining"))

import ladder

SHIPPED = ("ladder-1m", "ladder-1m-span")
NAMED = [name for name in SHORT_NAMES if name.startswith("ladder")]
LADDER = [name for name in NAMED if name in SHIPPED or SHORT_NAMES[name].path() is not None]
TEXT = "The old man sat down by the fire and told the children about the war."


def place(name: str) -> Path:
    found = SHORT_NAMES[name].path()
    assert found is not None, f"{name} is missing from the checkout"
    return found


def test_all_shipped_files_are_small() -> None:
    files = [file for name in LADDER for file in place(name).iterdir()]
    assert max(file.stat().st_size for file in files) < 20e6
    assert sum(file.stat().st_size for file in files) < 48e6


@pytest.mark.parametrize("name", LADDER)
def test_a_model_of_the_ladder_loads_with_its_tokenizer_and_its_card(name: str) -> None:
    backbone = load(name)
    assert backbone.name == name
    assert backbone.has_head
    ids = backbone.tokenizer(TEXT).input_ids
    assert ids[-1] == backbone.tokenizer.eos_token_id
    assert backbone.tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    card = (place(name) / "README.md").read_text()
    weights = sum(p.numel() for p in backbone.model.parameters())
    assert f"{weights / 1e6:.1f} M weights" in card
    assert re.search(r"5-gram, Kneser-Ney \| \d\.\d{3} \|", card)


def test_every_model_that_is_trained_has_its_name_and_one_that_is_not_here_says_so() -> None:
    assert set(NAMED) == {name for name in ladder.STAGES if not name.endswith("-begun")}
    for name in NAMED:
        if name not in LADDER:
            assert name not in available()
            with pytest.raises(BackboneError, match=f"{name}.* is not on this machine.*holds {name}>"):
                load(name)


def test_the_shares_of_the_ladders_time_are_all_of_it_and_the_page_has_its_sizes() -> None:
    stages, page = ladder.STAGES, (Path(ladder.__file__).parent / "README.md").read_text()
    assert math.isclose(sum(stage.share for stage in stages.values()), 1.0)
    for name in NAMED:
        config = stages[name].config
        with torch.device("meta"):
            model = (hf.T5ForConditionalGeneration if config.is_encoder_decoder else hf.LlamaForCausalLM)(config)
        whole = sum(p.numel() for p in model.parameters())
        beside = whole - model.get_input_embeddings().weight.numel()
        assert beside / 1e6 == pytest.approx(int(re.findall(r"\d+", name)[0]), rel=0.2)
        [line] = [line for line in page.splitlines() if f"`{name}`" in line and "| width" in line]
        assert f"| {whole / 1e6:.1f} M | {beside / 1e6:.1f} M |" in line


def cost(name: str) -> float:
    """Nats a token of the second half of a sentence, behind the first."""
    backbone = load(name)
    half = TEXT.index("told")
    given, told = (backbone.tokenizer(text, return_tensors="pt") for text in (TEXT[:half], TEXT[half:]))
    with torch.no_grad():
        return float(backbone.model(input_ids=given.input_ids, labels=told.input_ids[:, :-1]).loss)


def test_adaptation_teaches_to_go_on() -> None:
    after, before, untrained = (cost(name) for name in ("ladder-1m", "ladder-1m-span", "random:ladder-1m"))
    assert after < before - 1
    assert after < untrained - 3
    assert untrained > math.log(16384) - 1


@pytest.mark.slow
def test_a_prompt_learns_to_write_labels(tmp_path: Path) -> None:
    backbone = load("ladder-1m")
    run = Run(
        train="sample:intents/train", validation="sample:intents/validation", backbone="ladder-1m", readout="text",
        method="p-tuning-v2", recipe={"epochs": 20, "batch": 8, "rate": 0.1}, out=str(tmp_path / "prompt"),
    )  # fmt: skip
    [outcome] = tune(run, backbone=backbone)
    test = list(rows("sample:intents/test"))
    free, rank = (outcome.tuned.decode(test, mode=mode) for mode in ("free", "rank"))
    assert rank["accuracy"] > 0.3  # of ten classes
    assert free["illegal"] < 0.2
    assert free["accuracy"] > 0.25
