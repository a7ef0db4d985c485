"""What the application asks of whoever answers: the engine of this process, replicas elsewhere, a vLLM."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, Self

from promptuary.backbones.generation import Generation
from promptuary.data.source import Row
from promptuary.serve.jobs import Piece
from promptuary.serve.limits import Load
from promptuary.tuned import Tuned


class Answering(Protocol):
    """Answers requests while its context is entered. For what its methods promise and raise see `Engine`."""

    @property
    def load(self) -> Load:
        """What there is to do, and what was done."""

    @property
    def alive(self) -> bool:
        """Whether new requests have any prospect of an answer."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def admit(self, rows: int) -> None:
        """Refuse a request of so many rows where they have no room together."""

    async def predict(self, task: str, row: Row, *, version: Tuned | None = None) -> Any:
        """The answer of the task's kind to a row."""

    def write(
        self,
        task: str | None,
        text: str | list[int],
        how: Generation,
        *,
        stop: Sequence[str] = (),
        version: Tuned | None = None,
    ) -> AsyncIterator[Piece]:
        """The text that the model goes on with under a task's prompt, piece by piece."""

    async def embed(self, task: str | None, text: str, *, version: Tuned | None = None) -> list[float]:
        """The vector of a text under a task's prompt."""
