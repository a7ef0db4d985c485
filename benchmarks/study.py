"""A study: methods that compete on tasks, cell by cell, in a file that any number of processes fill.

A cell is one run: a task, a method, a seed, a rate. Each finished cell is one line of the study's results; the same
command skips finished cells, and several processes of a machine may share the work: one that finds all cells taken
waits for what they open, and ends when nothing is pending.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from baselines import Contender, backbone
from promptuary.backbones.backbone import Backbone
from promptuary.data.loader import Loader
from promptuary.errors import DivergedError, PromptuaryError, SettingError
from promptuary.files import write
from promptuary.metrics import accuracy, f1
from promptuary.train import groups, record
from promptuary.train.evaluation import evaluate
from promptuary.train.fit import fit
from tasks import Ground, Problem, folder, read

SMOKE_ROWS, SMOKE_STEPS = 64, 2
# Settings that methods got after results were made, with the value that says what was done before.
LATER: Mapping[str, Any] = {"sees_input": True, "counted": False}
WAIT_S = 5.0  # between two looks for a cell while all are with other processes
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    method: str
    seed: int
    rate: float


class Results:
    """The file of finished cells, one line each, shared by processes of one machine.

    Locks are the operating system's: those of a process that was killed are free again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
        self.locks = Path(tempfile.gettempdir()) / f"promptuary-study-{name}"

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
    def claim(self, cell: Cell, finished: Callable[[list[Line]], Mapping[Cell, Line]]) -> Iterator[bool]:
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


@dataclass(frozen=True, eq=False)
class Study:
    """What competes on what, where the results lie, and the page that is made of them.

    Arguments:
        script: the file that is run. about: what it says of itself.
        results: a file of lines; the page stands beside it.
        page: Markdown, made of all lines.
    """

    script: Path
    about: str
    results: Path
    problems: Mapping[str, Problem]
    contenders: Mapping[str, Contender]
    page: Callable[[Sequence[Line]], str]

    # --- what is finished, and what is to be done ---

    def current(self, lines: Iterable[Line]) -> list[Line]:
        """The lines that were made as the code makes them today: recipe, settings, splits."""
        return [line for line in lines if self._as_today(line)]

    def finished(self, lines: Iterable[Line]) -> dict[Cell, Line]:
        """Finished cells, the last line of each."""
        return {Cell(line["task"], line["method"], line["seed"], line["rate"]): line for line in self.current(lines)}

    def chosen(self, done: Mapping[Cell, Line], task: str, method: str, rates: Sequence[float]) -> float | None:
        """The rate with the best score of seed 0 on the selection split; `None` while one of them is not finished."""
        if len(rates) == 1:
            return rates[0]
        tried = [done.get(Cell(task, method, 0, rate)) for rate in rates]
        scores = [line["selection"] for line in tried if line is not None and "selection" in line]
        if None in tried or not scores:
            return None
        first = self.problems[task].shown[0]
        best = max(scores, key=lambda s: (s[first], -s["loss"]))
        return next(rate for rate, line in zip(rates, tried, strict=True) if line and line.get("selection") == best)

    def pending(
        self, lines: Iterable[Line], tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], search: bool
    ) -> list[Cell]:
        """The cells that can be started now, seed by seed. Rates that are searched are tried with seed 0 first."""
        done = self.finished(lines)
        cells = []
        for seed in seeds:
            for task in tasks:
                for method in methods:
                    rates = self.contenders[method].rates(search)
                    if self.contenders[method].make is None:
                        cells.append(Cell(task, method, 0, rates[0]))  # nothing is drawn: one seed is all
                    elif seed == 0:
                        cells += [Cell(task, method, seed, rate) for rate in rates]
                    else:
                        known = {self.chosen(done, task, method, rates)}
                        if not self.contenders[method].candidates:
                            known |= set(self.contenders[method].rates(False))  # the default rate keeps its own row
                        cells += [Cell(task, method, seed, rate) for rate in rates if rate in known]
        return [cell for cell in dict.fromkeys(cells) if cell not in done]

    def _as_today(self, line: Line) -> bool:
        problem, contender = self.problems.get(line["task"]), self.contenders.get(line["method"])
        if problem is None or contender is None:
            return False
        today = _plain(contender.described(problem, line["rate"]))
        before = {name: value for name, value in LATER.items() if name in today["settings"]}
        return bool({**line["how"], "settings": {**before, **line["how"]["settings"]}} == today)

    # --- one cell ---

    def run(
        self, cell: Cell, ground: Ground, real: Backbone, about: Mapping[str, Any], steps: int = 0
    ) -> dict[str, Any]:
        """Train one cell, score it on both splits, and say how it was made.

        Arguments:
            about: versions, hardware and commit as they were when the code was loaded.
            steps: instead of the task's epochs, if positive.
        """
        contender = self.contenders[cell.method]
        found = _majority(ground) if contender.make is None else self._trained(cell, ground, real, steps)
        also = {} if contender.needs is None else {contender.needs: importlib.metadata.version(contender.needs)}
        how = _plain(contender.described(self.problems[cell.task], cell.rate))
        versions = {**about["versions"], **also}
        return {**asdict(cell), **found, "rows": dict(ground.counts), "how": how, **about, "versions": versions}

    def _trained(self, cell: Cell, ground: Ground, real: Backbone, steps: int) -> dict[str, Any]:
        contender = self.contenders[cell.method]
        assert contender.make is not None
        recipe = contender.at(self.problems[cell.task], cell.rate)
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

    # --- the command ---

    def main(self, arguments: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if arguments is None else list(arguments)
        try:
            return self._main(self._parser().parse_args(given), given)
        except PromptuaryError as error:
            print(error, file=sys.stderr)
            return 2

    def _main(self, asked: argparse.Namespace, given: Sequence[str]) -> int:
        smoke: bool = asked.smoke
        path: Path = asked.results or (Path(tempfile.mkdtemp()) / self.results.name if smoke else self.results)
        if smoke and path.resolve() == self.results:
            raise SettingError(
                f"--smoke is no measurement: it is kept out of {self.results.name}. Name another file with --results."
            )
        results, failed = Results(path), 0
        if asked.merge:
            print(f"{results.merge(asked.merge)} lines are new.")
        elif asked.jobs and not asked.table:
            failed = self._shared(given, path, asked.jobs)
        elif not asked.table:
            self._work(results, asked)
        if asked.cells:
            return 0
        page = self.page(results.lines())
        if smoke:
            page = f"**A smoke run ({SMOKE_ROWS} rows, {SMOKE_STEPS} steps): no result.**\n\n{page}"
        write(path.with_suffix(".md"), page.encode())
        print(page, f"Written to {path.with_suffix('.md')}.", sep="\n")
        if failed:
            print(f"{failed} of {asked.jobs} processes failed; what they said stands above the table.", file=sys.stderr)
        return 2 if failed else 0

    def _shared(self, given: Sequence[str], path: Path, jobs: int) -> int:
        """The same command in so many processes of one thread each, until all have ended; returns how many failed."""
        command = [sys.executable, str(self.script), *given]
        command += ["--jobs", "0", "--cells", "--results", str(path)]  # of two mentions of an option the last counts
        workers = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(jobs)]
        try:
            return sum(worker.wait() != 0 for worker in workers)
        finally:
            for worker in workers:
                worker.terminate()  # after an interruption; those that ended are not touched

    def _work(self, results: Results, asked: argparse.Namespace) -> None:
        """Run cells that nobody else runs, until all are finished, or the time is up."""
        place, methods = folder(), self._installed(asked.methods)
        seeds = asked.seeds or ([0] if asked.smoke else [0, 1, 2])
        about, real, grounds, began = record.surroundings(), backbone(), dict[str, Ground](), time.monotonic()
        while asked.minutes is None or time.monotonic() - began < 60 * asked.minutes:
            left = self.pending(results.lines(), asked.tasks, methods, seeds, asked.search)
            if not left:
                return
            for cell in left:
                with results.claim(cell, self.finished) as mine:
                    if not mine:
                        continue
                    if cell.task not in grounds:
                        limit = SMOKE_ROWS if asked.smoke else None
                        grounds[cell.task] = read(cell.task, self.problems[cell.task], real, place, limit)
                    line = self.run(cell, grounds[cell.task], real, about, SMOKE_STEPS if asked.smoke else 0)
                    results.add(line)
                    self._told(line)
                    break
            else:
                _wait()  # a search that ends elsewhere opens new cells, and a process that dies frees its own
        print(f"{asked.minutes:g} minutes are over; the same command goes on with the remaining cells.", flush=True)

    def _installed(self, methods: Sequence[str] | None) -> list[str]:
        """The methods asked for; by default all that can run here.

        Raises:
            SettingError: for one that was asked for and cannot.
        """
        missing = {name: module for name, c in self.contenders.items() if (module := c.missing())}
        for name in methods or ():
            if name in missing:
                raise SettingError(f"Method {name!r} needs {missing[name]}. Write: pip install 'promptuary[peers]'.")
        if missing and not methods:
            print(
                f"Left out, for lack of {', '.join(sorted(set(missing.values())))}: {', '.join(missing)}.", flush=True
            )
        return list(methods or (name for name in self.contenders if name not in missing))

    def _told(self, line: Line) -> None:
        what = f"{line['task']} {line['method']}, seed {line['seed']}, rate {line['rate']:.3g}"
        if "error" in line:
            print(f"{what}: {line['error']}", flush=True)
            return
        first = self.problems[line["task"]].shown[0]
        said = f"{first} {100 * line['report'][first]:.1f} ({100 * line['selection'][first]:.1f} where it was selected)"
        print(f"{what}: {said}, {line['seconds']:.0f} s", flush=True)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=self.about.split("\n")[0])
        parser.add_argument(
            "--tasks", nargs="+", choices=list(self.problems), default=list(self.problems), metavar="TASK"
        )
        parser.add_argument("--methods", nargs="+", choices=list(self.contenders), metavar="METHOD")
        parser.add_argument("--seeds", nargs="+", type=int, help="0 1 2 if not given; searches need seed 0")
        parser.add_argument("--minutes", type=float, help="start no new cell after so many minutes")
        parser.add_argument("--search", action="store_true", help="also try a third and three times each default rate")
        parser.add_argument(
            "--jobs", type=int, default=0, help="share the work among so many processes of one thread each"
        )
        parser.add_argument("--table", action="store_true", help="only write the table from the finished cells")
        parser.add_argument("--cells", action="store_true", help="only run cells, and write no table")
        parser.add_argument(
            "--merge", nargs="+", type=Path, metavar="FILE", help="run nothing; add the lines of other files of results"
        )
        parser.add_argument(
            "--smoke", action="store_true", help=f"{SMOKE_ROWS} rows, {SMOKE_STEPS} steps, results elsewhere"
        )
        parser.add_argument(
            "--results", type=Path, help=f"another file than {self.results.parent.name}/{self.results.name}"
        )
        return parser


def _same(line: Line) -> str:
    """What two lines of one cell, made in one way, have in common."""
    return json.dumps([line[name] for name in ("task", "method", "seed", "rate", "how")], sort_keys=True)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


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


def _wait() -> None:
    time.sleep(WAIT_S)


def origin(used: Sequence[Line]) -> str:
    """By what the numbers were made: commit, versions, hardware, threads, precision; all of them, where they differ."""
    precisions = ", ".join(sorted({line["precision"] for line in used if "precision" in line})) or "unknown"
    return f"{record.origin(used)}; precision {precisions}"


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
