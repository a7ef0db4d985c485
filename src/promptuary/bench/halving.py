"""Successive halving within a time: who runs next, and for how many steps (Jamieson and Talwalkar 2016).

All candidates run for a few steps; the best third runs three times as long; the best of all runs for what is left of
the time, beside the control. Each run has a schedule of its own that ends, so that its score is that of a finished
prompt. Decisions are functions of what has run so far: a search that was interrupted goes on by asking again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

THIRD = 3  # each round keeps one in three, and runs them three times as long
ROUND = 0.3  # share of the time that each of the first two rounds takes
SHORTEST = 24  # steps of a run that says something


@dataclass(frozen=True)
class Candidate:
    """A method with settings; `control` is trained as long as the winner, to be held against it."""

    method: str
    settings: tuple[tuple[str, Any], ...] = ()
    control: bool = False

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value:g}" for name, value in self.settings)
        return f"{self.method}, {told}" if told else self.method


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds.

    Arguments:
        step: of training. score: the rows that select, once. begin: a run before its first step.
    """

    step: float
    score: float
    begin: float

    def run(self, steps: int, epoch: int) -> float:
        """A run of so many steps, scored at every end of an epoch and at its own."""
        return self.begin + steps * self.step + math.ceil(steps / epoch) * self.score

    def steps(self, seconds: float, epoch: int) -> int:
        """How many steps a run of so many seconds can have."""
        return max(0, int((seconds - self.begin - self.score) / (self.step + self.score / epoch)))


def entrants(candidates: Sequence[Candidate], seconds: float, pace: Pace, epoch: int) -> tuple[list[Candidate], int]:
    """Who enters the first round, and its steps: as many as can run for `SHORTEST` steps in its share of the time.

    The control is always among them. Where not even two can run, the first one and the control take most of the time
    for whatever steps it has.
    """
    control = [c for c in candidates if c.control]
    affordable = int(ROUND * seconds / pace.run(SHORTEST, epoch))
    entered = _with(candidates[: max(1, affordable - len(control))], control)
    if affordable < 2:
        return entered, max(1, pace.steps(0.8 * seconds / len(entered), epoch))
    return entered, max(SHORTEST, min(pace.steps(ROUND * seconds / len(entered), epoch), 2 * epoch))


def _with(chosen: Sequence[Candidate], control: Sequence[Candidate]) -> list[Candidate]:
    """Those chosen, and the control where it is not one of them."""
    return list(dict.fromkeys([*chosen, *control]))


def promoted(scores: Mapping[Candidate, tuple[float, float]]) -> list[Candidate]:
    """The best third of a round, best first; of equal scores the smaller loss.

    Arguments:
        scores: of those that finished it: the score, and the loss.
    """
    order = sorted(scores, key=lambda c: (-scores[c][0], scores[c][1]))
    return order[: math.ceil(len(order) / THIRD)]


def last_steps(seconds: float, paces: Sequence[Pace], epoch: int, most: int) -> int:
    """How many steps each of the last runs can have, if all of them are to fit into `seconds`."""
    whole = Pace(sum(p.step for p in paces), sum(p.score for p in paces), sum(p.begin for p in paces))
    return min(whole.steps(seconds, epoch), most)
