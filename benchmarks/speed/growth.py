"""How time and memory of a step grow with the work, and what more tasks cost: with which exponent.

    OMP_NUM_THREADS=1 python benchmarks/speed/growth.py

Writes benchmarks/results/growth.json, growth.md and growth.svg. A model of BERT's shape with six layers and random
weights, in float32: one thing grows (soft tokens, input tokens, rows), the others stay as they are in `FIXED`. Methods
take turns in one process, medians of CPU time; memory is what the process held at most above what it held before the
step. Then `minilm` with more and more prompts: a batch of 64 rows that asks as many of them as it can, the start of a
store that holds them, and the memory of each.

The exponent is the slope of log(time) over log(size) at the largest sizes (the last three). Attention over n tokens
requires 2 at most in the tokens of a row, and everything else 1.
"""

import argparse
import gc
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import matplotlib as mpl
import torch
from all import interleaved
from contenders import KINDS, Way, batch, made, ours, quietly
from matplotlib.figure import Figure
from store import resident

from promptuary.backbones.load import load
from promptuary.bank import Bank
from promptuary.bench.memory import peak
from promptuary.data.source import rows as read
from promptuary.files import write
from promptuary.specs import Run
from promptuary.store import Store
from promptuary.train import record
from promptuary.tuned import open_prompt
from promptuary.tuning import tune

RESULTS = Path(__file__).resolve().parent.parent / "results"
METHODS = ("prompt-tuning", "p-tuning-v2", "dp-vector-position", "ipt-cnn")
GROWING = {
    "soft tokens": (5, 10, 20, 50, 100, 200),
    "input tokens": (16, 32, 64, 128, 256, 400),
    "rows": (1, 2, 4, 8, 16, 32),
}
FIXED = {"soft tokens": 20, "input tokens": 32, "rows": 4}
MOST = {"soft tokens": 2, "input tokens": 2, "rows": 1}
TASKS, ASKED = (1, 10, 100, 1000), 64


@dataclass(frozen=True)
class Point:
    """A step at one size: milliseconds, and MiB above what the process held before."""

    method: str
    growing: str
    size: int
    ms: float
    mib: float | None


def points(turns: int) -> list[Point]:
    """Steps of all methods, one thing growing at a time."""
    kind, found = KINDS["bert-6l"], list[Point]()
    backbone = kind.backbone()
    for growing, sizes in GROWING.items():
        for size in sizes:
            at = {**FIXED, growing: size}
            given = batch(at["rows"], at["input tokens"], backbone.shape.vocabulary)
            ways: dict[str, Way] = {
                name: ours(*made(kind, backbone, name, length=at["soft tokens"]), given) for name in METHODS
            }
            held = {name: _held(way) for name, way in ways.items()}
            spent = interleaved(ways, turns)
            found += [Point(name, growing, size, spent[name], held[name]) for name in METHODS]
            print(f"{growing} {size}: " + ", ".join(f"{n} {spent[n]:.0f} ms" for n in METHODS), flush=True)
            del ways
            gc.collect()
    return found


def _held(way: Way) -> float | None:
    way()  # gradients have their place now
    gc.collect()
    before = resident()
    with peak(torch.device("cpu")) as most:
        way()
        held = most()
    return None if held is None else max(0.0, (held - before) / 2**20)


def tasks() -> list[dict[str, Any]]:
    """More and more prompts of one model: time of a mixed batch, start of a store, memory of a prompt."""
    backbone, found = load("minilm"), list[dict[str, Any]]()
    asked = list(read("sample:intents/test"))[:ASKED]
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "tuned"
        data = {"train": "sample:intents/train", "validation": "sample:intents/validation"}
        tune(Run(backbone="minilm", method="prompt-tuning", recipe={"epochs": 1}, out=str(first), **data))
        for count in TASKS:
            folder = Path(place) / f"store-{count}"
            for n in range(count):
                (folder / f"task-{n}").mkdir(parents=True)
                for file in ("manifest.json", "prompt.safetensors"):
                    shutil.copy(first / file, folder / f"task-{n}")
            began = time.process_time()
            names = Store(folder, backbone).names()
            start = time.process_time() - began
            gc.collect()
            before, bank = resident(), Bank(backbone)
            for name in names:
                bank.add(name, open_prompt(folder / name, backbone=backbone))
            gc.collect()
            each = (resident() - before) / count
            spent = []
            for _ in range(6):
                began = time.process_time()
                list(bank.predict((names[n % count], row) for n, row in enumerate(asked)))
                spent.append(1000 * (time.process_time() - began))
            found.append({
                "tasks": count, "batch_ms": median(spent[1:]), "start_ms": 1000 * start, "kib_a_task": each / 1024,
            })  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(value) over log(size) at the last three sizes."""
    x, y = ([math.log(v) for v in own[-3:]] for own in (sizes, values))
    return linear_regression(x, y).slope


def page(found: Sequence[Point], stores: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """The results as tables."""
    parts = []
    for growing, sizes in GROWING.items():
        rest = ", ".join(f"{n} {name}" for name, n in FIXED.items() if name != growing)
        heads = ["method", *(f"{size}" for size in sizes), "exponent", "MiB at the largest", "exponent of memory"]
        body = []
        for name in METHODS:
            own = [p for p in found if (p.method, p.growing) == (name, growing)]
            times = [p.ms for p in own]
            kept = [p.mib for p in own if p.mib]
            steep = exponent(sizes, times)
            said = f"{steep:.2f}" + ("" if steep <= MOST[growing] + 0.05 else f" (**over {MOST[growing]}**)")
            memory = ["-", "-"] if len(kept) < len(own) else [f"{kept[-1]:.0f}", f"{exponent(sizes, kept):.2f}"]
            body.append([name, *(f"{ms:.0f}" for ms in times), said, *memory])
        parts.append(f"Milliseconds of a step by {growing} ({rest}).\n\n{_table(heads, body)}")
    heads = [
        "prompts",
        f"ms for {ASKED} rows of as many of them as can be",
        "ms to open the store",
        "KiB in memory, each",
    ]
    body = [[f"{s['tasks']:,}", *(f"{s[k]:.1f}" for k in ("batch_ms", "start_ms", "kib_a_task"))] for s in stores]
    parts.append(f"More prompts of one model.\n\n{_table(heads, body)}")
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    hardware = ", ".join(f"{name} {value}" for name, value in told["hardware"].items() if value)
    parts.append(f"Medians of {told['turns']} turns. {versions}; {hardware}; commit {told['commit']}.")
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(found: Sequence[Point], path: Path) -> None:
    """Time above, memory below, over each thing that grows; both axes in powers."""
    mpl.rcParams.update({"svg.hashsalt": "growth", "font.size": 9})
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots(2, len(GROWING), sharex="col")
    marks = dict(zip(METHODS, ("o-", "s--", "^-.", "d:"), strict=True))
    for column, (growing, sizes) in enumerate(GROWING.items()):
        for row, (what, unit) in enumerate((("ms", "ms a step"), ("mib", "MiB a step"))):
            ax = axes[row][column]
            for name in METHODS:
                own = [getattr(p, what) for p in found if (p.method, p.growing) == (name, growing)]
                ax.plot(sizes, [v or math.nan for v in own], marks[name], label=name, markersize=4)
            ax.set(xscale="log", yscale="log", ylabel=unit if column == 0 else "")
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
        axes[1][column].set_xlabel(growing)
    axes[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure everything, print it, write it."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--turns", type=int, default=5)
    turns = asked.parse_args().turns
    found, stores = points(turns), tasks()
    told = {"turns": turns, **record.surroundings()}
    kept = {"points": [asdict(p) for p in found], "tasks": stores, **told}
    write(RESULTS / "growth.json", (json.dumps(kept, indent=1) + "\n").encode())
    write(RESULTS / "growth.md", page(found, stores, told).encode())
    picture(found, RESULTS / "growth.svg")
    print(page(found, stores, told))


if __name__ == "__main__":
    with quietly():
        main()
