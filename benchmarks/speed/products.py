"""Parts of a frozen model's step on a CPU, each way of computing them beside the plain one: CPU milliseconds.

    OMP_NUM_THREADS=1 python benchmarks/speed/products.py    # writes benchmarks/results/products.json

Matrix products of frozen weights in float32: PyTorch's own, oneDNN's on the weights as they lie, and oneDNN's on a copy
that was packed once (which keeps a second and, for the backward pass, a third copy of all weights). The GELU of GPT-2,
forward and backward: as transformers writes it, and as one operation. The scores of GPT-2's vocabulary after the
last of 52 tokens, in bfloat16: from a slice of all states, and from states that lie together. The softmax of attention
in bfloat16 over rows of so many scores: as it is, and by way of float32.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import NewGELUActivation

from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "products.json"
ROWS, TURNS = (416, 1056), 9
SHAPES = ((512, 2048), (768, 768), (768, 3072), (3072, 768))  # inputs and outputs


def measured(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU milliseconds of each, interleaved."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if turn:
                spent[name].append(1000 * (time.process_time() - began))
    return {name: round(median(found), 2) for name, found in spent.items()}


def product(rows: int, inputs: int, outputs: int) -> dict[str, float]:
    """The ways to a product of a frozen weight."""
    torch.manual_seed(0)
    given, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    packed, onednn = torch.ops.mkldnn._reorder_linear_weight(weight, rows), torch.ops.mkldnn._linear_pointwise
    with torch.no_grad():
        return measured(
            {
                "plain": lambda: F.linear(given, weight),
                "onednn": lambda: onednn(given, weight, None, "none", [], ""),
                "packed": lambda: onednn(given, packed, None, "none", [], ""),
            }
        )


def gelu(rows: int, width: int) -> dict[str, float]:
    """GPT-2's activation with its gradient."""
    given = torch.randn(rows, width, requires_grad=True)
    plain = NewGELUActivation()
    return measured(
        {
            "plain": lambda: plain(given).sum().backward(),
            "fused": lambda: F.gelu(given, approximate="tanh").sum().backward(),
        }
    )


def head(texts: int) -> dict[str, float]:
    """The vocabulary's scores of one token of each text."""
    weight, states = torch.randn(50_257, 768).bfloat16(), torch.randn(texts, 52, 768).bfloat16()
    with torch.no_grad():
        return measured(
            {
                "slice": lambda: F.linear(states[:, -1:], weight),
                "together": lambda: F.linear(states[:, -1:].clone(memory_format=torch.contiguous_format), weight),
            }
        )


def softmax(own: int) -> dict[str, float]:
    """The softmax of 24 texts of so many tokens with 12 heads."""
    scores = torch.randn(24, 12, own, own).bfloat16()
    with torch.no_grad():
        return measured(
            {
                "bfloat16": lambda: scores.softmax(-1),
                "by float32": lambda: scores.float().softmax(-1).bfloat16(),
            }
        )


def main() -> None:
    """Measure, print, write."""
    lines: list[dict[str, Any]] = [
        {"what": "product", "rows": rows, "inputs": i, "outputs": o, **product(rows, i, o)}
        for rows in ROWS
        for i, o in SHAPES
    ]
    lines += [{"what": "gelu", "rows": rows, "width": 3072, **gelu(rows, 3072)} for rows in ROWS]
    lines += [{"what": "head", "texts": texts, **head(texts)} for texts in (1, 8)]
    lines += [{"what": "softmax", "scores": own, **softmax(own)} for own in (45, 60, 64)]
    for line in lines:
        print(json.dumps(line))
    RESULTS.write_text(json.dumps({"lines": lines, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
