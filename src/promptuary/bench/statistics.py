"""What two numbers are worth: intervals over rows and seeds, paired tests, a correction for many of them.

Answers of one method on one task are a table of 0 and 1, `[seeds, rows]`: which row was answered rightly after which
seed. Both would be others if the experiment were done again, so both are drawn again. A score that is no mean over rows
(F1) is a function of the confusion matrix, which is a sum over rows.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from scipy import stats

from promptuary.errors import SettingError, nearest

DRAWS = 2000  # of the bootstrap
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
    seeds.

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
    return _middle(np.asarray(drawn), centre, _stretch(tasks, level), bounds, level)


def _middle(drawn: Table, centre: float, stretch: float, bounds: Interval, level: float) -> Interval:
    """The middle share of what was drawn, stretched from its centre, inside of what can be."""
    ends = centre + stretch * (np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - centre)
    low, high = np.clip(ends, *bounds)
    return float(low), float(high)


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


def over_tasks(gains: Sequence[float]) -> float:
    """P value of Wilcoxon's signed-rank test over tasks, one mean gain each (Demšar 2006); 1 for fewer than six."""
    if len(gains) < 6 or not any(gains):
        return 1.0
    return float(stats.wilcoxon(gains).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down rule (1979), in the order given."""
    order, corrected, least = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, values[place] * (len(values) - rank)))
        corrected[place] = least
    return corrected


def confusion(true: Sequence[int], said: Sequence[int], classes: int) -> Table:
    """How many rows of each class (first axis) were called what (second axis; answers that are none, -1, last)."""
    counts = np.zeros((classes, classes + 1))
    np.add.at(counts, (np.asarray(true), np.where(np.asarray(said) < 0, classes, np.asarray(said))), 1.0)
    return counts


def accuracy(counts: Table) -> Table:
    """The share of right answers; `counts` may have axes before those of `confusion`."""
    return np.asarray(np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1)))


def f1_by_class(counts: Table) -> Table:
    """F1 of each class; 0 for one that is neither there nor said."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    there, told = counts.sum(-1), counts.sum(-2)[..., :-1]
    return np.asarray(2 * right / np.maximum(there + told, 1e-12))


def macro_f1(counts: Table) -> Table:
    """The mean of the F1 of all classes, as `promptuary.metrics.f1`."""
    return np.asarray(f1_by_class(counts).mean(-1))


def binary_f1(counts: Table) -> Table:
    """F1 of the second of two classes, as `promptuary.metrics.binary_f1`: an answer that is none is a wrong one."""
    right, false = counts[..., 1, 1], counts[..., 0, 1] + counts[..., 0, 2]
    missed = counts[..., 1, 0] + counts[..., 1, 2]
    return np.asarray(2 * right / np.maximum(2 * right + false + missed, 1e-12))


SCORES: Mapping[str, Callable[[Table], Table]] = MappingProxyType(
    {"accuracy": accuracy, "macro_f1": macro_f1, "f1": binary_f1}
)


def score(names: Sequence[str]) -> Callable[[Table], Table]:
    """The mean of the scores of these names, as a function of the confusion matrix.

    Raises:
        SettingError: for a name that is none, with the nearest.
    """
    for name in names:
        if name not in SCORES:
            raise SettingError(f"{name!r} is no score of a confusion matrix. {nearest(name, SCORES)}")
    return lambda counts: np.mean([SCORES[name](counts) for name in names], axis=0)


def score_interval(
    names: Sequence[str],
    true: Labels,
    said: Labels,
    classes: int,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """As `interval`, for the mean of scores that are no means over rows, of one task.

    Arguments:
        names: of the scores, as in `SCORES`.
        true: the class of each row, `[seeds, rows]`, the same rows for every seed. said: what was answered.
    """
    source, measured = np.random.default_rng(seed), score(names)
    told = np.where(said < 0, classes, said)
    kinds, counts = np.unique(true * (classes + 1) + told, axis=1, return_counts=True)  # [seeds, kinds]
    weights = _rows(source, draws, counts) * counts.sum()  # [draws, kinds]
    pairs = np.eye(classes * (classes + 1))[kinds]  # [seeds, kinds, pairs]
    matrices = rearrange(np.einsum("dk,skp->dsp", weights, pairs, optimize=True), "d s (t c) -> d s t c", t=classes)
    drawn = (measured(matrices) * _seeds(source, draws, len(true))).sum(1)
    centre = float(np.mean([measured(confusion(t, s, classes)) for t, s in zip(true, said, strict=True)]))
    return _middle(drawn, centre, _stretch([(true == said).astype(float)], level), (0.0, 1.0), level)
