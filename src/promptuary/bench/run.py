"""Running a plan: trials that nobody else runs, until all are finished, or the time is up.

A search sees the rows that teach and those that select. When all its trials are finished, the best is chosen by the
rows that select, and the final trial opens the rows that report, once. What breaks down (a loss that is no number,
memory that is short, a method that a backbone refuses) is an outcome, kept like any other; a process that is killed
loses the steps since its last saved state, and nothing else.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.bench.board import Board
from promptuary.bench.contender import Learned
from promptuary.bench.contenders import contender
from promptuary.bench.grounds import Ground, Rows, rows_of
from promptuary.bench.jobs import jobs
from promptuary.bench.memory import peak
from promptuary.bench.plan import Plan
from promptuary.bench.records import digest, folded, packed
from promptuary.bench.store import OUTCOME, Entry, Store
from promptuary.checkpoint import MANIFEST
from promptuary.errors import BackboneError, DivergedError, MemoryShortError, SettingError
from promptuary.specs import Run
from promptuary.tasks import chosen as chosen_task
from promptuary.train import record, state
from promptuary.train.evaluation import goodness

WAIT_S = 1.0  # between two looks for a job while all are with other processes
OUTCOMES: Mapping[type[BaseException], str] = {  # what breaks down so is kept as a result
    DivergedError: "diverged",
    MemoryShortError: "memory",
    torch.OutOfMemoryError: "memory",
    MemoryError: "memory",
    BackboneError: "refused",
    SettingError: "refused",
}


def run(plan: Plan, folder: Path, *, console: Console | None = None, minutes: float | None = None) -> bool:
    """Run what is not finished of a plan; returns whether all of it is.

    Arguments:
        folder: of the study; the same call goes on there, and several processes may share it.
        minutes: begin no other trial after so many.

    Raises:
        PromptuaryError: for a plan or rows that cannot be, before anything runs.
    """
    for method in {job.about["method"] for job in jobs(plan)}:
        contender(str(method)).available()
    worker = Worker(plan, folder, Board(console))
    try:
        worker.check()
        with worker.board:
            return worker.loop(None if minutes is None else time.monotonic() + 60 * minutes)
    finally:
        worker.store.close()


def share(command: Sequence[str], count: int) -> int:
    """The same command line in so many processes of one thread each, until all have ended; how many failed."""
    made = [sys.executable, "-m", "promptuary", *command]
    workers = [subprocess.Popen(made, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(count)]
    try:
        return sum(worker.wait() != 0 for worker in workers)
    finally:
        for worker in workers:
            worker.terminate()  # after an interruption; those that ended are not touched


@dataclass(eq=False)
class Worker:
    """One process at work on a plan: the store, and what it has loaded."""

    plan: Plan
    folder: Path
    board: Board
    store: Store = field(init=False)
    backbones: dict[tuple[Any, ...], Backbone] = field(default_factory=dict)
    rows: dict[tuple[str, str, int], Rows] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=record.surroundings)

    def __post_init__(self) -> None:
        self.store = Store(self.folder)

    def check(self) -> None:
        """Read the rows that every job will ask for: what is wrong with them is told now."""
        for job in jobs(self.plan):
            self._rows(job.about)

    def loop(self, until: float | None = None) -> bool:
        """Run jobs until all are finished, or no other may be begun; returns whether all are."""
        planned = jobs(self.plan)
        methods = {str(job.about["method"]) for job in planned}
        self.store.add(planned, {method: self.plan.space(method) for method in methods})
        order = {job.name: place for place, job in enumerate(planned)}
        while True:
            known = {entry.job.name: entry for entry in self.store.entries() if entry.job.name in order}
            left = sorted((e for e in known.values() if not e.finished), key=lambda e: order[e.job.name])
            self.board.stands(len(known) - len(left), len(known))
            if not left:
                return True
            if until is not None and time.monotonic() > until:
                return False
            if not any(self._took(entry, known) for entry in left):
                time.sleep(WAIT_S)  # a search that ends elsewhere opens a final trial, a process that dies its own

    def _took(self, entry: Entry, known: Mapping[str, Entry]) -> bool:
        """Run a job if it can be run now and nobody else does."""
        trials = [e for e in known.values() if e.job.search == entry.job.search and not e.job.final]
        if entry.job.final and not all(trial.finished for trial in trials):
            return False
        with self.store.claim(entry) as mine:
            if not mine:
                return False
            self.board.takes(entry.job.title)
            if entry.job.final:
                self._report(entry, sorted(trials, key=lambda trial: trial.job.number or 0))
            else:
                self._search(entry)
            return True

    # --- a trial of a search ---

    def _search(self, entry: Entry) -> None:
        job = entry.job
        ground = self.ground(job.about)
        try:
            learned, told = self._learn(ground, entry, job.settings, self.store.work(job))
        except tuple(OUTCOMES) as error:
            self._lost(entry, error, {"settings": dict(job.settings)})
            return
        self.store.finish(entry, told, goodness(learned.scores, ground.run().metric))

    def _learn(
        self, ground: Ground, entry: Entry, settings: Mapping[str, Any], place: Path
    ) -> tuple[Learned, dict[str, Any]]:
        """What a method learned, and what every record tells of it."""
        about = entry.job.about
        with peak(ground.backbone.device) as most:
            learned = contender(str(about["method"])).learn(
                ground, settings, seed=int(about["seed"]), folder=place, progress=self.board
            )
            held = most()
        cost = {**asdict(learned.cost), "seconds_to_best": learned.cost.seconds_to_best, "peak_bytes": held}
        rows = {**self._rows(about).counts, "digest": digest(ground.train, ground.selection)}
        told = {
            **about, "settings": dict(settings), "recipe": dict(learned.recipe),
            "budget": ground.budget.model_dump(), "scores": dict(learned.scores), "last": dict(learned.last),
            "curve": list(learned.curve), "cost": cost, "alarms": dict(learned.alarms), "rows": rows,
            **self.about, "when": _now(),
        }  # fmt: skip
        return learned, told

    # --- the final trial of a cell ---

    def _report(self, entry: Entry, trials: Sequence[Entry]) -> None:
        """Choose, train where the search had another seed, and open the rows that report."""
        job, search = entry.job, [_tried(trial) for trial in trials]
        chosen = choose(trials)
        if chosen is None:
            lost = "; ".join(sorted({str((trial.record or {}).get("sentence")) for trial in trials}))
            self.store.fail(entry, {**self._where(entry), "search": search, "sentence": lost}, "nothing chosen")
            return
        assert chosen.job.number is not None
        ground, searched = self.ground(job.about), chosen.job.about["seed"] == job.about["seed"]
        place = self.store.work(chosen.job if searched else job)
        try:
            learned, told = self._learn(ground, entry, chosen.job.settings, place)
            if searched:  # it was learned in the search, and only opened here
                told["cost"]["peak_bytes"] = (chosen.record or {})["cost"]["peak_bytes"]
            permit = self.store.permit(entry, chosen.job.number, _now())
            reports = {}
            for task, sealed in self._rows(job.about).report.items():
                reports[task] = _asked(ground, learned, sealed.open(permit))
        except tuple(OUTCOMES) as error:
            self._lost(entry, error, {"search": search, "chosen": chosen.job.number})
            return
        metric = ground.run().metric
        told |= {
            "search": search, "chosen": chosen.job.number, "edges": self._edges(chosen, trials), "metric": metric,
            "metrics": _official(ground.run()),
            "labels": list(ground.task.labels), "reports": reports, "opened": list(self.store.now(entry).opened),
            "prompt": str(place.relative_to(self.folder)) if (place / MANIFEST).is_file() else None,
        }  # fmt: skip
        self.store.finish(entry, told, goodness(learned.scores, metric))
        own = next(iter(reports.values()))["scores"]
        self.board.says(f"{job.title}: {metric} {own[metric]:.4f}")
        self._clear(trials, keep=place) if searched else (place / state.NAME).unlink(missing_ok=True)

    def _edges(self, chosen: Entry, trials: Sequence[Entry]) -> list[str]:
        """Settings of the chosen trial that lie at the edge of what was tried: the best may lie outside."""
        tried = [self._settled(trial) for trial in trials]
        mine, found = self._settled(chosen), []
        for name in self.plan.space(str(chosen.job.about["method"])) if len(tried) > 2 else ():
            values = [own[name] for own in tried]
            if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and min(values) < max(
                values
            ):
                found += [name] if mine[name] in (min(values), max(values)) else []
        return found

    def _settled(self, trial: Entry) -> dict[str, Any]:
        """The value that every setting of the space had in a trial."""
        method = str(trial.job.about["method"])
        default = {name: contender(method).default.get(name) for name in self.plan.space(method)}
        return {**default, **trial.job.settings}

    def _clear(self, trials: Sequence[Entry], keep: Path) -> None:
        """Remove what training would go on from, and the folders of what was not chosen."""
        for trial in trials:
            place = self.store.work(trial.job)
            (place / state.NAME).unlink(missing_ok=True)
            if place != keep:
                shutil.rmtree(place, ignore_errors=True)

    # --- what jobs share ---

    def ground(self, about: Mapping[str, Any]) -> Ground:
        """What a method gets: rows that teach and select, in no way the others."""
        budget = self.plan.budget_of(about["task"], about["regime"])
        run, rows = self.plan.run(about["task"]), self._rows(about)
        key = (about["backbone"], budget.precision, run.dropout)
        if key not in self.backbones:
            dtype = torch.bfloat16 if budget.precision == "bf16" else torch.float32
            self.backbones[key] = load(str(about["backbone"]), dtype=dtype, dropout=run.dropout, device=run.device)
        asked = {**self.plan.tasks[about["task"]].asked(), "device": self.plan.device}
        return Ground(asked, budget, self.backbones[key], rows.task, rows.train, rows.selection)

    def _rows(self, about: Mapping[str, Any]) -> Rows:
        drawn = self.plan.regimes[about["regime"]].drawn
        key = (about["task"], about["regime"], about["seed"] if drawn else 0)
        if key not in self.rows:
            self.rows[key] = rows_of(self.plan, *key)
        return self.rows[key]

    def _where(self, entry: Entry) -> dict[str, Any]:
        return {**entry.job.about, **self.about, "when": _now()}

    def _lost(self, entry: Entry, error: BaseException, more: Mapping[str, Any]) -> None:
        outcome = outcome_of(error)
        self.store.fail(entry, {**self._where(entry), **more, "sentence": str(error)}, outcome)
        self.board.says(f"{entry.job.title}: {outcome}. {error}")


def outcome_of(error: BaseException) -> str:
    """The word for what broke down: an error of one of the kinds in `OUTCOMES`."""
    return next(name for kind, name in OUTCOMES.items() if isinstance(error, kind))


def choose(trials: Sequence[Entry]) -> Entry | None:
    """The trial with the best score on the rows that select; of equal ones that of the smaller loss, then the first."""
    known = [trial for trial in trials if trial.score is not None]

    def worth(trial: Entry) -> tuple[float, float]:
        loss = (trial.record or {}).get("scores", {}).get("loss", 0.0)
        return trial.score or 0.0, -loss

    return max(known, key=worth, default=None)


def _tried(trial: Entry) -> dict[str, Any]:
    kept = trial.record or {}
    return {
        "number": trial.job.number,
        "settings": dict(trial.job.settings),
        "score": trial.score,
        "outcome": trial.trial.user_attrs.get(OUTCOME),
        "seconds": kept.get("cost", {}).get("seconds"),
    }


def _official(run: Run) -> list[str]:
    """The scores whose mean chooses: the official ones of a named task where it is their mean, else the one."""
    return list(chosen_task(run.task)[0].metrics) if run.metric == "mean" else [run.metric]


def _asked(ground: Ground, learned: Learned, rows: Sequence[Any]) -> dict[str, Any]:
    """What a method says of rows that report."""
    began = time.perf_counter()
    probabilities = learned.answer(rows)
    seconds = time.perf_counter() - began
    said = probabilities.argmax(1).tolist()
    return {
        "scores": ground.scores(rows, said),
        "rows": len(rows),
        "true": packed(ground.task.index(row) for row in rows),
        "said": packed(said),
        "probabilities": folded(probabilities),
        "inference_ms": 1000 * seconds / len(rows),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
