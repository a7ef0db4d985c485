"""The root mean square norm of a frozen model as one operation, beside the seven of transformers.

    OMP_NUM_THREADS=1 python benchmarks/speed/norm.py    # writes benchmarks/results/norm.json

Interleaved in one process; medians of one pass forward and of one back. What holds are the ratios: ours / plain.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from promptuary.backbones import norm
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "norm.json"
SHAPES = ((8, 52, 512), (8, 132, 512), (32, 45, 768), (8, 128, 2048))
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMES = 31


def passes(module: nn.Module, x: Tensor, back: Tensor) -> tuple[float, float]:
    """Milliseconds forward and back."""
    began = time.perf_counter()
    out = module(x)
    half = time.perf_counter()
    torch.autograd.grad(out, x, back)
    return 1000 * (half - began), 1000 * (time.perf_counter() - half)


def measure(kind: Callable[[int], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    """Both ways on random numbers."""
    torch.manual_seed(0)
    both = nn.ModuleDict({way: kind(shape[-1]).to(dtype).requires_grad_(False) for way in ("plain", "ours")})
    norm.fuse(both["ours"])
    x, back = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in both}
    for turn in range(TIMES + 5):
        for way, module in both.items():
            took = passes(module, x, back)
            if turn >= 5:
                spent[way].append(took)
    found = {}
    for place, name in enumerate(("forward", "back")):
        times = {way: median(one[place] for one in took) for way, took in spent.items()}
        found |= {f"{name}_{way}_ms": round(took, 3) for way, took in times.items()}
        found[f"{name}_ratio"] = round(times["ours"] / times["plain"], 3)
    return found


def main() -> None:
    """Measure, print, write."""
    lines = []
    for name, kind in (("T5", T5LayerNorm), ("Llama", LlamaRMSNorm)):
        for precision, dtype in TYPES.items():
            for shape in SHAPES:
                lines.append({"family": name, "precision": precision, "shape": shape, **measure(kind, shape, dtype)})
                print(json.dumps(lines[-1]), flush=True)
    RESULTS.write_text(json.dumps({"lines": lines, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
