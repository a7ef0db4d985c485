"""A training step with a table of the vocabulary, dense and lazy: what is saved by leaving unread rows alone.

    OMP_NUM_THREADS=1 python benchmarks/speed/lazy.py    # writes benchmarks/results/lazy.json

A step as the loop makes it (look-up, backward, clipping, AdamW, the watch over every tensor), without a frozen model:
its time comes on top of both. Batches of 32 rows with 20 tokens each, drawn with the frequencies of a language (Zipf).
Interleaved in one process, medians; what holds are the ratios. The first ten steps are left out: there, and in every
fiftieth, the watch copies the whole table.
"""

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from promptuary.backbones.idle import Idle
from promptuary.data.batch import Batch
from promptuary.initial import matched
from promptuary.injections import HiddenStates
from promptuary.lookups import Dense, Lookup, Table, Window
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier
from promptuary.train import record
from promptuary.train.recipe import Recipe
from promptuary.train.stepper import Stepper
from promptuary.values import Shape

RESULTS = Path(__file__).resolve().parent.parent / "results" / "lazy.json"
SIZES = ((30_522, 384), (50_265, 1_024))  # BERT's vocabulary at MiniLM's width, RoBERTa's at its large width
ROWS, TOKENS, CLASSES, WATCHED, STEPS = 32, 20, 2, 10, 30


def batch(vocabulary: int, number: int) -> Batch:
    """A batch of rows of words as rare as in a language."""
    source = torch.Generator().manual_seed(number)
    frequency = 1.0 / torch.arange(1, vocabulary + 1)
    ids = torch.multinomial(frequency, ROWS * TOKENS, replacement=True, generator=source).view(ROWS, TOKENS)
    labels = torch.randint(CLASSES, (ROWS,), generator=source)
    return Batch(ids, ids >= 0, ids * 0, labels * 0, torch.arange(ROWS), labels=labels)


def stepper(vocabulary: int, width: int, lazy: bool) -> Stepper:
    """Everything a run steps with."""
    shape = Shape("none", width, width, width, 1, vocabulary, None, 0.05)
    idle = Idle(shape, torch.device("cpu"), width=width)
    table: Table = Dense(vocabulary, width, matched(0.05), lazy=lazy)
    model = SoftPrompted(idle, Lookup(Window(TOKENS), table), HiddenStates(idle.shape))
    return Stepper(model, Classifier(CLASSES, width, pool="mean"), Recipe(rate=1e-3, scaled=False), WATCHED + STEPS)


def measure(vocabulary: int, width: int) -> dict[str, Any]:
    """Median milliseconds of a step both ways, and their ratio."""
    ways = {"dense": stepper(vocabulary, width, False), "lazy": stepper(vocabulary, width, True)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, WATCHED + STEPS + 1):
        given = [batch(vocabulary, number)]
        for name, way in ways.items():
            began = time.perf_counter()
            way.step(number, given)
            if number > WATCHED:
                found[name].append(1000 * (time.perf_counter() - began))
    for way in ways.values():
        way.close()
    times = {f"{name}_ms": round(median(spent), 2) for name, spent in found.items()}
    return {**times, "ratio": round(times["lazy_ms"] / times["dense_ms"], 4)}


def main() -> None:
    """Measure all sizes, print them, write them."""
    lines = []
    for vocabulary, width in SIZES:
        how = {"vocabulary": vocabulary, "width": width, "rows": ROWS, "tokens": TOKENS, "steps": STEPS}
        lines.append({**how, **measure(vocabulary, width)})
        print(json.dumps(lines[-1]), flush=True)
    RESULTS.write_text(json.dumps({"sizes": lines, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
