"""What a task is: which columns hold its text, which its answer, and the classes its answers come from.

A task is made once, from training rows, and travels with the prompt that was tuned for it. Every row that is read
afterwards is read through it, so that a column that is missing, a text that is empty or a label nobody trained on
is an error with the row's place, in training and in serving alike.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from promptuary.data.source import Row
from promptuary.errors import CheckpointError, DataError, nearest

Kind = Literal["classification", "text", "tagging", "answering"]
Label = str | int | bool


@dataclass(frozen=True)
class Task:
    """One task.

    Arguments:
        name: what the user calls it.
        kind: one class a row, a text a row, a tag a word, or a span of the context as the answer to a question.
        text: the column of the text (of the words for tagging, of the question for question answering).
        text_pair: the column of a second text (of the context for question answering), or `None`.
        label: the column of the answer, or `None` where rows have none.
        values: the classes as they stand in the data, in the order of their indices; predictions are written so.
    """

    name: str
    kind: Kind
    text: str
    text_pair: str | None = None
    label: str | None = None
    values: tuple[Label, ...] = ()
    _index: Mapping[tuple[bool, Label], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {_key(value): i for i, value in enumerate(self.values)}
        object.__setattr__(self, "_index", MappingProxyType(index))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; booleans are named as in JSON, `false` and `true`."""
        return tuple(named(value) for value in self.values)

    @property
    def words(self) -> tuple[str, ...]:
        """The names of the classes as words: underscores become spaces."""
        return tuple(" ".join(name.replace("_", " ").split()) or name for name in self.labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows with answers have: text, second text, answer."""
        return tuple(name for name in (self.text, self.text_pair, self.label) if name is not None)

    def texts(self, row: Row) -> tuple[str, ...]:
        """The row's text, and its second text where the task has one.

        Raises:
            DataError: when a column is missing, or holds no text.
        """
        columns = (self.text,) if self.text_pair is None else (self.text, self.text_pair)
        return tuple(written(row, column) for column in columns)

    def said(self, row: Row) -> tuple[str, ...]:
        """What the row says, in whatever its kind of task has: its texts, or its words.

        Raises:
            DataError: when a column is missing, or holds no such thing.
        """
        return tuple(words(row, self.text)) if self.kind == "tagging" else self.texts(row)

    def index(self, row: Row) -> int:
        """The index of the row's class.

        Raises:
            DataError: when the label is missing, or was not seen in training.
        """
        assert self.label is not None
        return self.known(label_of(row, self.label), row.place)

    def position(self, value: Label) -> int:
        """The index of a label, -1 where it was not seen in training."""
        return self._index.get(_key(value), -1)

    def known(self, value: Label, place: str) -> int:
        """The index of a label that was read at `place`.

        Raises:
            DataError: when the label was not seen in training.
        """
        index = self.position(value)
        if index < 0:
            shown = ", ".join(_shown(v) for v in self.values[:20]) + (", ..." if len(self.values) > 20 else "")
            raise DataError(f"{place}: label {_shown(value)} does not occur in the training rows, which know {shown}.")
        return index

    def to_json(self) -> dict[str, Any]:
        """The task as a dictionary of plain values, for checkpoints."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        return plain | {"values": list(self.values)}

    @staticmethod
    def from_json(plain: Any) -> "Task":
        """The task that `to_json` wrote.

        Raises:
            CheckpointError: when something else is given.
        """
        match plain:
            case {
                "name": str(),
                "kind": str(kind),
                "text": str(),
                "text_pair": _,
                "label": _,
                "values": list(values),
            } if kind in get_args(Kind) and len(plain) == 6 and all(type(v) in (str, int, bool) for v in values):
                return Task(**plain | {"values": tuple(values)})
        raise CheckpointError(f"{str(plain)[:200]} is no task. Expected what Task.to_json() returns.")


def classification(
    rows: Iterable[Row],
    *,
    name: str,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    classes: tuple[Label, ...] = (),
) -> Task:
    """A task with one class a row. The classes are those of the training rows, sorted; numbers by size.

    Arguments:
        classes: all classes in their order, where they are known; rows need not show each.

    Raises:
        DataError: for a row whose columns do not hold a text and a label, for labels of different types, for fewer
            than two classes.
    """
    blank = Task(name, "classification", text, text_pair, label, classes)
    found: dict[Label, str] = {}
    for row in rows:
        blank.texts(row)
        if classes:
            blank.index(row)
        else:
            _collect(found, label_of(row, label), row.place)
    if classes:
        return blank
    return Task(name, "classification", text, text_pair, label, _classes(found, label))


def tagging(rows: Iterable[Row], *, name: str, text: str = "tokens", label: str = "tags") -> Task:
    """A task with one tag a word: rows with a list of words and a list of as many tags.

    Raises:
        DataError: for a row whose columns do not hold such lists, for fewer than two tags.
    """
    found: dict[Label, str] = {}
    for row in rows:
        for tag in tags(row, label, len(words(row, text))):
            _collect(found, tag, row.place)
    return Task(name, "tagging", text, None, label, _classes(found, label))


def text_to_text(*, name: str, text: str = "text", text_pair: str | None = None, label: str | None = "target") -> Task:
    """A task with a text a row as its answer."""
    return Task(name, "text", text, text_pair, label)


def answering(
    *, name: str, question: str = "question", context: str = "context", label: str | None = "answers"
) -> Task:
    """A task whose answers are spans of a context."""
    return Task(name, "answering", question, context, label)


def column(row: Row, name: str) -> Any:
    """What the row holds in a column.

    Raises:
        DataError: when the column is missing, with the nearest one.
    """
    if name not in row.fields:
        known = ", ".join(repr(c) for c in row.fields) or "none"
        raise DataError(
            f"{row.place}: there is no column {name!r}; the columns are {known}. {_nearest(name, row)}".rstrip()
        )
    return row.fields[name]


def written(row: Row, name: str) -> str:
    """The text in a column.

    Raises:
        DataError: when there is none, or it is blank, or no text.
    """
    value = column(row, name)
    if value is None:
        raise DataError(f"{row.place}: {name!r} is null. Expected a text.")
    if not isinstance(value, str):
        raise DataError(
            f"{row.place}: {name!r} holds {_shown(value)}, which is {_type(value)}. Expected a text; "
            "name the column that holds one, or put the value in quotes."
        )
    if not value.strip():
        raise DataError(f"{row.place}: {name!r} is empty. Expected a text; remove the row, or fill it.")
    _unicode(value, f"{row.place}: {name!r}")
    return value


def label_of(row: Row, name: str) -> Label:
    """The label in a column; whole numbers written as 1.0, as pandas does, count as whole numbers.

    Raises:
        DataError: when there is none, or it is no name, whole number or boolean.
    """
    return _label(column(row, name), f"{row.place}: {name!r}")


def words(row: Row, name: str) -> list[str]:
    """The list of words in a column.

    Raises:
        DataError: when the column does not hold one word or more.
    """
    value = column(row, name)
    if not isinstance(value, list) or not value or not all(isinstance(w, str) and w.strip() for w in value):
        raise DataError(f"{row.place}: {name!r} holds {_shown(value)}. Expected a list of one word or more.")
    _unicode("".join(value), f"{row.place}: {name!r}")
    return value


def tags(row: Row, name: str, size: int) -> list[Label]:
    """The list of `size` tags in a column.

    Raises:
        DataError: when the column does not hold that many tags.
    """
    value = column(row, name)
    if not isinstance(value, list) or len(value) != size:
        count = f"{len(value)} tags" if isinstance(value, list) else _shown(value)
        raise DataError(f"{row.place}: {name!r} holds {count} for {size} words. Expected one tag for each word.")
    return [_label(tag, f"{row.place}: {name!r}") for tag in value]


def named(value: Label) -> str:
    """The name of a class: itself, or as JSON writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a pair; no tokenizer can read it
        raise DataError(
            f"{where} holds half a surrogate pair at character {error.start}. Expected whole characters."
        ) from error


def _label(value: Any, where: str) -> Label:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int):
        return value
    if value is None or value == "":
        raise DataError(f"{where} is empty. Expected a label; remove the row, or fill it.")
    raise DataError(
        f"{where} holds {_shown(value)}, which is {_type(value)}. Expected a name, a whole number, true or false."
    )


def _collect(found: dict[Label, str], value: Label, place: str) -> None:
    if found:
        first, earlier = next(iter(found.items()))
        if type(first) is not type(value):
            raise DataError(
                f"{place}: label {_shown(value)} is {_type(value)}, but {_shown(first)} ({earlier}) is {_type(first)}. "
                "Write all labels in one way."
            )
    found.setdefault(value, place)


def _classes(found: Mapping[Label, str], name: str) -> tuple[Label, ...]:
    if len(found) < 2:
        what = f"the only label is {_shown(next(iter(found)))}" if found else "there are no training rows"
        raise DataError(f"Column {name!r}: {what}. Expected at least two classes to tell apart.")
    try:
        return tuple(sorted(found, key=lambda v: int(v)))  # 2 before 10, also where a .csv file made them texts
    except ValueError:
        return tuple(sorted(found, key=str))


def _key(value: Label) -> tuple[bool, Label]:
    return isinstance(value, bool), value  # True == 1 as a key of a dictionary, but not as a label


def _nearest(name: str, row: Row) -> str:
    return nearest(name, row.fields) if "Did you mean" in nearest(name, row.fields) else ""


def _shown(value: Any) -> str:
    text = named(value) if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _type(value: Any) -> str:
    names = {str: "a text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
