"""The rows of a task as a regime gives them: some teach, some select, and some report, which stay sealed.

Full data: the published training rows, at most so many, stratified; they are the same for every method and seed. Few
shots: for each seed so many rows of every class, and as many others to select with, drawn from the training rows
(Perez et al. 2021: a large validation set would be training data in disguise). Rows that report are read when they are
opened, cut to at most so many by a draw that is the same for everybody.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from promptuary.bench import statistics
from promptuary.bench.sealed import Sealed
from promptuary.bench.sections import Budget, TaskPlan
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.data.task import Task, label_of, named
from promptuary.errors import DataError, SettingError, nearest
from promptuary.kinds.classification import Answer
from promptuary.material import hold_out, units
from promptuary.specs import Run
from promptuary.tasks import chosen

SLOW = 25  # blocks of rows that are left out in turn where a score takes long (of texts)
Probabilities = NDArray[np.floating[Any]]  # [rows, classes]

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone
    from promptuary.bench.plan import Plan
    from promptuary.kinds import Kind


@dataclass(frozen=True, eq=False)
class Ground:
    """What a method gets to learn a task: the rows that teach and those that select, and no others.

    Arguments:
        asked: what the task says of a run (columns, wording, metric). budget: what one training run may spend.
        backbone: the frozen model, in the budget's precision.
    """

    asked: Mapping[str, Any]
    budget: Budget
    backbone: "Backbone"
    task: Task
    train: Sequence[Row]
    selection: Sequence[Row]

    def run(self, **more: Any) -> Run:
        """The run of a method on this ground; `more` are settings of a run."""
        return Run(**{"train": "-", "out": "-", **self.asked, **more})

    @property
    def columns(self) -> list[str]:
        """The columns of the rows but for the answer."""
        return sorted(set(self.train[0].fields) - {self.task.label})

    def reading(self, **more: Any) -> "Kind":
        """How the task is read on this backbone; `more` are settings of a run."""
        run = self.run(**more)
        return run.kind.begin(run, self.backbone, self.task, soft=1, columns=self.columns)

    @property
    def metric(self) -> str:
        """The score that reports: the one that chooses, or a named task's own where the loss chooses."""
        run = self.run()
        return chosen(run.task)[0].metric if run.metric == "loss" else run.metric

    @property
    def metrics(self) -> list[str]:
        """The scores whose mean `metric` is, or itself."""
        return list(chosen(self.run().task)[0].metrics) if self.metric == "mean" else [self.metric]

    @cached_property
    def _plain(self) -> "Kind":
        return self.reading()

    def scores(self, rows: Sequence[Row], answers: Sequence[Any]) -> dict[str, float]:
        """The task's scores of answers to labelled rows."""
        reading = self._plain
        found = reading.scores(self.task, rows, answers)
        try:
            return dict(reading.scored(found, rows, [self.output(a) for a in answers]))
        except KeyError as error:
            raise SettingError(
                f"Task {self.run().task!r} is scored by the column {error}, which these rows do not have. Leave them "
                "out of its transfers."
            ) from error

    def output(self, answer: Any) -> dict[str, Any]:
        """The fields of an answer, as `promptuary predict` writes them."""
        return self._plain.output(answer)

    def contributions(
        self, rows: Sequence[Row], answers: Sequence[Any], unit: Sequence[int] = ()
    ) -> list[float] | None:
        """What each unit of rows contributes to the score that reports (`statistics.contributions`); `None` where some
        of the rows have no such score.

        Arguments:
            unit: for each row the number of its unit, from 0 on, if not as the task has it.
        """
        run, metric = self.run(), self.metric
        number: Any = unit or {place: i for i, own in enumerate(units(rows, run.unit)) for place in own}
        try:
            return statistics.contributions(
                lambda places: self.scores([rows[i] for i in places], [answers[i] for i in places])[metric],
                [number[place] for place in range(len(rows))],
                most=SLOW if run.kind.slow else statistics.BLOCKS,
            )
        except DataError:
            return None


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one task under one regime for one seed.

    Arguments:
        train, selection: see `Ground`. report: by name of the task that is asked: itself, and those it is asked too.
        counts: how many rows teach and select, and how many of those that select are copies of one that teaches.
    """

    task: Task
    train: Sequence[Row]
    selection: Sequence[Row]
    report: Mapping[str, Sealed]
    counts: Mapping[str, int]


def classified(task: Task, probabilities: Probabilities) -> list[Answer]:
    """Answers to rows from the probability of every class, `[rows, classes]`: the most probable one."""
    return [
        Answer(task.values[row.argmax()], float(row.max()), dict(zip(task.labels, row.tolist(), strict=True)))
        for row in probabilities
    ]


def probabilities(task: Task, answers: Sequence[Answer]) -> Probabilities:
    """The probability of every class, `[rows, classes]`, from answers."""
    return np.array([[a.probabilities[name] for name in task.labels] for a in answers])


def rows_of(plan: "Plan", task: str, regime: str, seed: int) -> Rows:
    """Read what teaches and selects, and seal what reports.

    Raises:
        DataError: for files that are missing or broken, and for too few rows.
    """
    of, how = plan.tasks[task], plan.regimes[regime]
    run = plan.run(task)
    train = list(source.rows(of.source("train", of.train)))
    made = run.kind.task(train, task, run)
    if how.each is not None:
        train, selection = shots(train, made, how.each, seed, run.unit)
    else:
        train, selection = _split(of, train, run)
        train = capped(train, run, how.rows)
        selection = capped(selection, run, how.selected)
    for row in (*train, *selection) if run.kind.stratified else ():
        made.index(row)
    reports = {task: Sealed(_reporting(plan, task, how.reported))}
    for transfer in plan.transfers:
        if transfer.source == task:
            reports[transfer.to] = _transferred(plan, made, transfer.to, transfer.labels, how.reported)
    known = {made.said(row) for row in train}
    counts = {
        "train": len(train),
        "selection": len(selection),
        "shared": sum(made.said(row) in known for row in selection),
    }
    return Rows(made, train, selection, reports, counts)


def _split(of: TaskPlan, train: list[Row], run: Run) -> tuple[list[Row], list[Row]]:
    if isinstance(of.selection, float):
        return hold_out(train, _strata(run), of.selection, run.unit)
    return train, list(source.rows(of.source("validation", of.selection)))


def _strata(run: Run) -> str | None:
    """The column of the classes, where rows have one class each."""
    return run.label if run.kind.stratified else None


def capped(rows: Sequence[Row], run: Run, most: int | None) -> list[Row]:
    """At most so many rows, in whole units, stratified by class where rows have one; the same for everybody."""
    if most is None or most >= len(rows):
        return list(rows)
    parts, found = units(rows, run.unit), list[Row]()
    spare = len(parts) - -(-most * len(parts) // len(rows))  # units that no share takes
    classes = {str(row.fields.get(run.label)) for row in rows} if run.kind.stratified and run.unit is None else {""}
    if spare >= len(classes):
        held = hold_out(rows, _strata(run), most / len(rows), run.unit)[1]
    else:  # too few are left out to be shared among the classes
        left = {i for own in random.Random("capped").sample(parts, max(1, spare)) for i in own}
        held = [row for i, row in enumerate(rows) if i not in left]
    for own in units(held, run.unit):  # shares round up
        if found and len(found) + len(own) > most:
            break
        found += [held[i] for i in own]
    return found


def shots(
    rows: Sequence[Row], task: Task, each: int, seed: int, unit: str | None = None
) -> tuple[list[Row], list[Row]]:
    """`each` rows of every class to learn from, and as many others to select with, drawn by `seed`; `each` rows in all
    where rows have no classes, and `each` questions in all where several rows are one (`unit`).

    Of a class with fewer than twice as many rows, half teach and half select.

    Raises:
        DataError: for a class with a single row.
    """
    draw = random.Random(f"shots/{seed}")
    parts = [[rows[i] for i in own] for own in units(rows, unit)]
    pools: dict[str, list[list[Row]]] = {"Task": parts}
    if task.kind == "classification" and unit is None:
        pools = {f"Class {name!r} of task": [] for name in task.labels}
        for part in parts:
            pools[f"Class {task.labels[task.index(part[0])]!r} of task"].append(part)
    train, selection = list[Row](), list[Row]()
    for name, pool in pools.items():
        if len(pool) < 2:
            raise DataError(
                f"{name} {task.name!r} has {len(pool)} training rows. Expected two or more: one to "
                "learn from and one to select with."
            )
        size = min(each, len(pool) // 2)
        drawn = draw.sample(pool, 2 * size)
        train += [row for part in drawn[:size] for row in part]
        selection += [row for part in drawn[size:] for row in part]
    return train, selection


def _reporting(plan: "Plan", task: str, most: int | None) -> Callable[[], list[Row]]:
    """What reads the rows that report on a task: those with a label, at most so many."""
    of, run = plan.tasks[task], plan.run(task)
    source.rows(of.source("test", of.report))  # a file that is missing is told now; nothing of it is read

    def read() -> list[Row]:
        rows = [row for row in source.rows(of.source("test", of.report)) if row.fields.get(run.label) is not None]
        if not rows:
            raise DataError(f"Task {task!r}: no row that reports has a label.")
        return capped(rows, run, most)

    return read


def _transferred(plan: "Plan", known: Task, to: str, labels: Mapping[str, str], most: int | None) -> Sealed:
    """Rows of another task as this one would read them: its columns, its classes."""
    other, read = plan.run(to), _reporting(plan, to, most)
    back = {theirs: ours for ours, theirs in labels.items()}
    unknown = sorted(set(labels) - set(known.labels))
    if labels and known.kind != "classification":
        raise SettingError(f"Transfer to {to!r}: labels are classes, and {known.name!r} is of kind {known.kind!r}.")
    if unknown:
        raise SettingError(
            f"Transfer to {to!r}: {known.name!r} has no class {unknown[0]!r}. {nearest(unknown[0], known.labels)}"
        )
    values = dict(zip(known.labels, known.values, strict=True))
    columns = [(known.text, other.text), (known.text_pair, other.text_pair), (known.label, other.label)]

    def renamed(row: Row) -> Row:
        own = {ours: row.fields[theirs] for ours, theirs in columns if ours is not None and theirs is not None}
        return Row({**row.fields, **own}, row.place)

    def translated(row: Row) -> Row:
        assert known.label is not None
        said = named(label_of(row, known.label))
        name = back.get(said, said)
        if name not in values:
            raise DataError(
                f"{row.place}: class {said!r} of task {to!r} is none of {known.name!r}, which knows "
                f"{', '.join(known.labels)}. Write labels = {{OURS = {said!r}}} into the transfer."
            )
        return Row({**row.fields, known.label: values[name]}, row.place)

    classes = known.kind == "classification"
    return Sealed(lambda: [translated(renamed(row)) if classes else renamed(row) for row in read()])
