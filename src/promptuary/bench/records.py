"""What is kept of a finished trial: plain values, one JSON object, complete enough that every number can be traced.

Of every trial:

    task, regime, backbone, method, seed    where it belongs
    settings          what was tried beside the defaults; recipe: everything it was trained with
    budget            what a training run may spend, the same for every method
    scores, last      on the rows that select: after the best step, after the last step
    curve             the scores of each scoring, with its step
    cost              trained, touched, stored (bytes), steps, best_step, seconds, seconds_to_best, peak_bytes
    alarms            what looks wrong, in words, by name
    rows              how many teach and select, how many texts do both (`shared`), and a hash of them (`digest`)
    versions, hardware, commit, when

A final trial has, beside these:

    search            every trial of the search: number, settings, score, loss, outcome, seconds, sentence
    chosen            the number of the trial that was chosen
    edges             settings that were chosen at the edge of their space
    chosen_by         the score that chose
    metric            the score that reports; metrics: those it is the mean of, or itself
    labels            the names of the classes, in the order of their numbers
    reports           for each task that was asked (its own first): `scores`, `inference_ms` a row, `rows`; of classes
                      `true` and `said` (the class of each row, one character each, see `packed`) and `probabilities`
                      (float16 in base64, `[rows, classes]`), of other kinds `answers`, as `promptuary predict` writes
                      them; unless the metric is the accuracy of rows, `contributions` of units of rows to it
                      (`statistics.contributions`)
    opened            how often the rows that report were opened, each with the choice and the time
    prompt            the folder of the saved prompt, relative to the study's, or `null`
    job, score        the name that says everything it was made of, and the score on the rows that select; with them
                      another study of the same plan goes on from here (`restore`)

A final trial of a mixture has `metric = "mean"`, and `tasks`: of each task what differs (`metric`, `metrics`, `labels`,
`scores`, `last`, `cost`, `rows`, `prompt`); it is told task by task (`of_each_task`). The seconds of a task are its
share by rows; what is trained is shared by all.

A trial without a result has `outcome` (`diverged`, `memory`, `refused`, `nothing chosen`) and `sentence`.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptuary.data.source import Row
from promptuary.errors import DataError

Record = Mapping[str, Any]
Right = NDArray[np.float64]  # [seeds, rows], 1 where a row was answered rightly
Worth = NDArray[np.float64]  # [seeds, units], whose mean is the score
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
RECORDS = "records.jsonl"
NONE = "-"  # an answer that is no class


def packed(labels: Iterable[int]) -> str:
    """Class numbers as text: a character each where they are below 36, else numbers with commas; -1 is `-`."""
    numbers = list(labels)
    if max(numbers, default=0) < len(DIGITS):
        return "".join(NONE if n < 0 else DIGITS[n] for n in numbers)
    return ",".join(NONE if n < 0 else str(n) for n in numbers)


def unpacked(text: str) -> NDArray[np.int64]:
    """The class numbers that `packed` wrote."""
    parts: Sequence[str] = text.split(",") if "," in text else text
    base = 10 if "," in text else len(DIGITS)
    return np.array([-1 if part == NONE else int(part, base) for part in parts], dtype=np.int64)


def folded(probabilities: NDArray[Any]) -> str:
    """Probabilities `[rows, classes]` as text."""
    return base64.b64encode(probabilities.astype("<f2").tobytes()).decode()


def unfolded(text: str, classes: int) -> NDArray[np.float64]:
    """The probabilities that `folded` wrote, `[rows, classes]`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").reshape(-1, classes).astype(np.float64)


def digest(*sets: Sequence[Row]) -> str:
    """A hash of the content of rows: another one means other data."""
    made = hashlib.blake2b(digest_size=16)
    for rows in sets:
        made.update(b"set")
        for row in rows:
            made.update(json.dumps(row.fields, sort_keys=True, default=str).encode())
    return made.hexdigest()


def read(path: Path) -> list[Record]:
    """The records in a file of lines, as they are compared (`of_each_task`).

    Raises:
        DataError: for a line that is no record.
    """
    return [one for record in whole(path) for one in of_each_task(record)]


def whole(path: Path) -> list[Record]:
    """The records in a file of lines, as they were kept.

    Raises:
        DataError: for a line that is no record.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                record = json.loads(line)
                _ = record["task"], record["regime"], record["backbone"], record["method"], record["seed"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: no record of a study ({error}).") from error
            found.append(record)
    return found


def of_each_task(record: Record) -> list[Record]:
    """A record as it is compared: of a mixture one of each task, by the name of its method and of the mixture."""
    if "tasks" not in record:
        return [record]
    told = {k: v for k, v in record.items() if k not in ("tasks", "reports")}
    return [
        {**told, "task": task, "method": f"{record['method']} @ {record['task']}", **own,
         **({"reports": {task: record["reports"][task]}} if "reports" in record else {})}
        for task, own in record["tasks"].items()
    ]  # fmt: skip


def own_report(record: Record) -> Mapping[str, Any]:
    """What was said of the rows that report on the task itself."""
    found: Mapping[str, Any] = record["reports"][record["task"]]
    return found


def right(records: Sequence[Record], task: str | None = None) -> Right:
    """Which reported rows were answered rightly, `[seeds, rows]`; of another task than the own one if it is named."""
    reports = [own_report(r) if task is None else r["reports"][task] for r in records]
    return np.stack([unpacked(report["true"]) == unpacked(report["said"]) for report in reports]).astype(float)


def worth(records: Sequence[Record], task: str | None = None) -> Worth | None:
    """What units of reported rows contribute to each seed's score; of another task than the own one if it is named.

    `None` where that is not known of all seeds.
    """
    if not records:
        return None
    reports = [own_report(r) if task is None else r["reports"][task] for r in records]
    if by_rows(records[0], reports[0]):
        return right(records, task)
    found = [report.get("contributions") for report in reports]
    sizes = {0 if own is None else len(own) for own in found}
    return None if 0 in sizes or len(sizes) > 1 else np.array(found, dtype=float)


def by_rows(record: Record, report: Mapping[str, Any]) -> bool:
    """Whether the score is the share of rows that are answered rightly."""
    return record["metrics"] == ["accuracy"] and "true" in report and "contributions" not in report


def majority(true: NDArray[np.int64]) -> float:
    """The accuracy of always saying the commonest class."""
    return float(np.bincount(true).max() / len(true))
