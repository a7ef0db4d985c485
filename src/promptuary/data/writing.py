"""Rows of fields written as token ids within a limit: what does not fit is an error, or is cut where that is allowed.

Nothing is cut unless the user says how long a text may be: a text that does not fit is an error with its place.
Where cutting is allowed, only the fields that may be cut are, the longest first, from their ends; masks, soft tokens,
words of the template and special tokens always stay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from promptuary.data.template import SOFT, Field, Item, Owner, Section
from promptuary.data.tokens import Tokens
from promptuary.errors import DataError, SettingError


@dataclass(frozen=True)
class Line:
    """One row as token ids.

    Arguments:
        ids: token ids, soft tokens as -1. types: segment ids.
        blanks: columns of mask tokens.
        owners: for each token the field it came from and the characters of that field; `None` elsewhere. Only
            where it was asked for.
        cut: how many tokens were cut off.
    """

    ids: list[int]
    types: list[int]
    blanks: list[int]
    owners: list[Owner | None]
    cut: int


@dataclass(frozen=True)
class Limit:
    """How long a row may be: `room` tokens at most, and cut to `max_length` where that is given.

    Raises:
        SettingError: when `max_length` is no length, or does not fit.
    """

    max_length: int | None
    room: int | None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise SettingError(f"max_length={self.max_length}: expected 1 or more tokens.")
        if self.max_length is not None and self.room is not None and self.max_length > self.room:
            raise SettingError(
                f"max_length={self.max_length}: beside the prompt the backbone has room for {self.room} tokens. "
                f"Write max_length={self.room} or less."
            )

    @property
    def tokens(self) -> int | None:
        """The most tokens a row may have, special ones included, soft ones not."""
        return self.room if self.max_length is None else self.max_length

    def excess(self, size: int, place: str, reserved: int = 0) -> int:
        """How many of `size` tokens must be cut off, with `reserved` places of the room kept free.

        Raises:
            DataError: when there is something to cut and nobody said that texts may be cut, or no place for a text.
        """
        room = None if self.room is None else self.room - reserved
        if room is not None and room < 1:
            raise DataError(
                f"{place}: {reserved} tokens are to be written behind the text, and there is room for {self.room} of "
                "both beside the prompt. Expected a shorter target, or fewer max_new_tokens (--max-new-tokens)."
            )
        limits = [n for n in (self.max_length, room) if n is not None]
        excess = size - min(limits, default=size)
        if excess > 0 and self.max_length is None:
            assert room is not None
            raise DataError(
                f"{place}: the text is {size} tokens long, and there is room for {room} beside the prompt. "
                f"Shorten it, or pass max_length={max(room, 1)} (--max-length {max(room, 1)}) to cut longer texts."
            )
        return max(excess, 0)


class Writer:
    """Writes rows of fields as token ids by a list of items, within a limit.

    Raises:
        SettingError: when what surrounds the texts leaves no room for them.
    """

    def __init__(self, tokens: Tokens, items: Sequence[Item], fields: Iterable[Field], limit: Limit) -> None:
        self.tokens, self.items, self.limit = tokens, list(items), limit
        smallest = sum(_size(s) for s in self._sections([dict.fromkeys(fields, "a")])[0])
        if limit.tokens is not None and smallest > limit.tokens:
            name = "max_length" if limit.max_length is not None else "room"
            raise SettingError(
                f"{name}={limit.tokens}: the template and the special tokens leave no place for a text. "
                f"Expected {smallest} tokens or more, or a shorter template."
            )

    def write(
        self,
        rows: Sequence[Mapping[Field, str]],
        places: Sequence[str],
        reserved: Sequence[int],
        *,
        owners: bool = False,
    ) -> list[Line]:
        """Each row as token ids.

        Arguments:
            reserved: how many places of the room each row must leave free (for the text that is to follow).
            owners: whether `Line.owners` is wanted.

        Raises:
            DataError: for a row that is too long, or of which nothing is left.
        """
        lines = []
        for sections, place, free in zip(self._sections(rows), places, reserved, strict=True):
            size = sum(_size(s) for s in sections)
            if size == 0:
                raise DataError(f"{place}: the tokenizer makes no token of the text. Expected visible characters.")
            lines.append(_line(sections, self.limit.excess(size, place, free), owners, place))
        return lines

    def _sections(self, rows: Sequence[Mapping[Field, str]]) -> list[tuple[Section, ...]]:
        return list(zip(*(item.sections(self.tokens, rows) for item in self.items), strict=True))


def longest_first(sizes: Sequence[int], excess: int) -> list[int]:
    """What is left of several texts when `excess` tokens are taken, each from the longest one (the first of equals)."""
    left = list(sizes)
    for _ in range(excess):
        left[left.index(max(left))] -= 1
    return left


def _size(section: Section) -> int:
    return len(section.ids) - section.ids.count(SOFT)


def _line(sections: Sequence[Section], excess: int, owners: bool, place: str) -> Line:
    found = [s.owners() if owners or excess else [None] * len(s.ids) for s in sections]
    keep = _kept(found, excess, place) if excess else None
    line = Line([], [], [], [], excess)
    for s, (section, own) in enumerate(zip(sections, found, strict=True)):
        chosen = range(len(section.ids)) if keep is None else keep[s]
        if section.blank:
            line.blanks.extend(range(len(line.ids), len(line.ids) + len(section.ids)))
        line.ids.extend(section.ids if keep is None else [section.ids[i] for i in chosen])
        line.types.extend([section.type] * len(chosen))
        if owners:
            line.owners.extend(own[i] for i in chosen)
    return line


def _kept(found: Sequence[Sequence[Owner | None]], excess: int, place: str) -> list[list[int]]:
    """For each section the tokens that stay when `excess` tokens of the fields that may be cut are taken away."""
    spots: dict[tuple[int, Field], list[int]] = {}
    for s, section in enumerate(found):
        for i, owner in enumerate(section):
            if owner is not None and owner[0].cut:
                spots.setdefault((s, owner[0]), []).append(i)
    sizes = [len(tokens) for tokens in spots.values()]
    if excess > sum(sizes) - len(sizes):
        raise DataError(
            f"{place}: even without its text the row is too long by {excess - sum(sizes) + len(sizes)} tokens. "
            "Expected shorter values in the template's other columns, a shorter target, or a larger max_length."
        )
    gone: list[set[int]] = [set() for _ in found]
    for ((s, _), tokens), left in zip(spots.items(), longest_first(sizes, excess), strict=True):
        gone[s].update(tokens[left:])
    return [[i for i in range(len(section)) if i not in gone[s]] for s, section in enumerate(found)]
