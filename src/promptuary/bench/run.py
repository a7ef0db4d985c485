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
from statistics import mean
from typing import Any

from rich.console import Console

from promptuary.bench.board import Board
from promptuary.bench.contender import Learned
from promptuary.bench.grounds import Ground, probabilities
from promptuary.bench.jobs import jobs
from promptuary.bench.loaded import Loaded
from promptuary.bench.memory import peak
from promptuary.bench.outcomes import OUTCOMES, choose, outcome_of
from promptuary.bench.plan import Plan, placed
from promptuary.bench.records import digest, folded, packed
from promptuary.bench.restore import planned
from promptuary.bench.store import OUTCOME, Entry, Store
from promptuary.manifests import MANIFEST
from promptuary.train import record, state, team
from promptuary.train.evaluation import goodness

WAIT_S = 1.0  # between two looks for a job while all are with other processes


def run(plan: Plan, folder: Path, *, console: Console | None = None, minutes: float | None = None) -> bool:
    """Run what is not finished of a plan; returns whether all of it is.

    Arguments:
        folder: of the study; the same call goes on there, and several processes may share it.
        minutes: begin no other trial after so many.

    Raises:
        PromptuaryError: for a plan or rows that cannot be, before anything runs.
    """
    team.alone("A study")
    for method in {job.about["method"] for job in jobs(plan)}:
        plan.contender(str(method)).available()
    worker = Worker(plan, folder, Board(console))
    try:
        worker.loaded.read(jobs(plan))
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
    """One process at work on a plan."""

    plan: Plan
    folder: Path
    board: Board
    store: Store = field(init=False)
    loaded: Loaded = field(init=False)
    about: Mapping[str, Any] = field(default_factory=record.surroundings)

    def __post_init__(self) -> None:
        self.store, self.loaded = Store(self.folder), Loaded(self.plan, self.board.says)

    def loop(self, until: float | None = None) -> bool:
        """Run jobs until all are finished, or no other may be begun; returns whether all are."""
        order = {job.name: place for place, job in enumerate(planned(self.plan, self.store))}
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
        grounds = self.loaded.grounds(job.about)
        try:
            learned, told = self._learn(grounds, entry, job.settings, self.store.work(job))
        except tuple(OUTCOMES) as error:
            self._lost(entry, error, {"settings": dict(job.settings)})
            return
        self.store.finish(entry, told, goodness(learned.scores, _metric(grounds, learned)))

    def _learn(
        self, grounds: Mapping[str, Ground], entry: Entry, settings: Mapping[str, Any], place: Path
    ) -> tuple[Learned, dict[str, Any]]:
        """What a method learned, and what every record tells of it."""
        about, first = entry.job.about, next(iter(grounds.values()))
        who = self.plan.contender(str(about["method"]))
        budget = self.plan.budget_of(about["task"], about["regime"], about["backbone"])
        mixture = self.plan.mixtures.get(str(about["task"]))
        how: dict[str, Any] = {"seed": int(about["seed"]), "folder": place, "progress": self.board}
        names = {"folder": str(self.folder), "task": str(about["task"]), "backbone": str(about["backbone"])}
        given = {name: placed(value, **names) for name, value in settings.items()}
        with peak(first.backbone.device) as most:
            if mixture is None:
                learned = who.learn(first, given, **how)
            else:
                learned = who.learn_together(grounds, given, temperature=mixture.temperature, budget=budget, **how)
            held = most()
        cost = {**asdict(learned.cost), "seconds_to_best": learned.cost.seconds_to_best, "peak_bytes": held}
        counts = [self.loaded.rows(about, task).counts for task in grounds]
        rows: dict[str, Any] = {name: sum(own[name] for own in counts) for name in counts[0]}
        rows["digest"] = digest(*(rows for ground in grounds.values() for rows in (ground.train, ground.selection)))
        told = {
            **about, "of": who.name, "settings": dict(settings), "recipe": dict(learned.recipe),
            "budget": budget.model_dump(), "scores": dict(learned.scores), "last": dict(learned.last),
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
        grounds, searched = self.loaded.grounds(job.about), chosen.job.about["seed"] == job.about["seed"]
        place = self.store.work(chosen.job if searched else job)
        try:
            learned, told = self._learn(grounds, entry, chosen.job.settings, place)
            if searched:  # it was learned in the search, and only opened here
                told["cost"]["peak_bytes"] = (chosen.record or {})["cost"]["peak_bytes"]
            permit = self.store.permit(entry, chosen.job.number, _now())
            reports = {}
            for task, ground in grounds.items():
                sealed = self.loaded.rows(job.about, task).report
                for asked in sealed if len(grounds) == 1 else (task,):  # a mixture is asked of its own tasks
                    reports[asked] = _asked(ground, learned.parts.get(task, learned), sealed[asked].open(permit))
        except tuple(OUTCOMES) as error:
            self._lost(entry, error, {"search": search, "chosen": chosen.job.number})
            return
        metric = _metric(grounds, learned)
        told |= {
            "search": search, "chosen": chosen.job.number, "edges": self._edges(chosen, trials), "chosen_by": metric,
            "metric": metric, "reports": reports, "opened": list(self.store.now(entry).opened),
        }  # fmt: skip
        told |= self._of_tasks(grounds, learned, told, place)
        self.store.finish(entry, told, goodness(learned.scores, metric))
        own = {task: reports[task]["scores"][ground.metric] for task, ground in grounds.items()}
        said = " and ".join(dict.fromkeys(ground.metric for ground in grounds.values()))
        self.board.says(f"{job.title}: {said} {mean(own.values()):.4f}")
        self._clear(trials, keep=place) if searched else (place / state.NAME).unlink(missing_ok=True)

    def _of_tasks(
        self, grounds: Mapping[str, Ground], learned: Learned, told: Mapping[str, Any], place: Path
    ) -> dict[str, Any]:
        """What differs from task to task: of a single one in the record itself."""
        if not learned.parts:
            [ground] = grounds.values()
            return {**_scored_by(ground), "prompt": self._prompt(place)}
        found, rows = {}, sum(len(ground.train) for ground in grounds.values())
        for task, ground in grounds.items():
            part, own = learned.parts[task], f"{task}/"
            share = {name: told["cost"][name] * len(ground.train) / rows for name in ("seconds", "seconds_to_best")}
            found[task] = {
                **_scored_by(ground), "scores": dict(part.scores), "prompt": self._prompt(place / task),
                "last": {k.removeprefix(own): v for k, v in learned.last.items() if k.startswith(own)},
                "cost": {**told["cost"], "stored": part.cost.stored, **share},
                "rows": {**self.loaded.rows(told, task).counts, "digest": digest(ground.train, ground.selection)},
            }  # fmt: skip
        return {"tasks": found, "prompt": None}

    def _prompt(self, place: Path) -> str | None:
        return str(place.relative_to(self.folder)) if (place / MANIFEST).is_file() else None

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
        begun = self.plan.contender(method).begun(trial.job.settings)
        return {name: begun.get(name) for name in self.plan.space(method)}

    def _clear(self, trials: Sequence[Entry], keep: Path) -> None:
        """Remove what training would go on from, and the folders of what was not chosen."""
        for trial in trials:
            place = self.store.work(trial.job)
            (place / state.NAME).unlink(missing_ok=True)
            if place != keep:
                shutil.rmtree(place, ignore_errors=True)

    def _where(self, entry: Entry) -> dict[str, Any]:
        members = self.plan.members(str(entry.job.about["task"]))
        mixed: dict[str, Any] = {"tasks": {task: {} for task in members}} if len(members) > 1 else {}
        return {**entry.job.about, **self.about, **mixed, "when": _now()}

    def _lost(self, entry: Entry, error: BaseException, more: Mapping[str, Any]) -> None:
        outcome = outcome_of(error)
        self.store.fail(entry, {**self._where(entry), **more, "sentence": str(error)}, outcome)
        self.board.says(f"{entry.job.title}: {outcome}. {error}")


def _tried(trial: Entry) -> dict[str, Any]:
    kept = trial.record or {}
    return {
        "number": trial.job.number,
        "settings": dict(trial.job.settings),
        "score": trial.score,
        "loss": kept.get("scores", {}).get("loss"),
        "outcome": trial.trial.user_attrs.get(OUTCOME),
        "seconds": kept.get("cost", {}).get("seconds"),
        "sentence": kept.get("sentence"),
    }


def _metric(grounds: Mapping[str, Ground], learned: Learned) -> str:
    """The score that chooses: of several tasks the mean of theirs; of what has no loss, the score that reports."""
    first = next(iter(grounds.values()))
    own = first.run().metric
    return "mean" if len(grounds) > 1 else own if own in learned.scores else first.metric


def _scored_by(ground: Ground) -> dict[str, Any]:
    labels = list(ground.task.labels) if ground.run().kind.stratified else []
    return {"metric": ground.metric, "metrics": ground.metrics, "labels": labels}


def _asked(ground: Ground, learned: Learned, rows: Sequence[Any]) -> dict[str, Any]:
    """What a method says of rows that report."""
    began = time.perf_counter()
    answers = learned.answer(rows)
    seconds = time.perf_counter() - began
    classes = ground.run().kind.stratified
    told: dict[str, Any] = {
        "scores": ground.scores(rows, answers), "rows": len(rows), "inference_ms": 1000 * seconds / len(rows)
    }  # fmt: skip
    if classes:
        shares = probabilities(ground.task, answers)
        told |= {
            "true": packed(ground.task.index(row) for row in rows), "said": packed(shares.argmax(1).tolist()),
            "probabilities": folded(shares),
        }  # fmt: skip
    else:
        told["answers"] = [ground.output(answer) for answer in answers]
    if not classes or ground.metrics != ["accuracy"] or ground.run().unit is not None:
        told["contributions"] = ground.contributions(rows, answers)
    return told


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
