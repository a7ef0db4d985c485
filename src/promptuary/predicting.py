"""Answering a file: rows stream in, rows stream out in their order, and the result appears whole or not at all."""

import gzip
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO, cast

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from promptuary.data.source import Row, suffix
from promptuary.errors import DataError
from promptuary.files import whole

ANOTHER = (".csv", ".tsv", ".parquet", ".xlsx")  # what a file of JSON lines must not be called

Said = Callable[[Iterable[Row]], Iterator[dict[str, Any]]]


def check_output(output: Path, source: str) -> None:
    """Refuse, before a model is loaded, a file that predictions cannot be written to.

    Arguments:
        source: where the rows come from: the user's own file is never written over.

    Raises:
        DataError: for what is no file, lies in no folder, is called another format, or is `source`.
    """
    if output.exists() and not output.is_file():
        raise DataError(f"{output} is no file that could be written. Name a file in a folder that exists.")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output}: there is no folder {output.parent}. Name a file in a folder that exists.")
    if suffix(output) in ANOTHER:
        raise DataError(
            f"{output}: answers are written as JSON lines, one object a row, and {suffix(output)} says another format. "
            "Name a file that ends in .jsonl or .jsonl.gz."
        )
    given = Path(source).expanduser()
    if output.exists() and given.exists() and output.samefile(given):
        raise DataError(f"{output} is the file whose rows are read, and would be lost. Name another file.")


def write_predictions(
    said: Said, rows: Iterable[Row], output: Path, *, console: Console | None = None
) -> tuple[int, float]:
    """Write each row's fields with those of its answer as a line of JSON; returns rows and seconds.

    Arguments:
        said: from rows to the fields of their answers, in order (`Tuned.outputs`, `Bank.outputs`).

    A field of the input that has one of the answer's names is kept with `given_` before it. Memory is
    constant: as many rows are held as one window of batches needs. The file is put in its place when the last row is
    written, compressed where its name ends in `.gz`.

    Raises:
        DataError: for a row that cannot be read, and when the output cannot be written; nothing is left then.
    """
    began, count, place = time.perf_counter(), 0, output.resolve()
    try:
        with whole(place) as raw, _packed(raw, output) as file, _bar(console) as bar:
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


@contextmanager
def _packed(raw: BinaryIO, output: Path) -> Iterator[BinaryIO]:
    """What is written to, so that `raw` holds what the name `output` says."""
    if output.suffix.lower() != ".gz":
        yield raw
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        yield cast(BinaryIO, file)


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
