"""Labelling a file: rows stream in, rows stream out in their order, and the result appears whole or not at all."""

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from promptuary.data.source import Row
from promptuary.errors import DataError
from promptuary.tuned import Tuned


def write_predictions(
    tuned: Tuned, rows: Iterable[Row], output: Path, *, batch: int = 64, console: Console | None = None
) -> tuple[int, float]:
    """Write each row's fields with `label` and `probability` as a line of JSON; returns rows and seconds.

    Memory is constant: as many rows are held as one window of batches needs. The file is put in its place when the
    last row is written.

    Raises:
        DataError: for a row that cannot be read, and when the output cannot be written; nothing is left then.
    """
    began, count = time.perf_counter(), 0
    try:
        handle, name = tempfile.mkstemp(dir=output.resolve().parent, prefix=f".{output.name}.")
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written ({error.strerror}). Name a file in a folder that exists."
        ) from error
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file, _bar(console) as bar:
            task = bar.add_task("rows", total=None)
            for line in _lines(tuned, rows, batch):
                file.write(line)
                count += 1
                bar.update(task, completed=count)
        part.replace(output)
    except OSError as error:
        raise DataError(
            f"{output}: could not be written ({error.strerror}). Nothing was left there; make room."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return count, time.perf_counter() - began


def _lines(tuned: Tuned, rows: Iterable[Row], batch: int) -> Iterator[str]:
    kept, read = tee(rows)  # the answers lag behind the rows by one window, and so does the copy
    for row, answer in zip(kept, tuned.predict(read, batch=batch), strict=True):
        fields = {**row.fields, "label": answer.label, "probability": answer.probability}
        yield json.dumps(fields, ensure_ascii=False, default=str) + "\n"


def _bar(console: Console | None) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, disable=console is None or not console.is_terminal, transient=True,
    )  # fmt: skip
