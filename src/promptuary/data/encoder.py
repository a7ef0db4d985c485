"""What every wording can do, whatever its tasks are."""

from collections.abc import Iterable
from typing import Protocol

from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.data.tokens import Tokens


class Encoder(Protocol):
    """Whatever turns the rows of its task into examples; `soft` is how many places of soft tokens each row has."""

    task: Task
    tokens: Tokens
    soft: int

    def encode(self, rows: Iterable[Row], *, labelled: bool = True) -> list[Example]:
        """The rows as token ids; `labelled` says whether they carry their answers."""
