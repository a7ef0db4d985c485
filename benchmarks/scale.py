"""The pictures and tables of `scale.toml` and of `adaptation.py`: what a prompt is worth as the model grows.

    python benchmarks/scale.py                                  # from results/scale, results/adaptation.jsonl

Writes `results/scale.md`, and `docs/pictures/scale-*.svg`: the methods (Lester et al. 2021, figure 1), the length of
the prompt, where it starts, and LM adaptation (figure 3). Every number is a mean over tasks and seeds; bands are
intervals of 95 % for other seeds and rows (`promptuary.bench.statistics.interval`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import promptuary
from promptuary.bench import records
from promptuary.bench.plan import Plan, read
from promptuary.bench.statistics import Interval, interval
from promptuary.files import write
from promptuary.report.figures import Figure, curves, styles
from promptuary.report.series import Series
from promptuary.train.record import origin
from study import markdown

HOME = Path(__file__).resolve().parent
RESULTS, PICTURES = HOME / "results", HOME.parent / "docs" / "pictures"
METHODS = {
    "fine-tuning@0.001": "fine-tuning", "labels@20": "prompt tuning", "in-context": "in-context",
    "zero-shot": "zero-shot", "majority": "majority",
}  # fmt: skip
LENGTHS = {f"labels@{n}": f"{n} soft token{'s' * (n > 1)}" for n in (1, 5, 20, 100)}
STARTS = {"labels@20": "class labels", "vocabulary@20": "vocabulary", "uniform@20": "uniform"}
COMPARED = {
    "methods": ("Prompt tuning beside fine-tuning, and beside asking the frozen model.", METHODS),
    "lengths": ("The length of the prompt.", LENGTHS),
    "starts": ("Where the prompt of 20 soft tokens starts.", STARTS),
}
Middle = tuple[float, Interval]


def measured(plan: Plan, found: Sequence[records.Record]) -> dict[tuple[str, str], Middle]:
    """For each method and backbone: the mean over tasks, and its interval; only where all tasks and seeds are there."""
    tables = dict[tuple[str, str], list[np.ndarray]]()
    for method in plan.methods:
        for backbone in plan.backbones:
            of = {
                task: [r for r in found if (r["method"], r["backbone"], r["task"]) == (method, backbone, task)]
                for task in plan.tasks
            }
            wanted = len(plan.seeds) if plan.contender(method).drawn else 1
            if all(len(own) == wanted and all("reports" in r for r in own) for own in of.values()):
                tables[method, backbone] = [records.right(own) for own in of.values()]
    return {key: (float(np.mean([t.mean() for t in own])), interval(own)) for key, own in tables.items()}


def sizes(backbones: Sequence[str]) -> dict[str, float]:
    """Millions of weights beside the embedding table."""
    found = {}
    for name in backbones:
        backbone = promptuary.load(name)
        found[name] = (sum(p.numel() for p in backbone.model.parameters()) - backbone.table.numel()) / 1e6
    return found


def series(names: Mapping[str, str], known: Mapping[tuple[str, str], Middle], at: Mapping[str, float]) -> list[Series]:
    """A line over sizes for each method that is known at all of them."""
    lines = []
    for method, said in names.items():
        if all((method, backbone) in known for backbone in at):
            middle, around = zip(*(known[method, backbone] for backbone in at), strict=True)
            low, high = zip(*around, strict=True)
            lines.append(Series(said, tuple(at.values()), middle, low, high))
    return lines


def adapted(backbones: Sequence[str], tasks: int) -> dict[tuple[str, str], Middle]:
    """Before and after LM adaptation: accuracy of what is written, share of it that is no label.

    The rows are not kept, so that there is no interval for others: around the mean stands the deviation over seeds.
    """
    path = RESULTS / "adaptation.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    found = {}
    for backbone in backbones:
        for model, when in ((f"{backbone}-span", "before"), (backbone, "after")):
            own = [line for line in lines if line["model"] == model]
            for score in ("accuracy", "illegal") if len({line["task"] for line in own}) == tasks else ():
                by_task = {line["task"]: [x["free"][score] for x in own if x["task"] == line["task"]] for line in own}
                middle, spread = (float(np.mean([of(v) for v in by_task.values()])) for of in (np.mean, np.std))
                found[f"{when}: {score}", backbone] = middle, (max(0.0, middle - spread), min(1.0, middle + spread))
    return found


def table(names: Mapping[str, str], known: Mapping[tuple[str, str], Middle], at: Mapping[str, float]) -> str:
    """Methods by sizes, percent."""
    body = []
    for method, said in names.items():
        cells = [known.get((method, backbone)) for backbone in at]
        shown = ("" if c is None else f"{100 * c[0]:.1f} [{100 * c[1][0]:.1f}, {100 * c[1][1]:.1f}]" for c in cells)
        body.append([said, *shown])
    return markdown(["", *(f"{name} ({size:.1f} M)" for name, size in at.items())], body)


def main() -> int:
    plan = read(HOME / "scale.toml")
    found = records.read(RESULTS / "scale" / records.RECORDS)
    there = {r["backbone"] for r in found}
    at, known = sizes([name for name in plan.backbones if name in there]), measured(plan, found)
    adaptation = adapted(list(at), len(plan.tasks))
    whens = {
        f"{when}: {score}": f"{when}, {score}" for when in ("before", "after") for score in ("accuracy", "illegal")
    }
    parts = [
        "# Prompts and the size of the model",
        f"Accuracy in percent, mean over {', '.join(plan.tasks)} and seeds, with the interval of 95 %. Written by "
        f"`python benchmarks/scale.py` from `scale.toml` and `adaptation.py`. {origin(found)}.",
    ]
    for name, (told, names) in COMPARED.items():
        parts += [f"## {told}", table(names, known, at)]
        picture(name, told, series(names, known, at))
    told = "LM adaptation: what is written freely, its accuracy, and the share of it that is no label (one deviation)."
    parts += [f"## {told}", table(whens, adaptation, at)]
    picture("adaptation", told, series(whens, adaptation, at))
    write(RESULTS / "scale.md", ("\n\n".join(parts) + "\n").encode())
    print("\n\n".join(parts))
    return 0


def picture(name: str, told: str, lines: Sequence[Series]) -> None:
    """Lines over the size of the model, as SVG; of one size there is none."""
    if any(len(line.at) > 1 for line in lines):
        axis = "million weights beside the embedding table"
        figure = Figure(
            f"scale-{name}", told, curves, (styles(own.name for own in lines), lines, axis, "accuracy", True)
        )
        write(PICTURES / f"scale-{name}.svg", figure.files()[f"scale-{name}.svg"])


if __name__ == "__main__":
    sys.exit(main())
