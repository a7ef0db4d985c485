"""What LM adaptation is worth: a prompt tuned on the same model before and after it, when the answer is written freely.

    PROMPTUARY_DATA=<folder> python benchmarks/adaptation.py                # all cells, then the table
    PROMPTUARY_DATA=<folder> python benchmarks/adaptation.py --models ladder-1m --tasks trec --seeds 0

Lester et al. 2021, section 3.2 and figure 3d: a model that only ever filled gaps answers prompts with sentinels. Here
each model of the ladder is asked before (`ladder-1m-span`) and after (`ladder-1m`) adaptation: accuracy of what it
writes, the share of it that is no label (illegal), and accuracy when the labels are ranked instead. Prompts have 20
soft tokens that start from the labels, with the recipe of `prompt-tuning`; the best epoch is chosen on rows that are
not reported. One line a finished cell in `results/adaptation.jsonl`; the same command goes on.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import promptuary
from promptuary.data import source
from promptuary.errors import PromptuaryError
from promptuary.files import write
from promptuary.material import Material, hold_out
from promptuary.specs import Run
from promptuary.train import record
from study import Results, markdown, origin

RESULTS = Path(__file__).parent / "results" / "adaptation.jsonl"
MODELS, TASKS = ("ladder-1m", "ladder-4m"), ("trec", "mpqa")  # rows, steps and rate as in `scale.toml`
ROWS, SELECTED, REPORTED = 2000, 300, 1000
RECIPE: Mapping[str, Any] = {"steps": 1200, "batch": 32, "patience": 0}


def cut(rows: Sequence[source.Row], most: int) -> list[source.Row]:
    """At most so many rows, stratified, the same ones for every seed."""
    return hold_out(rows, "label", most / len(rows))[1] if len(rows) > most else list(rows)


def cell(model: str, task: str, seed: int) -> dict[str, Any]:
    """Tune one prompt and let it write."""
    with tempfile.TemporaryDirectory() as place:
        run = Run(
            task=f"{task}/text-to-text", backbone=model, method="prompt-tuning", settings={"length": 20}, init="labels",
            readout="text", recipe=dict(RECIPE), max_length=64, seeds=(seed,), out=f"{place}/prompt",
        )  # fmt: skip
        train = list(source.rows(run.train))
        train, selection = hold_out(train, "label", 0.1)
        material = Material(run.kind.task(train, task, run), cut(train, ROWS), cut(selection, SELECTED))
        backbone = promptuary.load(model)
        [outcome] = promptuary.tune(run, backbone=backbone, material=material)
        report = cut(list(source.rows(f"task:{task}/text-to-text/test")), REPORTED)
        found = {"free": outcome.tuned.decode(report, mode="free"), "rank": outcome.tuned.evaluate(report)}
    return {"model": model, "task": task, "seed": seed, "precision": "fp32", "recipe": dict(RECIPE), **found}


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table: a row for each model and task."""
    heads = ["model", "task", "written: accuracy", "illegal", "ranked: accuracy", "majority", "seeds"]
    body = []
    for model, task in dict.fromkeys((line["model"], line["task"]) for line in lines):
        own = [line for line in lines if (line["model"], line["task"]) == (model, task)]
        shown = (("free", "accuracy"), ("free", "illegal"), ("rank", "accuracy"))
        scores = (said([line[mode][score] for line in own]) for mode, score in shown)
        body.append([model, task, *scores, f"{100 * own[0]['rank']['majority']:.1f}", str(len(own))])
    return (
        f"# Before and after LM adaptation\n\nPercent, mean ± standard deviation over seeds; at most {REPORTED} test "
        f"rows, {ROWS} training rows.\nWritten by `python benchmarks/adaptation.py`. {origin(lines)}.\n\n"
        f"{markdown(heads, body)}\n"
    )


def said(values: Sequence[float]) -> str:
    """`85.4 ± 0.3`."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args(arguments)
    results, about = Results(RESULTS), record.surroundings()
    try:
        for seed in asked.seeds:
            for task in asked.tasks:
                for model in (name for own in asked.models for name in (f"{own}-span", own)):
                    known = {(line["model"], line["task"], line["seed"]) for line in results.lines()}
                    if (model, task, seed) not in known:
                        line = {**cell(model, task, seed), **about}
                        results.add(line)
                        print(model, task, seed, json.dumps({m: line[m] for m in ("free", "rank")}), flush=True)
    except PromptuaryError as error:
        print(error, file=sys.stderr)
        return 2
    write(RESULTS.with_suffix(".md"), page(results.lines()).encode())
    print(page(results.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
