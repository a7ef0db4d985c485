"""What a comparison says, in plain values: lines of methods on tasks, differences, and what stands beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from promptuary.bench.statistics import Interval

COSTS = ("trained", "stored", "touched", "seconds", "seconds_to_best", "peak_bytes", "inference_ms")


@dataclass(frozen=True)
class Place:
    """Where numbers are compared: under one regime, on one backbone."""

    regime: str
    backbone: str


@dataclass(frozen=True)
class Line:
    """One method on one task.

    Arguments:
        metric: what is scored. seeds: those with a result; scores: theirs, 0 to 1.
        mean, deviation: over seeds (the deviation of a sample; `None` for one seed). interval: where the mean would
            fall for other rows and seeds; `None` where it cannot be said.
        majority: the score of always saying the commonest reported class, in accuracy; `None` without classes.
        cost: means over seeds, by the names in `COSTS`. drawn: whether another seed gives another result.
        chosen: the settings that were chosen, by seed. alarms: in words. lost: seeds without a result, by outcome.
    """

    task: str
    method: str
    metric: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: float | None
    deviation: float | None
    interval: Interval | None
    majority: float | None
    cost: Mapping[str, float]
    drawn: bool
    chosen: Mapping[str, Mapping[str, Any]]
    alarms: tuple[str, ...]
    lost: Mapping[str, int]


@dataclass(frozen=True)
class Difference:
    """What a method gains over another one, in the score of each task (0 to 1).

    Arguments:
        tasks: the gain on each. gain: their mean. interval: a bootstrap over seeds and rows of each task.
        p: of Wilcoxon's test over tasks, or over the rows of the only task; `None` where there are two to five tasks.
        corrected: the same by Holm's rule, for all differences of a table.
    """

    method: str
    against: str
    tasks: Mapping[str, float]
    gain: float
    interval: Interval
    p: float | None
    corrected: float | None = None


@dataclass(frozen=True)
class Elsewhere:
    """What a method learned on one task, asked of another one: its score there, mean and deviation over seeds."""

    source: str
    to: str
    method: str
    mean: float
    deviation: float | None
    interval: Interval | None
    majority: float | None


@dataclass(frozen=True)
class Together:
    """The seeds of a method as an ensemble (majority vote, ties by probability) beside their mean and their best."""

    task: str
    method: str
    members: int
    ensemble: float
    mean: float
    best: float


@dataclass(frozen=True)
class Table:
    """Everything that is said of one place."""

    place: Place
    lines: Sequence[Line]
    differences: Sequence[Difference]
    elsewhere: Sequence[Elsewhere]
    together: Sequence[Together]


@dataclass(frozen=True)
class Comparison:
    """A study in numbers.

    Arguments:
        name: of the plan. planned: its final trials. finished: those with a result or an outcome.
        protocol: what was equal for all methods, in words. origin: by what the numbers were made.
    """

    name: str
    planned: int
    finished: int
    protocol: str
    origin: str
    tables: Sequence[Table] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return asdict(self)
