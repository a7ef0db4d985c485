"""What prompts made from the input, or chosen, are worth: the generators that two methods start from, then the plan.

    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py              # one process
    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py --jobs 2     # or --minutes 90, --table, --check

The plan is `instance_dynamic.toml`, its folder `results/instance_dynamic`. A pretrained look-up is trained before,
without the backbone, on the training rows of the other seven tasks (their texts in one row, their classes apart),
without texts that the task itself has in any of its splits (SST-2 and MR are cut from the same reviews): so nothing of
a task is seen before its own rows teach. Killed or stopped, the same command goes on.
"""

import argparse
import fcntl
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path

from promptuary.backbones.load import load
from promptuary.bench.grounds import rows_of
from promptuary.bench.plan import Plan, placed, read
from promptuary.cli import main as promptuary
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.manifests import holds_generator
from promptuary.material import Material, hold_out
from promptuary.pretraining import pretrain
from promptuary.specs import Run

HOME = Path(__file__).resolve().parent
PLAN, FOLDER = HOME / "instance_dynamic.toml", HOME / "results" / "instance_dynamic"
RECIPE = {"epochs": 3, "batch": 32, "patience": 0}


def bare(text: str) -> str:
    """What two cuts of one text have in common: its letters and figures."""
    return re.sub(r"\W+", "", text.lower())


def texts_of(task: Task, rows: Iterable[Row]) -> set[str]:
    """Every text of some rows, bare; what is shorter than three words is nobody's own."""
    return {bare(text) for row in rows for text in task.texts(row) if len(text.split()) > 2}


def own_texts(plan: Plan, name: str) -> set[str]:
    """The texts of a task in all of its splits."""
    of, run = plan.tasks[name], plan.run(name)
    parts = [of.source("train", of.train), of.source("test", of.report)]
    parts += [] if isinstance(of.selection, float) else [of.source("validation", of.selection)]
    splits = [list(source.rows(part)) for part in parts]
    task = run.kind.task(splits[0], name, run)
    return set[str]().union(*(texts_of(task, rows) for rows in splits))


def others(plan: Plan, left_out: str) -> list[Row]:
    """The training rows of all tasks but one, without its texts, as texts of classes that say their task."""
    known, found = own_texts(plan, left_out), []
    for name in plan.tasks:
        if name != left_out:
            rows = rows_of(plan, name, "full", plan.seeds[0])
            for row in rows.train:
                if not texts_of(rows.task, [row]) & known:
                    text = " ".join(t for t in rows.task.texts(row) if t)
                    label = rows.task.labels[rows.task.index(row)]
                    found.append(Row({"text": text, "label": f"{name}: {label}"}, row.place))
    return found


def generators(plan: Plan, folder: Path) -> None:
    """Train those that the plan's variants start from and that are not there yet; of two processes one waits."""
    wanted = [(v.of, str(v.settings["pretrained"])) for v in plan.variants.values() if "pretrained" in v.settings]
    folder.mkdir(parents=True, exist_ok=True)
    loaded = cache(load)
    with (folder / "generators.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for method, template in wanted:
            for task, name in product(plan.tasks, plan.backbones):
                out = Path(placed(template, folder=str(folder), task=task, backbone=name))
                if holds_generator(out):
                    continue
                train, held = hold_out(others(plan, task), "label", 0.1)
                run = Run(train="the other tasks", method=method, max_length=128, out=str(out), recipe=RECIPE)
                print(f"{out.relative_to(folder)}: {len(train):,} rows of the other tasks", flush=True)
                pretrain(
                    run, backbone=loaded(name), material=Material(run.kind.task(train, "others", run), train, held)
                )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=0, help="share the work among so many processes")
    parser.add_argument("--minutes", type=float, help="begin no other trial after so many")
    parser.add_argument("--table", action="store_true", help="run nothing; write the tables of what is finished")
    parser.add_argument("--check", action="store_true", help="run nothing; look at plan and rows, count trials")
    asked = parser.parse_args(arguments)
    if not (asked.check or asked.table):
        generators(read(PLAN), FOLDER)
    sys.argv = ["promptuary", "bench", str(PLAN), "--out", str(FOLDER), *arguments]
    promptuary()


if __name__ == "__main__":
    main(sys.argv[1:])
