"""A training step in float32 on a CPU: frozen linear layers by oneDNN's product, beside PyTorch's own.

    OMP_NUM_THREADS=1 python benchmarks/speed/linear.py    # writes benchmarks/results/linear.json

Interleaved in one process, 32 rows of 8 to 32 tokens on the bundled `minilm`, 20 soft tokens; medians. What holds are
the ratios.
"""

import json
import random
import time
from pathlib import Path
from statistics import median

import torch

from promptuary.assembly import prompted
from promptuary.backbones import cpu_linear
from promptuary.backbones.load import load
from promptuary.model import SoftPrompted
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "linear.json"
METHODS, ROWS, TIMES = ("prompt-tuning", "p-tuning-v2"), 32, 9


def seconds(model: SoftPrompted, ids: torch.Tensor, mask: torch.Tensor) -> float:
    """Of one forward and backward pass."""
    began = time.perf_counter()
    model(model.instance(ids, mask)).hidden.square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, write."""
    plain, ours = load("minilm"), load("minilm")
    for module in plain.model.modules():  # back to what it was
        if isinstance(module, cpu_linear.FrozenLinear):
            module.__class__ = torch.nn.Linear
    draw = random.Random(0)
    lengths = torch.tensor([draw.randint(8, 32) for _ in range(ROWS)])
    mask = torch.arange(32)[None] < lengths[:, None]
    ids = torch.randint(2000, ours.shape.vocabulary, (ROWS, 32), generator=torch.Generator().manual_seed(0))
    lines = []
    for name in METHODS:
        models = {
            way: prompted(b, name, {"length": 20}, init=None, seed=0) for way, b in (("plain", plain), ("onednn", ours))
        }
        spent: dict[str, list[float]] = {way: [] for way in models}
        for turn in range(TIMES + 2):
            for way, model in models.items():
                took = seconds(model, ids, mask)
                if turn >= 2:
                    spent[way].append(1000 * took)
        times = {f"{way}_ms": round(median(found), 1) for way, found in spent.items()}
        lines.append({"method": name, **times, "ratio": round(times["onednn_ms"] / times["plain_ms"], 3)})
        print(json.dumps(lines[-1]), flush=True)
    RESULTS.write_text(
        json.dumps({"steps": lines, "pays": cpu_linear.pays(), **record.surroundings()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
