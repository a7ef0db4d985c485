"""What a run tells while it runs: to nobody, to a terminal as a bar, to a file as plain lines."""

from collections.abc import Mapping
from typing import IO, Protocol, runtime_checkable

from promptuary.train.alarms import Alarm


@runtime_checkable
class Progress(Protocol):
    """Told what happens, as it happens."""

    def begin(self, total: int, done: int) -> None:
        """A run of `total` steps begins, or goes on after `done` of them."""
        ...

    def stepped(self, step: int, loss: float) -> None:
        """A step was made."""
        ...

    def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
        """The validation rows were scored; `best`: better than ever before."""
        ...

    def alarmed(self, alarm: Alarm) -> None:
        """Something looks wrong."""
        ...

    def end(self) -> None:
        """The run is over, finished or not."""
        ...


class Silent:
    """Says nothing."""

    def begin(self, total: int, done: int) -> None: ...

    def stepped(self, step: int, loss: float) -> None: ...

    def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None: ...

    def alarmed(self, alarm: Alarm) -> None: ...

    def end(self) -> None: ...


class Terminal:
    """A bar with loss, best score and time left; where `file` is no terminal, a line at each scoring.

    Arguments:
        title: shown before the bar.
        file: standard error by default, so that results on standard output stay clean.
    """

    def __init__(self, title: str = "tuning", file: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.title, self.best, self.loss = title, "", ""
        self.console = Console(file=file, stderr=file is None, soft_wrap=True, highlight=False, markup=False)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(title)
        self.total = 0

    def begin(self, total: int, done: int) -> None:
        self.total = total
        self.bar.update(self.task, total=total, completed=done)
        self.bar.start()
        if done:
            said = f"goes on after step {done} of {total}" if done < total else f"had finished its {total} steps before"
            self.console.print(f"{self.title}: {said}")

    def stepped(self, step: int, loss: float) -> None:
        self.loss = f"loss {loss:.4f}"
        self.bar.update(self.task, completed=step, description=self._now())

    def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
        if best:
            self.best = f"best validation {metric} {scores[metric]:.4f}"
        self.bar.update(self.task, description=self._now())
        if not self.console.is_terminal:
            mark = " (best)" if best else ""
            score = f"validation {metric} {scores[metric]:.4f}{mark}"
            self.console.print(f"{self.title}: step {step}/{self.total}  {self.loss}  {score}")

    def alarmed(self, alarm: Alarm) -> None:
        self.console.print(f"{self.title}: {alarm.name}: {alarm.sentence}")

    def end(self) -> None:
        self.bar.stop()

    def _now(self) -> str:
        return "  ".join(part for part in (self.title, self.loss, self.best) if part)
