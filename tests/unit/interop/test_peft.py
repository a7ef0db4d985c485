"""Adapters of the real PEFT say here what they say there, and ours there what they say here (unpadded rows)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from promptuary.assembly import prompted
from promptuary.backbones import turning
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.turning import turned
from promptuary.data.source import Row
from promptuary.errors import BackboneError, CheckpointError, SettingError
from promptuary.initial import from_prompt
from promptuary.interop.peft import Adapter, import_adapter, method_of, read_adapter, write_adapter
from promptuary.model import SoftPrompted
from promptuary.tuned import Tuned, open_prompt
from promptuary.values import Targets
from tests.answers import EXACT, gap
from tests.backbones import backbone, fresh
from tests.saved import Shelf, done, refused

peft = pytest.importorskip("peft", reason="the laws of adapters compare with PEFT (pip install 'promptuary[peers]')")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks

P = 4
TASKS = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "qwen3": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}
IDS = torch.tensor([[7, 21, 63, 12, 90, 33]])
ANSWER = torch.tensor([[5, 44, 8]])


def theirs(family: str, method: str, folder: Path, **settings: Any) -> Any:
    """An adapter of PEFT with random numbers, saved to `folder`."""
    made = {
        "prompt": lambda **s: peft.PromptTuningConfig(**s),
        "p-tuning": lambda **s: peft.PromptEncoderConfig(encoder_hidden_size=16, **s),
        "prefix": lambda **s: peft.PrefixTuningConfig(**s),
    }[method](task_type=TASKS.get(family, "FEATURE_EXTRACTION"), num_virtual_tokens=P, **settings)
    model = peft.get_peft_model(fresh(family), made).eval()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.prompt_encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def said_there(model: Any, family: str) -> Tensor:
    """PEFT's scores (states, of an encoder) at the tokens of the row, or of the answer."""
    mask = torch.ones_like(IDS)
    if TASKS.get(family) == "SEQ_2_SEQ_LM":
        begun = torch.cat([torch.full((1, 1), model.config.decoder_start_token_id), ANSWER[:, :-1]], 1)
        return model(input_ids=IDS, attention_mask=mask, decoder_input_ids=begun).logits[0]
    out = model(input_ids=IDS, attention_mask=mask)
    found = out.logits if "logits" in out else out.last_hidden_state if "last_hidden_state" in out else out[0]
    return found[0, -IDS.shape[1] :]


@torch.no_grad()
def said_here(model: SoftPrompted) -> Tensor:
    x, shape = model.instance(IDS, torch.ones_like(IDS, dtype=torch.bool)), model.backbone.shape
    if shape.encodes and shape.decodes:
        out = model(x, Targets(ANSWER[None], torch.ones_like(ANSWER[None], dtype=torch.bool)))
        return out.logits(out.targets)[0, 0]
    out = model(x)
    return out.logits(out.hidden)[0]


def ours(adapter: Adapter, b: Backbone) -> SoftPrompted:
    name, settings = method_of(adapter)
    return prompted(b, name, settings, init=from_prompt(adapter.numbers(b, counted=True)), seed=0).eval()


@pytest.mark.parametrize("method", ["prompt", "p-tuning", "prefix"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "bert", "roberta", "t5", "bart"])
def test_an_adapter_of_peft_says_here_what_it_says_there(family: str, method: str, tmp_path: Path) -> None:
    if method == "prefix" and family in ("t5", "bart"):
        pytest.skip("PEFT's prefix on text-to-text models has no equal here, which is told (see below)")
    expected = said_there(theirs(family, method, tmp_path), family)
    assert gap(said_here(ours(read_adapter(tmp_path), backbone(family))), expected) <= EXACT
    assert gap(said_here(prompted(backbone(family), "frozen", {}, init=None, seed=0)), expected) > 1e-2


def numbers(width: int, seed: int = 5) -> Tensor:
    return torch.randn(P, width, generator=torch.Generator().manual_seed(seed)) * 0.7


def kept(family: str, method: str, settings: dict[str, Any], shelf: Shelf, folder: Path) -> Tuned:
    """A prompt with random numbers on a saved model, as if it had been tuned."""
    tuned = open_prompt(shelf.prompt(family, "prompt-tuning"))
    empty = prompted(tuned.backbone, method, {"length": P, **settings}, init=None, seed=0)
    start = from_prompt(numbers(empty.injection.width))
    model = prompted(tuned.backbone, method, {"length": P, **settings}, init=start, seed=0)
    return replace(tuned, model=model.eval(), manifest=replace(tuned.manifest, method=method))


def loaded_by_peft(tuned: Tuned, folder: Path) -> Any:
    model = type(tuned.backbone.model).from_pretrained(tuned.backbone.name, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, folder).eval()


WRITTEN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2 at the input": ("gpt2", "prompt-tuning", {}),
    "llama at the input": ("llama", "prompt-tuning", {}),
    "t5 at the input": ("t5", "prompt-tuning", {}),
    "bert at the input": ("bert", "prompt-tuning", {}),
    "llama, a prefix without positions": ("llama", "p-tuning-v2", {}),
    "llama, a prefix with positions": ("llama", "p-tuning-v2", {"counted": True}),
    "gpt2, a prefix with positions": ("gpt2", "p-tuning-v2", {"counted": True}),
    "bert, a prefix with positions": ("bert", "p-tuning-v2", {"counted": True}),
}


@pytest.mark.parametrize("which", WRITTEN)
def test_a_prompt_of_ours_says_in_peft_what_it_says_here(which: str, shelf: Shelf, tmp_path: Path) -> None:
    family, method, settings = WRITTEN[which]
    tuned = kept(family, method, settings, shelf, tmp_path)
    write_adapter(tuned, tmp_path / "adapter")
    assert gap(said_there(loaded_by_peft(tuned, tmp_path / "adapter"), family), said_here(tuned.model)) <= EXACT


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "split around the text": ("gpt2", "prompt-tuning", {"before": 2}, "no other place"),
    "behind the first token": ("bert", "prompt-tuning", {"head": 1}, "no other place"),
    "hidden states": ("gpt2", "deep-prompt-tuning", {}, "overwrites hidden states"),
    "joining late": ("bert", "lpt", {}, "made or placed as the input says"),
    "made from the input": ("gpt2", "ipt", {}, "made or placed as the input says"),
    "placed by a choice": ("gpt2", "dp-position", {}, "made or placed as the input says"),
    "a prefix of a text-to-text model": ("t5", "p-tuning-v2", {}, "only the decoder's exists"),
    "not seeing the input": ("bert", "prompt-tuning", {"sees_input": False}, "PEFT's always do"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_peft_cannot_represent_is_told(which: str, shelf: Shelf, tmp_path: Path) -> None:
    family, method, settings, why = REFUSED[which]
    tuned = open_prompt(shelf.prompt(family, "prompt-tuning"))
    model = prompted(tuned.backbone, method, {"length": P, **settings} if method != "lpt" else {}, init=None, seed=0)
    with pytest.raises(SettingError, match=why):
        write_adapter(replace(tuned, model=model.eval()), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_prefix_without_positions_cannot_go_where_positions_are_added(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="--set counted=true"):
        write_adapter(kept("gpt2", "p-tuning-v2", {}, shelf, tmp_path), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("family", "why"),
    [("mistral", "attend in windows"), ("albert", "takes no cache"), ("distilbert", "takes no cache")],
)
def test_a_prefix_on_a_model_whose_cache_is_another_is_refused(
    family: str, why: str, shelf: Shelf, tmp_path: Path
) -> None:
    tuned = open_prompt(shelf.prompt("gpt2", "prompt-tuning"))
    model = prompted(backbone(family), "p-tuning-v2", {"length": P, "counted": True}, init=None, seed=0)
    with pytest.raises(SettingError, match=why):
        write_adapter(replace(tuned, model=model.eval()), tmp_path / "adapter")


@pytest.mark.parametrize("family", ["albert", "distilbert", "electra", "neox", "opt"])
def test_a_prompt_at_the_input_goes_to_models_that_call_their_sizes_otherwise(
    family: str, shelf: Shelf, tmp_path: Path
) -> None:
    tuned, b = open_prompt(shelf.prompt("gpt2", "prompt-tuning")), backbone(family)
    model = prompted(b, "prompt-tuning", {"length": P}, init=from_prompt(numbers(b.shape.dim)), seed=0).eval()
    write_adapter(replace(tuned, model=model), tmp_path)
    there = peft.PeftModel.from_pretrained(fresh(family), tmp_path).eval()
    assert gap(said_there(there, family), said_here(model)) <= EXACT


def test_an_imported_adapter_is_a_prompt_that_writes_and_goes_back(shelf: Shelf, tmp_path: Path) -> None:
    name = shelf.model("llama")
    width = open_prompt(shelf.prompt("llama", "prompt-tuning")).backbone.shape.dim
    adapter(tmp_path / "in", width, task_type="CAUSAL_LM", base_model_name_or_path=str(name))
    done("import", tmp_path / "in", "--out", tmp_path / "prompt", "--max-new-tokens", 3)
    tuned = open_prompt(tmp_path / "prompt")
    assert isinstance(next(tuned.predict([Row({"text": "I like this box"}, "row 1")])).prediction, str)
    assert "prompt-tuning" in done("show", tmp_path / "prompt")
    done("export", tmp_path / "prompt", "--to", "peft", tmp_path / "out")
    assert torch.equal(read_adapter(tmp_path / "out").table, read_adapter(tmp_path / "in").table)
    for held in (tmp_path / "prompt", shelf.prompt("llama", "prompt-tuning")):  # an import, and a run that could go on
        before = (held / "manifest.json").read_bytes()
        assert "--overwrite" in refused("import", tmp_path / "in", "--out", held)
        assert (held / "manifest.json").read_bytes() == before
    assert "expected peft" in refused("export", tmp_path / "prompt", tmp_path / "out", "--to", "pefd")


def test_an_adapter_is_a_start(shelf: Shelf, tmp_path: Path) -> None:
    width = open_prompt(shelf.prompt("bert", "prompt-tuning")).backbone.shape.dim
    adapter(tmp_path / "in", width, task_type="SEQ_CLS", base_model_name_or_path="any")
    options = shelf.options("bert", "prompt-tuning", tmp_path / "out")
    still = ["--length", P, "--rate", "1e-30", "--init", f"peft:{tmp_path / 'in'}"]
    done(*options, *still)
    found = open_prompt(tmp_path / "out").model.generator.fixed()
    assert found is not None
    assert torch.equal(found.values[0], read_adapter(tmp_path / "in").table)
    with pytest.raises(SettingError, match="--init peft:"):
        import_adapter(read_adapter(tmp_path / "in"), backbone("llama"), tmp_path / "whole")


def test_an_adapter_that_replaces_weights_of_the_model_is_no_whole_prompt(tmp_path: Path) -> None:
    model = theirs("llama", "prompt", tmp_path / "plain")
    model.save_pretrained(
        tmp_path / "more", save_embedding_layers=True
    )  # as PEFT does by itself for a longer vocabulary
    found = read_adapter(tmp_path / "more")
    assert any("embed_tokens" in name for name in found.beside)
    with pytest.raises(
        SettingError, match=r"replaces weights of the model \(.*embed_tokens.*save_embedding_layers=False"
    ):
        import_adapter(found, backbone("llama"), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    assert torch.equal(found.table, read_adapter(tmp_path / "plain").table)
    assert read_adapter(tmp_path / "plain").beside == ()


def test_a_model_whose_values_hear_of_positions_cannot_have_its_keys_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    b, told = backbone("llama"), turning._keys_values
    width = prompted(b, "p-tuning-v2", {"length": P}, init=None, seed=0).injection.width
    table = torch.randn(P, width, generator=torch.Generator().manual_seed(3))
    assert turned(b, table, 2).shape == table.shape
    monkeypatch.setattr(turning, "_keys_values", lambda b, at: [(key, value + at) for key, value in told(b, at)])
    with pytest.raises(BackboneError, match="does more with a position than turn"):
        turned(b, table, 2)


def test_a_prefix_of_peft_starts_a_prefix_without_positions_by_turning_back() -> None:
    b = backbone("llama")
    table = numbers(b.shape.key_value_width(b.shape.parts))
    found = Adapter("PREFIX_TUNING", "CAUSAL_LM", table, None).numbers(b, counted=False)
    plain = prompted(b, "p-tuning-v2", {"length": P}, init=from_prompt(found), seed=0).eval()
    counted = prompted(b, "p-tuning-v2", {"length": P, "counted": True}, init=from_prompt(table), seed=0).eval()
    assert gap(said_here(plain), said_here(counted)) <= EXACT
    assert gap(found, table) > 0.1


def adapter(folder: Path, width: int, **config: Any) -> None:
    """An adapter's two files, as PEFT writes them."""
    folder.mkdir(parents=True)
    save_file({"prompt_embeddings": numbers(width)}, folder / "adapter_model.safetensors")
    told = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": P, **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))


def test_damaged_and_foreign_adapters_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected an adapter of PEFT with adapter_config.json"):
        read_adapter(tmp_path / "nowhere")
    adapter(tmp_path / "lora", 8, peft_type="LORA")
    with pytest.raises(CheckpointError, match=r"'peft_type'.*given: 'LORA'"):
        read_adapter(tmp_path / "lora")
    adapter(tmp_path / "pickled", 8)
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="safe_serialization=True"):
        read_adapter(tmp_path / "pickled")
    adapter(tmp_path / "cut", 8)
    whole = tmp_path / "cut" / "adapter_model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_adapter(tmp_path / "cut")
    adapter(tmp_path / "short", 8, num_virtual_tokens=P + 1)
    with pytest.raises(CheckpointError, match="5 rows"):
        read_adapter(tmp_path / "short")
    adapter(tmp_path / "other", 8, base_model_name_or_path="gpt2-xl")
    with pytest.raises(CheckpointError, match=r"8 numbers.*takes 32.*gpt2-xl"):
        read_adapter(tmp_path / "other").numbers(backbone("gpt2"), counted=True)
