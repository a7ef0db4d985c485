"""A frozen model in eight bits (`--int8`): accuracy of tuned prompts, time of an answer, bytes of the model.

    OMP_NUM_THREADS=1 python benchmarks/speed/int8.py    # writes benchmarks/results/int8.json and int8.md

Prompts are tuned on the plain `minilm` in float32 (the package's `intents`, three seeds), and score its test rows on
each kind of the model. An answer is one pass over 32 rows of so many tokens under a prompt; the kinds take turns in one
process of one thread, medians; what holds are the ratios. Needs torchao (`pip install 'promptuary[int8]'`).
"""

import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import promptuary
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.identity import parts_of
from promptuary.backbones.load import load
from promptuary.data.source import rows
from promptuary.files import write
from promptuary.train import record
from promptuary.tuned import Tuned, open_prompt

RESULTS = Path(__file__).resolve().parent.parent / "results"
METHODS, SEEDS, ROWS, TURNS = ("prompt-tuning", "p-tuning-v2"), (0, 1, 2), 32, 9
KINDS = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "int8 weights": (torch.float32, "weights"),
         "int8 dynamic": (torch.float32, "dynamic")}  # fmt: skip


def size(backbone: Backbone) -> int:
    """Bytes of the model's weights."""
    return sum(p.numel() * p.element_size() for w in backbone.model.state_dict().values() for p in parts_of(w))


def answer(tuned: Tuned, ids: torch.Tensor) -> float:
    """Milliseconds of one pass."""
    mask, began = torch.ones_like(ids, dtype=torch.bool), time.perf_counter()
    with torch.no_grad():
        tuned.model(tuned.model.instance(ids, mask))
    return 1000 * (time.perf_counter() - began)


def prompts(place: Path) -> Mapping[str, list[Path]]:
    """The folders of prompts that are tuned here, by method."""
    found: dict[str, list[Path]] = {}
    for method in METHODS:
        out = place / method
        run = promptuary.Run(
            backbone="minilm", train="sample:intents/train", validation="sample:intents/validation", method=method,
            seeds=SEEDS, out=str(out),
        )  # fmt: skip
        promptuary.tune(run)
        found[method] = [out / f"seed-{seed}" for seed in SEEDS]
    return found


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    models: dict[str, Backbone] = {}
    gaps: dict[str, float] = {"fp32": 0.0}
    for kind, (dtype, how) in KINDS.items():
        models[kind] = load("minilm", dtype=dtype)
        if how is not None:
            gaps[kind] = models[kind].to_int8(how)
    lines: list[dict[str, Any]] = []
    test = list(rows("sample:intents/test"))
    with tempfile.TemporaryDirectory() as place:
        for method, folders in prompts(Path(place)).items():
            opened = {kind: [open_prompt(f, backbone=b) for f in folders] for kind, b in models.items()}
            scores = {kind: [100 * t.evaluate(test)["accuracy"] for t in own] for kind, own in opened.items()}
            source = torch.Generator().manual_seed(0)
            given = {n: torch.randint(1000, 30000, (ROWS, n), generator=source) for n in (16, 32, 128)}
            times: dict[tuple[str, int], list[float]] = {(k, n): [] for k, n in product(KINDS, given)}
            for turn, n, kind in product(range(TURNS + 1), given, KINDS):
                spent = answer(opened[kind][0], given[n])
                if turn:
                    times[kind, n].append(spent)
            for kind in KINDS:
                ratio = partial(_ratio, times, kind)
                lines.append({
                    "method": method, "model": kind, "bytes": size(models[kind]), "accuracy": mean(scores[kind]),
                    "accuracies": scores[kind], "gap": gaps.get(kind),
                    "ms": {n: median(times[kind, n]) for n in given}, "over fp32": {n: ratio(n) for n in given},
                })  # fmt: skip
    print(page(lines))
    write(RESULTS / "int8.json", (json.dumps({"lines": lines, **record.surroundings()}, indent=1) + "\n").encode())
    write(RESULTS / "int8.md", page(lines).encode())


def _ratio(times: Mapping[tuple[str, int], list[float]], kind: str, n: int) -> float:
    return median(a / b for a, b in zip(times[kind, n], times["fp32", n], strict=True))


def page(lines: list[dict[str, Any]]) -> str:
    """The results as a table."""
    lengths = list(lines[0]["ms"])
    heads = ["method", "model", "MB", "accuracy, %", *(f"{n} tokens, ms (of fp32)" for n in lengths)]
    body = [
        [
            line["method"], line["model"], f"{line['bytes'] / 1e6:.1f}", f"{line['accuracy']:.1f}",
            *(f"{line['ms'][n]:.0f} ({line['over fp32'][n]:.2f})" for n in lengths),
        ]
        for line in lines
    ]  # fmt: skip
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(b) + " |" for b in body)]
    return "\n".join(["# A frozen model in eight bits", "", *table]) + "\n"


if __name__ == "__main__":
    main()
