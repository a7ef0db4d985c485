"""A clock for runs that must end in time."""

import math
import time
from collections.abc import Mapping

import numpy as np
from rich.console import Console

from promptuary.bench.board import Board


class OutOfTimeError(Exception):
    """A run was still going when its time was over. It stays unfinished, and may go on another time."""


class Hurried(Board):
    """A board that ends a run whose time is over, and knows how long each step and each scoring of the run took."""

    def __init__(self, console: Console | None) -> None:
        super().__init__(console)
        self.deadline = float("inf")
        self.takes("")

    def takes(self, title: str) -> None:
        super().takes(title)
        self.made, self.steps, self.scorings, self.last = 0, list[float](), list[float](), float("nan")

    def stepped(self, step: int, loss: float) -> None:
        super().stepped(step, loss)
        self.made += 1
        self._took(self.steps)
        if self.last > self.deadline:
            raise OutOfTimeError

    def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
        super().scored(step, scores, metric, best)
        self._took(self.scorings)

    def _took(self, times: list[float]) -> None:
        """Something was done since the last time; when the first step began is not known."""
        before, self.last = self.last, time.monotonic()
        times += [] if math.isnan(before) else [self.last - before]

    def step_s(self, otherwise: float) -> float:
        """Seconds of the middle one of the run's steps; where fewer than two were made, what is given."""
        return float(np.median(self.steps)) if self.steps else otherwise

    def score_s(self, otherwise: float) -> float:
        """Seconds of the middle one of the run's scorings; where there was none, what is given."""
        return float(np.median(self.scorings)) if self.scorings else otherwise

    def rest(self, whole: float, step: float) -> float:
        """What is left of so many seconds when steps and scorings are taken out."""
        return max(0.0, whole - self.made * step - sum(self.scorings))
