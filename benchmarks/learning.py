"""What soft prompts learn on public tasks, beside a frozen model, full fine-tuning and PEFT, with equal budgets.

    PROMPTUARY_DATA=<folder> python benchmarks/learning.py               # all cells, then the table
    PROMPTUARY_DATA=<folder> python benchmarks/learning.py --jobs 8      # the same by 8 processes of one thread each
    PROMPTUARY_DATA=<folder> python benchmarks/learning.py --minutes 60  # no new cell after an hour
    python benchmarks/learning.py --merge other.jsonl                    # take over what another machine finished
    python benchmarks/learning.py --table                                # the table from what is there

A cell is one run: a task, a method, a seed, a rate. Each finished cell is one line of `results/learning.jsonl`; the
same command skips finished cells, and several processes of a machine may share the work: one that finds all cells
taken waits for what they open, and ends when nothing is pending. The table is `results/learning.md`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from baselines import CONTENDERS, NAME
from study import Cell, Line, Study, markdown, origin
from tasks import PROBLEMS

FROZEN, SEARCHED = "frozen", ", rate searched"


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What one row of the table shows for one task: the finished lines of one rate, one for each seed."""

    rate: float
    lines: Sequence[Line]

    def scores(self, name: str) -> list[float]:
        """One score of every seed that did not diverge, in percent."""
        return [100 * line["report"][name] for line in self.lines if "report" in line]

    def text(self, name: str) -> str:
        """`mean ± deviation (seeds)`; the deviation is that of a sample, and one seed has none."""
        found, lost = self.scores(name), len(self.lines) - len(self.scores(name))
        said = f"{mean(found):.1f}" if found else "-"
        said += f" ± {stdev(found):.1f}" if len(found) > 1 else ""
        return f"{said} ({len(found)})" + (f", {lost} diverged" if lost else "")

    def values(self, name: str) -> list[float]:
        """One number of every line that has it."""
        return [line[name] for line in self.lines if name in line]


Row = tuple[str, dict[str, Entry]]  # a label, and the entry of each task


def rows(lines: Iterable[Line]) -> list[Row]:
    """The rows of the table: each method at its default (or always searched) rate, and at a rate that was searched."""
    done = STUDY.finished(lines)
    found = []
    for method, contender in CONTENDERS.items():
        found.append((method, _entries(done, method, contender.rates(False))))
        if contender.make is not None and not contender.candidates:
            found.append((f"{method}{SEARCHED}", _entries(done, method, contender.rates(True))))
    return [row for row in found if row[1]]


def _entries(done: Mapping[Cell, Line], method: str, rates: Sequence[float]) -> dict[str, Entry]:
    entries = {}
    for task in PROBLEMS:
        rate = STUDY.chosen(done, task, method, rates)
        seeds = sorted(c.seed for c in done if (c.task, c.method, c.rate) == (task, method, rate))
        if rate is not None and seeds:
            entries[task] = Entry(rate, [done[Cell(task, method, seed, rate)] for seed in seeds])
    return entries


def table(lines: Sequence[Line]) -> str:
    """The results as a page of Markdown."""
    found, used = rows(lines), STUDY.current(lines)
    tasks = [task for task in PROBLEMS if any(task in entries for _, entries in found)]
    if not tasks:
        return "# What the methods learn\n\nNo cell is finished yet.\n"
    left_out = len(lines) - len(used)
    columns = [(task, name) for task in tasks for name in PROBLEMS[task].shown]
    heads = [task if name == PROBLEMS[task].shown[0] else f"{task} {name.replace('_', ' ')}" for task, name in columns]
    scores = markdown(
        ["", *heads, "trained numbers", "seconds"],
        [
            [
                label,
                *(_marked(label, dict(found), *column) for column in columns),
                _span(entries),
                _seconds(entries),
            ]
            for label, entries in found
        ],
    )
    costs = markdown(
        ["", "stored", *(f"{task}: s, steps" for task in tasks)],
        [[label, _stored(entries), *(_cost(entries.get(task)) for task in tasks)] for label, entries in found],
    )
    sizes = markdown(
        ["", "epochs", "train", "selection", "reported", "cut", "in train too"],
        [_sizes(task, used) for task in tasks],
    )
    parts = [
        "# What the methods learn",
        _caption(used, left_out),
        scores,
        "† not above the frozen model's head by more than the sum of the two deviations; a row whose rate was searched "
        "is held against the head whose rate was searched, where there is one.",
        *_searched(found),
        "## What it costs",
        "Seconds of training with its scoring, mean over seeds, most of them beside other work on the same cores: an "
        "order of size, not a measurement; bytes of the tensors kept for one task.",
        costs,
        "## The tasks",
        "Rows of each split, after the slice for selection was taken; training rows cut to 128 tokens (boolq 256); "
        "reported rows whose exact texts also stand in the training rows (they are kept: the splits are as given).",
        sizes,
    ]
    return "\n\n".join(parts) + "\n"


def _caption(used: Sequence[Line], left_out: int) -> str:
    tuned, prompt, prefix = (CONTENDERS[name] for name in ("fine-tuning", "peft-prompt", "peft-prefix"))
    rates = ", ".join(f"{rate:g}" for rate in tuned.candidates)
    lengths = f"{prompt.settings['length']} and {prefix.settings['length']} soft tokens"
    theirs = f"{prompt.recipe.rate:g} and {prefix.recipe.rate:g}"
    recipes = [line["how"]["recipe"] for line in used if line["how"]["recipe"]]

    def values(field: str) -> str:
        return ", ".join(sorted({str(recipe[field]) for recipe in recipes})) or "-"

    also = f" {left_out} finished cells of other recipes or splits are left out." if left_out else ""
    return f"""\
Accuracy in percent (and macro F1 for cb) on `{NAME}`: mean ± standard deviation over seeds (their number), on the test
split for sst2, trec, mr and mpqa, on the official validation split for rte, cb and boolq (for which only a fifth of the
official training rows was at hand). The best epoch is selected on rows that are never reported: the validation split,
or a stratified slice of the training rows (a tenth for trec, rte and boolq, a fifth for cb). Every method has the same
rows, epochs (all of them: nothing stops early) and order of batches of 32, and is scored once an epoch.
Over all rows of the table: schedule {values("schedule")}, warm-up {values("warmup")}, weight decay {values("decay")}.

The prompt methods have their default recipes otherwise, the same for all tasks; *rate searched* is the best of a third,
once and three times the default. Fine-tuning has the best of {rates} on each task.
Searches use seed 0 and the selection split. The frozen model is in bf16 without dropout; fine-tuning is bf16 autocast
over float32 weights, with the model's dropout, and a head at {tuned.recipe.head_rate:g}.
`peft-prompt` and `peft-prefix` are PEFT's classes as PEFT's own notebooks on sequence classification set them up:
{lengths}, prompt and head at {theirs}, no clipping, dropout on, BERT's own classification head.
With `-ours`, length, rates and clipping are those of prompt-tuning and p-tuning-v2. So a difference to PEFT is one of
whole set-ups (the state that the head reads, the prompt's start, dropout), not of the prompt alone.

Written by `python benchmarks/learning.py`. {origin(used)}.{also}"""


def _marked(label: str, found: Mapping[str, Mapping[str, Entry]], task: str, name: str) -> str:
    """A score, with a mark where the method is no gain over the frozen model."""
    if task not in found[label]:
        return ""
    text, ours = found[label][task].text(name), found[label][task].scores(name)
    control = _control(label, found, task, name)
    if not ours or not control:
        return text
    spread = sum(stdev(scores) for scores in (ours, control) if len(scores) > 1)
    return text if mean(ours) - mean(control) > spread else f"{text} †"


def _control(label: str, found: Mapping[str, Mapping[str, Entry]], task: str, name: str) -> list[float]:
    """The frozen head's scores that a row is held against: searched beside searched; none for rows without a rival."""
    method = label.removesuffix(SEARCHED)
    if method == FROZEN or CONTENDERS[method].make is None:
        return []
    rivals = (FROZEN + SEARCHED, FROZEN) if _is_searched(label) else (FROZEN,)
    scores = (found[rival][task].scores(name) for rival in rivals if task in found.get(rival, {}))
    return next((some for some in scores if some), [])


def _is_searched(label: str) -> bool:
    return label.endswith(SEARCHED) or bool(CONTENDERS[label].candidates)


def _span(entries: Mapping[str, Entry]) -> str:
    found = [int(n) for entry in entries.values() for n in entry.values("trainable")]
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _seconds(entries: Mapping[str, Entry]) -> str:
    found = [s for entry in entries.values() for s in entry.values("seconds")]
    return f"{mean(found):,.0f}" if found else ""


def _stored(entries: Mapping[str, Entry]) -> str:
    found = [n for entry in entries.values() for n in entry.values("stored")]
    return f"{max(found) / 1e3:,.0f} kB" if found else ""


def _cost(entry: Entry | None) -> str:
    if entry is None or not entry.values("seconds"):
        return ""
    return f"{mean(entry.values('seconds')):,.0f}, {mean(entry.values('steps')):,.0f}"


def _sizes(task: str, used: Sequence[Line]) -> list[str]:
    n = next(line["rows"] for line in reversed(used) if line["task"] == task)
    counts = [PROBLEMS[task].epochs, n["train"], n["selection"], n["report"], n["cut"], n["shared"]]
    return [task, *(f"{count:,}" for count in counts)]


def _searched(found: Sequence[Row]) -> list[str]:
    """The rates that searches ended with."""
    said = []
    for label, entries in found:
        if _is_searched(label):
            rates = ", ".join(f"{task} {entry.rate:.3g}" for task, entry in entries.items())
            said.append(f"Rates chosen for {label}: {rates}.")
    return said


SCRIPT = Path(__file__).resolve()
STUDY = Study(SCRIPT, __doc__ or "", SCRIPT.parent / "results" / "learning.jsonl", PROBLEMS, CONTENDERS, table)

if __name__ == "__main__":
    sys.exit(STUDY.main())
