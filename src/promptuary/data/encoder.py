"""The wording that fits a task: one look-up, so that nothing else asks what kind a task is."""

from collections.abc import Iterable
from typing import Any, Protocol

from promptuary.data.answering import AnswerWording
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.tagging import TagWording
from promptuary.data.task import Task
from promptuary.data.tokens import Tokens
from promptuary.data.wording import Wording
from promptuary.errors import SettingError


class Encoder(Protocol):
    """Whatever turns the rows of its task into examples."""

    task: Task
    tokens: Tokens

    def encode(self, rows: Iterable[Row], *, labelled: bool = True) -> list[Example]:
        """The rows as token ids; `labelled` says whether they carry their answers."""


def encoder(
    tokenizer: Any,
    task: Task,
    *,
    template: str | None = None,
    columns: Iterable[str] = (),
    max_length: int | None = None,
    room: int | None = None,
    causal: bool = False,
) -> Encoder:
    """The wording of a task; arguments as for `Wording`.

    Raises:
        SettingError: for a template where words or spans are to be found, and whatever the wordings raise.
    """
    spans: dict[str, type[TagWording] | type[AnswerWording]] = {"tagging": TagWording, "answering": AnswerWording}
    if task.kind not in spans:
        return Wording(
            tokenizer, task, template=template, columns=columns, max_length=max_length, room=room, causal=causal
        )
    if template is not None:
        raise SettingError(
            f"template={template!r} with a task of kind {task.kind!r}: expected none, its rows are written plainly."
        )
    return spans[task.kind](tokenizer, task, max_length=max_length, room=room, causal=causal)
