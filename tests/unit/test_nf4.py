"""Four bits a weight: answers are the model's, prompts learn through it, and each layer is near what it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig

from promptuary import open_prompt, tune
from promptuary.backbones import nf4
from promptuary.backbones.identity import same_model
from promptuary.backbones.load import load, wrap
from promptuary.bench.baselines.adapters import Adapters
from promptuary.bench.baselines.fine_tuning import FineTuning
from promptuary.errors import BackboneError, SettingError
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.specs import Run
from tests.answers import gap, small
from tests.saved import TEXTS, Shelf, done, refused, save

pytest.importorskip("bitsandbytes")  # pip install 'promptuary[nf4]'

FIVE = ("bert", "gpt2", "llama", "t5", "bart")
TRAINED = ("prompt-tuning", "p-tuning-v2", "ipt-cnn", "dp-position-instance")
WEIGHTS = ("q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "c_attn")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


SIZES: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "gpt2": {"n_embd": 64},
    "llama": {"hidden_size": 64, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128},
    "bart": {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
}  # whole blocks of 64


def saved(family: str, shelf: Shelf) -> Path:
    """A model on the disk that is wide enough."""
    folder = shelf.place / f"wide-{family}"
    return folder if folder.is_dir() else save(family, folder, **SIZES[family])


def prompted(family: str, method: str, shelf: Shelf) -> SoftPrompted:
    """A method on a saved model in four bits."""
    ours = load(f"{nf4.PREFIX}{saved(family, shelf)}")
    return SoftPrompted(ours, *METHODS[method].parts(ours.shape, **small(method)))


def code(weights: Tensor) -> Tensor:
    """What NF4 makes of weights, by hand: blocks of 64 in a row, each at the nearest of 16 shares of its largest."""
    positive, negative = (torch.special.ndtri(torch.linspace(0.9677083, 0.5, n)[:-1].double()) for n in (9, 8))
    table = torch.cat([positive, torch.zeros(1).double(), -negative])
    table = (table / table.max()).sort().values
    blocks = weights.double().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / largest[..., None] - table).abs().argmin(-1)
    return (table[nearest] * largest).reshape(weights.shape)


@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_each_layer_is_the_nearest_of_sixteen_shares_of_its_blocks(shelf: Shelf, family: str) -> None:
    plain, rounded = (load(f"{way}{saved(family, shelf)}") for way in ("", nf4.PREFIX))
    layers = {n: m for n, m in plain.model.named_modules() if n.rpartition(".")[2] in WEIGHTS}
    assert layers
    for name, module in layers.items():
        own, transposed = rounded.model.get_submodule(name), family == "gpt2"
        size = module.weight.shape[0 if transposed else 1]
        eye = torch.eye(size)
        bias = 0 if own.bias is None else own.bias
        said = (own(eye) - bias).T
        weight = (module.weight.T if transposed else module.weight).bfloat16()
        assert gap(said, code(weight).float()) <= 0.02  # the largest of each block has eight bits itself
        assert gap(said, weight.float()) > 0.02  # it is rounded


@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_it_says_what_transformers_says_with_the_same_settings(shelf: Shelf, family: str) -> None:
    folder = saved(family, shelf)
    kinds: dict[str, Callable[..., torch.nn.Module]] = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM}
    kinds |= {"llama": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM, "bart": AutoModelForSeq2SeqLM}
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    theirs = kinds[family].from_pretrained(folder, quantization_config=how, dtype=torch.bfloat16).eval()
    ours = load(f"{nf4.PREFIX}{folder}", dtype=torch.bfloat16)
    model = SoftPrompted(ours, *METHODS["frozen"].parts(ours.shape))
    x = model.instance(IDS, MASK)
    given = {"input_ids": IDS, "attention_mask": MASK.long()}
    tower = theirs.get_encoder() if family in ("t5", "bart") else theirs.base_model
    assert gap(model(x).hidden[MASK], tower(**given).last_hidden_state[MASK]) <= 0.02


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("family", FIVE)
def test_every_trained_tensor_hears_and_the_model_stays(shelf: Shelf, family: str, method: str) -> None:
    model = prompted(family, method, shelf).train()
    before = model.backbone.digest()
    x = model.instance(IDS, MASK)
    model(x).hidden[MASK].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad and p.dim() > 1)
    assert model.backbone.digest() == before


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_a_row_alone_is_that_row_beside_others(shelf: Shelf, family: str, method: str) -> None:
    model = prompted(family, method, shelf).eval()
    both = model(model.instance(IDS, MASK)).hidden[1, :3]
    assert gap(model(model.instance(IDS[1:, :3], MASK[1:, :3])).hidden[0], both) <= 2e-5


def test_a_prompt_is_tuned_opened_and_knows_its_model_in_another_precision(shelf: Shelf, tmp_path: Path) -> None:
    name = f"{nf4.PREFIX}{saved('llama', shelf)}"
    run = Run(
        backbone=name, train=str(shelf.train), validation=str(shelf.dev), method="prompt-tuning",
        recipe={"epochs": 1, "batch": 8}, out=str(tmp_path / "out"),
    )  # fmt: skip
    tuned = tune(run)[0].tuned
    again = open_prompt(tmp_path / "out")
    texts = [text for of in TEXTS.values() for text in of]
    assert again.manifest.backbone == name
    assert [a.probabilities for a in again.predict_texts(texts)] == [
        a.probabilities for a in tuned.predict_texts(texts)
    ]
    full, half = (load(name, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert same_model(full.fingerprint(), half.fingerprint())
    assert not same_model(full.fingerprint(), load(str(saved("llama", shelf))).fingerprint())
    assert f"Load it with --backbone {name}" in refused(
        "predict", tmp_path / "out", "--input", shelf.dev, "--output", tmp_path / "no.jsonl",
        "--backbone", saved("llama", shelf),
    )  # fmt: skip
    done("predict", tmp_path / "out", "--input", shelf.dev, "--output", tmp_path / "yes.jsonl")


def test_rows_that_are_rounded_to_other_numbers_on_a_cpu_are_refused(shelf: Shelf) -> None:
    with pytest.raises(BackboneError, match=r"rows of 32 numbers \(.*\) are no multiple of 64"):
        load(f"{nf4.PREFIX}{shelf.model('bert')}")


def test_what_is_rounded_is_neither_rounded_again_nor_trained(shelf: Shelf) -> None:
    ours = load(f"{nf4.PREFIX}{saved('bert', shelf)}")
    with pytest.raises(SettingError, match=r"rounded already|torchao is not installed"):
        ours.to_int8("weights")
    with pytest.raises(BackboneError, match=r"four bits cannot be trained.*lora"):
        FineTuning().free(ours.model, {})


@pytest.mark.parametrize("family", FIVE)
def test_adapters_stand_behind_rounded_layers(shelf: Shelf, family: str) -> None:
    ours = load(f"{nf4.PREFIX}{saved(family, shelf)}")
    model = SoftPrompted(ours, *METHODS["frozen"].parts(ours.shape))
    Adapters().free(ours.model, {"inner": 4})
    model(model.instance(IDS, MASK)).hidden[MASK].square().sum().backward()
    heard = [p.grad for p in ours.model.parameters() if p.grad is not None]
    assert len(heard) >= 8
    assert all(grad.isfinite().all() for grad in heard)


def test_eight_bits_that_depend_on_the_batch_are_refused_by_their_cause(shelf: Shelf) -> None:
    def eight(threshold: float) -> torch.nn.Module:
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
        return AutoModelForCausalLM.from_pretrained(saved("llama", shelf), quantization_config=how)

    with pytest.raises(BackboneError, match=r"LLM\.int8.*llm_int8_threshold=0"):
        wrap(eight(0.5))
    assert wrap(eight(0.0)).shape.family == "llama"


def test_without_its_library_it_is_told_what_to_install(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(BackboneError, match=r"bitsandbytes and accelerate are not installed.*promptuary\[nf4\]"):
        load(f"{nf4.PREFIX}{saved('bert', shelf)}")
