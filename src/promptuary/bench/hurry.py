"""A clock for runs that must end in time."""

import time

import numpy as np
from rich.console import Console

from promptuary.bench.board import Board


class OutOfTimeError(Exception):
    """A run was still going when its time was over. It stays unfinished, and may go on another time."""


class Hurried(Board):
    """A board that ends a run whose time is over, and knows when each step of the run was made."""

    def __init__(self, console: Console | None) -> None:
        super().__init__(console)
        self.deadline, self.times = float("inf"), list[float]()

    def begin(self, total: int, done: int) -> None:
        super().begin(total, done)
        self.times = []

    def stepped(self, step: int, loss: float) -> None:
        super().stepped(step, loss)
        self.times.append(time.monotonic())
        if self.times[-1] > self.deadline:
            raise OutOfTimeError

    @property
    def step_s(self) -> float | None:
        """Seconds of the middle one of the run's steps, as far as there are two."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else None
