"""Frozen linear layers on a CPU as the library multiplies them, beside PyTorch's own way, in both precisions.

    OMP_NUM_THREADS=1 python benchmarks/speed/linear.py    # writes benchmarks/results/linear.json

Interleaved in one process; medians. A step is one of the bundled `minilm` (32 or 8 rows of 8 to 32 tokens, 20 soft
tokens) or of a random model of BERT's width (8 rows); a text is one of 12 tokens behind 32, written by a random model
of GPT-2's shape under a prompt. What holds are the ratios: ours / plain.
"""

import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import transformers as hf

from promptuary.assembly import prompted
from promptuary.backbones import cpu_linear
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.load import load, wrap
from promptuary.train import record
from promptuary.train.evaluation import arithmetic

RESULTS = Path(__file__).resolve().parent.parent / "results" / "linear.json"
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMES, LENGTH, WRITTEN = 9, 20, 12


def step(backbone: Backbone, method: str, rows: int, precision: str) -> Callable[[], object]:
    """A pass forward and back."""
    draw = random.Random(0)
    lengths = torch.tensor([draw.randint(8, 32) for _ in range(rows)])
    mask = torch.arange(32)[None] < lengths[:, None]
    ids = torch.randint(2000, backbone.shape.vocabulary, (rows, 32), generator=torch.Generator().manual_seed(0))
    model = prompted(backbone, method, {"length": LENGTH}, init=None, seed=0).train()

    def run() -> None:
        with arithmetic(backbone.device, precision):
            loss = model(model.instance(ids, mask)).hidden.float().square().mean()
        loss.backward()

    return run


def text(backbone: Backbone) -> Callable[[], object]:
    """A text that is written."""
    model = prompted(backbone, "prompt-tuning", {"length": LENGTH}, init=None, seed=0).eval().compiled()
    ids = torch.randint(2000, backbone.shape.vocabulary, (1, 32), generator=torch.Generator().manual_seed(0))
    call = model.call(model.instance(ids, torch.ones_like(ids, dtype=torch.bool)))
    return lambda: backbone.generate(call, Generation(max_new_tokens=WRITTEN))


def random_model(made: Any, precision: str) -> Backbone:
    """A model with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(made().eval().to(TYPES[precision]))


def compared(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of both ways, and ours over the plain one."""
    spent: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(TIMES + 2):
        for way, found in spent.items():
            plainly = patch.object(cpu_linear, "_suits", lambda *_: False) if way == "plain" else nullcontext()
            with plainly:
                began = time.perf_counter()
                run()
                took = 1000 * (time.perf_counter() - began)
            if turn >= 2:
                found.append(took)
    times = {f"{way}_ms": round(median(found), 1) for way, found in spent.items()}
    return {**times, "ratio": round(times["ours_ms"] / times["plain_ms"], 3)}


def main() -> None:
    """Measure, print, write."""
    lines = []
    for precision, dtype in TYPES.items():
        small, wide, writes = (
            load("minilm", dtype=dtype),
            random_model(lambda: hf.BertModel(hf.BertConfig(num_hidden_layers=6), add_pooling_layer=False), precision),
            random_model(lambda: hf.GPT2LMHeadModel(hf.GPT2Config()), precision),
        )
        ways = {
            "minilm, prompt-tuning, 32 rows": step(small, "prompt-tuning", 32, precision),
            "minilm, p-tuning-v2, 32 rows": step(small, "p-tuning-v2", 32, precision),
            "minilm, prompt-tuning, 8 rows": step(small, "prompt-tuning", 8, precision),
            "bert-6l, prompt-tuning, 8 rows": step(wide, "prompt-tuning", 8, precision),
            "gpt2, a text": text(writes),
        }
        for name, run in ways.items():
            lines.append({"what": name, "precision": precision, **compared(run)})
            print(json.dumps(lines[-1]), flush=True)
    known = {"pays": cpu_linear.pays(), "lays": cpu_linear.lays()}
    RESULTS.write_text(json.dumps({"lines": lines, **known, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
