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

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from baselines import CONTENDERS, NAME, backbone
from promptuary.backbones.backbone import Backbone
from promptuary.data.loader import Loader
from promptuary.errors import DivergedError, PromptuaryError, SettingError
from promptuary.files import write
from promptuary.metrics import accuracy, f1
from promptuary.train import groups, record
from promptuary.train.evaluation import evaluate
from promptuary.train.fit import fit
from tasks import PROBLEMS, Ground, folder, read

RESULTS = Path(__file__).resolve().parent / "results" / "learning.jsonl"
SMOKE_ROWS, SMOKE_STEPS = 64, 2
WAIT_S = 5.0  # between two looks for a cell while all are with other processes
FROZEN, SEARCHED = "frozen", ", rate searched"
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    method: str
    seed: int
    rate: float


# --- what is finished, and what is to be done -------------------------------------------------------------------------


class Results:
    """The file of finished cells, one line each, shared by processes of one machine.

    Locks are the operating system's: those of a process that was killed are free again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
        self.locks = Path(tempfile.gettempdir()) / f"promptuary-learning-{name}"

    def lines(self) -> list[Line]:
        """All finished cells; half a line at the end (a crash, or somebody else's pen) is not one."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1] if line]

    def add(self, line: Line) -> None:
        """Append a line, whole or not at all, and put it on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # what a crash left of a line
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def merge(self, others: Iterable[Path]) -> int:
        """Append the lines of other files that are not here yet, by cell and by how it was made; returns how many."""
        known, before = {_same(line) for line in self.lines()}, len(self.lines())
        for path in others:
            if not path.is_file():
                raise SettingError(f"--merge {path}: there is no such file. Expected results of another machine.")
            for line in Results(path).lines():
                if _same(line) not in known:
                    self.add(line)
                    known.add(_same(line))
        return len(self.lines()) - before

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Whether this process has the cell to itself, and nobody finished it before."""
        self.locks.mkdir(exist_ok=True)
        name = f"{cell.task} {cell.method} {cell.seed} {cell.rate:g}"
        with (self.locks / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield cell not in finished(self.lines())


def current(lines: Iterable[Line]) -> list[Line]:
    """The lines that were made as the code makes them today: recipe, settings, splits."""
    return [line for line in lines if _as_today(line)]


def finished(lines: Iterable[Line]) -> dict[Cell, Line]:
    """Finished cells, the last line of each."""
    return {Cell(line["task"], line["method"], line["seed"], line["rate"]): line for line in current(lines)}


def chosen(done: Mapping[Cell, Line], task: str, method: str, rates: Sequence[float]) -> float | None:
    """The rate with the best score of seed 0 on the selection split; `None` while one of them is not finished."""
    if len(rates) == 1:
        return rates[0]
    tried = [done.get(Cell(task, method, 0, rate)) for rate in rates]
    scores = [line["selection"] for line in tried if line is not None and "selection" in line]
    if None in tried or not scores:
        return None
    first = PROBLEMS[task].shown[0]
    best = max(scores, key=lambda s: (s[first], -s["loss"]))
    return next(rate for rate, line in zip(rates, tried, strict=True) if line and line.get("selection") == best)


def pending(
    lines: Iterable[Line], tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], search: bool
) -> list[Cell]:
    """The cells that can be started now, seed by seed. Rates that are searched are tried with seed 0 first."""
    done = finished(lines)
    cells = []
    for seed in seeds:
        for task in tasks:
            for method in methods:
                rates = CONTENDERS[method].rates(search)
                if CONTENDERS[method].make is None:
                    cells.append(Cell(task, method, 0, rates[0]))  # nothing is drawn: one seed is all
                elif seed == 0:
                    cells += [Cell(task, method, seed, rate) for rate in rates]
                else:
                    known = {chosen(done, task, method, rates)}
                    if not CONTENDERS[method].candidates:
                        known |= set(CONTENDERS[method].rates(False))  # the default rate keeps its own row
                    cells += [Cell(task, method, seed, rate) for rate in rates if rate in known]
    return [cell for cell in dict.fromkeys(cells) if cell not in done]


def _same(line: Line) -> str:
    """What two lines of one cell, made in one way, have in common."""
    return json.dumps([line[name] for name in ("task", "method", "seed", "rate", "how")], sort_keys=True)


def _as_today(line: Line) -> bool:
    known = line["task"] in PROBLEMS and line["method"] in CONTENDERS
    return known and line["how"] == _plain(CONTENDERS[line["method"]].described(line["task"], line["rate"]))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# --- one cell ---------------------------------------------------------------------------------------------------------


def run(cell: Cell, ground: Ground, real: Backbone, about: Mapping[str, Any], steps: int = 0) -> dict[str, Any]:
    """Train one cell, score it on both splits, and say how it was made.

    Arguments:
        about: versions, hardware and commit as they were when the code was loaded.
        steps: instead of the task's epochs, if positive.
    """
    contender = CONTENDERS[cell.method]
    found = _majority(ground) if contender.make is None else _trained(cell, ground, real, steps)
    also = {} if contender.needs is None else {contender.needs: importlib.metadata.version(contender.needs)}
    how = _plain(contender.described(cell.task, cell.rate))
    versions = {**about["versions"], **also}
    return {**asdict(cell), **found, "rows": dict(ground.counts), "how": how, **about, "versions": versions}


def _trained(cell: Cell, ground: Ground, real: Backbone, steps: int) -> dict[str, Any]:
    contender = CONTENDERS[cell.method]
    assert contender.make is not None
    recipe = contender.at(cell.task, cell.rate)
    recipe = replace(recipe, steps=steps) if steps else recipe
    made = contender.make(ground, real, recipe, contender.settings, cell.seed)
    pad = int(real.tokenizer.pad_token_id or 0)
    train = Loader(ground.train, recipe.batch, pad=pad, seed=cell.seed, shuffle=True)
    selection, report = (Loader(part, 2 * recipe.batch, pad=pad) for part in (ground.selection, ground.report))
    weights = groups.trained(made.model, made.readout).values()
    known = {"precision": recipe.precision, "trainable": sum(p.numel() for p in weights)}
    try:
        result = fit(
            made.model, made.readout, train, selection, recipe,
            seed=cell.seed, metric=ground.problem.shown[0], rates=made.rates, audit=made.audit,
        )  # fmt: skip
    except DivergedError as error:  # that is a result too: it would diverge again
        return {**known, "error": str(error)}
    found = evaluate(made.model, made.readout, report, precision=recipe.precision)
    return {
        **known,
        "selection": dict(result.scores),
        "report": dict(found.scores),
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": result.seconds,
        "stored": made.stored(),
        "alarms": [alarm.name for alarm in result.alarms],
    }


def _majority(ground: Ground) -> dict[str, Any]:
    labels = [
        [e.label for e in part if e.label is not None] for part in (ground.train, ground.selection, ground.report)
    ]
    most = max(sorted(set(labels[0])), key=labels[0].count)

    def scores(true: Sequence[int]) -> dict[str, float]:
        said = [most] * len(true)
        return {"accuracy": accuracy(true, said), "macro_f1": f1(true, said, classes=len(ground.task.values))}

    return {
        "selection": scores(labels[1]),
        "report": scores(labels[2]),
        "trainable": 0,
        "steps": 0,
        "stored": 0,
        "seconds": 0.0,
    }


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
    done = finished(lines)
    found = []
    for method, contender in CONTENDERS.items():
        found.append((method, _entries(done, method, contender.rates(False))))
        if contender.make is not None and not contender.candidates:
            found.append((f"{method}{SEARCHED}", _entries(done, method, contender.rates(True))))
    return [row for row in found if row[1]]


def _entries(done: Mapping[Cell, Line], method: str, rates: Sequence[float]) -> dict[str, Entry]:
    entries = {}
    for task in PROBLEMS:
        rate = chosen(done, task, method, rates)
        seeds = sorted(c.seed for c in done if (c.task, c.method, c.rate) == (task, method, rate))
        if rate is not None and seeds:
            entries[task] = Entry(rate, [done[Cell(task, method, seed, rate)] for seed in seeds])
    return entries


def table(lines: Sequence[Line]) -> str:
    """The results as a page of Markdown."""
    found, used = rows(lines), current(lines)
    tasks = [task for task in PROBLEMS if any(task in entries for _, entries in found)]
    if not tasks:
        return "# What the methods learn\n\nNo cell is finished yet.\n"
    left_out = len(lines) - len(used)
    columns = [(task, name) for task in tasks for name in PROBLEMS[task].shown]
    heads = [task if name == PROBLEMS[task].shown[0] else f"{task} {name.replace('_', ' ')}" for task, name in columns]
    scores = _markdown(
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
    costs = _markdown(
        ["", "stored", *(f"{task}: s, steps" for task in tasks)],
        [[label, _stored(entries), *(_cost(entries.get(task)) for task in tasks)] for label, entries in found],
    )
    sizes = _markdown(
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
        "Seconds of training with its scoring, mean over seeds; bytes of the tensors kept for one task.",
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

Written by `python benchmarks/learning.py`. {_made(used)}.{also}"""


def _made(used: Sequence[Line]) -> str:
    """By what the numbers were made: commit, versions, hardware, threads, precision; all of them, where they differ."""

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(v) for v in values if v is not None})) or "unknown"

    names = sorted({name for line in used for name in line["versions"]})
    versions = "; ".join(f"{n} {all_of(line['versions'].get(n) for line in used)}" for n in names)
    hardware = all_of(
        f"{h['accelerator'] or h['machine']} with {h['processors']} processors and {h['threads']} threads"
        for h in (line["hardware"] for line in used)
    )
    commits = all_of(c and c[:12] + "+" * c.endswith("+") for c in (line["commit"] for line in used))
    precision = all_of(line.get("precision") for line in used)
    return f"Commit {commits}; {versions}; {hardware}; precision {precision}"


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


def _markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _main(_parser().parse_args(given), given)
    except PromptuaryError as error:
        print(error, file=sys.stderr)
        return 2


def _main(asked: argparse.Namespace, given: Sequence[str]) -> int:
    smoke: bool = asked.smoke
    path: Path = asked.results or (Path(tempfile.mkdtemp()) / RESULTS.name if smoke else RESULTS)
    if smoke and path.resolve() == RESULTS:
        raise SettingError(
            f"--smoke is no measurement: it is kept out of {RESULTS.name}. Name another file with --results."
        )
    results, failed = Results(path), 0
    if asked.merge:
        print(f"{results.merge(asked.merge)} lines are new.")
    elif asked.jobs and not asked.table:
        failed = _shared(given, path, asked.jobs)
    elif not asked.table:
        _work(results, asked)
    if asked.cells:
        return 0
    page = table(results.lines())
    if smoke:
        page = f"**A smoke run ({SMOKE_ROWS} rows, {SMOKE_STEPS} steps): no result.**\n\n{page}"
    write(path.with_suffix(".md"), page.encode())
    print(page, f"Written to {path.with_suffix('.md')}.", sep="\n")
    if failed:
        print(f"{failed} of {asked.jobs} processes failed; what they said stands above the table.", file=sys.stderr)
    return 2 if failed else 0


def _shared(given: Sequence[str], path: Path, jobs: int) -> int:
    """The same command in so many processes of one thread each, until all have ended; returns how many failed."""
    command = [sys.executable, str(Path(__file__).resolve()), *given]
    command += ["--jobs", "0", "--cells", "--results", str(path)]  # of an option that is given twice, the last counts
    workers = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(jobs)]
    try:
        return sum(worker.wait() != 0 for worker in workers)
    finally:
        for worker in workers:
            worker.terminate()  # after an interruption; those that ended are not touched


def _wait() -> None:
    time.sleep(WAIT_S)


def _work(results: Results, asked: argparse.Namespace) -> None:
    """Run cells that nobody else runs, until all are finished, or the time is up."""
    place, methods = folder(), _installed(asked.methods)
    seeds = asked.seeds or ([0] if asked.smoke else [0, 1, 2])
    about, real, grounds, began = record.surroundings(), backbone(), dict[str, Ground](), time.monotonic()
    while asked.minutes is None or time.monotonic() - began < 60 * asked.minutes:
        left = pending(results.lines(), asked.tasks, methods, seeds, asked.search)
        if not left:
            return
        for cell in left:
            with results.claim(cell) as mine:
                if not mine:
                    continue
                if cell.task not in grounds:
                    grounds[cell.task] = read(cell.task, real, place, SMOKE_ROWS if asked.smoke else None)
                line = run(cell, grounds[cell.task], real, about, SMOKE_STEPS if asked.smoke else 0)
                results.add(line)
                _told(line)
                break
        else:
            _wait()  # a search that ends elsewhere opens new cells, and a process that dies frees its own
    print(f"{asked.minutes:g} minutes are over; the same command goes on with the remaining cells.", flush=True)


def _installed(methods: Sequence[str] | None) -> list[str]:
    """The methods asked for; by default all that can run here.

    Raises:
        SettingError: for one that was asked for and cannot.
    """
    missing = {name: module for name, c in CONTENDERS.items() if (module := c.missing())}
    for name in methods or ():
        if name in missing:
            raise SettingError(f"Method {name!r} needs {missing[name]}. Write: pip install 'promptuary[peers]'.")
    if missing and not methods:
        print(f"Left out, for lack of {', '.join(sorted(set(missing.values())))}: {', '.join(missing)}.", flush=True)
    return list(methods or (name for name in CONTENDERS if name not in missing))


def _told(line: Line) -> None:
    what = f"{line['task']} {line['method']}, seed {line['seed']}, rate {line['rate']:.3g}"
    if "error" in line:
        print(f"{what}: {line['error']}", flush=True)
        return
    first = PROBLEMS[line["task"]].shown[0]
    said = f"{first} {100 * line['report'][first]:.1f} ({100 * line['selection'][first]:.1f} where it was selected)"
    print(f"{what}: {said}, {line['seconds']:.0f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="TASK")
    parser.add_argument("--methods", nargs="+", choices=list(CONTENDERS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, help="0 1 2 if not given; searches need seed 0")
    parser.add_argument("--minutes", type=float, help="start no new cell after so many minutes")
    parser.add_argument("--search", action="store_true", help="also try a third and three times each default rate")
    parser.add_argument("--jobs", type=int, default=0, help="share the work among so many processes of one thread each")
    parser.add_argument("--table", action="store_true", help="only write the table from the finished cells")
    parser.add_argument("--cells", action="store_true", help="only run cells, and write no table")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="FILE", help="run nothing; add the lines of other files of results"
    )
    parser.add_argument(
        "--smoke", action="store_true", help=f"{SMOKE_ROWS} rows, {SMOKE_STEPS} steps, results elsewhere"
    )
    parser.add_argument("--results", type=Path, help=f"another file than {RESULTS.parent.name}/{RESULTS.name}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
