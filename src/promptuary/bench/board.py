"""What a study tells while it runs: a bar of its trials, and below it the run at hand."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from promptuary.train.alarms import Alarm


class Board:
    """Two bars on a terminal; elsewhere a line for each finished trial. As `promptuary.train.progress.Progress`, it is
    told of the run at hand.

    Arguments:
        console: `None` is silent.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=console is None or not console.is_terminal, transient=True,
        )  # fmt: skip
        self.study = self.bars.add_task("trials", total=None)
        self.run = self.bars.add_task("", total=None, visible=False)
        self.title = ""

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def stands(self, done: int, total: int) -> None:
        """So many trials are finished, by whomever."""
        self.bars.update(self.study, completed=done, total=total)

    def takes(self, title: str) -> None:
        """A trial begins."""
        self.title = title
        self.bars.update(self.run, description=title, total=None, completed=0, visible=True)

    def says(self, sentence: str) -> None:
        """Something worth a line."""
        if self.console is not None:
            self.console.print(sentence, highlight=False, markup=False)

    # --- the run at hand ---

    def begin(self, total: int, done: int) -> None:
        self.bars.update(self.run, total=total, completed=done)

    def stepped(self, step: int, loss: float) -> None:
        self.bars.update(self.run, completed=step)

    def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
        self.bars.update(self.run, description=f"{self.title}, {metric} {scores[metric]:.3f}")

    def alarmed(self, alarm: Alarm) -> None: ...

    def end(self) -> None:
        self.bars.update(self.run, visible=False)
