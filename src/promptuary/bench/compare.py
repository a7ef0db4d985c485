"""From a study's records to statements: scores with intervals, differences with tests, costs, what looks wrong.

The record of a final trial (`records`) is all that is needed, from the store or from a file of lines.

Score: mean and standard deviation over seeds; the interval is a bootstrap over seeds and reported rows (`statistics`).
Difference: row by row and seed by seed against one method; Wilcoxon's test over tasks where there are six or more, else
a test over the rows of one task; p values are corrected by Holm for all methods of one table.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

import numpy as np

from promptuary.bench import statistics
from promptuary.bench.comparison import (
    COSTS,
    Comparison,
    Difference,
    Elsewhere,
    Line,
    Place,
    Table,
    Together,
)
from promptuary.bench.contenders import CONTENDERS
from promptuary.bench.doubts import alarms
from promptuary.bench.records import (
    Record,
    Right,
    Worth,
    by_rows,
    majority,
    own_report,
    right,
    unfolded,
    unpacked,
    worth,
)
from promptuary.bench.statistics import Interval
from promptuary.ensembles import vote
from promptuary.train.record import origin

NOBODY: Mapping[str, str] = MappingProxyType({})


def compare(
    records: Sequence[Record], *, name: str, planned: int, against: str, rivals: Mapping[str, str] = NOBODY,
    protocol: str = "",
) -> Comparison:  # fmt: skip
    """What the final records of a study say.

    Arguments:
        planned: how many final trials the plan has. against: the method that every other one is held against.
        rivals: for some methods, another one instead.
    """
    places = list(dict.fromkeys(Place(r["regime"], r["backbone"]) for r in records))
    own = {place: [r for r in records if Place(r["regime"], r["backbone"]) == place] for place in places}
    tables = [_table(place, found, against, rivals) for place, found in own.items()]
    return Comparison(name, planned, len(records), protocol, origin(records), tables)


def cells(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of one place by task and method, those of each in the order of their seeds."""
    found: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        found.setdefault((r["task"], r["method"]), []).append(r)
    for own in found.values():
        own.sort(key=lambda r: r["seed"])
    return found


def _table(place: Place, records: Sequence[Record], against: str, rivals: Mapping[str, str]) -> Table:
    of = cells(records)
    return Table(
        place,
        [line(own) for own in of.values()],
        differences(of, against, rivals),
        [found for own in of.values() for found in _elsewhere(own)],
        [found for own in of.values() if (found := _together(own)) is not None],
    )


# --- one method on one task ---


def line(records: Sequence[Record]) -> Line:
    """What the seeds of one method on one task say."""
    first, known = records[0], [r for r in records if "reports" in r]
    own = [own_report(r) for r in known]
    scores = [float(report["scores"][r["metric"]]) for r, report in zip(known, own, strict=True)]
    return Line(
        task=first["task"],
        method=first["method"],
        metric=known[0]["metric"] if known else "",
        seeds=tuple(r["seed"] for r in known),
        scores=tuple(scores),
        mean=mean(scores) if scores else None,
        deviation=stdev(scores) if len(scores) > 1 else None,
        interval=_interval(known),
        majority=_majority(own[0]) if own else None,
        cost=_cost(known),
        drawn=_draws(first),
        chosen={str(r["seed"]): r["settings"] for r in known},
        alarms=tuple(alarms(records)),
        lost=dict(Counter(r["outcome"] for r in records if "reports" not in r)),
    )


def _interval(records: Sequence[Record]) -> Interval | None:
    values = worth(records)
    return None if values is None else statistics.interval([values])


def _majority(report: Mapping[str, Any]) -> float | None:
    return majority(unpacked(report["true"])) if "true" in report else None


def _cost(records: Sequence[Record]) -> dict[str, float]:
    found = {}
    for name in COSTS:
        values = [own_report(r)[name] if name in own_report(r) else r["cost"][name] for r in records]
        known = [float(v) for v in values if v is not None]
        if known:
            found[name] = mean(known)
    return found


# --- one method against another ---


def differences(
    cells: Mapping[tuple[str, str], Sequence[Record]], against: str, rivals: Mapping[str, str] = NOBODY
) -> list[Difference]:
    """What every method gains over `against`, or over its own rival, on the tasks that both have."""
    found = []
    for method in dict.fromkeys(method for _, method in cells):
        rival = rivals.get(method, against)
        if method == rival:
            continue
        gains = {
            task: gain
            for (task, other), own in cells.items()
            if other == method and (gain := paired(own, cells.get((task, rival), ()))) is not None
        }
        if gains:
            found.append(_difference(method, rival, gains))
    tested = [place for place, d in enumerate(found) if d.p is not None]
    corrected = dict(zip(tested, statistics.holm([p for d in found if (p := d.p) is not None]), strict=True))
    return [replace(d, corrected=corrected.get(place)) for place, d in enumerate(found)]


def _difference(method: str, against: str, gains: Mapping[str, Worth]) -> Difference:
    means = {task: float(gain.mean()) for task, gain in gains.items()}
    only = next(iter(gains.values()))
    p = statistics.flipped(only) if len(gains) == 1 else statistics.over_tasks(list(means.values()))
    where = statistics.interval(list(gains.values()), bounds=(-1.0, 1.0))
    return Difference(method, against, means, mean(means.values()), where, p)


def paired(ours: Sequence[Record], theirs: Sequence[Record], task: str | None = None) -> Worth | None:
    """Row by row (or by units of rows), for each seed that both have, what ours gains; `None` where they share none.

    Of the rows of their own task, or of another one that both were asked, if it is named. A method that draws nothing
    has one seed, which is held against all of the other's that had the same rows.
    """
    mine, other = ({r["seed"]: r for r in own if "reports" in r} for own in (ours, theirs))
    mine, other = _spread(mine, other), _spread(other, mine)
    both = sorted(set(mine) & set(other))
    if not both:
        return None
    a, b = (worth([own[seed] for seed in both], task) for own in (mine, other))
    return None if a is None or b is None else a - b


def _spread(own: dict[int, Record], other: Mapping[int, Record]) -> dict[int, Record]:
    if len(own) != 1:
        return own
    [(seed, record)] = own.items()
    if _draws(record):
        return own
    return {seed: record} | {s: record for s, r in other.items() if r["rows"]["digest"] == record["rows"]["digest"]}


def _draws(record: Record) -> bool:
    """Whether another seed gives another result on the same rows."""
    known = CONTENDERS.get(record.get("of", record["method"]))
    return known is None or known.drawn


# --- beside the table ---


def _elsewhere(records: Sequence[Record]) -> list[Elsewhere]:
    known = [r for r in records if "reports" in r]
    found = []
    for task in known[0]["reports"] if known else ():
        if task != known[0]["task"]:
            scores = [float(r["reports"][task]["scores"][r["metric"]]) for r in known]
            most = _majority(known[0]["reports"][task])
            spread, values = stdev(scores) if len(scores) > 1 else None, worth(known, task)
            where = None if values is None else statistics.interval([values])
            found.append(Elsewhere(known[0]["task"], task, known[0]["method"], mean(scores), spread, where, most))
    return found


def _together(records: Sequence[Record]) -> Together | None:
    known = [r for r in records if "reports" in r]
    found = voted(known)
    if found is None:
        return None
    single = [float(score) for score in right(known).mean(1)]
    return Together(known[0]["task"], known[0]["method"], len(known), float(found.mean()), mean(single), max(single))


def voted(records: Sequence[Record]) -> Right | None:
    """Which reported rows the records answer rightly by majority vote, `[1, rows]` (ties by probability).

    `None` for fewer than three of them, and where they were asked other rows or a score that is not of rows.
    """
    if len(records) < 3 or not by_rows(records[0], own_report(records[0])):
        return None
    if len({own_report(r)["true"] for r in records}) > 1:
        return None
    classes = len(records[0]["labels"])
    said = np.stack([unfolded(own_report(r)["probabilities"], classes) for r in records])  # [members, rows, classes]
    true = unpacked(own_report(records[0])["true"])
    return np.array([[vote(said[:, i].tolist())[0] == label for i, label in enumerate(true)]], dtype=float)
