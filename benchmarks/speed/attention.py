"""Attention forward and backward in bfloat16 on a CPU: PyTorch's fused kernel, and blocks of matrix products.

    OMP_NUM_THREADS=1 python benchmarks/speed/attention.py    # writes benchmarks/results/attention.json

Interleaved in one process, medians; what holds are the ratios.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from promptuary.backbones import cpu_attention
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "attention.json"
SHAPES = ((32, 12, 45, 32), (32, 12, 160, 32), (32, 12, 280, 32), (16, 12, 52, 64), (16, 12, 148, 64))  # rows, heads…
TIMES = 15


def seconds(run: Callable[[], Tensor], back: Tensor) -> float:
    """Of one forward and backward pass."""
    began = time.perf_counter()
    run().backward(back)
    return time.perf_counter() - began


def measure(rows: int, heads: int, length: int, width: int) -> dict[str, float]:
    """Median milliseconds of both ways, and their ratio."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(rows, heads, length, width).bfloat16().requires_grad_() for _ in range(3))
    back = torch.randn(rows, heads, length, width).bfloat16()
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (rows, 1, 1, 1))
    ways: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: F.scaled_dot_product_attention(query, key, value, mask),
        "blocks": lambda: cpu_attention.attention(query, key, value, mask, None),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TIMES + 3):
        for name, run in ways.items():
            spent = seconds(run, back)
            if turn >= 3:
                found[name].append(1000 * spent)
    times = {f"{name}_ms": round(median(spent), 2) for name, spent in found.items()}
    return {**times, "ratio": round(times["blocks_ms"] / times["fused_ms"], 3)}


def main() -> None:
    """Measure all shapes, print them, write them."""
    lines = []
    for shape in SHAPES:
        names = ("rows", "heads", "length", "width")
        lines.append({**dict(zip(names, shape, strict=True)), **measure(*shape)})
        print(json.dumps(lines[-1]), flush=True)
    RESULTS.write_text(json.dumps({"shapes": lines, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
