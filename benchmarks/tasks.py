"""The public tasks that the studies learn: where their rows lie, how they are split, what every method may spend.

Data is found through the environment variable `PROMPTUARY_DATA`: a folder with `<task>/<split>.jsonl` (or `.jsonl.gz`).
A step or a rate is selected on rows that are never reported: on `validation` where a test split is reported, else on a
stratified slice of the training rows, the same one for every method and seed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from promptuary.backbones.backbone import Backbone
from promptuary.data import source
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task, classification
from promptuary.data.wording import Wording
from promptuary.errors import SettingError
from promptuary.material import hold_out

VARIABLE = "PROMPTUARY_DATA"


@dataclass(frozen=True)
class Problem:
    """One public task.

    Arguments:
        epochs: passes over the training rows, the same for every method.
        text, text_pair: columns.
        train, report: splits. selection: the split that selects, or the share of the training rows held out for it.
        max_length: longer texts are cut to so many tokens.
        shown: scores that the table shows; the first one selects.
    """

    epochs: int
    text: str = "text"
    text_pair: str | None = None
    train: str = "train"
    selection: str | float = "validation"
    report: str = "test"
    max_length: int = 128
    shown: tuple[str, ...] = ("accuracy",)

    batch: ClassVar[int] = 32  # rows a step


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "sst2": Problem(3),
        "trec": Problem(6, selection=0.1),
        "mr": Problem(3),
        "mpqa": Problem(3),
        "rte": Problem(6, "premise", "hypothesis", selection=0.1, report="validation"),
        "boolq": Problem(
            5, "question", "passage", train="train_partial", selection=0.1, report="validation", max_length=256
        ),
        # A fifth of the 250 rows, not a tenth: 25 rows would hold one or two of the rare class.
        "cb": Problem(
            20, "premise", "hypothesis", selection=0.2, report="validation", shown=("accuracy", "macro_f1")
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ground:
    """A task, read and encoded for one backbone: what all methods have in common.

    Arguments:
        counts: rows of each split; `shared`: reported rows whose texts also stand in the training rows (they are
            kept, for the splits are the published ones); `cut`: training rows that were cut to the length.
    """

    name: str
    problem: Problem
    task: Task
    wording: Wording
    train: Sequence[Example]
    selection: Sequence[Example]
    report: Sequence[Example]
    counts: Mapping[str, int]


def folder() -> Path:
    """Where the data lies.

    Raises:
        SettingError: when the environment does not say, or says a folder that is not there.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise SettingError(
            f"The environment variable {VARIABLE} is not set. Expected a folder that holds the public data sets, "
            f"for example {VARIABLE}=data python benchmarks/learning.py with data/sst2/train.jsonl in it."
        )
    if not Path(named).is_dir():
        raise SettingError(f"{VARIABLE}={named!r}: there is no such folder. Expected one that holds sst2/train.jsonl.")
    return Path(named)


def read(name: str, problem: Problem, backbone: Backbone, place: Path, limit: int | None = None) -> Ground:
    """Read, split and encode a task.

    Arguments:
        limit: use so many rows of each split only.

    Raises:
        DataError: for a file that is missing or broken.
    """
    train, selection, report = rows_of(name, problem, place)
    task = classification(train, name=name, text=problem.text, text_pair=problem.text_pair)
    train, selection, report = train[:limit], selection[:limit], report[:limit]
    wording = Wording(backbone.tokenizer, task, max_length=problem.max_length, room=backbone.shape.positions)
    examples = wording.encode(train)
    known = {task.texts(row) for row in train}
    counts = {
        "train": len(train),
        "selection": len(selection),
        "report": len(report),
        "shared": sum(task.texts(row) in known for row in report),
        "cut": sum(e.cut > 0 for e in examples),
    }
    held, reported = wording.encode(selection), wording.encode(report)
    return Ground(name, problem, task, wording, examples, held, reported, counts)


def rows_of(name: str, problem: Problem, place: Path) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows that teach, that select, and that report.

    Raises:
        DataError: for a file that is missing or broken.
    """
    home = place / name
    rows, report = _rows(home, problem.train), _rows(home, problem.report)
    if isinstance(problem.selection, float):
        train, selection = hold_out(rows, "label", problem.selection)
    else:
        train, selection = rows, _rows(home, problem.selection)
    return train, selection, report


def _rows(place: Path, split: str) -> list[Row]:
    packed = place / f"{split}.jsonl.gz"
    return list(source.rows(str(packed if packed.is_file() else place / f"{split}.jsonl")))
