"""The result of a search in words: whether there is anything to learn, what to use, how sure that is.

Copies of a text are one observation, for intervals and for tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptuary.bench import statistics
from promptuary.bench.records import unpacked
from promptuary.bench.statistics import Interval
from promptuary.bench.tables import Captioned, Cell, percent, size

LEVEL = 0.01  # p value below which something was learned
BETTER = 0.05  # p value, corrected, below which one method is better than another one


@dataclass(frozen=True)
class Estimate:
    """One line of the answer.

    Arguments:
        name: `prompt` is the choice. spoken: method, settings and steps.
        score: on the sealed rows; interval: where it would fall for other rows. macro_f1: of classes.
        gain, gain_interval: of the choice over this one. p: of a sign-flip test, corrected by Holm's rule.
    """

    name: str
    spoken: str
    score: float
    interval: Interval
    macro_f1: float | None = None
    gain: float = 0.0
    gain_interval: Interval = (0.0, 0.0)
    p: float = 1.0


@dataclass(frozen=True)
class Advice:
    """What a search found.

    Arguments:
        metric: what the scores are. learned: whether the choice is above the commonest answer beyond chance.
        words: the answer, sentence by sentence.
    """

    metric: str
    learned: bool
    estimates: tuple[Estimate, ...]
    words: tuple[str, ...]


def advise(result: Mapping[str, Any]) -> Advice:
    """What a result says."""
    worth, texts = _worth(result)
    gains = {name: worth["prompt"] - own for name, own in worth.items() if name != "prompt"}
    p = {name: statistics.flipped(statistics.together(gain, texts)) for name, gain in gains.items()}
    corrected = dict(zip(p, statistics.holm([*p.values()]), strict=True))
    found = tuple(_estimate(name, result, worth[name], texts, gains.get(name), corrected.get(name)) for name in worth)
    above = p.get("majority", 1.0)
    learned = above < LEVEL and float(gains["majority"].mean()) > 0
    words = _learned(result, found) if learned else _nothing(result, found, above)
    return Advice(_metric(result), learned, found, (*words, *_beside(result)))


def _metric(result: Mapping[str, Any]) -> str:
    """What the estimates are: of classes the accuracy, whatever chose."""
    return "accuracy" if result["true"] is not None else str(result["metric"])


def _worth(result: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float64]], Sequence[int]]:
    """What rows contribute to each rival's score, `[1, rows]`, and for each row the number of its text.

    Of classes it is whether the row was answered rightly; else what texts contribute (`statistics.contributions`).
    """
    own = result["estimates"]
    if result["true"] is None:
        found = {name: np.array([e["contributions"]], dtype=float) for name, e in own.items()}
        return found, range(found["prompt"].shape[1])
    true = unpacked(result["true"])
    return {name: (unpacked(e["said"]) == true)[None].astype(float) for name, e in own.items()}, result["texts"]


def _estimate(
    name: str,
    result: Mapping[str, Any],
    worth: NDArray[np.float64],
    texts: Sequence[int],
    gain: NDArray[np.float64] | None,
    p: float | None,
) -> Estimate:
    own = result["estimates"][name]
    score = own["scores"][_metric(result)]
    alone = Estimate(name, spoken(own), score, _interval(worth, texts, (0.0, 1.0)), own["scores"].get("macro_f1"))
    if gain is None or p is None:
        return alone
    return replace(alone, gain=float(gain.mean()), gain_interval=_interval(gain, texts, (-1.0, 1.0)), p=p)


def _interval(values: NDArray[np.float64], texts: Sequence[int], bounds: Interval) -> Interval:
    """As `statistics.interval`, of texts instead of rows: sums of deviations, for texts have unlike many copies."""
    middle = values.mean()
    return statistics.interval([middle + statistics.together(values - middle, texts)], bounds=bounds)


def table(advice: Advice, rows: int) -> Captioned:
    """The estimates as a table; `rows` is how many they are made on."""
    body = []
    for e in advice.estimates:
        gain = "" if e.name == "prompt" else f"{100 * e.gain:+.1f}"
        p = "" if e.name == "prompt" else f"{e.p:.3g}"
        between = f"{100 * e.interval[0]:.1f}-{100 * e.interval[1]:.1f}"
        what = e.spoken if e.name == "prompt" else e.spoken.removeprefix(e.name).lstrip(", ")
        macro = [] if e.macro_f1 is None else [percent(e.macro_f1)]
        body.append(
            [
                Cell(e.name), Cell(what), percent(e.score), Cell(between, e.interval[0]), *macro,
                Cell(gain, e.gain if gain else None), Cell(p, e.p if p else None),
            ]
        )  # fmt: skip
    classes = ["macro F1, %"] if advice.estimates[0].macro_f1 is not None else []
    heads = ["", "what", f"{advice.metric}, %", "95 % interval", *classes, "gain", "p (Holm)"]
    return f"{rows:,} rows that nothing was chosen by", (heads, body)


def spoken(own: Mapping[str, Any]) -> str:
    """`p-tuning-v2, length 40, 600 steps`."""
    settings = [f"{name} {value:g}" for name, value in own["settings"].items()]
    steps = [f"{own['steps']:,} steps"] if own["steps"] else []
    return ", ".join([own["method"], *settings, *steps])


def _learned(result: Mapping[str, Any], found: tuple[Estimate, ...]) -> list[str]:
    best = found[0]
    words = [
        f"Use {best.spoken}, on {result['backbone']}. It {_reaches(result, best)} {_rows(result)} that nothing was "
        f"chosen by, with an interval from {_percent(best.interval[0])} to {_percent(best.interval[1])}."
    ]
    for other in found[1:]:
        if other.name == "majority":
            words.append(f"Always saying {_commonest(result)} reaches {_percent(other.score)}.")
        elif other.p < BETTER and other.gain > 0:
            words.append(f"It beats {_called(other)} by {100 * other.gain:.1f} points (p = {other.p:.2g}).")
        elif other.p < BETTER:
            words.append(
                f"But {_called(other)} is better by {-100 * other.gain:.1f} points (p = {other.p:.2g}): use that, give "
                "more time, or a larger backbone."
            )
        else:
            words.append(
                f"It is not clearly better than {_called(other)} ({100 * other.gain:+.1f} points, p = {other.p:.2g}): "
                "these rows do not tell them apart."
            )
    stored = (result["estimates"]["prompt"]["cost"] or {}).get("stored")
    return [*words, f"The prompt has {size(stored)}."] if stored else words


def _nothing(result: Mapping[str, Any], found: tuple[Estimate, ...], p: float) -> list[str]:
    best, most = found[0], next((e for e in found if e.name == "majority"), found[0])
    return [
        f"{_verdict(best, most, p)}: {best.spoken} {_reaches(result, best)} {_rows(result)} that nothing was chosen "
        f"by, and always saying {_commonest(result)} reaches {_percent(most.score)}"
        + (f" (p = {p:.2g} by itself, where {LEVEL:g} is asked for)." if best.score > most.score else "."),
        "The labels may not depend on the text, or the rows are too few, or the time was too short. Do not rely on "
        "this prompt.",
    ]


def _verdict(best: Estimate, most: Estimate, p: float) -> str:
    """What is said where nothing was learned beyond doubt."""
    if p < BETTER and best.score > most.score:
        return "These rows are too few to be sure that there is something to learn"
    return "There is nothing to learn here that this search could find"


def _rows(result: Mapping[str, Any]) -> str:
    """`57 rows`, or `57 rows (19 different texts)`."""
    rows, texts = result["rows"]["estimate"], len({*result["texts"]})
    return f"{rows:,} rows" + (f" ({texts:,} different texts)" if texts < rows else "")


def _beside(result: Mapping[str, Any]) -> list[str]:
    words = list(result["warnings"])
    alarms = result["estimates"]["prompt"].get("alarms") or {}
    words += [sentence for name, sentence in alarms.items() if name != "majority"]
    if result["doubtful"]:
        words.append(
            f"{result['doubtful']} of {result['rows']['selection']} rows that select are answered otherwise than their "
            "label says, with 95 % probability and more: doubtful.jsonl lists them, the surest first."
        )
    return words


def _reaches(result: Mapping[str, Any], own: Estimate) -> str:
    """`answers 85.4 % of`, `has an entity_f1 of 60.2 % on`."""
    metric, share = _metric(result), _percent(own.score)
    return f"answers {share} of" if metric == "accuracy" else f"has {metric} {share} on"


def _commonest(result: Mapping[str, Any]) -> str:
    return "the commonest class" if result["true"] is not None else "the commonest answer"


def _called(other: Estimate) -> str:
    steps = other.spoken.rpartition(", ")[2]
    return f"the frozen model with a trained head ({steps})" if other.name == "frozen" else other.name.replace("-", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
