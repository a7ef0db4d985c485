"""Rows of many prompts that share passes of one frozen model: which of them can, and what is said to each.

`Bank` asks this of files, the engine of a server of requests. What a row is asked is a `Question`: mostly `ANSWER`, the
answer of its prompt's task.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from promptuary.data.batch import Batch
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.mixing import Share, generate, run
from promptuary.tuned import Tuned
from promptuary.values import Columns, Output, Targets


@dataclass(frozen=True)
class Question:
    """What is asked of rows: texts to be scored behind them, and what the backbone's output says to each row.

    `columns` are the tokens whose states are read, where these are few (`Readout.columns`); `None` is all.
    """

    targets: Callable[[Tuned, Batch], Targets | None]
    columns: Callable[[Tuned, Batch], Columns | None]
    answers: Callable[[Tuned, Output, Batch, Sequence[Row], Sequence[Example]], list[Any]]


def _answers(tuned: Tuned, out: Output, batch: Batch, rows: Sequence[Row], examples: Sequence[Example]) -> list[Any]:
    return tuned.reading.answers(tuned.readout.predict(out, batch), tuned.wording, rows, examples)


ANSWER = Question(
    lambda tuned, batch: tuned.readout.targets(batch), lambda tuned, batch: tuned.readout.columns(batch), _answers
)


@dataclass(frozen=True, eq=False)
class Asked:
    """A row and the prompt that answers it, even if that is taken out or replaced now.

    Arguments:
        number: the row's, among those that are asked together.
    """

    number: int
    name: str
    tuned: Tuned
    row: Row
    example: Example
    question: Question = ANSWER

    @property
    def columns(self) -> int:
        """How many tokens stand in its row, soft ones counted; keys and values of a prefix stand in none."""
        model = self.tuned.model
        soft = model.injection.occupies(model.generator.length) - model.injection.occupies(0)
        return len(self.example.ids) + soft

    @property
    def positions(self) -> int:
        """How many positions it takes, those of soft keys and values that stand before it counted."""
        model = self.tuned.model
        return len(self.example.ids) + model.injection.occupies(model.generator.length)


def alike(asked: Iterable[Asked]) -> list[list[Asked]]:
    """Rows by prompt and question, in the order in which these come."""
    found: dict[tuple[str, int, int], list[Asked]] = {}
    for one in asked:
        found.setdefault((one.name, id(one.tuned), id(one.question)), []).append(one)
    return list(found.values())


def together(asked: Iterable[Asked], *, writes: bool) -> list[list[Asked]]:
    """Rows that can share a pass: those of one precision, and those whose answers are written in the same way.

    Arguments:
        writes: whether answers that are written are asked for, and not the states before texts that are known.
    """
    found: dict[Any, list[Asked]] = {}
    for own in alike(asked):
        tuned = own[0].tuned
        writing = tuned.reading.writing(tuned.backbone) if writes else None
        found.setdefault((tuned.precision, writing and writing.how), []).extend(own)
    return list(found.values())


def batched(groups: Iterable[Sequence[Asked]]) -> list[tuple[Sequence[Asked], Batch]]:
    """The rows of each prompt with their batch, on the backbone's device."""
    found = []
    for own in groups:
        tuned, examples = own[0].tuned, [one.example for one in own]
        batch = collate(examples, [one.number for one in own], tuned.pad)
        found.append((own, batch.to(tuned.backbone.device)))
    return found


def shares(groups: Iterable[tuple[Sequence[Asked], Batch]]) -> list[Share]:
    """What is asked of the backbone for each prompt's batch."""
    found = []
    for own, batch in groups:
        tuned = own[0].tuned
        x, question = tuned.model.instance_of(batch), own[0].question
        found.append(Share(tuned.model, x, question.targets(tuned, batch), question.columns(tuned, batch)))
    return found


def read(held: Sequence[Asked]) -> list[tuple[Asked, Any]]:
    """Each row with its answer, read off the states of one pass."""
    groups = batched(alike(held))
    found: list[tuple[Asked, Any]] = []
    for (own, batch), out in zip(groups, run(shares(groups)), strict=True):
        rows, examples = [one.row for one in own], [one.example for one in own]
        found += zip(own, own[0].question.answers(own[0].tuned, out, batch, rows, examples), strict=True)
    return found


def written(held: Sequence[Asked]) -> list[tuple[Asked, Any]]:
    """Each row with its answer, written in one pass; all are written in the way of the first."""
    groups = batched(alike(held))
    writing = held[0].tuned.reading.writing(held[0].tuned.backbone)
    assert writing is not None, "whose answers are written"
    found: list[tuple[Asked, Any]] = []
    for (own, _), ids in zip(groups, generate(shares(groups), writing.how), strict=True):
        tuned, rows, examples = own[0].tuned, [one.row for one in own], [one.example for one in own]
        found += zip(own, tuned.reading.answers(writing.said(ids), tuned.wording, rows, examples), strict=True)
    return found
