"""What `promptuary compare` makes of rows that it has never seen.

    PROMPTUARY_DATA=<folder> python benchmarks/compare.py                        # ten minutes for each of four files
    PROMPTUARY_DATA=<folder> python benchmarks/compare.py --tasks sst2 --budget 60s

Each task's training rows are written as a CSV, as a user would bring them; the command searches on it within the budget
and keeps a prompt. Asked are: does its own estimate put the prompt above the frozen head and above bag of words? Does
the estimate agree with the published test split, which the command never saw? And where labels were shuffled: does it
say that there is nothing to learn? One line a task in `results/compare.jsonl`, and the table `compare.md`.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptuary.bench.advice import advise
from promptuary.data import source
from promptuary.files import write
from promptuary.train import record
from study import Results, markdown, origin

RESULTS = Path(__file__).parent / "results" / "compare.jsonl"
SHUFFLED = "mr, labels shuffled"
TASKS = ("sst2", "trec", "mr", SHUFFLED)
RIVALS = ("frozen", "bag-of-words", "majority")


def table_of(task: str, split: str, place: Path) -> Path:
    """A split as a CSV of two columns."""
    rows = list(source.rows(f"task:{task.partition(',')[0]}/{split}"))
    labels = [row.fields["label"] for row in rows]
    if task == SHUFFLED:
        random.Random(0).shuffle(labels)
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "topic"])
        writer.writerows([row.fields["text"], label] for row, label in zip(rows, labels, strict=True))
    return place


def told(*command: str) -> Any:
    """What a command of promptuary prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "promptuary", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def cell(task: str, budget: str, precision: str) -> dict[str, Any]:
    """One search, and what its prompt is worth on the test split."""
    with tempfile.TemporaryDirectory() as place:
        rows, out, began = table_of(task, "train", Path(place) / "rows.csv"), f"{place}/out", time.monotonic()
        columns = ("--text", "body", "--label", "topic")
        found = told("compare", str(rows), *columns, "--budget", budget, "--precision", precision, "--out", out)
        seconds = time.monotonic() - began
        advice = advise(found)
        test = {} if task == SHUFFLED else told(
            "evaluate", f"{out}/prompt", "--data", str(table_of(task, "test", Path(place) / "test.csv"))
        )  # fmt: skip
    estimates = {
        e.name: {"spoken": e.spoken, "score": e.score, "interval": e.interval, "gain": e.gain, "p": e.p}
        for e in advice.estimates
    }
    return {
        "task": task, "budget": budget, "precision": precision, "seconds": seconds, "rows": found["rows"],
        "learned": advice.learned, "estimates": estimates, "test": test.get("accuracy"), "tested": test.get("n"),
    }  # fmt: skip


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table: a row for each task, the last line of each."""
    heads = [
        "", "choice", "estimate", "95 % interval", *(f"over {name} (p)" for name in RIVALS), "test split", "inside",
        "something to learn", "seconds",
    ]  # fmt: skip
    body = []
    for task, line in {line["task"]: line for line in lines}.items():
        own, test = line["estimates"]["prompt"], line["test"]
        low, high = own["interval"]
        gains = (line["estimates"].get(name) for name in RIVALS)
        over = ["" if e is None else f"{100 * e['gain']:+.1f} ({e['p']:.4f})" for e in gains]
        there = [f"{100 * test:.1f}", "yes" if low <= test <= high else "no"] if test is not None else ["", ""]
        spread = f"{100 * low:.1f} to {100 * high:.1f}"
        learned = "yes" if line["learned"] else "no"
        body.append(
            [task, own["spoken"], f"{100 * own['score']:.1f}", spread, *over, *there, learned, f"{line['seconds']:.0f}"]
        )
    budgets = " and ".join(dict.fromkeys(str(line["budget"]) for line in lines))
    return f"""\
# What `compare` finds

Accuracy in percent on `minilm`, within {budgets} each. The estimate is of rows that chose nothing; gains are the
prompt's, on the same rows. `inside`: whether the published test split's score lies in the estimate's interval.
Written by `python benchmarks/compare.py`. {origin(lines)}.

{markdown(heads, body)}
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--budget", default="10min")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    if "PROMPTUARY_DATA" not in os.environ:
        print("Set PROMPTUARY_DATA to the folder of the public data sets.", file=sys.stderr)
        return 2
    results, about = Results(asked.results), record.surroundings()
    for task in asked.tasks:
        results.add({**cell(task, asked.budget, asked.precision), **about})
        write(asked.results.with_suffix(".md"), page(results.lines()).encode())
    print(page(results.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
