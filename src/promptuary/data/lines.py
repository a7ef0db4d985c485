"""Strict readers of text files: JSON lines, comma- and tab-separated values, each line checked where it stands."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any

from promptuary.errors import DataError

Pair = tuple[str, dict[str, Any]]
BOM = b"\xef\xbb\xbf"


def json_lines(path: Path, source: str) -> Iterator[Pair]:
    """One JSON object a line; a file that begins with `[` is read as one JSON array of objects.

    Raises:
        DataError: for a line that is no UTF-8, no JSON, no object, or empty between others.
    """
    lines = _lines(path, source)
    first = next(((n, text) for n, text in lines if text.strip()), None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        yield from _array(first[1] + "".join(text for _, text in lines), source)
        return
    blank = 0
    for number, text in chain([first], lines):
        if not text.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{source}, line {blank}: the line is empty. Expected a JSON object on every line.")
        place = f"{source}, line {number}"
        yield place, _object(_parsed(text.rstrip("\r\n"), place), place)


def comma_separated(path: Path, source: str) -> Iterator[Pair]:
    """Comma-separated values with a header; a cell in double quotes may hold commas and line breaks.

    Raises:
        DataError: for a line that is no UTF-8 or has another number of cells than the header, for an open quote.
    """
    return _table(path, source, csv.reader((text for _, text in _lines(path, source)), strict=True))


def tab_separated(path: Path, source: str) -> Iterator[Pair]:
    """Tab-separated values with a header. A quotation mark is a character like any other, as GLUE's files need it.

    Raises:
        DataError: for a line that is no UTF-8 or has another number of cells than the header.
    """
    lines = (text for _, text in _lines(path, source))
    return _table(path, source, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _lines(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, ends kept. Only a line feed ends one: U+2028 and its like may stand inside a text."""
    with _opened(path) as file:
        number = 0
        try:
            for number, raw in enumerate(file, 1):
                yield number, (raw.removeprefix(BOM) if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source}, line {number}: byte {error.start + 1} is not UTF-8. Save the file in the encoding UTF-8."
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{source}, after line {number}: the gzip file is broken or cut off ({error}).") from error


def _opened(path: Path) -> BufferedIOBase:
    packed = path.name.lower().endswith(".gz")
    return gzip.open(path) if packed else path.open("rb")


def _parsed(text: str, place: str) -> Any:
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            hint = "Expected one object a line and nothing behind it."
        else:
            hint = 'Expected a JSON object on one line, such as {"text": "...", "label": "..."}.'
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{place}: not JSON at {where}: {error.msg}. {hint}") from error
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{place}: brackets are nested too deep to be read.") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON. Write null where a value is missing.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the name {twice!r} twice. Expected different names.")
    return found


DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
        found = names.get(type(value), "a number")
        raise DataError(f'{place}: {found} where an object was expected, such as {{"text": "...", "label": "..."}}.')
    return value


def _array(text: str, source: str) -> Iterator[Pair]:
    values = _parsed(text, source)
    for number, value in enumerate(values, 1):
        place = f"{source}, item {number}"
        yield place, _object(value, place)


def _table(path: Path, source: str, reader: Any) -> Iterator[Pair]:
    header = None
    blank = end = 0
    try:
        for cells in reader:
            begin, end = end + 1, reader.line_num
            place = f"{source}, line {begin}"
            if header is None:
                header = _header(cells, place)
            elif not cells:
                blank = blank or begin
            elif blank:
                raise DataError(
                    f"{source}, line {blank}: the line is empty. Expected {len(header)} cells on every line."
                )
            else:
                yield place, dict(zip(header, _fitting(cells, header, place), strict=True))
    except csv.Error as error:
        raise DataError(f"{source}, line {end + 1}: {error}. {_mended(str(error))}") from error


def _mended(error: str) -> str:
    """What to write instead of what the reader of cells complains about."""
    if "field limit" in error:
        return "Close the quotation mark that was left open; if none was, write rows with such long texts as .jsonl."
    if "new-line" in error:
        return (
            "A carriage return stands there without a line feed. Save the file with line feeds at the ends of lines; "
            "inside a cell put it in double quotes (.csv), or remove it (.tsv)."
        )
    return 'A cell that begins with a quotation mark must end with one, and a mark inside it is written twice ("").'


def _header(cells: list[str], place: str) -> list[str]:
    if not any(c.strip() for c in cells):
        raise DataError(f"{place}: the header is empty. Expected the names of the columns.")
    twice = sorted({c for c in cells if cells.count(c) > 1})
    if twice:
        raise DataError(f"{place}: the header names the column {twice[0]!r} twice. Expected different names.")
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t,"):
        raise DataError(
            f"{place}: the header is one cell, {cells[0]!r}. Separate .csv files with commas and .tsv files with tabs."
        )
    return cells


def _fitting(cells: list[str], header: list[str], place: str) -> list[str]:
    if len(cells) != len(header):
        raise DataError(
            f"{place}: {len(cells)} cells, but the header has {len(header)} columns ({', '.join(header)}). "
            "Put cells that hold the separator in double quotes (.csv), or remove it from them (.tsv)."
        )
    return cells
