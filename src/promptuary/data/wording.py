"""From the rows of a task to token ids, for tasks whose answer is a class or a text.

Without a template, texts are written as the backbone's tokenizer writes one or two texts; with one, as the template
says (`data/template.py`). What is cut when a row is long is told in `data/writing.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptuary.data import template as templates
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task, written
from promptuary.data.template import SOFT, Field, Item
from promptuary.data.writing import Line
from promptuary.errors import DataError, SettingError


@dataclass(frozen=True)
class Answer:
    """What is known of a row's answer."""

    label: int | None = None
    target: list[int] | None = None


class Wording(Encoder):
    """How the rows of a task with one class or one text a row are written.

    Arguments:
        template: see `data/template.py`; `None` writes the texts as the tokenizer writes one or two texts.
        columns: further columns that a template may name.
        reserved: how many places behind the input a causal model needs for what it writes.
        longest: the most tokens that a text to be written may have (the places of a decoder); `None` for any number.
        tokenizer, max_length, room, causal: see `Encoder`.

    Raises:
        SettingError: for a template that cannot be filled, for lengths that do not fit.
    """

    def __init__(
        self,
        tokenizer: Any,
        task: Task,
        *,
        template: str | None = None,
        columns: Iterable[str] = (),
        max_length: int | None = None,
        room: int | None = None,
        reserved: int = 0,
        longest: int | None = None,
        causal: bool = False,
    ) -> None:
        self.template, self._columns, self._reserved, self._longest = template, tuple(columns), reserved, longest
        super().__init__(tokenizer, task, max_length=max_length, room=room, causal=causal)

    def _layout(self) -> tuple[list[Item], list[Field]]:
        if self.template is None:
            return super()._layout()
        named = _names(self._texts, self._columns)
        items = templates.parse(self.template, self.tokens, named)
        return items, _used(self.template, self._texts, named)

    def label_tokens(self, words: Sequence[str] | None = None) -> list[list[int]]:
        """The token ids of each class's words (by default its name), as they stand inside a sentence."""
        return self.tokens.words(self.task.words if words is None else words)

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of texts that the backbone should write, with their end."""
        return self.tokens.targets(texts)

    def _encode(self, rows: Sequence[Row], labelled: bool) -> list[Example]:
        answers = self._answers(rows, labelled)
        reserved = [max(self._reserved, len(a.target or ())) if self.tokens.causal else 0 for a in answers]
        filled, places = [self._filled(row) for row in rows], [row.place for row in rows]
        lines = self.writer.write(filled, places, reserved, owners=self.tells_fields)
        return [
            Example(
                line.ids, line.types, label=a.label, target=a.target, blanks=line.blanks or None,
                fields=self._told(line), cut=line.cut,
            )
            for line, a in zip(lines, answers, strict=True)
        ]  # fmt: skip

    def _told(self, line: Line) -> list[int] | None:
        """Which of the texts each token is of: 1 the first, 2 the second, 0 none."""
        numbers = {field: number for number, field in enumerate(self._texts, 1)}
        return [0 if o is None else numbers.get(o[0], 0) for o in line.owners] if self.tells_fields else None

    def _filled(self, row: Row) -> dict[Field, str]:
        texts = {field: written(row, field.column) for field in self.fields}
        return texts if self.template is None else {field: text.strip() for field, text in texts.items()}

    def target(self, ids: list[int], row: Row) -> list[int]:
        """The token ids of the text that a row should produce.

        Raises:
            DataError: where the decoder has no places for so many.
        """
        if self._longest is not None and len(ids) > self._longest:
            raise DataError(
                f"{row.place}: {self.task.label!r} is {len(ids)} tokens long, and the model writes {self._longest} at "
                "most. Shorten it, or leave the row out."
            )
        return ids

    def _answers(self, rows: Sequence[Row], labelled: bool) -> list[Answer]:
        answer = ANSWERS[self.task.kind]
        return (
            answer(self, rows)
            if labelled and self.task.label is not None
            else [Answer(UNKNOWN[self.task.kind])] * len(rows)
        )


def _classes(wording: Wording, rows: Sequence[Row]) -> list[Answer]:
    return [Answer(label=wording.task.index(row)) for row in rows]


def _texts(wording: Wording, rows: Sequence[Row]) -> list[Answer]:
    assert wording.task.label is not None
    column = wording.task.label
    texts = wording.targets([written(row, column) for row in rows])
    return [Answer(target=wording.target(ids, row)) for ids, row in zip(texts, rows, strict=True)]


ANSWERS: Mapping[str, Callable[[Wording, Sequence[Row]], list[Answer]]] = {"classification": _classes, "text": _texts}
UNKNOWN: Mapping[str, int | None] = {"classification": -1, "text": None}


def frequent(examples: Iterable[Example], tokenizer: Any, n: int = 5000) -> list[int]:
    """The `n` most frequent token ids of the examples' inputs, without special ones: where a prompt may start.

    Lester et al. 2021 take the first 5,000 ids of T5, which are ordered by frequency; other vocabularies are not.
    """
    counts: Counter[int] = Counter()
    for example in examples:
        counts.update(example.ids)
    for token in (SOFT, *tokenizer.all_special_ids):
        counts.pop(int(token), None)
    return [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]


def _names(own: Sequence[Field], columns: Iterable[str]) -> dict[str, Field]:
    named = {column: Field(column, cut=False) for column in columns}
    named |= dict(zip(("text", "pair"), own, strict=False))
    return named | {field.column: field for field in own}


def _used(template: str, own: Sequence[Field], named: Mapping[str, Field]) -> list[Field]:
    used = list(dict.fromkeys(named[name] for name in templates.columns(template)))
    missing = [name for name, field in zip(("text", "pair"), own, strict=False) if field not in used]
    if missing:
        raise SettingError(
            f"template {template!r} does not use {{{missing[0]}}}, a text of this task. "
            "Write it into the template, or leave that column out of the task."
        )
    return used
