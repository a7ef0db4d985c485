"""What was asked of an engine and is not answered yet, and the way of answers back to the event loop."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from promptuary.backbones.generation import Generation
from promptuary.sharing import Asked

Ended = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """Some of a text that is being written.

    Arguments:
        ids: its tokens; those that were not told yet because their characters were not sure.
        ended: with the last piece, why it is the last: the text is at its end, or as long as it may be.
    """

    text: str
    ids: tuple[int, ...]
    ended: Ended | None = None


@dataclass(eq=False)
class Job:
    """A row that waits for its answer.

    Arguments:
        answers: where the event loop finds an answer, pieces of one, or an exception.
        gone: nobody waits for it any more.
    """

    asked: Asked
    answers: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    gone: bool = False
    since_s: float = field(default_factory=time.monotonic)

    def over(self, told: Any) -> bool:
        """Whether nothing follows what was told."""
        return True


@dataclass(eq=False)
class Writing(Job):
    """A row that waits for a text; `stop` are strings that end it."""

    how: Generation = field(default_factory=Generation)
    stop: tuple[str, ...] = ()

    def over(self, told: Any) -> bool:
        piece: Piece = told
        return piece.ended is not None

    @property
    def tokens(self) -> int:
        """The most that its row may ever have, soft ones counted, also where these are keys and values already."""
        return self.asked.positions + self.how.max_new_tokens


class Post:
    """Brings what a thread has to tell to an event loop: whatever is ready, with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: list[tuple[Job, Any]] = []

    def tell(self, job: Job, what: Any) -> None:
        """Put an answer, a piece or an exception with what goes next."""
        self._ready.append((job, what))

    def send(self) -> None:
        """Bring what is ready."""
        ready, self._ready = self._ready, []
        if ready:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and whoever waited went with it
                self._loop.call_soon_threadsafe(_deliver, ready)


def _deliver(ready: list[tuple[Job, Any]]) -> None:
    for job, what in ready:
        job.answers.put_nowait(what)
