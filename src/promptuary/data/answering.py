"""Questions and contexts as token ids, for tasks whose answer is a span of the context."""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from promptuary.data import template as templates
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import column, written
from promptuary.data.template import Field, Item
from promptuary.errors import DataError

Span = tuple[int, int]
NOWHERE = (-1, -1)


class AnswerWording(Encoder):
    """How the rows of a question-answering task are written: the question, then the context.

    Examples hold the tokens that answers may consist of and the span of the first answer. Only the context is cut;
    where the answer is cut off, the span is -1.
    """

    def _layout(self) -> tuple[list[Item], list[Field]]:
        fields = [Field(self.task.text, cut=False), Field(str(self.task.text_pair), cut=True)]
        return templates.plain(self.tokens, fields), fields

    def _encode(self, rows: Sequence[Row], labelled: bool) -> list[Example]:
        texts = [{field: written(row, field.column) for field in self.fields} for row in rows]
        places, hole = [row.place for row in rows], self.fields[1]
        lines = self.writer.write(texts, places, [0] * len(rows), owners=True)
        known = labelled and self.task.label is not None
        examples = []
        for row, text, line in zip(rows, texts, lines, strict=True):
            context = [owner[1:] if owner and owner[0] == hole else None for owner in line.owners]
            answer = answer_span(row, str(self.task.label), text[hole]) if known else NOWHERE
            span = _tokens(context, answer, cut=line.cut > 0) if known else None
            examples.append(Example(line.ids, line.types, span=span, context=context, cut=line.cut))
        return examples


def answer_span(row: Row, name: str, context: str) -> Span:
    """The characters of the row's first answer in its context, or -1 where it has none there.

    Answers are a list of objects with `text` and `answer_start`, or (as SQuAD on the hub) one object of two lists.
    White space at the ends of an answer is no part of it.

    Raises:
        DataError: when the column holds something else, or the answer does not stand at `answer_start`.
    """
    text, start = next(iter(_answers(row, name)), ("", -1))
    if start < 0:
        return NOWHERE
    if not text.strip():
        raise DataError(f"{row.place}: {name!r} has a blank answer, {text!r}. Write [] where there is none.")
    if context[start : start + len(text)] != text:
        raise DataError(
            f"{row.place}: the answer {text[:60]!r} does not stand at character {start} of the context, where it says "
            f"{context[start : start + len(text)][:60]!r}. Count characters from 0, or write -1."
        )
    begin = start + len(text) - len(text.lstrip())
    return begin, begin + len(text.strip())


def accepted(row: Row, name: str) -> list[str]:
    """The texts of all of a row's answers, `[""]` where it has none.

    Raises:
        DataError: when the column holds something else than `answer_span` reads.
    """
    return [text for text, _ in _answers(row, name)] or [""]


def answer_text(context: str, example: Example, first: int, last: int) -> str:
    """The part of the context from token `first` to token `last` of the example."""
    assert example.context is not None
    begin, end = example.context[first], example.context[last]
    if begin is None or end is None:
        return ""
    stop = end[1]
    while stop < len(context) and unicodedata.category(context[stop]).startswith("M"):
        stop += 1  # accents and vowel signs of the last letter, which many tokenizers read over
    return context[begin[0] : stop].strip()


def _answers(row: Row, name: str) -> list[tuple[str, int]]:
    match column(row, name):
        case {"text": [*texts], "answer_start": [*starts]}:
            found = list(zip_longest(texts, starts))
        case [*answers]:
            found = [(a.get("text"), a.get("answer_start")) if isinstance(a, dict) else (a, None) for a in answers]
        case other:
            found = [(other, None)]
    for text, start in found:
        if not isinstance(text, str) or not isinstance(start, int):
            raise DataError(
                f"{row.place}: {name!r} holds {str(column(row, name))[:60]!r}. "
                'Expected a list such as [{"text": "in May", "answer_start": 17}].'
            )
    return found


def _tokens(context: Sequence[Span | None], answer: Span, *, cut: bool) -> Span:
    """Columns of the first and last token of an answer, or -1 where a part of it was cut off."""
    begin, end = answer
    covering = [i for i, part in enumerate(context) if part is not None and part[0] < end and part[1] > begin]
    if answer == NOWHERE or not covering or (cut and max(part[1] for part in context if part is not None) < end):
        return NOWHERE
    return covering[0], covering[-1]
