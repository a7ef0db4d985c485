"""One epoch from rows of text to a tuned prompt, beside PEFT in the Trainer of transformers.

    OMP_NUM_THREADS=2 PROMPTUARY_DATA=<folder> python benchmarks/speed/epochs.py

Writes benchmarks/results/epochs.json and epochs.md. Rows of sst2 and of boolq (their lengths are what matters: 5 to 60
tokens, and 50 to 256) go through the bundled `minilm` once, in batches of 32, under a prompt of 20 soft tokens with a
trained head; nothing is scored on the way. Everything is in the time: tokenising, batches, steps and the optimizer.

- promptuary: rows of similar length together, bfloat16, as `tune` runs it.
- PEFT, defaults: float32, rows in random order, padded to the longest of a batch; the Trainer as it is but for BATCH.
- PEFT at its best: rows of similar length together (`train_sampling_strategy`), bfloat16.

The three take turns, each in a process of its own; what holds are the ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from promptuary.data import source
from promptuary.data.source import Row
from promptuary.files import write
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results"
TASKS = {"sst2": ("text", None, 64), "boolq": ("question", "passage", 256)}
TARGETS = {"defaults": 0.30, "best": 0.60}
WAYS = ("ours", *TARGETS)
BATCH, LENGTH = 32, 20


def rows_of(task: str, count: int) -> list[Row]:
    """The first training rows of a task."""
    folder = os.environ.get("PROMPTUARY_DATA")
    if not folder:
        raise SystemExit("PROMPTUARY_DATA is not set: expected a folder with sst2 and boolq in it.")
    split = "train" if task == "sst2" else "train_partial"
    [place] = Path(folder, task).glob(f"{split}.jsonl*")
    return list(source.rows(str(place)))[:count]


def ours(task: str, rows: Sequence[Row], place: Path) -> float:
    """Seconds of one epoch of `tune`; the model is loaded before."""
    import torch

    from promptuary.backbones.load import load
    from promptuary.material import Material
    from promptuary.specs import Run
    from promptuary.tuning import tune

    text, pair, most = TASKS[task]
    recipe = {"epochs": 1, "batch": BATCH, "precision": "bf16", "patience": 0}
    run = Run(
        train="-", text=text, text_pair=pair, max_length=most, method="prompt-tuning", settings={"length": LENGTH},
        recipe=recipe, out=str(place), save_every=10**6,
    )  # fmt: skip
    backbone = load("minilm", dtype=torch.bfloat16)
    held = rows[:1]  # the loop wants a row to score at the end
    material = Material(run.kind.task(rows, task, run), rows, held)
    began = time.perf_counter()
    tune(run, backbone=backbone, material=material)
    return time.perf_counter() - began


def theirs(task: str, rows: Sequence[Row], place: Path, *, best: bool) -> float:
    """Seconds of one epoch of PEFT in the Trainer; the model is loaded before."""
    import datasets
    import peft
    import torch
    import transformers as hf

    from promptuary.backbones.load import SHORT_NAMES

    text, pair, most = TASKS[task]
    path = str(SHORT_NAMES["minilm"].path())
    labels = sorted({str(row.fields["label"]) for row in rows})
    model: Any = hf.AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=len(labels), dtype=torch.bfloat16 if best else torch.float32
    )
    model = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH))
    tokenizer = hf.AutoTokenizer.from_pretrained(path)
    more: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length"} if best else {}
    settings = hf.TrainingArguments(
        str(place), per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=True, **more,
    )  # fmt: skip
    began = time.perf_counter()
    made = datasets.Dataset.from_list(
        [
            {
                **tokenizer(
                    row.fields[text], None if pair is None else row.fields[pair], truncation=True, max_length=most
                ),
                "labels": labels.index(str(row.fields["label"])),
            }
            for row in rows
        ]
    )
    collator = hf.DataCollatorWithPadding(tokenizer)
    hf.Trainer(model, settings, train_dataset=made, data_collator=collator).train()
    return time.perf_counter() - began


def alone(way: str, task: str, count: int) -> float:
    """Seconds of one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--task", task, "--rows", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().split("\n")[-1])


def page(lines: Sequence[dict[str, Any]], told: dict[str, Any]) -> str:
    """The results as a table."""
    heads = "| task | rows | promptuary, s | PEFT, defaults, s | PEFT at its best, s | ours / defaults | ours / best |"
    body = [
        f"| {line['task']} | {line['rows']:,} | "
        + " | ".join(f"{line['seconds'][way]:.1f}" for way in WAYS)
        + " | "
        + " | ".join(
            f"{line['ratios'][way]:.2f} ({'hit' if line['ratios'][way] <= most else '**miss**'}, {most:.2f})"
            for way, most in TARGETS.items()
        )
        + " |"
        for line in lines
    ]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    hardware = ", ".join(f"{name} {value}" for name, value in told["hardware"].items() if value)
    caption = f"Medians of {told['turns']} turns. {versions}; {hardware}; commit {told['commit']}."
    return "\n".join([heads, "|---|" + "---:|" * 6, *body, "", caption, ""])


def main() -> None:
    """Measure, print, write."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--rows", type=int, default=1024)
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--way", choices=WAYS)
    asked.add_argument("--task", choices=TASKS)
    given = asked.parse_args()
    if given.way is not None:
        rows = rows_of(given.task, given.rows)
        with tempfile.TemporaryDirectory() as place:
            if given.way == "ours":
                print(ours(given.task, rows, Path(place) / "out"))
            else:
                print(theirs(given.task, rows, Path(place), best=given.way == "best"))
        return
    lines = []
    for task in TASKS:
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.turns):
            for way in WAYS:
                spent[way].append(alone(way, task, given.rows))
                print(f"{task} {way}: {spent[way][-1]:.1f} s", flush=True)
        seconds = {way: median(found) for way, found in spent.items()}
        ratios = {way: seconds["ours"] / seconds[way] for way in TARGETS}
        lines.append({"task": task, "rows": given.rows, "seconds": seconds, "ratios": ratios, "all": spent})
    told = {"turns": given.turns, **record.surroundings()}
    print(page(lines, told))
    write(RESULTS / "epochs.json", (json.dumps({"lines": lines, **told}, indent=1) + "\n").encode())
    write(RESULTS / "epochs.md", page(lines, told).encode())


if __name__ == "__main__":
    main()
