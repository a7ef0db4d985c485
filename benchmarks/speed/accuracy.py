"""Seconds of training until PEFT's accuracy is reached: PEFT in the Trainer of transformers, and promptuary as it is.

    OMP_NUM_THREADS=2 PROMPTUARY_DATA=<folder> python benchmarks/speed/accuracy.py

Writes benchmarks/results/accuracy.json and accuracy.md. On sst2 and trec with the bundled `minilm`, 20 soft tokens, 32
rows a step. PEFT has its best honest settings: rows of similar length together, bfloat16 with the prompt and the head
in float32, and of three rates each for its prompt and its prefix the one with the best accuracy on the validation rows.
promptuary has its defaults, in bfloat16. Both are scored on the same validation rows every EVERY steps, with the clock
stopped. The goal is 99 % of the best accuracy that any of PEFT's runs had at any time; what counts is the first scoring
that reaches it. Tokenising is in the time of both; loading the model is in neither.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from promptuary.backbones.load import SHORT_NAMES, load
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.files import write
from promptuary.material import Material, hold_out
from promptuary.specs import Run
from promptuary.train import record
from promptuary.train.progress import Silent
from promptuary.tuning import tune

RESULTS = Path(__file__).resolve().parent.parent / "results"
BATCH, LENGTH, LONGEST, EVERY, GOAL, TARGET = 32, 20, 64, 20, 0.99, 0.35
TASKS = {"sst2": 2, "trec": 4}  # epochs
OURS = ("prompt-tuning", "p-tuning-v2")
THEIRS: Mapping[str, Sequence[float]] = {
    "PromptTuningConfig": (0.03, 0.1, 0.3), "PrefixTuningConfig": (0.003, 0.01, 0.03)
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """One scoring: the step, seconds of training before it, accuracy on the validation rows."""

    step: int
    seconds: float
    accuracy: float


class Clock:
    """A clock that is stopped while rows are scored."""

    def __init__(self) -> None:
        self.spent, self.began, self.curve = 0.0, time.perf_counter(), list[Scored]()

    def stop(self) -> None:
        self.spent += time.perf_counter() - self.began

    def goes_on(self, step: int, accuracy: float) -> None:
        self.curve.append(Scored(step, self.spent, accuracy))
        self.began = time.perf_counter()


def rows_of(task: str, limit: int | None) -> tuple[list[Row], list[Row]]:
    """Training and validation rows: the official ones, or a tenth of the training rows held out."""
    folder = os.environ.get("PROMPTUARY_DATA")
    if not folder:
        raise SystemExit("PROMPTUARY_DATA is not set: expected a folder with sst2 and trec in it.")

    def read(split: str) -> list[Row]:
        [place] = Path(folder, task).glob(f"{split}.jsonl*")
        return list(source.rows(str(place)))

    train = read("train")
    train, held = (train, read("validation")) if task == "sst2" else hold_out(train, "label", 0.1)
    return train[:limit], held[:limit]


def ours(task: str, method: str, train: Sequence[Row], held: Sequence[Row]) -> list[Scored]:
    """Promptuary's own loop; it scores before the hook is told, so that the last step's end is remembered."""
    steps = TASKS[task] * -(-len(train) // BATCH)
    recipe = {"epochs": TASKS[task], "batch": BATCH, "precision": "bf16", "patience": 0}
    recipe["evaluations"] = max(1, steps // TASKS[task] // EVERY)

    class Hook(Silent):
        clock: Clock

        def stepped(self, step: int, loss: float) -> None:
            self.clock.stop()
            self.clock.began = time.perf_counter()

        def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
            self.clock.goes_on(step, scores["accuracy"])

    hook, backbone = Hook(), load("minilm", dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as place:
        run = Run(
            train="-", max_length=LONGEST, method=method, settings={"length": LENGTH}, recipe=recipe,
            out=f"{place}/out", save_every=10**6,
        )  # fmt: skip
        material = Material(run.kind.task(train, task, run), train, held)
        hook.clock = Clock()
        tune(run, backbone=backbone, material=material, progress=hook)
    return hook.clock.curve


def theirs(task: str, config: str, rate: float, train: Sequence[Row], held: Sequence[Row]) -> list[Scored]:
    """PEFT in the Trainer."""
    import datasets
    import peft
    import transformers as hf

    path, labels = str(SHORT_NAMES["minilm"].path()), sorted({str(row.fields["label"]) for row in train})
    torch.manual_seed(0)
    model: Any = hf.AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=len(labels), dtype=torch.bfloat16
    )
    model = peft.get_peft_model(model, getattr(peft, config)(task_type="SEQ_CLS", num_virtual_tokens=LENGTH))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # steps of a head in bfloat16 vanish
    tokenizer = hf.AutoTokenizer.from_pretrained(path)
    clock = Clock()

    def encoded(rows: Sequence[Row]) -> Any:
        told = [
            {
                **tokenizer(row.fields["text"], truncation=True, max_length=LONGEST),
                "labels": labels.index(str(row.fields["label"])),
            }
            for row in rows
        ]
        return datasets.Dataset.from_list(told)

    made, collator = encoded(train), hf.DataCollatorWithPadding(tokenizer)
    clock.stop()
    asked = sorted(encoded(held), key=lambda row: len(row["input_ids"]))
    clock.began = time.perf_counter()

    @torch.no_grad()
    def accuracy() -> float:
        model.eval()
        right = 0
        with torch.autocast("cpu", torch.bfloat16):
            for at in range(0, len(asked), 2 * BATCH):
                batch = collator(asked[at : at + 2 * BATCH])
                gold = batch.pop("labels")
                right += int((model(**batch).logits.argmax(1) == gold).sum())
        model.train()
        return right / len(asked)

    class Hook(hf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
                clock.stop()
                clock.goes_on(state.global_step, accuracy())

    with tempfile.TemporaryDirectory() as place:
        settings = hf.TrainingArguments(
            place, per_device_train_batch_size=BATCH, num_train_epochs=TASKS[task], report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, use_cpu=True, bf16=True, learning_rate=rate, warmup_steps=0.06,
            train_sampling_strategy="group_by_length",
        )  # fmt: skip
        hf.Trainer(model, settings, train_dataset=made, data_collator=collator, callbacks=[Hook()]).train()
    return clock.curve


def reached(curve: Sequence[Scored], goal: float) -> Scored | None:
    """The first scoring at the goal."""
    return next((one for one in curve if one.accuracy >= goal), None)


def compared(task: str, curves: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """When PEFT's best run and each of ours reached the goal."""
    known = {name: max(one.accuracy for one in curve) for name, curve in curves.items()}
    best = max((name for name in curves if name not in OURS), key=known.__getitem__)
    goal = GOAL * known[best]
    told: dict[str, Any] = {"task": task, "best": best, "best_accuracy": known[best], "goal": goal}
    first = reached(curves[best], goal)
    assert first is not None
    for name in (best, *OURS):
        found = reached(curves[name], goal)
        told[name] = None if found is None else {**asdict(found), "ratio": found.seconds / first.seconds}
    return told


def page(lines: Sequence[dict[str, Any]], told: Mapping[str, Any]) -> str:
    """The results as a table."""
    body = []
    for line in lines:
        for name in (line["best"], *OURS):
            found = line[name]
            seconds = "not reached" if found is None else f"{found['seconds']:.1f} (step {found['step']})"
            ratio = "" if found is None or name == line["best"] else f"{found['ratio']:.2f}"
            if name in OURS:
                ratio += f" ({'hit' if found is not None and found['ratio'] <= TARGET else '**miss**'}, {TARGET})"
            body.append(f"| {line['task']} | {100 * line['goal']:.1f} | {name} | {seconds} | {ratio} |")
    heads = "| task | accuracy to reach, % | | seconds | over PEFT |\n|---|---:|---|---:|---:|"
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    hardware = ", ".join(f"{name} {value}" for name, value in told["hardware"].items() if value)
    return "\n".join([heads, *body, "", f"One seed. {versions}; {hardware}; commit {told['commit']}.", ""])


def main() -> None:
    """Measure, print, write."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--rows", type=int, help="so many rows of each split only; nothing is written then")
    asked.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    given = asked.parse_args()
    lines, curves = [], {}
    for task in given.tasks:
        train, held = rows_of(task, given.rows)
        runs: dict[str, Callable[[], list[Scored]]] = {m: partial(ours, task, m, train, held) for m in OURS}
        for config, rates in THEIRS.items():
            runs |= {f"{config}, {rate}": partial(theirs, task, config, rate, train, held) for rate in rates}
        found = {}
        for name, run in runs.items():
            found[name] = run()
            top = max(found[name], key=lambda one: one.accuracy)
            print(f"{task} {name}: best {top.accuracy:.4f}, {found[name][-1].seconds:.1f} s in all", flush=True)
        lines.append(compared(task, found))
        curves[task] = {name: [asdict(one) for one in curve] for name, curve in found.items()}
    about = record.surroundings()
    print(page(lines, about))
    if given.rows is None and list(given.tasks) == list(TASKS):
        write(RESULTS / "accuracy.json", (json.dumps({"lines": lines, "curves": curves, **about}) + "\n").encode())
        write(RESULTS / "accuracy.md", page(lines, about).encode())


if __name__ == "__main__":
    main()
