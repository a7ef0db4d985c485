"""The rows of a task as a regime gives them: some teach, some select, and some report, which stay sealed.

Full data: the published training rows, at most so many, stratified; they are the same for every method and seed. Few
shots: for each seed so many rows of every class, and as many others to select with, drawn from the training rows
(Perez et al. 2021: a large validation set would be training data in disguise). Rows that report are read when they are
opened, cut to at most so many by a draw that is the same for everybody.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptuary.bench.sealed import Sealed
from promptuary.bench.sections import Budget, TaskPlan
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.data.task import Task, label_of, named
from promptuary.errors import DataError, SettingError, nearest
from promptuary.material import hold_out
from promptuary.specs import Run

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

    def scores(self, rows: Sequence[Row], said: Sequence[int]) -> dict[str, float]:
        """The task's scores of classes said of labelled rows."""
        run = self.run()
        answers = [{"label": None if c < 0 else self.task.values[c]} for c in said]
        found = measured([self.task.index(row) for row in rows], said, len(self.task.values))
        return dict(scored(run, found, rows, answers))


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


def measured(true: Sequence[int], said: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy and macro F1."""
    from promptuary.metrics import accuracy, f1

    return {"accuracy": accuracy(true, said), "macro_f1": f1(true, said, classes=classes)}


def scored(
    run: Run, found: Mapping[str, float], rows: Sequence[Row], answers: Sequence[Mapping[str, Any]]
) -> Mapping[str, float]:
    """The scores found, with what a named task measures beside them."""
    from promptuary.tasks import chosen

    if run.named is None:
        return found
    task, wording = chosen(run.task)
    return task.scores({**found, **wording.score([row.fields for row in rows], answers)})


def rows_of(plan: "Plan", task: str, regime: str, seed: int) -> Rows:
    """Read what teaches and selects, and seal what reports.

    Raises:
        DataError: for files that are missing or broken, and for too few rows.
    """
    of, how = plan.tasks[task], plan.regimes[regime]
    run = plan.run(task)
    train = list(source.rows(of.source("train", of.train)))
    made = run.kind.task(train, task, run)
    assert made.label is not None
    if how.each is not None:
        train, selection = shots(train, made, how.each, seed)
    else:
        train, selection = _split(of, train, made.label)
        train = capped(train, made.label, how.rows)
        selection = capped(selection, made.label, how.selected)
    for row in (*train, *selection):
        made.index(row)
    reports = {task: Sealed(_reporting(plan, task, how.reported))}
    for transfer in plan.transfers:
        if transfer.source == task:
            reports[transfer.to] = _transferred(plan, made, transfer.to, transfer.labels, how.reported)
    known = {made.texts(row) for row in train}
    counts = {
        "train": len(train),
        "selection": len(selection),
        "shared": sum(made.texts(row) in known for row in selection),
    }
    return Rows(made, train, selection, reports, counts)


def _split(of: TaskPlan, train: list[Row], label: str) -> tuple[list[Row], list[Row]]:
    if isinstance(of.selection, float):
        return hold_out(train, label, of.selection)
    return train, list(source.rows(of.source("validation", of.selection)))


def capped(rows: Sequence[Row], label: str, most: int | None) -> list[Row]:
    """At most so many rows, stratified by class, the same for everybody."""
    if most is None or most >= len(rows):
        return list(rows)
    return hold_out(rows, label, most / len(rows))[1][:most]  # shares round up


def shots(rows: Sequence[Row], task: Task, each: int, seed: int) -> tuple[list[Row], list[Row]]:
    """`each` rows of every class to learn from, and as many others to select with, drawn by `seed`.

    Of a class with fewer than twice as many rows, half teach and half select.

    Raises:
        DataError: for a class with a single row.
    """
    assert task.label is not None
    draw = random.Random(f"shots/{seed}")
    pools: list[list[Row]] = [[] for _ in task.values]
    for row in rows:
        pools[task.index(row)].append(row)
    train, selection = list[Row](), list[Row]()
    for name, pool in zip(task.labels, pools, strict=True):
        if len(pool) < 2:
            raise DataError(
                f"Class {name!r} of task {task.name!r} has {len(pool)} training rows. Expected two or more: one to "
                "learn from and one to select with."
            )
        size = min(each, len(pool) // 2)
        drawn = draw.sample(pool, 2 * size)
        train, selection = train + drawn[:size], selection + drawn[size:]
    return train, selection


def _reporting(plan: "Plan", task: str, most: int | None) -> Callable[[], list[Row]]:
    """What reads the rows that report on a task: those with a label, at most so many."""
    of, label = plan.tasks[task], plan.run(task).label
    source.rows(of.source("test", of.report))  # a file that is missing is told now; nothing of it is read

    def read() -> list[Row]:
        rows = [row for row in source.rows(of.source("test", of.report)) if row.fields.get(label) is not None]
        if not rows:
            raise DataError(f"Task {task!r}: no row that reports has a label.")
        return capped(rows, label, most)

    return read


def _transferred(plan: "Plan", known: Task, to: str, labels: Mapping[str, str], most: int | None) -> Sealed:
    """Rows of another task as this one would read them: its columns, its classes."""
    other, read = plan.run(to), _reporting(plan, to, most)
    back = {theirs: ours for ours, theirs in labels.items()}
    unknown = sorted(set(labels) - set(known.labels))
    if unknown:
        raise SettingError(
            f"Transfer to {to!r}: {known.name!r} has no class {unknown[0]!r}. {nearest(unknown[0], known.labels)}"
        )
    values = dict(zip(known.labels, known.values, strict=True))
    columns = [(known.text, other.text), (known.text_pair, other.text_pair)]

    def translated(row: Row) -> Row:
        said = named(label_of(row, other.label))
        name = back.get(said, said)
        if name not in values:
            raise DataError(
                f"{row.place}: class {said!r} of task {to!r} is none of {known.name!r}, which knows "
                f"{', '.join(known.labels)}. Write labels = {{OURS = {said!r}}} into the transfer."
            )
        texts = {ours: row.fields[theirs] for ours, theirs in columns if ours is not None and theirs is not None}
        assert known.label is not None
        return Row({**texts, known.label: values[name]}, row.place)

    return Sealed(lambda: [translated(row) for row in read()])
