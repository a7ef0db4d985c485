"""A study in words: which method is best, by how much, how sure that is, what it costs, and what to distrust."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from promptuary.bench.compare import cells, differences
from promptuary.bench.comparison import Comparison, Difference, Table
from promptuary.bench.records import Record
from promptuary.bench.tables import cost, size
from promptuary.report.series import best

LEVEL = 0.05  # p value, corrected, below which a difference is called one
FEW = 6  # tasks, below which there is no test over tasks


@dataclass(frozen=True)
class Told:
    """What is said of one place.

    Arguments:
        sentences: what wins, by how much, how sure, what it costs. doubts: what to distrust.
    """

    sentences: tuple[str, ...]
    doubts: tuple[str, ...]


def general(found: Comparison) -> list[str]:
    """What to distrust of the whole study."""
    said = []
    if found.finished < found.planned:
        said.append(f"{found.finished} of {found.planned} results are there so far: the rest may change the order.")
    if any(len({line.method for line in table.lines}) > 1 for table in found.tables):
        said.append("The best is picked by the rows that report, among several: its lead is a little flattered.")
    return said


def tell(table: Table, records: Sequence[Record], against: str) -> Told:
    """The words for a place.

    Arguments:
        records: of the place. against: the method that all are held against.
    """
    winner, known = best(table), [f"{a} ({n})" for a, n in _alarms(table).items()]
    doubts = _single(table) + known
    if winner is None:
        return Told(("No method has a result on every task, so none is called the best.",), tuple(doubts))
    rivals = differences(cells(records), winner)
    sentences = [_wins(table, winner), *_over(table, winner, against), _apart(rivals), _costs(table, winner, rivals)]
    return Told(tuple(s for s in sentences if s), tuple(doubts))


def _wins(table: Table, winner: str) -> str:
    own = [line for line in table.lines if line.method == winner]
    scores = [line.mean for line in own if line.mean is not None]
    where = own[0].task if len(own) == 1 else f"{len(own)} tasks"
    said = f"{winner} has the highest mean score: {100 * mean(scores):.1f} % on {where}"
    if len(own) == 1 and own[0].interval is not None:
        said += f", with an interval from {100 * own[0].interval[0]:.1f} to {100 * own[0].interval[1]:.1f} %"
    return f"{said}."


def _over(table: Table, winner: str, against: str) -> list[str]:
    found = next((d for d in table.differences if d.method == winner), None)
    if found is None and winner == against:
        return [f"That is the method that others are held against: none of them has a higher mean than {against}."]
    return [] if found is None else [f"It gains {_points(found)} over {found.against}. {_sure(found)}"]


def _points(d: Difference) -> str:
    low, high = (100 * end for end in d.interval)
    return f"{100 * d.gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _sure(d: Difference) -> str:
    if d.corrected is None:
        outside = "leaves out" if d.interval[0] > 0 or d.interval[1] < 0 else "contains"
        return f"The interval {outside} 0; for a test over tasks, {len(d.tasks)} are too few ({FEW} or more)."
    if d.corrected < LEVEL:
        return f"That is more than chance (p = {d.corrected:.2g} by Holm's rule)."
    return f"That may be chance (p = {d.corrected:.2g} by Holm's rule)."


def _apart(rivals: Sequence[Difference]) -> str:
    """Whom the winner is not shown to be better than."""
    near = [f"{d.method} ({100 * -d.gain:+.1f} points)" for d in _near(rivals)]
    if not rivals:
        return ""
    if not near:
        return "By the intervals of their differences it is better than every other method here."
    return f"These records do not show that it is better than {_listed(near)}: the intervals of these leads reach 0."


def _near(rivals: Sequence[Difference]) -> list[Difference]:
    return [d for d in rivals if d.interval[1] >= 0]


def _costs(table: Table, winner: str, rivals: Sequence[Difference]) -> str:
    own = {name: cost(table, winner, name) for name in ("trained", "stored", "seconds", "inference_ms")}
    forms = {
        "trained": "{:,.0f} trained numbers".format,
        "stored": lambda v: f"{size(v)} kept for a task",
        "seconds": "{:.1f} s of training".format,
        "inference_ms": "{:.2f} ms a row".format,
    }
    told = [forms[name](value) for name, value in own.items() if value is not None]
    cheap = [d.method for d in _near(rivals) if (cost(table, d.method, "stored") or 0) < (own["stored"] or 0)]
    frugal = f" Of those that it is not shown to beat, {_listed(cheap)} keep{'s' * (len(cheap) == 1)} less."
    return (f"It costs {_listed(told)}." if told else "") + (frugal if cheap else "")


def _single(table: Table) -> list[str]:
    own = sorted({line.method for line in table.lines if len(line.seeds) == 1 and line.drawn})
    return [f"With one seed, an interval says nothing of other seeds: {_listed(own)}."] if own else []


def _alarms(table: Table) -> Mapping[str, str]:
    """Each alarm once, with where it rang."""
    where: dict[str, list[str]] = {}
    for line in table.lines:
        for alarm in line.alarms:
            where.setdefault(alarm.rstrip("."), []).append(f"{line.method} on {line.task}")
    return {alarm: ", ".join(places) for alarm, places in where.items()}


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
