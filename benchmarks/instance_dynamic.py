"""What prompts that are made from the input, or chosen, are worth: IPT, DP and their neighbours beside static prompts.

    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py --jobs 2     # all cells, then the tables
    PROMPTUARY_DATA=<folder> python benchmarks/instance_dynamic.py --tasks sst2 trec --methods prompt-tuning ipt
    python benchmarks/instance_dynamic.py --table                               # the tables from what is there

Eight tasks, each with at most 2,000 training rows, and with 16 and 32 rows a class (`sst2@16`); every method is held
against the static prompt that enters in the same way and has as many numbers at work. The rest is as in `learning.py`:
one line a finished cell, resumable, shared by processes. The tables are `results/instance_dynamic.md`.

A pretrained look-up is trained before, without the backbone, on the training rows of the other seven tasks (at most
2,000 of each; their texts in one row, their classes apart). So nothing of a task is seen before its own rows teach.
"""

import fcntl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from baselines import MAJORITY, NAME, TUNED, Contender, Made, backbone, own
from promptuary.backbones.backbone import Backbone
from promptuary.bench.statistics import holm, interval
from promptuary.data.source import Row
from promptuary.material import Material, hold_out
from promptuary.pretraining import pretrain
from promptuary.specs import Run
from promptuary.train.recipe import Recipe
from study import Line, Study, markdown, origin, right
from tasks import Ground, Sampled, rows_of
from tasks import folder as folder_of_data

LENGTH = 20
PLACE = Path(tempfile.gettempdir()) / "promptuary-instance-dynamic"  # of generators that were trained before

FULL: Mapping[str, Sampled] = {
    name: replace(problem, folder=name, rows=2000, reported=2000)
    for name, problem in {
        "sst2": Sampled(5),
        "trec": Sampled(8, selection=0.1),
        "mr": Sampled(5),
        "mpqa": Sampled(5),
        "boolq": Sampled(5, "question", "passage", "train_partial", 0.1, "validation", 128),
        # A fifth of the 250 rows is held out, not a tenth: 25 rows would hold one or two of the rare class.
        "cb": Sampled(20, "premise", "hypothesis", selection=0.2, report="validation"),
        "rte": Sampled(6, "premise", "hypothesis", selection=0.1, report="validation"),
        "wic": Sampled(
            6, "sentence1", "sentence2", selection=0.1, report="validation",
            template="[CLS] {word} : {text} [SEP] {pair} [SEP]",
        ),
    }.items()
}  # fmt: skip
SHOTS = (16, 32)
PROBLEMS: Mapping[str, Sampled] = FULL | {
    f"{name}@{each}": replace(problem, rows=0, each=each, selection=problem.selection, epochs=40, batch=8)
    for each in SHOTS
    for name, problem in FULL.items()
}

OTHERS = "the other tasks' training rows"


@cache
def _generator(folder: str, method: str, place: Path) -> Path:
    """A generator that was trained on the tasks that do not lie in `folder`."""
    rows: list[Row] = []
    for name, problem in FULL.items():
        if problem.folder != folder:
            columns = [c for c in ("word" if name == "wic" else None, problem.text, problem.text_pair) if c is not None]
            for row in rows_of(name, problem, folder_of_data())[0]:
                text = " ".join(str(row.fields[c]) for c in columns)
                rows.append(Row({"text": text, "label": f"{name}: {row.fields['label']}"}, row.place))
    train, held = hold_out(rows, "label", 0.1)
    out = place / f"{folder}-{method}"
    run = Run(
        train=OTHERS, method=method, settings={"length": LENGTH}, max_length=128, out=str(out),
        recipe={"epochs": 5, "batch": 32, "patience": 0},
    )  # fmt: skip
    material = Material(run.kind.task(train, "others", run), train, held)
    place.mkdir(exist_ok=True)
    with (place / f"{out.name}.lock").open("w") as lock:  # of several processes one trains it, the others find it
        fcntl.flock(lock, fcntl.LOCK_EX)
        pretrain(run, backbone=backbone(), material=material)
    return out


def _pretrained(name: str) -> Contender:
    """A look-up whose table was trained before."""
    plain = own(name)

    def make(ground: Ground, real: Backbone, recipe: Recipe, settings: Mapping[str, Any], seed: int) -> Made:
        assert plain.make is not None
        assert isinstance(ground.problem, Sampled)
        begun = _generator(ground.problem.folder, name, PLACE)
        return plain.make(ground, real, recipe, {**settings, "init": "auto", "pretrained": str(begun)}, seed)

    return replace(plain, make=make, settings={**plain.settings, "pretrained": OTHERS})


# Each method and the static prompt it is held against.
STATIC, PREFIX, LONG = "prompt-tuning", "p-tuning-v2", "prompt-tuning, 80"
_PROMPTS: Mapping[str, tuple[Contender, str]] = {
    **{name: (own(name), STATIC) for name in ("ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm")},
    "ipt, pretrained": (_pretrained("ipt"), STATIC),
    "ipt-prefix": (own("ipt-prefix"), PREFIX),
    "ipt-prefix, pretrained": (_pretrained("ipt-prefix"), PREFIX),
    **{
        f"ipt-prefix, {encoder}": (own("ipt-prefix", {"encoder": encoder}), PREFIX)
        for encoder in ("cnn", "mlp", "lstm")
    },
    "ipt, shuffled": (own("ipt", {"control": "shuffled"}), STATIC),
    "ipt, frozen": (own("ipt", {"control": "frozen"}), STATIC),
    "ipt-lstm, shuffled": (own("ipt-lstm", {"control": "shuffled"}), STATIC),
    "ipt-lstm, frozen": (own("ipt-lstm", {"control": "frozen"}), STATIC),
    **{
        name: (own(name), STATIC)
        for name in (
            "dp-position", "dp-position-instance", "dp-length", "dp-length-instance", "dp-position-length",
        )
    },
    **{name: (own(name), LONG) for name in ("dp-vector", "dp-vector-position", "dp-position-vector")},
    "dp-bank": (own("dp-bank"), STATIC),
    "dp-deep": (own("dp-deep"), "deep-prompt-tuning"),
    "dp-position, middle": (own("dp-position", {"position": LENGTH // 2}), STATIC),
    "dp-position, behind": (own("dp-position", {"position": 0}), STATIC),
    "dp-position, random": (own("dp-position", {"position": "random"}), STATIC),
    "idpg": (own("idpg", {"length": LENGTH}), STATIC),
    "ipl": (own("ipl"), STATIC),
    "smop": (own("smop", {"length": LENGTH}), LONG),
    "lpt": (own("lpt", {"length": LENGTH}), STATIC),
}  # fmt: skip
CONTENDERS: Mapping[str, Contender] = {
    "majority": MAJORITY,
    "frozen": own("frozen", rate="head_rate"),
    STATIC: own(STATIC),
    LONG: own(STATIC, {"length": 4 * LENGTH}),
    PREFIX: own(PREFIX),
    "deep-prompt-tuning": own("deep-prompt-tuning"),
    **{name: contender for name, (contender, _) in _PROMPTS.items()},
    "fine-tuning": replace(TUNED, candidates=(5e-5, 1e-4, 2e-4)),
}


def page(lines: Sequence[Line]) -> str:
    """The results as Markdown: a table of scores and one of differences for each number of training rows."""
    used = STUDY.current(lines)
    done = STUDY.finished(lines)
    best: dict[tuple[str, str], list[Line]] = {}
    for method, contender in CONTENDERS.items():
        for task in PROBLEMS:
            rate = STUDY.chosen(done, task, method, contender.rates(False))
            found = [line for cell, line in done.items() if (cell.task, cell.method, cell.rate) == (task, method, rate)]
            if found:
                best[task, method] = sorted(found, key=lambda line: line["seed"])
    parts = ["# What is made from the input, or chosen", _caption(used)]
    for title, tasks in [("At most 2,000 training rows", tuple(FULL))] + [
        (f"{each} training rows a class", tuple(f"{name}@{each}" for name in FULL)) for each in SHOTS
    ]:
        known = [task for task in tasks if any(t == task for t, _ in best)]
        if known:
            parts += [f"## {title}", _scores(best, known), f"### Against the static prompt: {title.lower()}"]
            parts.append(_differences(best, known))
    return "\n\n".join(parts) + "\n"


def _caption(used: Sequence[Line]) -> str:
    return f"""\
Accuracy in percent on `{NAME}`: mean ± standard deviation over seeds (their number). Prompts have {LENGTH} soft tokens
(`{LONG}`: 80, as many numbers as a pool of four prompts). Each method has its default recipe; every method
has the same rows, epochs and batches. The best epoch is selected on rows that are never reported. At most 2,000 rows
are reported, of the test split or (boolq, cb, rte, wic) of the official validation split.

Written by `python benchmarks/instance_dynamic.py`. {origin(used)}."""


def _scores(best: Mapping[tuple[str, str], Sequence[Line]], tasks: Sequence[str]) -> str:
    body = []
    for method in CONTENDERS:
        cells = [best.get((task, method), []) for task in tasks]
        if any(cells):
            means = [_mean(lines) for lines in cells if _accuracies(lines)]
            average = f"{mean(means):.1f}" if len(means) == len(tasks) else ""
            body.append([method, *(_said(lines) for lines in cells), average])
    return markdown(["", *(task.split("@")[0] for task in tasks), "mean"], body)


def _accuracies(lines: Sequence[Line]) -> list[float]:
    return [100 * line["report"]["accuracy"] for line in lines if "report" in line]


def _mean(lines: Sequence[Line]) -> float:
    return mean(_accuracies(lines))


def _said(lines: Sequence[Line]) -> str:
    found, lost = _accuracies(lines), sum("error" in line for line in lines)
    said = f"{mean(found):.1f}" if found else "-" if lost else ""
    said += f" ± {stdev(found):.1f}" if len(found) > 1 else ""
    return said + (f" ({len(found)})" if found or lost else "") + (f", {lost} diverged" if lost else "")


def _differences(best: Mapping[tuple[str, str], Sequence[Line]], tasks: Sequence[str]) -> str:
    """For each method the mean gain over its static prompt, with an interval and a test over pairs of one seed."""
    rows, tests = [], []
    for method, (_, rival) in _PROMPTS.items():
        pairs = {task: _paired(best.get((task, method), []), best.get((task, rival), [])) for task in tasks}
        gains = [float(gain.mean()) for found in pairs.values() for gain in found]
        if not gains:
            continue
        low, high = interval([np.stack(found) for found in pairs.values() if found], bounds=(-1.0, 1.0))
        tests.append(float(wilcoxon(gains).pvalue) if len(gains) > 5 and any(gains) else 1.0)
        average = 100 * mean(float(np.mean(found)) for found in pairs.values() if found)
        known = sum(bool(found) for found in pairs.values())
        rows.append([method, rival, f"{average:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", f"{known}"])
    for row, p in zip(rows, holm(tests), strict=True):
        row.append(f"{p:.3f}")
    heads = ["", "against", "mean gain", "95 % interval", "tasks", "p (Holm)"]
    said = (
        "Points of accuracy, mean over tasks. The interval is a bootstrap over seeds and reported rows of each task; p "
        "is Wilcoxon's test over all pairs of one task and seed, corrected by Holm for the methods of this table."
    )
    return f"{said}\n\n{markdown(heads, rows)}"


def _paired(ours: Sequence[Line], theirs: Sequence[Line]) -> "list[np.ndarray]":
    """For each seed that both have: row by row, what ours gains."""
    other = {line["seed"]: line for line in theirs if "right" in line}
    both = [(line, other[line["seed"]]) for line in ours if "right" in line and line["seed"] in other]
    return [np.array(right(a), dtype=float) - np.array(right(b), dtype=float) for a, b in both]


SCRIPT = Path(__file__).resolve()
RESULTS = SCRIPT.parent / "results" / "instance_dynamic.jsonl"
STUDY = Study(SCRIPT, __doc__ or "", RESULTS, PROBLEMS, CONTENDERS, page)

if __name__ == "__main__":
    sys.exit(STUDY.main())
