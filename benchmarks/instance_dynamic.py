"""What prompts made from the input, or chosen, are worth: the generators that two methods start from, then the plan.

    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py              # one process
    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py --jobs 2     # or any option of `promptuary bench`

The plan is `instance_dynamic.toml`, its folder `results/instance_dynamic`. A pretrained look-up is trained before,
without the backbone, on the training rows of the other seven tasks (their texts in one row, their classes apart): so
nothing of a task is seen before its own rows teach. Killed or stopped, the same command goes on.
"""

import sys
from pathlib import Path

from promptuary import pretrained
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.bench.grounds import rows_of
from promptuary.bench.plan import Plan, placed, read
from promptuary.cli import main
from promptuary.data.source import Row
from promptuary.material import Material, hold_out
from promptuary.pretraining import pretrain
from promptuary.specs import Run

HOME = Path(__file__).resolve().parent
PLAN, FOLDER = HOME / "instance_dynamic.toml", HOME / "results" / "instance_dynamic"
RECIPE = {"epochs": 3, "batch": 32, "patience": 0}


def others(plan: Plan, task: str) -> list[Row]:
    """The training rows of all tasks but one, as texts of classes that say their task."""
    found = []
    for name in plan.tasks:
        if name != task:
            rows = rows_of(plan, name, "full", plan.seeds[0])
            for row in rows.train:
                text = " ".join(t for t in rows.task.texts(row) if t)
                found.append(Row({"text": text, "label": f"{name}: {row.fields[rows.task.label]}"}, row.place))
    return found


def generators(plan: Plan, folder: Path) -> None:
    """Train those that the plan's variants start from and that are not there yet."""
    wanted = [(v.of, str(v.settings["pretrained"])) for v in plan.variants.values() if "pretrained" in v.settings]
    missing = [
        (method, task, out)
        for method, template in wanted
        for task in plan.tasks
        if not pretrained.is_in(out := Path(placed(template, task, folder)))
    ]
    real: Backbone | None = None
    for method, task, out in missing:
        real = real or load(plan.backbones[0])
        train, held = hold_out(others(plan, task), "label", 0.1)
        run = Run(train="the other tasks", method=method, max_length=128, out=str(out), recipe=RECIPE)
        material = Material(run.kind.task(train, "others", run), train, held)
        print(f"{out.relative_to(folder)}: {len(train):,} rows of the other tasks", flush=True)
        pretrain(run, backbone=real, material=material)


if __name__ == "__main__":
    asked = sys.argv[1:]
    if "--check" not in asked and "--table" not in asked:
        generators(read(PLAN), FOLDER)
    sys.argv = ["promptuary", "bench", str(PLAN), "--out", str(FOLDER), *asked]
    sys.exit(main())
