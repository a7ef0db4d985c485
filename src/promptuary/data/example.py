"""One row as token ids, with what its read-out needs to know. Plain lists: thousands of them cost little."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row.

    Arguments:
        ids: token ids; -1 marks the place of a soft token.
        types: segment ids.
        label: index of the class, or -1 where it is unknown; `None` for tasks without classes.
        target: token ids of the text the row should produce.
        blanks: columns of the mask tokens, in order.
        words: for tagging, the index of the word each token begins, or -1.
        tags: for tagging, the class of each token where `words` is not -1, else -1.
        span: for question answering, columns of the answer's first and last token; -1 where it has none.
        context: for question answering, the span of characters of the context each token covers, or `None`.
        fields: which text of the row each token belongs to: 1 the first, 2 the second, 0 none; where it was asked for.
        cut: how many tokens of the row's text were cut off.
    """

    ids: list[int]
    types: list[int]
    label: int | None = None
    target: list[int] | None = None
    blanks: list[int] | None = None
    words: list[int] | None = None
    tags: list[int] | None = None
    span: tuple[int, int] | None = None
    context: list[tuple[int, int] | None] | None = None
    fields: list[int] | None = None
    cut: int = 0


def digest(*sets: Iterable[Example]) -> str:
    """A hash of the examples of several sets, which tells one data set (and one order of it) from another."""
    made = hashlib.blake2b(digest_size=16)
    for examples in sets:
        made.update(b"set")  # a row that moves from one to the other is a change
        for e in examples:
            made.update(json.dumps([e.ids, e.types, e.label, e.target, e.tags, e.span]).encode())
    return made.hexdigest()
