"""Does an unmodified vLLM say under our prompts what we say? Greedy tokens and their log-probabilities, side by side.

    python benchmarks/interop/bridge.py --engine VENV/bin/python

VENV is an environment with vLLM, which pins its own transformers; ours never imports it, and it needs nothing of ours
but the connector's file. Models are tiny and random, their weights enlarged so that no answer is nearly tied; three
families stand for positions that are rotated (Llama, Qwen3) and added (GPT-2). Writes `results/vllm.json` and `.md`.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.load import load
from promptuary.data.source import rows
from promptuary.initial import normal
from promptuary.interop.vllm import bridge
from promptuary.model import SoftPrompted
from promptuary.train.record import surroundings

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
STEPS, TEXTS = 24, 12
SIZES: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 256, "tie_word_embeddings": False, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, **SIZES)),
    "qwen3": lambda v: Qwen3ForCausalLM(Qwen3Config(vocab_size=v, **SIZES)),
    "gpt2": lambda v: GPT2LMHeadModel(GPT2Config(vocab_size=v, **GPT2)),
}
IN_THE_ROW: dict[str, tuple[str, dict[str, Any]]] = {
    "bare model": ("frozen", {}),
    "prompt tuning": ("prompt-tuning", {"length": 20}),
    "split around the text": ("prompt-tuning", {"length": 20, "before": 9}),
    "from the input (IPT)": ("ipt", {"length": 8}),
    "placed by the input (DP)": ("dp-position-instance", {"length": 8}),
}
DEEP: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": {
        "deep prefix": ("p-tuning-v2", {"length": 20}),
        "deep prefix with positions": ("p-tuning-v2", {"length": 37, "counted": True}),
    },
    "qwen3": {"deep prefix": ("p-tuning-v2", {"length": 130})},
    "gpt2": {"deep prefix with positions": ("p-tuning-v2", {"length": 20, "counted": True})},
}


@dataclass(frozen=True)
class Said:
    """A text's greedy tokens, and the log-probability of each."""

    ids: list[int]
    logprobs: list[float]


class Heard(LogitsProcessor):
    """Keeps the scores of every step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.log_softmax(-1))
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="The Python of an environment with vLLM.")
    parser.add_argument("--families", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    torch.manual_seed(0)
    lines, versions = [], {}
    for family in options.families:
        with tempfile.TemporaryDirectory() as place:
            found, versions = compared(family, Path(place), options.engine)
        lines += found
    write({"lines": lines, "engine": versions, "steps": STEPS, "texts": TEXTS, "seed": 0, **surroundings()})


def compared(family: str, place: Path, engine: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every prompt of a family, said here and there."""
    backbone = saved(family, place / "model")
    expected, requests, tensors = [], [], {}
    prompts = {**IN_THE_ROW, **DEEP[family]}
    for name, (method, settings) in prompts.items():
        model = prompted(backbone, method, settings, init=None, seed=1)
        enlarged(model)
        cross = bridge(model, prefixes=place / "prefixes")
        for ids in texts(backbone):
            [request] = cross(model.instance(ids, torch.ones_like(ids, dtype=torch.bool)))
            told = request.prompt()
            if "prompt_embeds" in told:
                tensors[str(len(requests))] = told.pop("prompt_embeds").contiguous()
            requests.append(told)
            expected.append((name, said(model, ids)))
    save_file(tensors, place / "embeds.safetensors")
    (place / "requests.json").write_text(json.dumps({"requests": requests, "steps": STEPS}))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src"), "VLLM_LOGGING_LEVEL": "ERROR"}
    subprocess.run([engine, str(HERE / "engine.py"), str(place)], check=True, env=environment, cwd=place)
    answer = json.loads((place / "answers.json").read_text())
    there = [Said(**own) for own in answer["said"]]
    return [line(family, name, own, there) for name, own in grouped(expected)], answer["versions"] | {
        "prefix that is missing": answer["missing"]
    }


def grouped(expected: Sequence[tuple[str, Said]]) -> Iterator[tuple[str, list[tuple[int, Said]]]]:
    for name in dict.fromkeys(name for name, _ in expected):
        yield name, [(i, own) for i, (other, own) in enumerate(expected) if other == name]


def line(family: str, name: str, own: Sequence[tuple[int, Said]], there: Sequence[Said]) -> dict[str, Any]:
    """How far both are apart on the texts of one prompt."""
    same = [here.ids == there[i].ids for i, here in own]
    gaps = [
        abs(a - b)
        for (i, here), equal in zip(own, same, strict=True)
        for a, b in zip(here.logprobs, there[i].logprobs, strict=True)
        if equal
    ]
    return {"model": family, "prompt": name, "texts": len(own), "same": sum(same), "gap": max(gaps, default=None)}


def saved(family: str, folder: Path) -> Backbone:
    """A random model with a tokenizer, on the disk as a user has one."""
    tokenizer = byte_level()
    model: PreTrainedModel = MODELS[family](len(tokenizer))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.15)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(str(folder), device="cpu")


def byte_level() -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer of the library's own samples; no token is half a character."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    lines = [row.fields["text"] for row in rows("sample:intents/train")]
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii()] + ["Ġ"]
    lines = [text for text in lines if text.isascii()]
    made.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=640, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")


def enlarged(model: SoftPrompted) -> None:
    """Give a prompt numbers that are heard, as if it had been tuned."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            start = normal(0.6)(parameter.numel(), 1, torch.Generator().manual_seed(i))
            parameter.copy_(start.reshape(parameter.shape))
    model.eval()


def texts(backbone: Backbone) -> list[Tensor]:
    found = [row.fields["text"] for row in rows("sample:intents/validation")][:TEXTS]
    return [torch.tensor([backbone.tokenizer(text)["input_ids"]]) for text in found]


@torch.no_grad()
def said(model: SoftPrompted, ids: Tensor) -> Said:
    heard = Heard()
    x = model.instance(ids, torch.ones_like(ids, dtype=torch.bool))
    how = Generation(max_new_tokens=STEPS, end=(), pad=0)
    made = model.backbone.generate(model.call(x), how, logits_processor=[heard])[0]
    return Said(made.tolist(), [float(step[0, token]) for step, token in zip(heard.steps, made, strict=True)])


def write(found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vllm.json").write_text(json.dumps(found, indent=1) + "\n")
    engine = found["engine"]
    table = "\n".join(
        f"| {x['model']} | {x['prompt']} | {x['same']} of {x['texts']} | {x['gap']:.1e} |" for x in found["lines"]
    )
    (RESULTS / "vllm.md").write_text(
        f"# Prompts in an unmodified vLLM\n\n{found['texts']} texts a prompt, {found['steps']} greedy tokens each, "
        "float32 on a CPU, tiny random models. *Same*: texts whose tokens are all the same here and there. *Gap*: the "
        "largest difference of a token's log-probability in these (nats).\n\n"
        f"| model | prompt | same | gap |\n|---|---|---|---|\n{table}\n\n"
        f"A request for a prefix whose file is missing, beside others: {engine['prefix that is missing']}.\n\n"
        f"vLLM {engine['vllm']} (transformers {engine['transformers']}, torch {engine['torch']}); here transformers "
        f"{found['versions']['transformers']}, torch {found['versions']['torch']}, Python {found['versions']['python']}"
        f", commit {found['commit']}. By `benchmarks/interop/bridge.py`.\n"
    )


if __name__ == "__main__":
    main()
