"""Answering a file: rows stream in, rows stream out in their order, and the result appears whole or not at all."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from promptuary.data.source import Row
from promptuary.errors import DataError
from promptuary.files import whole

Said = Callable[[Iterable[Row]], Iterator[dict[str, Any]]]


def write_predictions(
    said: Said, rows: Iterable[Row], output: Path, *, console: Console | None = None
) -> tuple[int, float]:
    """Write each row's fields with those of its answer as a line of JSON; returns rows and seconds.

    Arguments:
        said: from rows to the fields of their answers, in order (`Tuned.outputs`, `Bank.outputs`).

    A field of the input that has one of the answer's names is kept with `given_` before it. Memory is
    constant: as many rows are held as one window of batches needs. The file is put in its place when the last row is
    written.

    Raises:
        DataError: for a row that cannot be read, and when the output cannot be written; nothing is left then.
    """
    began, count, place = time.perf_counter(), 0, output.resolve()
    if place.exists() and not place.is_file():
        raise DataError(f"{output} is no file that could be written. Name a file in a folder that exists.")
    try:
        with whole(place) as file, _bar(console) as bar:
            task = bar.add_task("rows", total=None)
            for fields in _labelled(said, rows):
                file.write(_line(fields))
                count += 1
                bar.update(task, completed=count)
    except OSError as error:
        raise DataError(
            f"{output}: could not be written ({error.strerror or error}), and nothing was left there. "
            "Name a file in a folder that exists, on a disk with room."
        ) from error
    return count, time.perf_counter() - began


def _labelled(said: Said, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    kept, read = tee(rows)  # the answers lag behind the rows by one window, and so does the copy
    for row, own in zip(kept, said(read), strict=True):
        given = {f"given_{name}": row.fields[name] for name in own if name in row.fields}
        yield {name: value for name, value in row.fields.items() if name not in own} | given | own


def _line(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"
    except ValueError:  # NaN (Parquet has it, JSON does not), or half a surrogate pair (JSON has it, UTF-8 does not)
        return json.dumps(_finite(fields), default=str).encode() + b"\n"


def _finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot write."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bar(console: Console | None) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, disable=console is None or not console.is_terminal, transient=True,
    )  # fmt: skip
