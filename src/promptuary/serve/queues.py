"""Requests that wait for the model: who is let in, who has gone, and who is next."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from promptuary.errors import BusyError, StoppedError
from promptuary.serve.jobs import Job, Writing
from promptuary.serve.limits import Limits, Load
from promptuary.serve.waiting import chosen


@dataclass(frozen=True)
class Room:
    """What of the limits is taken by texts that are being written: rows, and tokens of the longest."""

    rows: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Round:
    """What the model does next, before the next token of all texts that are being written.

    Arguments:
        rows: that are read for their answers in one pass.
        beams: texts that are written by themselves, in one pass.
        texts: that join those that are being written.
    """

    rows: Sequence[Job] = ()
    beams: Sequence[Writing] = ()
    texts: Sequence[Writing] = ()


class Queues:
    """Waiting requests. Event loop and worker share them by one lock, which nobody holds while something runs.

    Arguments:
        load: what was done so far, by which a refused request is told when to come again.
    """

    def __init__(self, limits: Limits, load: Callable[[], Load]) -> None:
        self._limits, self._load = limits, load
        self._changed = threading.Condition()
        self._rows: deque[Job] = deque()
        self._texts: deque[Writing] = deque()
        self._beams: deque[Writing] = deque()
        self._coming = 0  # accepted, and in no queue yet
        self._closed = self._abandoned = self._somebody_left = False

    def __len__(self) -> int:
        """How many requests wait."""
        return self._coming + len(self._rows) + len(self._texts) + len(self._beams)

    def admit(self, rows: int) -> None:
        """Refuse a request where not all of its rows have room.

        Raises:
            SettingError: for more rows than may ever wait.
            BusyError, StoppedError: as `accepted`.
        """
        self._limits.check(rows)
        with self._changed:
            self._check(rows)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """While a request is on its way into its queue.

        Raises:
            BusyError: where too many wait, or no more are accepted.
            StoppedError: where nobody answers any more; so do `read` and `write`.
        """
        with self._changed:
            self._check(1)
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    def read(self, job: Job) -> None:
        """Queue a row for its answer."""
        with self._changed:
            self._served()
            self._rows.append(job)

    def write(self, job: Writing) -> None:
        """Queue a row for a text."""
        with self._changed:
            self._served()
            (self._texts if job.how.beams == 1 else self._beams).append(job)

    def dismiss(self, job: Job) -> None:
        """Nobody waits for this request any more."""
        with self._changed:
            job.gone = self._somebody_left = True
            self._changed.notify()

    def close(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abandoned(self) -> list[Job]:
        """Everything that waits, where nobody will do it; whatever is still on its way is refused."""
        with self._changed:
            self._closed = self._abandoned = True
            return [*self._rows, *self._texts, *self._beams]

    def next(self, taken: Room) -> Round | None:
        """What to do next, as soon as there is something; `None` when all is done and nothing more will come."""
        with self._changed:
            while not self._due(taken):
                if self._closed and not len(self):
                    return None
                self._changed.wait(self._patience_s())
            waiting = list(self._rows) if self._rows_due() else []
        rows = _batch(waiting, self._limits)  # takes a while where many wait
        with self._changed:
            held = set(map(id, rows))
            self._rows = deque(job for job in self._rows if id(job) not in held)
            return Round(rows, self._alike(), self._joining(taken))

    def _due(self, taken: Room) -> bool:
        """Whether there is something to do now."""
        if self._somebody_left:
            self._rows = deque(job for job in self._rows if not job.gone)
            self._texts = deque(job for job in self._texts if not job.gone)
            self._beams = deque(job for job in self._beams if not job.gone)
            self._somebody_left = False
        return bool(taken.rows or self._texts or self._beams or self._rows_due())

    def _rows_due(self) -> bool:
        full = len(self._rows) >= self._limits.rows
        return bool(self._rows) and (full or self._closed or self._patience_s() == 0)

    def _patience_s(self) -> float | None:
        """How much longer the first row waits for company."""
        if not self._rows:
            return None
        return max(0.0, self._rows[0].since_s + self._limits.wait_s - time.monotonic())

    def _joining(self, taken: Room) -> list[Writing]:
        """Texts that may join now, in the order in which they came: what they need is kept free."""
        found: list[Writing] = []
        longest, widest = taken.longest, 0
        while self._texts:
            job, count = self._texts[0], len(found) + 1
            longest, widest = max(longest, job.tokens), max(widest, job.asked.columns)
            rows = taken.rows + count
            if rows > self._limits.rows or (rows > 1 and rows * longest > self._limits.cache):
                break
            if count > 1 and count * widest > self._limits.tokens:
                break
            found.append(self._texts.popleft())
        return found

    def _alike(self) -> list[Writing]:
        """The first text with beams, and others that are written in the same way. What is drawn is drawn alone."""
        if not self._beams:
            return []
        found = [self._beams.popleft()]
        first, precision = found[0].how, found[0].asked.tuned.precision
        while self._beams and first.sampling is None and (len(found) + 1) * first.beams <= self._limits.rows:
            if (self._beams[0].how, self._beams[0].asked.tuned.precision) != (first, precision):
                break
            found.append(self._beams.popleft())
        return found

    def _served(self) -> None:
        if self._abandoned:
            raise StoppedError("The engine has stopped. Start it again.")

    def _check(self, rows: int) -> None:
        self._served()
        if self._closed:
            raise BusyError("The server is shutting down and takes no more requests. Ask again in a moment.", 1.0)
        if len(self) + rows > self._limits.queue:
            done = self._load()
            retry_s = min(60.0, max(0.1, len(self) * done.seconds / max(1, done.rows)))
            raise BusyError(
                f"{len(self)} requests wait already, and there is room for {self._limits.queue}. "
                f"Ask again in {retry_s:.1f} seconds.",
                retry_s,
            )


def _batch(waiting: Sequence[Job], limits: Limits) -> list[Job]:
    """The rows of the next pass, which are of one precision."""
    alike = [job for job in waiting if job.asked.tuned.precision == waiting[0].asked.tuned.precision]
    numbers = chosen([job.asked.columns for job in alike], rows=limits.rows, tokens=limits.tokens) if alike else []
    return [alike[n] for n in numbers]
