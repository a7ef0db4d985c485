"""The ladder: which models there are, in which stages each is trained, and the whole of it in one command.

    python pretraining/ladder.py TOKENS OUT --minutes 25     # plan once, then train; the same command goes on
    python pretraining/ladder.py TOKENS OUT --steps 20       # so many steps of each stage, to try it out
    python pretraining/ladder.py TOKENS OUT --precision no   # in float32, where a processor is slow in bfloat16

Every text-to-text model is trained with span corruption (`ladder-4m-span`) and then adapted to running text
(`ladder-4m`), as Lester et al. 2021 adapted T5. TOKENS is made by `corpus.py`. OUT gets a folder for each stage: its
weights, its record and, while it is trained, its state. `OUT/plan.json` holds the steps of each stage: they are
measured once, on the machine at hand, so that all stages fit into the minutes.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from objectives import LanguageModel, Objective, PrefixLanguageModel, SpanCorruption
from train import train
from transformers import LlamaConfig, PretrainedConfig, T5Config

VOCABULARY = 16_384
# The windows of every size after its first stage.
SPAN, PREFIX = SpanCorruption(284, 42, 14), PrefixLanguageModel(256)


@dataclass(frozen=True)
class Stage:
    """One training run.

    Arguments:
        config: the model's shape. after: the stage whose weights it starts from.
        share: of the ladder's time. rate: the highest learning rate, in units of each tensor's own size at the start.
        last: what is left of the rate at the end. rows: windows in a batch.
        matrix_rate: the same for the matrices of the layers, which Muon turns then; 0 leaves them to AdamW.
        guide: weight of the encoder's own loss (`train.encoder_loss`).
    """

    config: PretrainedConfig
    objective: Objective
    share: float
    rate: float
    last: float = 0.0
    after: str | None = None
    rows: int = 128
    matrix_rate: float = 0.0
    guide: float = 0.0
    seed: int = 0
    decay: float = 0.1
    warmup: float = 0.02
    clip: float = 1.0


def text_to_text(dim: int, inner: int, layers: int, heads: int) -> T5Config:
    """T5 v1.1: gated GELU, RMS norm, relative positions, no dropout; input and output table are one."""
    return T5Config(
        vocab_size=VOCABULARY, d_model=dim, d_ff=inner, d_kv=dim // heads, num_heads=heads, num_layers=layers,
        num_decoder_layers=layers, feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=True,
        scale_decoder_outputs=True, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, n_positions=512,
    )  # fmt: skip


def causal(dim: int, inner: int, layers: int, heads: int) -> LlamaConfig:
    """Llama: gated SiLU, RMS norm, rotary positions; input and output table are one."""
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=dim, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip


def both(name: str, config: T5Config, share: float) -> dict[str, Stage]:
    """Short windows first, then span corruption, then LM adaptation, as Lester's 100 thousand steps of T5.

    In short windows there is little to look through: that the encoder can be read is found out sooner.
    """
    begun = Stage(
        config, SpanCorruption(71, 10, 3), share * 0.1, 2e-2, last=1.0, matrix_rate=5e-2, guide=1.0, rows=64
    )  # fmt: skip
    span = Stage(
        config, SPAN, share * 0.75, 2e-2, last=0.05, after=f"{name}-begun", matrix_rate=5e-2,
        guide=0.5, rows=32,
    )  # fmt: skip
    adapted = Stage(
        config, PREFIX, share * 0.15, 4e-3, after=f"{name}-span", matrix_rate=1e-2, rows=16
    )  # fmt: skip
    return {f"{name}-begun": begun, f"{name}-span": span, name: adapted}


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        **both("ladder-1m", text_to_text(128, 256, 3, 4), 0.09),
        **both("ladder-4m", text_to_text(256, 384, 3, 4), 0.16),
        "ladder-causal-4m": Stage(causal(256, 512, 6, 4), LanguageModel(256), 0.15, 2e-2, matrix_rate=5e-2, rows=32),
        **both("ladder-12m", text_to_text(384, 512, 4, 6), 0.33),
        "ladder-causal-12m": Stage(causal(384, 768, 8, 6), LanguageModel(256), 0.27, 2e-2, matrix_rate=5e-2, rows=32),
    }
)


def plan(tokens: Path, out: Path, minutes: float, precision: str, overhead: float = 25.0) -> dict[str, int]:
    """Steps of each stage, so that all of them take so many minutes on this machine; measured once and kept.

    Arguments:
        overhead: seconds of a stage beside its steps: compilation, scoring, writing.
    """
    file = out / "plan.json"
    if not file.exists():
        seconds = minutes * 60 - overhead * len(STAGES)
        steps = {}
        for name, stage in STAGES.items():
            found = train(
                name, replace(stage, after=None), tokens, out / "measured", steps=60, precision=precision, save=False
            )
            steps[name] = max(100, round(stage.share * seconds / found["seconds_per_step"], -2).__int__())
            print(f"{name}: {found['seconds_per_step']:.4f} s a step, {steps[name]:,} steps", flush=True)
        file.write_text(json.dumps(steps, indent=2))
    return dict(json.loads(file.read_text()))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Train the ladder.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--steps", type=int, help="of each stage, instead of a plan")
    parser.add_argument("--precision", choices=["bf16", "no"], default="bf16")
    parser.add_argument("--only", nargs="*", choices=list(STAGES), help="these stages")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    steps = (
        dict.fromkeys(STAGES, chosen.steps)
        if chosen.steps
        else plan(chosen.tokens, chosen.out, chosen.minutes, chosen.precision)
    )
    for name in chosen.only or STAGES:
        train(name, STAGES[name], chosen.tokens, chosen.out, steps=steps[name], precision=chosen.precision)
        print(f"{name} is done after {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
