"""What a training step of each instance-wise or dynamic prompt costs beside plain prompt tuning of the same length.

    OMP_NUM_THREADS=1 python benchmarks/speed/instance_dynamic.py    # writes benchmarks/results/cost.json and cost.md

One process, interleaved step by step, the same batch for all: 32 rows of 8 to 32 tokens on the bundled `minilm` in
bfloat16, prompts of 20 soft tokens. Times are medians; what holds are the ratios. Memory is the highest of a process of
its own over three steps, above that of the loaded model.
"""

import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.data.batch import Batch
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.files import write
from promptuary.readouts import Classifier
from promptuary.train import groups, record
from promptuary.train.evaluation import arithmetic, training
from promptuary.train.recipe import Recipe

RESULTS = Path(__file__).resolve().parent.parent / "results"
ROWS, LENGTH, TIMES, STATIC = 32, 20, 15, "prompt-tuning"
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in (STATIC, "p-tuning-v2", "deep-prompt-tuning")},
    **{name: (name, {}) for name in ("ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix")},
    "ipt, low rank": ("ipt", {"rank": 32}),
    "dp-position, fixed in the middle": ("dp-position", {"position": LENGTH // 2}),
    **{
        name: (name, {})
        for name in (
            "dp-position", "dp-position-instance", "dp-length", "dp-length-instance", "dp-vector",
            "dp-vector-position", "dp-position-vector", "dp-position-length", "dp-bank", "dp-deep",
        )
    },
    "dp-position-instance, asking the encoder": ("dp-position-instance", {"query": "encoder"}),
    **{name: (name, {"length": LENGTH}) for name in ("idpg", "smop", "lpt")},
    "ipl": ("ipl", {}),
}  # fmt: skip


def batch(backbone: Backbone) -> Batch:
    """Rows of random words."""
    draw = random.Random(0)
    rows = [[draw.randrange(2000, backbone.shape.vocabulary) for _ in range(draw.randint(8, 32))] for _ in range(ROWS)]
    examples = [Example(ids=row, types=[0] * len(row), label=i % 2) for i, row in enumerate(rows)]
    return collate(examples, range(ROWS), 0)


def stepping(backbone: Backbone, name: str) -> Callable[[], float]:
    """A function that trains a step and returns its seconds."""
    method, settings = METHODS[name]
    model = prompted(backbone, method, settings, init=None, seed=0)
    readout = Classifier(2, backbone.shape.output, pool="mean", seed=0)
    given = batch(backbone)
    recipe = Recipe(rate=1e-3)
    optimizer = groups.optimizer(recipe, groups.groups(model, readout, recipe))
    training(model, readout, True)

    def step() -> float:
        began = time.perf_counter()
        with arithmetic(backbone.device, "bf16"):
            readout.loss(model(model.instance_of(given, step=1)), given).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    return step


def peak(name: str) -> float:
    """Mebibytes that three steps take above the loaded model, in a process of their own."""
    said = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
    return float(said.stdout)


def main() -> None:
    """Measure all methods, write them, print them."""
    backbone = load("minilm", dtype=torch.bfloat16)
    steps = {name: stepping(backbone, name) for name in METHODS}
    spent: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(TIMES + 2):
        for name, step in steps.items():
            seconds = step()
            if turn >= 2:
                spent[name].append(seconds)
    times = {name: median(found) for name, found in spent.items()}
    memory = {name: peak(name) for name in METHODS}
    lines = [
        {
            "method": name,
            "ms": round(1000 * times[name], 1),
            "time": round(times[name] / times[STATIC], 3),
            "memory": round(memory[name] / memory[STATIC], 3),
        }
        for name in METHODS
    ]
    write(RESULTS / "cost.json", (json.dumps({"steps": lines, **record.surroundings()}, indent=1) + "\n").encode())
    rows = [f"| {line['method']} | {line['ms']} | {line['time']:.2f} | {line['memory']:.2f} |" for line in lines]
    heads = ["| | step, ms | time, ratio | memory, ratio |", "|---|---:|---:|---:|"]
    page = "\n".join(["# What a training step costs", "", (__doc__ or "").split("\n\n")[-1].strip(), "", *heads, *rows])
    write(RESULTS / "cost.md", f"{page}\n".encode())
    print(page)


def alone(name: str) -> None:
    """Print how far three steps raise this process's memory, in mebibytes (Linux)."""
    step = stepping(load("minilm", dtype=torch.bfloat16), name)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is that of now
    for _ in range(3):
        step()
    print((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A figure of this process, in kibibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    alone(sys.argv[1]) if len(sys.argv) > 1 else main()
