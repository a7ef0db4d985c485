"""What a run works on: its task and its rows, and all that can be wrong with them before a model is loaded.

Nothing in here imports torch, so a slip in a run's description or in its files is told within a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from promptuary.data import source
from promptuary.data.source import Row
from promptuary.data.task import Task, column, label_of
from promptuary.errors import DataError
from promptuary.files import no_file
from promptuary.specs import Run


@dataclass(frozen=True)
class Material:
    """The task of a run, the rows that teach it, and the rows that choose the best checkpoint."""

    task: Task
    train: Sequence[Row]
    validation: Sequence[Row]


def gather(run: Run) -> Material:
    """Look at everything a run says of itself, and read its rows.

    Without validation rows a share of the training rows is held out, stratified where the kind of task has classes.

    Raises:
        SettingError: for settings of the method or fields of the recipe that cannot be, for a folder that is a file.
        DataError: for files that cannot be read, rows that do not hold what the columns promise, too few rows.
    """
    run.check_settings()
    run.full_recipe()
    no_file(Path(run.out))
    kind = run.kind
    train = list(source.rows(run.train))
    validation = None if run.validation is None else list(source.rows(run.validation))
    task = kind.task(train, Path(run.out).name, run)
    for rows in (train, validation or train):
        for name in task.columns:
            column(rows[0], name)
    for row in chain(train, validation or ()):
        kind.look(task, row)
    if validation is None:
        try:
            train, validation = hold_out(train, run.label if kind.stratified else None, run.holdout, run.unit)
        except DataError as error:
            raise DataError(f"{error} Name validation rows with --validation.") from error
    return Material(task, train, validation)


def hold_out(
    rows: Sequence[Row], label: str | None, share: float, unit: str | None = None
) -> tuple[list[Row], list[Row]]:
    """Split off `share` of the rows, stratified by the column `label` if there is one, the same for every seed.

    Arguments:
        unit: the column whose equal values keep rows together; they are then not stratified.

    Raises:
        DataError: when there are too few rows of a class.
    """
    from sklearn.model_selection import train_test_split

    parts = units(rows, unit)
    labels = ["" if label is None or unit is not None else str(label_of(rows[own[0]], label)) for own in parts]
    try:
        kept, held = (
            [place for own in side for place in own]
            for side in train_test_split(parts, test_size=share, random_state=0, stratify=labels)
        )
    except ValueError as error:
        rare = min({*labels}, key=labels.count, default="")
        each = f" in every class ({rare!r} has {labels.count(rare)})" if rare else ""
        raise DataError(f"{len(rows)} rows are too few to split off {share:.3g} of them{each}.") from error
    return [rows[i] for i in sorted(kept)], [rows[i] for i in sorted(held)]


def units(rows: Sequence[Row], unit: str | None) -> list[list[int]]:
    """The places of the rows of each unit (rows with one value in that column), in the order of their first rows.

    Without a column, and for a row without a value there, a row is its own unit.
    """
    found: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        known = unit is not None and row.fields.get(unit) is not None
        found.setdefault(("unit", str(row.fields[str(unit)])) if known else place, []).append(place)
    return list(found.values())
