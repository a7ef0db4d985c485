"""Rows of words as token ids, for tasks with a tag for each word: a word's tag stands at its first token."""

from bisect import bisect_right
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate

from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Label, Task, tags, words
from promptuary.data.writing import Line

VISIBLE = "?"  # stands for a word of which a tokenizer makes no token, so that every word has a place for its tag


def entity(tag: Label) -> bool:
    """Whether a tag is one of CoNLL's: `O`, `B-kind` or `I-kind`."""
    return isinstance(tag, str) and (tag == "O" or tag[:2] in ("B-", "I-"))


def tag_index(task: Task, tag: Label, place: str) -> int:
    """The index of a tag; -1 for an entity's that no training row has, as few rows may lack some.

    Raises:
        DataError: for any other tag that no training row has, and for an entity that looks like a slip of a known one.
    """
    if task.position(tag) >= 0 or not entity(tag) or not all(map(entity, task.values)):
        return task.known(tag, place)
    kind, known = str(tag)[2:], {str(value)[2:] for value in task.values}
    slip = kind not in known and get_close_matches(kind, known, n=1, cutoff=0.8)
    return task.known(tag, place) if slip else -1


class TagWording(Encoder):
    """How the rows of a tagging task are written: the words with spaces between them.

    Words that are cut off have no token and no tag. An entity's tag that no training row has is nothing to learn from.
    """

    def _encode(self, rows: Sequence[Row], labelled: bool) -> list[Example]:
        told = [words(row, self.task.text) for row in rows]
        lines = self._lines(rows, told)
        for i, (line, own) in enumerate(zip(lines, told, strict=True)):
            heard = set(_words(line, own))
            silent = set(range(max(heard) + 1 if line.cut else len(own))) - heard
            if silent:
                told[i] = [VISIBLE if w in silent else word for w, word in enumerate(own)]
                [lines[i]] = self._lines([rows[i]], [told[i]])
        return [self._example(*row, labelled) for row in zip(rows, lines, told, strict=True)]

    def _lines(self, rows: Sequence[Row], told: Sequence[Sequence[str]]) -> list[Line]:
        [field] = self.fields
        texts = [{field: " ".join(own)} for own in told]
        return self.writer.write(texts, [row.place for row in rows], [0] * len(rows), owners=True)

    def _example(self, row: Row, line: Line, own: Sequence[str], labelled: bool) -> Example:
        first = _words(line, own)
        found = None
        if labelled and self.task.label is not None:
            known = [tag_index(self.task, tag, row.place) for tag in tags(row, self.task.label, len(own))]
            found = [-1 if word < 0 else known[word] for word in first]
        return Example(line.ids, line.types, words=first, tags=found, cut=line.cut)


def _words(line: Line, own: Sequence[str]) -> list[int]:
    """For each token the index of the word it begins, or -1."""
    starts = list(accumulate((len(word) + 1 for word in own[:-1]), initial=0))
    found, before = [], -1
    for owner in line.owners:
        word = -1 if owner is None else bisect_right(starts, max(owner[1], owner[2] - 1)) - 1
        found.append(word if word > before else -1)
        before = max(before, word)
    return found
