"""What the figures of a report draw, as plain numbers made from records: curves, points, counts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptuary.bench import statistics
from promptuary.bench.comparison import Line, Place, Table
from promptuary.bench.records import Record, unpacked
from promptuary.bench.statistics import Interval
from promptuary.bench.tables import cost, methods


@dataclass(frozen=True)
class Series:
    """A line: where it is measured (`at`), its middle, and its band from `low` to `high`. Scores are 0 to 1."""

    name: str
    at: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """A method by what it costs (`at`) and what it scores, with the interval of the score where there is one."""

    name: str
    at: float
    score: float
    interval: Interval | None


@dataclass(frozen=True)
class Confused:
    """How many rows of each class (first axis) were called what (second axis), summed over seeds.

    Arguments:
        labels: names of the classes. counts: `[classes, classes + 1]`; answers that are no class stand last.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    def by_class(self) -> list[tuple[float, float, float]]:
        """Precision, recall and F1 of each class; 0 where a class is neither there nor said."""
        right, there, said = np.diagonal(self.counts), self.counts.sum(1), self.counts.sum(0)[:-1]
        found = statistics.f1_by_class(self.counts.astype(np.float64))
        shares = zip(right / np.maximum(said, 1), right / np.maximum(there, 1), found, strict=True)
        return [(float(p), float(r), float(f)) for p, r, f in shares]


def of_place(records: Sequence[Record], place: Place) -> list[Record]:
    """The records of one place."""
    return [r for r in records if (r["regime"], r["backbone"]) == (place.regime, place.backbone)]


def best(table: Table, among: Collection[str] | None = None) -> str | None:
    """The method with the highest mean score of those that have a score on every task; the first of equal ones.

    Arguments:
        among: only these methods; all, if not given.
    """
    tasks = {line.task for line in table.lines}
    scores = {
        method: [line.mean for line in table.lines if line.method == method and line.mean is not None]
        for method in methods(table)
        if among is None or method in among
    }
    whole = [method for method, own in scores.items() if len(own) == len(tasks)]
    return max(whole, key=lambda method: mean(scores[method]), default=None)


def learning(records: Sequence[Record], task: str) -> list[Series]:
    """The score on the rows that select by step, of each method on a task: mean, least and most over its seeds.

    Steps that only some of the seeds were scored at are left out, and so are methods without two steps.
    """
    own: dict[str, list[Mapping[int, float]]] = {}
    for r in records:
        if r["task"] == task and "reports" in r:
            curve = {int(e["step"]): float(e[r["metric"]]) for e in r["curve"] if r["metric"] in e}
            own.setdefault(r["method"], []).append(curve)
    return [found for name, curves in own.items() if len((found := _over_seeds(name, curves)).at) > 1]


def _over_seeds(name: str, curves: Sequence[Mapping[int, float]]) -> Series:
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    scores = [[curve[step] for curve in curves] for step in steps]
    return Series(
        name, tuple(map(float, steps)), tuple(map(mean, scores)), tuple(map(min, scores)), tuple(map(max, scores))
    )


def shots(tables: Sequence[Table], records: Sequence[Record], task: str, backbone: str) -> list[Series]:
    """The score on the rows that report by the rows a class that teach, of each method on a task.

    The bands are the intervals of the means, or least and most over seeds where a score has none. Empty where all
    regimes have equally many rows.
    """
    found: dict[str, dict[float, Line]] = {}
    for table in (t for t in tables if t.place.backbone == backbone):
        for line in (one for one in table.lines if one.task == task and one.mean is not None):
            sizes = [_rows_a_class(r) for r in of_place(records, table.place) if _same(r, line) and "reports" in r]
            found.setdefault(line.method, {})[round(mean(sizes), 1)] = line
    return [_of_sizes(name, lines) for name, lines in found.items() if len(lines) > 1]


def _of_sizes(name: str, lines: Mapping[float, Line]) -> Series:
    at = sorted(lines)
    bands = [lines[x].interval or (min(lines[x].scores), max(lines[x].scores)) for x in at]
    return Series(
        name,
        tuple(at),
        tuple(lines[x].mean or 0.0 for x in at),
        tuple(low for low, _ in bands),
        tuple(high for _, high in bands),
    )


def _rows_a_class(record: Record) -> float:
    return float(record["rows"]["train"] / max(1, len(record["labels"])))


def _same(record: Record, line: Line) -> bool:
    return bool(record["task"] == line.task and record["method"] == line.method)


def points(table: Table, price: str) -> list[Point]:
    """Each method by one of its costs (a name in `comparison.COSTS`) and its mean score, both over the tasks it has.

    Methods without a score on every task are left out: their means would be of other tasks.
    """
    tasks, found = {line.task for line in table.lines}, []
    for method in methods(table):
        lines = [line for line in table.lines if line.method == method and line.mean is not None]
        at = cost(table, method, price)
        if len(lines) == len(tasks) and at is not None:
            interval = lines[0].interval if len(lines) == 1 else None
            found.append(Point(method, at, mean(line.mean or 0.0 for line in lines), interval))
    return found


def confused(records: Sequence[Record], task: str, method: str) -> Confused | None:
    """What a method answered to the rows that report on a task; `None` without a result, and without classes."""
    own = [r for r in records if r["task"] == task and r["method"] == method and "reports" in r]
    if not own or "true" not in own[0]["reports"][task]:
        return None
    labels = tuple(map(str, own[0]["labels"]))
    parts = [_counts(r["reports"][task], len(labels)) for r in own]
    return Confused(labels, np.sum(parts, axis=0))


def _counts(report: Mapping[str, Any], classes: int) -> NDArray[np.int64]:
    true, said = unpacked(report["true"]).tolist(), unpacked(report["said"]).tolist()
    return statistics.confusion(true, said, classes).astype(np.int64)


def transfer(table: Table, method: str) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Tasks learned, tasks asked, and the score of a method: mean over seeds, `None` where it was not asked."""
    own = [e for e in table.elsewhere if e.method == method]
    learned = list(dict.fromkeys(e.source for e in own))
    asked = list(dict.fromkeys(e.to for e in own))
    known = {(e.source, e.to): e.mean for e in own}
    return learned, asked, [[known.get((source, to)) for to in asked] for source in learned]
