"""What `torch.compile` brings to a training step on a CPU, and what it costs before the first.

    OMP_NUM_THREADS=1 python benchmarks/speed/compiling.py    # writes benchmarks/results/compiling.json

The plain model of BERT's shape (six layers, random weights), forward and backward to its inputs, as it is and with its
layers compiled by inductor (`layer.compile()`, one graph for all, shapes left open); and what promptuary makes of the
same step without a compiler. The three take turns in one process, medians of CPU time; the seconds of the compiler are
those of the first two steps.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from all import interleaved
from contenders import KINDS, batch, floor, made, ours, quietly, seeded

from promptuary.files import write
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "compiling.json"
TOKENS, LENGTH = 32, 20


def line(precision: str, rows: int, turns: int) -> dict[str, Any]:
    """One precision: milliseconds of a step of each, and the compiler's seconds."""
    kind = KINDS["bert-6l"]
    backbone = kind.backbone(precision)
    given = batch(rows, TOKENS, backbone.shape.vocabulary)
    model, readout = made(kind, backbone, "prompt-tuning", length=LENGTH)

    def compiled() -> Any:
        plain = seeded(kind.build)
        for layer in plain.encoder.layer:
            layer.compile(dynamic=True)
        return plain

    eager = floor(kind, given, model, readout, precision)
    step = floor(kind, given, model, readout, precision, build=compiled)
    began = time.perf_counter()
    found, again = step(), step()
    seconds = time.perf_counter() - began
    gap = float((found - eager()).abs().max() / found.abs().max())
    assert torch.equal(found, again)
    spent = interleaved({"eager": eager, "compiled": step, "ours": ours(model, readout, given, precision)}, turns)
    return {
        "precision": precision, "rows": rows, **{name: round(ms, 1) for name, ms in spent.items()},
        "compiled / eager": round(spent["compiled"] / spent["eager"], 3),
        "ours / eager": round(spent["ours"] / spent["eager"], 3),
        "compiler_s": round(seconds, 1), "gap": gap,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--rows", type=int, default=8)
    asked.add_argument("--turns", type=int, default=7)
    given = asked.parse_args()
    lines = []
    for precision in ("fp32", "bf16"):
        lines.append(line(precision, given.rows, given.turns))
        print(json.dumps(lines[-1]), flush=True)
    told = {"turns": given.turns, **record.surroundings()}
    write(RESULTS, (json.dumps({"lines": lines, **told}, indent=1) + "\n").encode())


if __name__ == "__main__":
    with quietly():
        main()
