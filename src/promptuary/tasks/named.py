"""A task with a name: how its published rows are worded, and how answers to them are scored.

A wording is two plain things: what a published row becomes (one row, several or none), and the settings of a run that
reads what it became. So a named task has no class of its own, and nothing that a user's own file could not say too.
There are three kinds of wordings:

    text-to-text    the text that T5 and Lester et al. 2021 write for the row, and the text that is its answer
    cloze           a sentence with a blank for a label word (`<mask>`), for masked language models
    classifier      the row's texts as the tokenizer writes them, for a trained layer
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Fields = Mapping[str, Any]
Rows = Callable[[Fields, bool], Iterable[dict[str, Any]]]
Score = Callable[[Sequence[Fields], Sequence[Fields]], Mapping[str, float]]


@dataclass(frozen=True)
class Wording:
    """One way to ask a named task.

    Arguments:
        rows: what a published row becomes; told whether the rows are to teach (a training split), since some wordings
            learn from one row for each accepted answer, or from positive rows alone.
        settings: of a run (`promptuary.specs.Run`): columns, template, read-out, label words.
        kind: as `promptuary.kinds` names it.
        classes: all of them, in the published order; rows need not show each.
        score: what is measured of rows and answers to them (as `predict` writes them) beside what the kind measures.
        unit: the column whose equal values make rows one question, where `score` speaks of whole questions: such rows
            are kept together when some are drawn or left out.
    """

    rows: Rows
    settings: Mapping[str, Any]
    kind: str = "classification"
    classes: tuple[str, ...] = ()
    score: Score = lambda rows, said: {}
    unit: str | None = None


@dataclass(frozen=True)
class NamedTask:
    """A published task.

    Arguments:
        name: as it is typed. summary: what is asked, and who published it.
        metrics: the official ones; the best checkpoint is chosen by their mean (`mean`), as Lester et al. 2021 do.
        wordings: by kind of wording; the first is meant where none is named.
        folders: names under which its files may lie. hub: its name on the Hugging Face hub, where rows are as here.
    """

    name: str
    summary: str
    metrics: tuple[str, ...]
    wordings: Mapping[str, Wording]
    folders: tuple[str, ...]
    hub: str | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """What may choose the best checkpoint beside what the kind measures."""
        return self.metrics if len(self.metrics) == 1 else (*self.metrics, "mean")

    @property
    def metric(self) -> str:
        """What chooses the best checkpoint: the metric, or the mean of several."""
        return self.metrics[0] if len(self.metrics) == 1 else "mean"

    def scores(self, found: Mapping[str, float]) -> dict[str, float]:
        """The scores that were found, with the mean of the official ones where there are several of them."""
        whole = len(self.metrics) > 1 and all(name in found for name in self.metrics)
        mean = {"mean": sum(found[name] for name in self.metrics) / len(self.metrics)} if whole else {}
        return {**found, **mean}


def as_published(row: Fields, teaching: bool) -> list[dict[str, Any]]:
    """The row as it is."""
    return [dict(row)]


def with_label(*names: str, column: str = "label") -> Rows:
    """The row with its class by name: class `i`, `false` or `true` is the i-th of `names`; -1 is no label."""
    return lambda row, teaching: [{**without(row, column), **label_of(row, *names, column=column)}]


def label_of(row: Fields, *names: str, column: str = "label") -> dict[str, str]:
    """The class of a published row by name, or nothing where it has none (test splits)."""
    value = row.get(column)
    if value is None or value == -1:
        return {}
    if isinstance(value, str):
        return {column: value}
    if value not in range(len(names)):
        raise ValueError(f"{column} {value!r} is none of {', '.join(names)}")
    return {column: names[int(value)]}


def without(row: Fields, *columns: str) -> dict[str, Any]:
    """The row's other columns."""
    return {name: value for name, value in row.items() if name not in columns}
