"""What `promptuary compare` makes of rows that it has never seen.

    PROMPTUARY_DATA=<folder> python benchmarks/compare.py                        # ten minutes for each of four files
    PROMPTUARY_DATA=<folder> python benchmarks/compare.py --tasks sst2 --budget 60s

Of each task's training rows a fifth is put aside. The others are written as a CSV, as a user would bring them; the
command searches on it within the budget and keeps a prompt. Asked are: does its own estimate put the prompt above the
frozen head and above bag of words? Does the estimate agree with the fifth that it never saw, and with the published
test split (which of TREC is another collection)? And where labels were shuffled: does it say that there is nothing to
learn? One line a task in `results/compare.jsonl`, and the table `compare.md`.
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
from promptuary.bench.own_rows import same
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.files import write
from promptuary.material import hold_out
from promptuary.train import record
from study import Results, markdown, origin

RESULTS = Path(__file__).parent / "results" / "compare.jsonl"
SHUFFLED = "mr, labels shuffled"
TASKS = ("sst2", "trec", "mr", SHUFFLED)
RIVALS = ("frozen", "bag-of-words", "majority")


def files(task: str, place: Path) -> tuple[Path, Path, Path]:
    """What the user brings, what was put aside, and the published test split, each a CSV of two columns; the latter
    without copies of what is brought.
    """
    name = task.partition(",")[0]
    train, test = (list(source.rows(f"task:{name}/{split}")) for split in ("train", "test"))
    if task == SHUFFLED:
        labels = [row.fields["label"] for row in train]
        random.Random(0).shuffle(labels)
        train = [Row({**row.fields, "label": own}, row.place) for row, own in zip(train, labels, strict=True)]
    brought, *unseen = *hold_out(train, "label", 0.2), test
    known = {same([row.fields["text"]]) for row in brought}
    aside, test = ([row for row in rows if same([row.fields["text"]]) not in known] for rows in unseen)
    return written(brought, place / "rows.csv"), written(aside, place / "aside.csv"), written(test, place / "test.csv")


def written(rows: Sequence[Row], place: Path) -> Path:
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "topic"])
        writer.writerows([row.fields["text"], row.fields["label"]] for row in rows)
    return place


def told(*command: str) -> Any:
    """What a command of promptuary prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "promptuary", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def cell(task: str, budget: str) -> dict[str, Any]:
    """One search, and what its prompt is worth on rows that it never saw."""
    with tempfile.TemporaryDirectory() as place:
        rows, *unseen = files(task, Path(place))
        out, began = f"{place}/out", time.monotonic()
        columns = ("--text", "body", "--label", "topic")
        found = told("compare", str(rows), *columns, "--budget", budget, "--out", out)
        seconds = time.monotonic() - began
        scores = {data.stem: told("evaluate", f"{out}/prompt", "--data", str(data)) for data in unseen}
    advice = advise(found)
    estimates = {
        e.name: {"spoken": e.spoken, "score": e.score, "interval": e.interval, "gain": e.gain, "p": e.p}
        for e in advice.estimates
    }
    return {
        "task": task, "budget": budget, "precision": found["precision"], "seconds": seconds, "rows": found["rows"],
        "learned": advice.learned, "estimates": estimates,
        **{name: {"accuracy": own["accuracy"], "n": own["n"]} for name, own in scores.items()},
    }  # fmt: skip


def apart(line: Mapping[str, Any], name: str) -> str:
    """The score on unseen rows, and how far it is from the estimate, with an interval for both sets of rows."""
    ours, theirs = line["estimates"]["prompt"]["score"], line[name]["accuracy"]
    variance = sum(p * (1 - p) / n for p, n in ((ours, line["rows"]["estimate"]), (theirs, line[name]["n"])))
    far, wide = 100 * (theirs - ours), 196 * variance**0.5
    return f"{100 * theirs:.1f} ({far:+.1f}, {far - wide:+.1f} to {far + wide:+.1f})"


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table: a row for each task, the last line of each."""
    heads = [
        "", "choice", "estimate", "95 % interval", *(f"over {name} (p)" for name in RIVALS), "put aside", "test split",
        "something to learn", "seconds",
    ]  # fmt: skip
    body = []
    shown = {line["task"]: line for line in lines}
    for task, line in shown.items():
        own = line["estimates"]["prompt"]
        low, high = own["interval"]
        gains = (line["estimates"].get(name) for name in RIVALS)
        over = ["" if e is None else f"{100 * e['gain']:+.1f} ({e['p']:.4f})" for e in gains]
        unseen = [apart(line, "aside"), "" if task == SHUFFLED else apart(line, "test")]
        learned, spread = "yes" if line["learned"] else "no", f"{100 * low:.1f} to {100 * high:.1f}"
        found = [f"{100 * own['score']:.1f}", spread, *over, *unseen, learned, f"{line['seconds']:.0f}"]
        body.append([task, own["spoken"], *found])
    budgets = " and ".join(dict.fromkeys(str(line["budget"]) for line in shown.values()))
    return f"""\
# What `compare` finds

Accuracy in percent on `minilm`, within {budgets} each. The estimate is of rows that chose nothing; gains are the
prompt's, on the same rows, with p by Holm's rule. Rows that were put aside, and the published test split, were never
seen: their score, its distance from the estimate, and the distance's interval of 95 % for other rows on both sides.
Written by `python benchmarks/compare.py`. {origin([*shown.values()])}.

{markdown(heads, body)}
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--budget", default="10min")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    if "PROMPTUARY_DATA" not in os.environ:
        print("Set PROMPTUARY_DATA to the folder of the public data sets.", file=sys.stderr)
        return 2
    results, about = Results(asked.results), record.surroundings()
    for task in asked.tasks:
        results.add({**cell(task, asked.budget), **about})
        write(asked.results.with_suffix(".md"), page(results.lines()).encode())
    print(page(results.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
