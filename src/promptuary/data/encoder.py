"""What every wording does, whatever its task: rows of a task in, token ids out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from promptuary.data import template as templates
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.data.template import Field, Item
from promptuary.data.tokens import Tokens
from promptuary.data.writing import Limit, Writer

CHUNK = 1024  # tokenizers are fast on many texts at once, and memory stays bounded


class Encoder(ABC):
    """How the rows of one task are written for one backbone; `soft` is how many places of soft tokens each row has.

    Arguments:
        tokenizer: the backbone's.
        max_length: the length to which texts are cut, special tokens counted, soft tokens not; `None` never cuts.
        room: how many tokens fit beside the prompt (`SoftPrompted.room`).
        causal: the backbone is a causal model: the input stays open at its end, and targets continue it.

    Raises:
        SettingError: for lengths that do not fit.
    """

    def __init__(
        self,
        tokenizer: Any,
        task: Task,
        *,
        max_length: int | None = None,
        room: int | None = None,
        causal: bool = False,
    ) -> None:
        self.task, self.tokens = task, Tokens(tokenizer, causal=causal)
        self.tells_fields = False  # whether examples say which text a token is of; a prompt may ask for it
        items, self.fields = self._layout()
        self.soft, self.blanks = templates.soft_tokens(items), templates.blanks(items)
        self.writer = Writer(self.tokens, items, self.fields, Limit(max_length, room))

    def encode(self, rows: Iterable[Row], *, labelled: bool = True) -> list[Example]:
        """The rows as token ids.

        Arguments:
            labelled: whether rows carry their answers.

        Raises:
            DataError: for a row that lacks a text or a known answer, or is too long.
        """
        return [example for chunk in self.chunks(rows, labelled=labelled) for example in chunk]

    def chunks(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[list[Example]]:
        """As `encode`, some of them at a time."""
        remaining = iter(rows)
        while chunk := list(islice(remaining, CHUNK)):
            yield self._encode(chunk, labelled)

    def _layout(self) -> tuple[list[Item], list[Field]]:
        """What a row is written as, and the fields it is filled from: the texts, one after the other."""
        return templates.plain(self.tokens, self._texts), self._texts

    @property
    def _texts(self) -> list[Field]:
        return [Field(column, cut=True) for column in (self.task.text, self.task.text_pair) if column is not None]

    @abstractmethod
    def _encode(self, rows: Sequence[Row], labelled: bool) -> list[Example]:
        """Some rows as token ids."""
