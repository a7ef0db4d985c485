"""Rows of data, one at a time, from wherever they lie: a file, an embedded sample, a saved data set, the hub.

A row is a dictionary with the name of its place, so that every later complaint can say "train.jsonl, line 12".
Files are read strictly: what is not UTF-8, not JSON or not of the header's width is an error with its line, never
a row that is guessed at or left out. Everything is streamed; a file may be larger than the memory.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptuary import hub, samples
from promptuary.data.lines import comma_separated, json_lines, tab_separated
from promptuary.errors import DataError, SettingError, nearest
from promptuary.tasks import chosen, located

SAMPLE, TASK = "sample:", "task:"
Pair = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One row of data: its columns by name, and where it was found (`train.jsonl, line 12`)."""

    fields: dict[str, Any]
    place: str


def rows(source: str, split: str | None = None) -> Iterator[Row]:
    """The rows of `source` in order.

    Arguments:
        source: a file (`.jsonl`, `.json`, `.csv`, `.tsv`, each also with `.gz`, or `.parquet`), an embedded sample
            (`sample:intents/train`), a folder written by `datasets` (`folder:train`), or a data set of the hub
            (`ag_news:train`, `nyu-mll/glue/sst2:train` with its configuration). `task:boolq/train` are the rows of
            a named task in its first wording, `task:boolq/cloze/train` in another, from the folder that the
            environment calls PROMPTUARY_DATA or else from the hub; `task:boolq/train:SOURCE` reads them as they were
            published from any other source.
        split: the part of a sample, task, folder or hub data set, instead of a name after `/` or `:`.

    Raises:
        SettingError: for a split of something that has none, or one that is missing.
        DataError: when there is no such file; while reading, when a row is broken or there is none.
    """
    if source.startswith(SAMPLE):
        path = samples.path(source.removeprefix(SAMPLE), split)
        return _file(path, f"{SAMPLE}{path.parent.name}/{path.stem}")
    if source.startswith(TASK):
        return _not_empty(_worded(source.removeprefix(TASK), split), source)
    path = Path(source).expanduser()
    if _looks_like_file(source, path):
        _no_split(source, split)
        return _file(path, source)
    return _not_empty(_datasets(source, split), source)


def _worded(source: str, split: str | None) -> Iterator[Row]:
    """Rows of a named task, each made of a published row; rows of a split whose name begins with `train` teach."""
    named, colon, given = source.partition(":")
    name, *rest = named.split("/")
    how, part = (rest[0], rest[1:]) if len(rest) > 1 else (None, rest)
    task, wording = chosen(name if how is None else f"{name}/{how}")
    if len(part) > 1 or (part and split is not None and part != [split]) or not (part or split):
        raise SettingError(
            f"'{TASK}{source}'{'' if split is None else f' with split={split!r}'}: expected {TASK}{name}/train, "
            f"{TASK}{name}/{next(iter(task.wordings))}/train, or either with :FILE behind it."
        )
    [part_name] = part or [str(split)]
    suffixes = [suffix + gz for suffix in READERS for gz in ("", ".gz")]
    where = given if colon else located(task, part_name, os.environ.get("PROMPTUARY_DATA"), suffixes)
    return _made(rows(where), lambda fields: wording.rows(fields, part_name.startswith("train")), task.name)


def _made(given: Iterator[Row], make: Callable[[dict[str, Any]], Iterable[dict[str, Any]]], name: str) -> Iterator[Row]:
    for row in given:
        try:
            made = list(make(row.fields))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{row.place}: this is no row of {name!r} as it was published ({type(error).__name__}: {error})."
            ) from error
        for number, fields in enumerate(made, 1):
            yield Row(fields, row.place if len(made) == 1 else f"{row.place}, part {number}")


def _file(path: Path, source: str) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"There is no file {source!r}. {_beside(path)}")
    read = _reader(path, source)
    return _not_empty((Row(fields, place) for place, fields in read(path, source)), source)


def _not_empty(found: Iterator[Row], source: str) -> Iterator[Row]:
    first = next(found, None)
    if first is None:
        raise DataError(f"{source}: there are no rows in it. Expected at least one.")
    yield first
    yield from found


def public(source: str) -> str:
    """A source as others may be told of it: of a file or a folder of this machine the name alone, of others all."""
    if source.startswith(TASK):
        named, colon, given = source.removeprefix(TASK).partition(":")
        return f"{TASK}{named}{colon}{public(given) if given else ''}"
    path = Path(source.rpartition(":")[0] or source).expanduser()
    own = not source.startswith(SAMPLE) and (path.is_dir() or _looks_like_file(source, Path(source).expanduser()))
    return Path(source).name if own else source


def _looks_like_file(source: str, path: Path) -> bool:
    folder = source.rpartition(":")[0]
    if path.is_dir() or (folder and Path(folder).expanduser().is_dir()):
        return False
    return path.exists() or source.startswith((".", "/", "~")) or suffix(path) in READERS


def _no_split(source: str, split: str | None) -> None:
    if split is not None:
        raise SettingError(f"split={split!r} of {source!r}: a file has no splits. Name the file of that split instead.")


def suffix(path: Path) -> str:
    """The ending that tells a file's format, in small letters: `.csv` of `rows.CSV.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _reader(path: Path, source: str) -> Callable[[Path, str], Iterator[Pair]]:
    ending = suffix(path)
    if ending not in READERS:
        raise DataError(
            f"{source!r}: files ending in {ending or path.name!r} are not read. "
            f"Expected one of {', '.join(READERS)} (each but .parquet also with .gz)."
        )
    return READERS[ending]


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {str(path.parent)!r} does not exist either."
    names = sorted(p.name for p in path.parent.iterdir() if p.is_file() and suffix(p) in READERS)
    return nearest(path.name, names) if names else f"The folder {str(path.parent)!r} holds no data files."


def _parquet(path: Path, source: str) -> Iterator[Pair]:
    import pyarrow  # heavy, and only parquet needs it
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        names, number = table.schema_arrow.names, 0
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{source}: there are two columns {twice[0]!r}. Expected different names.")
        for batch in table.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield f"{source}, row {number}", fields
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not a readable Parquet file ({_brief(error)}).") from error


def _datasets(source: str, split: str | None) -> Iterator[Row]:
    name, found = _named_split(source, split)
    number = 0
    try:
        for fields in _opened(source, name, found):
            number += 1
            yield Row(dict(fields), f"{name}:{found}, row {number}")
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # what `datasets` raises for missing names, splits and networks
        raise DataError(
            f"{source!r} is no file here, and as a data set of the Hugging Face hub it could not be read "
            f"({_brief(error)}). Expected a file, a folder written by save_to_disk, or name[/configuration]:split."
        ) from error


def _named_split(source: str, split: str | None) -> tuple[str, str]:
    name, colon, named = source.rpartition(":")
    if not colon:
        name, named = source, split or ""
    if split is not None and named != split:
        raise SettingError(f"{source!r} names the split {named!r}, and split={split!r} another. Write one of them.")
    if not named:
        raise SettingError(
            f"{source!r} is no file here; as a data set of the Hugging Face hub it needs a split. "
            f"Write {source + ':train'!r}, or name a file that ends in {', '.join(READERS)}."
        )
    return name, named


def _opened(source: str, name: str, split: str) -> Any:
    import datasets  # heavy, and files do not need it

    if not Path(name).expanduser().is_dir():
        hub.reach()
        parts = name.split("/")
        configuration = "/".join(parts[2:]) or None
        return datasets.load_dataset("/".join(parts[:2]), configuration, split=split, streaming=True)
    saved = datasets.load_from_disk(str(Path(name).expanduser()))
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise DataError(f"{source!r}: the folder has no split {split!r}. {nearest(split, saved)}")
    return saved[split]


def _brief(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:160]


READERS: Mapping[str, Callable[[Path, str], Iterator[Pair]]] = MappingProxyType(
    {".jsonl": json_lines, ".json": json_lines, ".csv": comma_separated, ".tsv": tab_separated, ".parquet": _parquet}
)
