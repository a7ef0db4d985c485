"""A template: text with holes, as a list of items that become token ids one after the other.

    <soft:3> {text} <soft> It was <mask> .

`{text}` and `{pair}` are the task's texts, `{name}` is any other column, `<soft>` and `<soft:3>` are places of soft
tokens, `<mask>` and `<mask:2>` are mask tokens, a special token of the tokenizer stands for itself (`[SEP]`), and
the rest is plain words. P-tuning's "anchor words" are such words; PET's patterns are templates without soft tokens.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from promptuary.data.tokens import Frame, Offsets, Start, Tokens
from promptuary.errors import SettingError, nearest

SOFT = -1
MARK = re.compile(r"<(soft|mask)(?::([0-9]+))?>")
ALMOST = re.compile(r"<([A-Za-z]+)([^<>{}]*)>")


@dataclass(frozen=True)
class Field:
    """A hole for the text of a column; `cut` says whether it may be shortened."""

    column: str
    cut: bool


Owner = tuple[Field, int, int]


@dataclass(frozen=True, slots=True)
class Section:
    """What an item became for one row. `spans` are the characters at which its fields stand."""

    ids: list[int]
    type: int
    blank: bool
    offsets: Offsets
    spans: list[tuple[int, int, Field]]

    def owners(self) -> list[Owner | None]:
        """For each token the field it belongs to, and the characters of that field it covers; `None` outside.

        A token belongs where its last character stands: the space before a word is part of the word's token.
        """
        owners: list[Owner | None] = [None] * len(self.ids)
        for first, behind, field in self.spans:
            for i, (begin, end) in enumerate(self.offsets):
                if first <= max(begin, end - 1) < behind:
                    owners[i] = field, max(begin - first, 0), end - first
        return owners


@dataclass(frozen=True)
class Fixed:
    """Token ids that are the same in every row; `blank` for mask tokens."""

    ids: tuple[int, ...]
    type: int = 0
    blank: bool = False

    def sections(self, tokens: Tokens, rows: Sequence[Mapping[Field, str]]) -> list[Section]:
        same = Section(list(self.ids), self.type, self.blank, [(0, 0)] * len(self.ids), [])
        return [same] * len(rows)


@dataclass(frozen=True)
class Run:
    """Words and fields that are written together, as one text."""

    pieces: tuple[str | Field, ...]
    start: Start = "begin"
    type: int = 0

    def sections(self, tokens: Tokens, rows: Sequence[Mapping[Field, str]]) -> list[Section]:
        if all(isinstance(piece, str) for piece in self.pieces):  # the same words in every row: written once
            [w] = tokens.write(["".join(map(str, self.pieces))], self.start)
            return [Section(w.ids, self.type, False, w.offsets, [])] * len(rows)
        filled = [self._filled(row) for row in rows]
        written = tokens.write([text for text, _ in filled], self.start)
        return [Section(w.ids, self.type, False, w.offsets, s) for w, (_, s) in zip(written, filled, strict=True)]

    def _filled(self, row: Mapping[Field, str]) -> tuple[str, list[tuple[int, int, Field]]]:
        text, spans = "", []
        for piece in self.pieces:
            if isinstance(piece, Field):
                spans.append((len(text), len(text) + len(row[piece]), piece))
                text += row[piece]
            else:
                text += piece
        return text, spans


Item = Fixed | Run


def plain(tokens: Tokens, fields: Sequence[Field]) -> list[Item]:
    """One or two texts with the special tokens and segment ids that the tokenizer gives them.

    A causal model reads two texts as one, with a line break between them: what its tokenizer puts there (Llama's begins
    a second text) stands in no text that it was trained on. So does any other whose tokenizer puts nothing there.
    """
    if len(fields) == 2 and (tokens.causal or not tokens.frame(2).parts[1]):
        first, second = fields
        frame = tokens.frame(1)
        return _framed(frame, [Run((first, "\n", second), type=frame.texts[0])])
    frame = tokens.frame(len(fields))
    items: list[Item] = [Fixed(frame.parts[0], frame.types[0])]
    for i, field in enumerate(fields):
        items += [Run((field,), type=frame.texts[i]), Fixed(frame.parts[i + 1], frame.types[i + 1])]
    return items


def parse(template: str, tokens: Tokens, fields: Mapping[str, Field]) -> list[Item]:
    """The items of a template, with the tokenizer's special tokens around them.

    Arguments:
        fields: what the names in braces stand for.

    Raises:
        SettingError: for an unknown field, an unknown or broken mark, a mask where the tokenizer has none.
    """
    special = sorted(tokens.tokenizer.all_special_tokens, key=len, reverse=True)
    either = "|".join([MARK.pattern, *(re.escape(s) for s in special)])
    frame = tokens.frame(1)
    items: list[Item] = []
    end = 0
    for found in re.finditer(either, template):
        items += _run(template, end, found.start(), fields, frame.texts[0])
        items.append(_mark(found, tokens, frame.texts[0]))
        end = found.end()
    items += _run(template, end, len(template), fields, frame.texts[0])
    if not any(isinstance(piece, Field) for item in items if isinstance(item, Run) for piece in item.pieces):
        raise SettingError(f"template {template!r} holds no text. Write {{text}} where the row's text belongs.")
    return _framed(frame, items)


def columns(template: str) -> tuple[str, ...]:
    """The names in braces in a template, in order."""
    return tuple(re.findall(r"\{([^{}]*)\}", template))


def marks(template: str) -> int:
    """How many soft tokens a template marks."""
    return sum(int(found.group(2) or 1) for found in MARK.finditer(template) if found.group(1) == "soft")


def soft_tokens(items: Iterable[Item]) -> int:
    """How many places of soft tokens there are."""
    return sum(item.ids.count(SOFT) for item in items if isinstance(item, Fixed))


def blanks(items: Iterable[Item]) -> int:
    """How many mask tokens there are."""
    return sum(len(item.ids) for item in items if isinstance(item, Fixed) and item.blank)


def _framed(frame: Frame, items: Sequence[Item]) -> list[Item]:
    return [Fixed(frame.parts[0], frame.types[0]), *items, Fixed(frame.parts[-1], frame.types[-1])]


def _mark(found: re.Match[str], tokens: Tokens, kind: int) -> Fixed:
    name, count = found.group(1), int(found.group(2) or 1)
    if count < 1:
        raise SettingError(f"{found.group()!r} in the template: expected 1 or more.")
    if name == "soft":
        return Fixed((SOFT,) * count, kind)
    if name == "mask":
        return Fixed((tokens.mask,) * count, kind, blank=True)
    token = int(tokens.tokenizer.convert_tokens_to_ids(found.group()))
    return Fixed((token,), kind, blank=token == tokens.tokenizer.mask_token_id)


def _run(template: str, begin: int, end: int, fields: Mapping[str, Field], kind: int) -> list[Item]:
    text = template[begin:end]
    _no_typing_slip(text)
    words = text.strip()
    if not words:
        return []
    spaced = template[:begin].strip() != "" and (text[0].isspace())
    start: Start = "begin" if not template[:begin].strip() else "spaced" if spaced else "glued"
    return [Run(_pieces(words, fields), start, kind)]


def _pieces(text: str, fields: Mapping[str, Field]) -> tuple[str | Field, ...]:
    pieces: list[str | Field] = []
    for i, piece in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if i % 2:
            pieces.append(_field(piece, fields))
        elif "{" in piece or "}" in piece:
            raise SettingError(f"template: the brace in {piece.strip()!r} has no partner. Write fields as {{text}}.")
        elif piece:
            pieces.append(piece)
    return tuple(pieces)


def _field(name: str, fields: Mapping[str, Field]) -> Field:
    if name not in fields:
        raise SettingError(f"template: there is no field {{{name}}}. {nearest(name, fields)}")
    return fields[name]


def _no_typing_slip(text: str) -> None:
    for found in ALMOST.finditer(text):
        hint = nearest(found.group(1).lower(), ("soft", "mask"))
        if "Did you mean" in hint:
            raise SettingError(
                f"template: {found.group()!r} is no mark. {hint} Write <soft>, <soft:3>, <mask> or <mask:2>."
            )
