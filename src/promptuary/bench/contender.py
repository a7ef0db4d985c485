"""What competes: it learns from rows that teach, is scored on rows that select, and answers any others afterwards."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from promptuary.bench.grounds import Ground
from promptuary.bench.sections import Budget
from promptuary.bench.space import Space
from promptuary.data.source import Row
from promptuary.errors import SettingError, nearest
from promptuary.train.fit import Result
from promptuary.train.progress import Progress

Answers = Sequence[Any]  # to rows, in order, as their kind of task has them (`promptuary.kinds`)


@dataclass(frozen=True)
class Cost:
    """What a method takes, for one task.

    Arguments:
        trained: numbers that are trained. touched: those that got a gradient. stored: bytes kept for the task.
        steps: of the optimizer. best_step: the one whose numbers are kept. seconds: of training with its scoring.
    """

    trained: int = 0
    touched: int = 0
    stored: int = 0
    steps: int = 0
    best_step: int = 0
    seconds: float = 0.0

    @property
    def seconds_to_best(self) -> float:
        """Seconds until the best step: steps and their scoring take alike throughout a run."""
        return self.seconds * self.best_step / self.steps if self.steps else self.seconds


@dataclass(frozen=True, eq=False)
class Learned:
    """A method after it learned.

    Arguments:
        scores: of the best step on the rows that select, by name, and `loss` where there is one.
        answer: for rows of the task what is said of each, as the kind of task has it.
        last: as `scores`, after the last step. curve: the scores of each scoring with its step.
        alarms: what looks wrong, in words, by name. recipe: everything it was trained with.
        parts: of several tasks that were learned together, what was learned for each; `answer` is then of none.
    """

    scores: Mapping[str, float]
    answer: Callable[[Sequence[Row]], Answers]
    cost: Cost = Cost()
    last: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()
    alarms: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, "Learned"] = field(default_factory=dict)


class Contender(ABC):
    """A method or a baseline.

    Class attributes, or fields:
        name: as plans say it. summary: one line. source: where it was published, or `-`.
        space: what a search changes, unless a plan says otherwise; empty where there is nothing to search.
        default: the values that it has of what a search may change.
        drawn: whether another seed gives another result on the same rows.
        small: whether its space may be smaller than what a search tries: it is then tried as a whole.
        mixes: whether it can learn several tasks together.
        kinds: of tasks that it can learn; a plan has no cell for the others.
        needs: a module beyond promptuary's own dependencies, and the extra that brings it.
    """

    name: str
    summary: str
    source: str
    space: Space = MappingProxyType({})
    default: Mapping[str, Any] = MappingProxyType({})
    drawn: bool = True
    small: bool = False
    mixes: ClassVar[bool] = False
    kinds: frozenset[str] = frozenset({"classification"})
    needs: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        """Learn from `ground.train`, chosen by `ground.selection`.

        The same call with the same folder goes on where it was interrupted, and is free where it had ended.

        Raises:
            DivergedError: where training broke down.
            MemoryShortError: where memory is short.
            BackboneError: where the backbone cannot do what the method asks of it.
        """

    def learn_together(
        self, grounds: Mapping[str, Ground], settings: Mapping[str, Any], *, temperature: float, budget: Budget,
        seed: int, folder: Path, progress: Progress | None = None,
    ) -> Learned:  # fmt: skip
        """Learn several tasks from a mixture of their rows; else as `learn`.

        Raises:
            SettingError: for a contender that does not mix (`mixes`): it learns one task at a time.
        """
        raise SettingError(f"{self.name!r} learns one task at a time. Expected a method of promptuary's own.")

    def begun(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of what a search may change, where these settings are stated."""
        return {**self.default, **settings}

    def check(self, settings: Mapping[str, Any]) -> None:
        """Look at the names of settings, before anything runs.

        Raises:
            SettingError: for one that it has not, with the nearest; where a module is not installed.
        """
        for name in settings:
            if name not in self.default:
                raise SettingError(
                    f"{self.name!r} has no setting {name!r}. {nearest(name, self.default)}"
                    if self.default
                    else f"{self.name!r} has no settings to search: leave out {name!r}."
                )

    def available(self) -> None:
        """Refuse a method whose module is not installed.

        Raises:
            SettingError: naming what to install.
        """
        if self.needs is not None and importlib.util.find_spec(self.needs[0]) is None:
            raise SettingError(
                f"{self.name!r} needs {self.needs[0]}. Write: pip install 'promptuary[{self.needs[1]}]'."
            )


def fitted(result: Result, answer: Callable[[Sequence[Row]], Answers], *, stored: int, recipe: Any) -> Learned:
    """What the one loop of training left, as a `Learned`."""
    curve = [
        {k: v for k, v in e.items() if k not in ("event", "best")} for e in result.history if e["event"] == "scores"
    ]
    return Learned(
        scores=dict(result.scores),
        answer=answer,
        cost=Cost(result.counts.nominal, result.counts.touched, stored, result.steps, result.best_step, result.seconds),
        last={k: v for k, v in curve[-1].items() if k != "step"} if curve else {},
        curve=curve,
        alarms={alarm.name: alarm.sentence for alarm in result.alarms},
        recipe=recipe,
    )
