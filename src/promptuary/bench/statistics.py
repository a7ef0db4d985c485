"""What two numbers are worth: intervals over rows and seeds, paired tests, a correction for many of them.

Answers of one method on one task are a table of 0 and 1, `[seeds, rows]`: which row was answered rightly after which
seed. Both would be others if the experiment were done again, so both are drawn again. A score that is no mean over rows
(F1, BLEU) is made one (`contributions`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from promptuary.errors import SettingError

DRAWS = 2000  # of the bootstrap
BLOCKS = 100  # of rows that are left out in turn
FEW = 10  # rows that differ from the commonest, below which drawing them again says too little
LEVEL = 0.95
Table = NDArray[np.floating[Any]]  # [seeds, rows]
Labels = NDArray[np.integer[Any]]
Interval = tuple[float, float]


def interval(
    tasks: Sequence[Table], *, bounds: Interval = (0.0, 1.0), draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Where the mean over tasks of the mean over seeds and rows would fall if seeds and rows were drawn again.

    The pigeonhole bootstrap (Owen 2007): in each task, seeds and rows are drawn with replacement, each by itself. Three
    seeds drawn from three vary too little, by (seeds - 1) / seeds, so their deviations are scaled up (Rao and Wu 1988);
    and the interval is stretched by Student's t over the normal distribution, at the degrees of freedom that
    Satterthwaite's rule gives the two variances. With one seed only rows are drawn: it then says nothing of other
    seeds. Where nearly all rows are alike (all answered rightly), drawing them again gives nearly the same: there the
    interval is at least Wilson's (1927), of gains Newcombe's (1998).

    Arguments:
        tasks: for each task the values `[seeds, rows]`; tasks are not drawn again.
        bounds: the smallest and the largest value there can be; gains have -1 and 1.
        draws: of the bootstrap. level: the share of experiments whose mean is inside.

    Raises:
        SettingError: without a task, and for one without values.
    """
    if not tasks or any(values.ndim != 2 or not values.size for values in tasks):
        raise SettingError("There is nothing to make an interval of: expected [seeds, rows] of one task or more.")
    source = np.random.default_rng(seed)
    drawn = sum(_redrawn(values.astype(float), source, draws) for values in tasks) / len(tasks)
    centre = float(np.mean([values.mean() for values in tasks]))
    low, high = _middle(np.asarray(drawn), centre, _stretch(tasks, level), bounds, level)
    least = np.array([_least(values, bounds, level) for values in tasks])
    below, above = np.sqrt((least**2).sum(0)) / len(tasks)
    return float(max(bounds[0], min(low, centre - below))), float(min(bounds[1], max(high, centre + above)))


def _middle(drawn: Table, centre: float, stretch: float, bounds: Interval, level: float) -> Interval:
    """The middle share of what was drawn, stretched from its centre, inside of what can be."""
    ends = centre + stretch * (np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - centre)
    low, high = np.clip(ends, *bounds)
    return float(low), float(high)


def _least(values: Table, bounds: Interval, level: float) -> Interval:
    """How far below and above its mean the truth of one task may lie at least; 0 where rows differ enough."""
    n, (kinds, counts) = values.shape[1], np.unique(values, return_counts=True)
    if n * (1 - counts.max() / values.size) >= FEW:
        return 0.0, 0.0
    if not set(kinds) <= {-1.0, 0.0, 1.0}:  # contributions to a score: only where all are alike nothing is known
        return (_wilson(0.0, n, level)[1],) * 2 if len(kinds) == 1 else (0.0, 0.0)
    up, down = (_wilson(float((values == sign).mean()), n, level) for sign in (1.0, -1.0))
    if bounds[0] >= 0:
        return up
    return float(np.hypot(up[0], down[1])), float(np.hypot(up[1], down[0]))


def _wilson(share: float, n: int, level: float) -> Interval:
    """How far below and above a share of `n` rows Wilson's interval reaches."""
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return share - (middle - half), middle + half - share


def _redrawn(values: Table, source: np.random.Generator, draws: int) -> Table:
    """Means of one task under other seeds and rows, `[draws]`."""
    kinds, counts = np.unique(values, axis=1, return_counts=True)  # rows that are alike are drawn together
    return np.asarray(((_seeds(source, draws, len(values)) @ kinds) * _rows(source, draws, counts)).sum(1))


def _rows(source: np.random.Generator, draws: int, counts: Labels) -> Table:
    """The share that each kind of row has when as many rows are drawn, `[draws, kinds]`."""
    n = int(counts.sum())
    return source.multinomial(n, counts / n, size=draws) / n


def _seeds(source: np.random.Generator, draws: int, n: int) -> Table:
    """The weight of each seed when as many are drawn, `[draws, seeds]`, with deviations scaled up to the truth's."""
    shares = _rows(source, draws, np.ones(n, dtype=int))
    return 1 / n + (np.sqrt(n / (n - 1)) if n > 1 else 1.0) * (shares - 1 / n)


def _stretch(tasks: Sequence[Table], level: float) -> float:
    """Student's t over the normal quantile, at the degrees of freedom of the summed variances of all tasks."""
    total = uncertain = 0.0
    for values in tasks:
        for axis in (0, 1):
            n = values.shape[axis]
            if n > 1:
                variance = float(values.mean(1 - axis).var(ddof=1)) / n
                total, uncertain = total + variance, uncertain + variance**2 / (n - 1)
    if not uncertain:
        return 1.0
    tail = (1 + level) / 2
    return float(stats.t.ppf(tail, total**2 / uncertain) / stats.norm.ppf(tail))


def flipped(gains: Table, *, draws: int = 9999, seed: int = 0) -> float:
    """P value of the mean gain over rows, when a row's gain could as well have had the other sign.

    Two-sided, for two methods on one task: gains `[seeds, rows]` are averaged over seeds first, so it is a statement
    about other rows of this task after these seeds.
    """
    rows = gains.mean(0)
    sizes, counts = np.unique(np.abs(rows[rows != 0]), return_counts=True)  # gains of one size are drawn together
    if not len(sizes):
        return 1.0
    plus = np.random.default_rng(seed).binomial(counts, 0.5, size=(draws, len(counts)))
    as_far = np.abs((2 * plus - counts) @ sizes) >= abs(rows.sum()) - 1e-9
    return float((as_far.sum() + 1) / (draws + 1))


def together(values: Table, groups: Sequence[int]) -> Table:
    """Values `[seeds, rows]` with one column for each group of rows that say one thing (copies of a text): the group's
    sum, scaled so that the mean stays.

    A test of copies as if they were different rows would be sure too soon.

    Arguments:
        groups: for each row the number of its group, from 0 on.
    """
    columns: Table = np.stack([np.bincount(groups, weights=seed) for seed in values])
    return columns * ((max(groups) + 1) / len(groups))


def over_tasks(gains: Sequence[float]) -> float | None:
    """P value of Wilcoxon's signed-rank test over tasks, one mean gain each (Demšar 2006); `None` below six."""
    if len(gains) < 6:
        return None
    return float(stats.wilcoxon(gains).pvalue) if any(gains) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down rule (1979), in the order given."""
    order, corrected, least = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, values[place] * (len(values) - rank)))
        corrected[place] = least
    return corrected


def contributions(score: Callable[[Sequence[int]], float], units: Sequence[int], *, most: int = BLOCKS) -> list[float]:
    """What each unit of rows contributes to a score: the jackknife's pseudo-values (Tukey 1958).

    Their mean is the score, and of a score that is a mean over units they are the units' own. So whatever is said of a
    mean (`interval`, `flipped`) can be said of any smooth score: F1, BLEU, a share of questions of several rows.

    Arguments:
        score: of the rows at these places. units: for each row the number of its unit, from 0 on.
        most: units are left out one by one, or so many blocks of them where there are more. Blocks of one unit and of
            two count alike, which makes intervals a little wide.
    """
    count, blocks, whole = max(units) + 1, np.asarray(units) % most, score(range(len(units)))
    sizes = np.bincount(np.arange(count) % most)  # units of each block
    if len(sizes) < 2:
        return [whole]
    others = np.array([score(np.flatnonzero(blocks != block).tolist()) for block in range(len(sizes))])
    weight = count / sizes  # of a block that is left out (Busing, Meijer and van der Leeden 1999)
    values = weight * whole - (weight - 1) * others
    return [float(value) for value in values - values.mean() + whole]


def confusion(true: Sequence[int], said: Sequence[int], classes: int) -> Table:
    """How many rows of each class (first axis) were called what (second axis; answers that are none, -1, last)."""
    counts = np.zeros((classes, classes + 1))
    np.add.at(counts, (np.asarray(true), np.where(np.asarray(said) < 0, classes, np.asarray(said))), 1.0)
    return counts


def f1_by_class(counts: Table) -> Table:
    """F1 of each class; 0 for one that is neither there nor said."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    there, told = counts.sum(-1), counts.sum(-2)[..., :-1]
    return np.asarray(2 * right / np.maximum(there + told, 1e-12))
