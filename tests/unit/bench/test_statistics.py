"""Intervals cover, tests are scipy's, corrections are those done by hand."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from promptuary import metrics
from promptuary.bench import statistics
from promptuary.errors import SettingError


def answers(source: np.random.Generator, seeds: int, rows: int, share: float, spread: float) -> np.ndarray:
    """Answers of which `share` are right in the long run: rows are easy or hard, seeds are lucky or not."""
    easy, luck = source.normal(size=(1, rows)), source.normal(size=(seeds, 1)) * spread
    chance = stats.norm.cdf(0.8 * easy + 0.6 * source.normal(size=(seeds, rows)))
    return (chance < share + luck).astype(float)


@pytest.mark.parametrize(
    ("seeds", "rows", "spread"), [(1, 300, 0.0), (3, 300, 0.03), pytest.param(10, 200, 0.04, marks=pytest.mark.slow)]
)
def test_the_interval_covers_the_truth_in_95_of_100_experiments(seeds: int, rows: int, spread: float) -> None:
    source = np.random.default_rng(seeds)
    found = [statistics.interval([answers(source, seeds, rows, 0.8, spread)], draws=300, seed=i) for i in range(200)]
    covered = np.mean([low <= 0.8 <= high for low, high in found])
    assert 0.92 <= covered <= 0.995  # the deviation of 200 experiments is 0.015; the bootstrap is a little wide


def test_the_interval_over_tasks_is_that_of_their_mean() -> None:
    source = np.random.default_rng(0)
    shares = (0.6, 0.7, 0.95)
    found = [
        statistics.interval([answers(source, 3, 200, share, 0.0) for share in shares], draws=300, seed=i)
        for i in range(150)
    ]
    assert 0.91 <= np.mean([low <= np.mean(shares) <= high for low, high in found]) <= 1.0
    single = np.mean([np.diff(statistics.interval([answers(source, 3, 200, 0.7, 0.0)], seed=i)) for i in range(20)])
    assert np.mean([high - low for low, high in found]) < 0.75 * single


def test_with_one_seed_the_interval_is_that_of_a_proportion() -> None:
    rows = np.array([[1.0] * 160 + [0.0] * 40])
    low, high = statistics.interval([rows], draws=20_000)
    error = (0.8 * 0.2 / 200) ** 0.5
    t = stats.t.ppf(0.975, 199)
    assert (low, high) == pytest.approx((0.8 - t * error, 0.8 + t * error), abs=0.005)


def test_few_seeds_that_differ_make_a_wide_interval_and_it_ends_where_values_end() -> None:
    differ = np.repeat([[0.9], [0.8], [0.7]], 1000, axis=1)
    low, high = statistics.interval([differ])
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5  # the interval of three numbers by hand
    assert high - low == pytest.approx(2 * half, rel=0.25)
    assert statistics.interval([np.array([[1.0, 0.0], [0.0, 0.0]])]) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "rows", "seeds"), [(0.97, 56, 1), (0.95, 56, 1), (0.99, 200, 1), (0.97, 56, 3)])
def test_the_interval_covers_where_nearly_all_rows_are_answered_rightly(share: float, rows: int, seeds: int) -> None:
    source, covered = np.random.default_rng(0), []
    for i in range(300):
        right = np.repeat(source.random((1, rows)) < share, seeds, axis=0).astype(float)
        low, high = statistics.interval([right], draws=200, seed=i)
        covered.append(low <= share <= high)
    assert np.mean(covered) >= 0.92


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("rows", [20, 56, 500])
def test_all_rows_alike_are_no_certainty(rows: int, seeds: int) -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = statistics.interval([np.ones((seeds, rows))])
    assert (low, high) == pytest.approx((rows / (rows + z2), 1.0))  # Wilson's, by hand
    assert statistics.interval([np.zeros((seeds, rows))]) == pytest.approx((0.0, z2 / (rows + z2)))
    low, high = statistics.interval([np.zeros((seeds, rows))], bounds=(-1.0, 1.0))
    assert -low == pytest.approx(high)
    assert high == pytest.approx(z2 / (rows + z2))
    both = statistics.interval([np.ones((seeds, rows))] * 4)
    assert 1 - both[0] == pytest.approx((z2 / (rows + z2)) / 2)
    low, high = statistics.interval([np.full((seeds, rows), 0.7)])
    assert (0.7 - low, high - 0.7) == pytest.approx((min(0.7, z2 / (rows + z2)), min(0.3, z2 / (rows + z2))))


def test_the_interval_of_a_rare_gain_is_newcombes() -> None:
    gains = np.array([[1.0, 1.0, -1.0, *[0.0] * 197]])
    low, high = statistics.interval([gains], bounds=(-1.0, 1.0))

    def wilson(count: int) -> tuple[float, float]:
        found = stats.binomtest(count, 200).proportion_ci(method="wilson")
        return found.low, found.high

    (up, most), (least, down) = wilson(2), wilson(1)
    assert low <= 0.005 - np.hypot(0.01 - up, down - 0.005) + 1e-9
    assert high >= 0.005 + np.hypot(most - 0.01, 0.005 - least) - 1e-9
    assert high < 0.05


def test_what_is_nothing_has_no_interval() -> None:
    for tasks in ([], [np.zeros((2, 0))], [np.zeros(3)]):
        with pytest.raises(SettingError, match="nothing to make an interval of"):
            statistics.interval(tasks)


@pytest.mark.parametrize("row", [(1.0, 1, 1, -1, 0), (0.5, -1, 0, 1, 1, 0.5, 1), (0, 0, 0), (1, 1, 1, 1, 1, 1)])
def test_the_sign_flip_test_agrees_with_all_signs_tried_by_hand(row: tuple[float, ...]) -> None:
    gains = np.array([row], dtype=float)
    every = [abs(np.dot(signs, gains[0])) for signs in product((-1, 1), repeat=len(row))]
    exact = np.mean([value >= abs(gains.sum()) - 1e-9 for value in every])
    assert statistics.flipped(gains) == pytest.approx(exact, abs=0.02)


def test_the_sign_flip_test_is_scipys_and_is_wrong_in_5_of_100_experiments_without_a_difference() -> None:
    source = np.random.default_rng(0)
    gains = source.choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=(1, 400))
    theirs = stats.permutation_test((gains[0],), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    assert statistics.flipped(gains) == pytest.approx(theirs.pvalue, abs=0.01)
    none = [source.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(3, 200)) for _ in range(200)]
    assert 0.015 <= np.mean([statistics.flipped(g, draws=199, seed=i) <= 0.05 for i, g in enumerate(none)]) <= 0.08


def test_the_test_over_tasks_is_wilcoxons_and_needs_six() -> None:
    gains = [0.01, 0.02, -0.005, 0.03, 0.04, 0.012, 0.022]
    assert statistics.over_tasks(gains) == stats.wilcoxon(gains).pvalue
    assert statistics.over_tasks(gains[:5]) is None
    assert statistics.over_tasks([0.0] * 8) == 1.0


def test_holms_rule_by_hand() -> None:
    # sorted: 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04, and none below the one before
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_contributions_to_a_mean_are_the_rows_own() -> None:
    values = np.random.default_rng(1).random(60)
    own = statistics.contributions(lambda places: float(values[list(places)].mean()), range(60))
    assert own == pytest.approx(values.tolist())
    blocks = statistics.contributions(lambda places: float(values[list(places)].mean()), range(60), most=20)
    assert blocks == pytest.approx([values[i::20].mean() for i in range(20)])
    uneven = statistics.contributions(lambda places: float(values[list(places)].mean()), range(60), most=7)
    assert np.mean(uneven) == pytest.approx(values.mean())


def test_contributions_to_a_share_of_questions_are_the_questions_own() -> None:
    units = [0, 0, 1, 2, 2, 2, 3, 0]
    right = [True, True, False, True, True, False, True, True]

    def score(places: Sequence[int]) -> float:
        return metrics.group_match([units[i] for i in places], [True] * len(places), [right[i] for i in places])

    assert statistics.contributions(score, units) == pytest.approx([1.0, 0.0, 0.0, 1.0])


def test_one_unit_is_the_score_itself_and_any_score_is_the_mean_of_its_contributions() -> None:
    assert statistics.contributions(lambda places: 0.3, [0, 0]) == [0.3]
    source = np.random.default_rng(4)
    true, said = source.integers(0, 3, 90).tolist(), source.integers(0, 3, 90).tolist()
    whole = metrics.f1(true, said, classes=3)
    own = statistics.contributions(_macro_f1(true, said, 3), range(90))
    assert len(own) == 90
    assert np.mean(own) == pytest.approx(whole)


def _macro_f1(true: Sequence[int], said: Sequence[int], classes: int) -> Callable[[Sequence[int]], float]:
    """As a function of rows, by counting."""
    counts = np.zeros((len(true), classes, classes))
    counts[np.arange(len(true)), true, said] = 1.0

    def score(places: Sequence[int]) -> float:
        found = counts[list(places)].sum(0)
        return float(np.mean(2 * np.diag(found) / np.maximum(found.sum(0) + found.sum(1), 1)))

    return score


@pytest.mark.slow
@pytest.mark.parametrize("rows", [60, 400])
def test_the_interval_of_macro_f1_covers_it(rows: int) -> None:
    source = np.random.default_rng(3)
    flips = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
    share = np.array([0.5, 0.3, 0.2])
    whole = share[:, None] * flips
    truth = np.mean([2 * whole[c, c] / (whole[c].sum() + whole[:, c].sum()) for c in range(3)])
    covered = []
    for i in range(150):
        true = source.choice(3, p=share, size=rows)
        said = np.array([source.choice(3, p=flips[t]) for t in true])
        own = statistics.contributions(_macro_f1(true.tolist(), said.tolist(), 3), range(rows))
        low, high = statistics.interval([np.array([own])], draws=200, seed=i)
        covered.append(low <= truth <= high)
    assert 0.89 <= np.mean(covered) <= 1.0


def test_the_counts_of_a_confusion_matrix_and_f1_by_class_are_scikit_learns() -> None:
    source = np.random.default_rng(1)
    for classes in (2, 3, 5):
        true, said = source.integers(0, classes, 60), source.integers(-1, classes, 60)
        counts = statistics.confusion(true, said, classes)
        assert counts.sum() == 60
        assert np.trace(counts) == (true == said).sum()
        theirs = f1_score(true, said, labels=range(classes), average=None, zero_division=0)
        assert statistics.f1_by_class(counts) == pytest.approx(theirs)
    assert statistics.f1_by_class(statistics.confusion([0, 0], [0, 0], 3)).tolist() == [1.0, 0.0, 0.0]
