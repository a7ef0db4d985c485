"""Rows come out of files as they went in; what is broken is an error with its line."""

import csv
import gzip
import io
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.source import Row, rows
from promptuary.errors import DataError, PromptuaryError, SettingError

# Line ends of every alphabet inside a text: only a line feed ends a line of a file.
TEXT = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from("\u2028\u2029\u0085\x0b\x1c\"',;\t\r\n"), max_size=20
)
VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
OBJECTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def _save(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@given(OBJECTS, st.booleans(), st.booleans(), st.booleans())
def test_json_lines_come_out_as_they_went_in(
    place: Path, objects: list[dict], bom: bool, end: bool, ascii_only: bool
) -> None:
    text = "\n".join(json.dumps(o, ensure_ascii=ascii_only) for o in objects) + ("\n" if end else "")
    source = _save(place / "x.jsonl", ("\ufeff" if bom else "") + text)
    assert [row.fields for row in rows(source)] == objects
    assert [row.place for row in rows(source)] == [f"{source}, line {i + 1}" for i in range(len(objects))]


@given(OBJECTS)
def test_a_packed_file_reads_as_the_plain_one(place: Path, objects: list[dict]) -> None:
    source = _save(place / "x.jsonl.gz", gzip.compress("\n".join(map(json.dumps, objects)).encode()))
    assert [row.fields for row in rows(source)] == objects


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_comma_separated_cells_come_out_as_they_went_in(place: Path, cells: list[tuple[str, str]], end: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *cells])
    source = _save(place / "x.csv", out.getvalue())
    assert [tuple(row.fields.values()) for row in rows(source)] == cells


def test_a_row_of_several_lines_is_placed_at_its_first(tmp_path: Path) -> None:
    source = _save(tmp_path / "x.csv", 'a,b\n1,"two\nlines"\n3,4\n')
    assert [row.place for row in rows(source)] == [f"{source}, line 2", f"{source}, line 4"]


def test_tab_separated_cells_keep_their_quotation_marks(tmp_path: Path) -> None:
    source = _save(tmp_path / "x.tsv", 'text\tlabel\n"an open quote\t1\nit\'s 5" wide\t0\n')
    assert [row.fields for row in rows(source)] == [
        {"text": '"an open quote', "label": "1"},
        {"text": "it's 5\" wide", "label": "0"},
    ]


def test_a_json_array_is_read_by_items(tmp_path: Path) -> None:
    source = _save(tmp_path / "x.json", '\n[\n {"a": 1},\n {"a": 2}\n]\n')
    assert list(rows(source)) == [Row({"a": 1}, f"{source}, item 1"), Row({"a": 2}, f"{source}, item 2")]


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    source = _save(tmp_path / "x.jsonl", '{"a": 1}\n{"a": 2}\n{"a": \n')
    reading = rows(source)
    assert [row.fields["a"] for row in itertools.islice(reading, 2)] == [1, 2]
    with pytest.raises(DataError, match="line 3"):
        next(reading)


BROKEN = {
    "cut off": ("x.jsonl", b'{"a": 1}\n{"a": 2\n', "line 2: not JSON at .*: Expecting"),
    "two objects": (
        "x.jsonl",
        b'{"a": 1} {"a": 2}\n',
        "line 1: not JSON at column 10: Extra data. Expected one object a line",
    ),
    "single quotes": ("x.jsonl", b"{'a': 1}\n", "line 1: not JSON at column 2"),
    "printed over lines": ("x.json", b'{\n "a": 1\n}\n', "line 1: not JSON"),
    "no object": ("x.jsonl", b'{"a": 1}\n["a"]\n', "line 2: an array where an object was expected"),
    "a text": ("x.jsonl", b'"a"\n', "line 1: a string where"),
    "null": ("x.jsonl", b"null\n", "line 1: null where"),
    "a number": ("x.jsonl", b"1\n", "line 1: a number where"),
    "not a number": ("x.jsonl", b'{"a": NaN}\n', "line 1: NaN is not JSON. Write null"),
    "a key twice": ("x.jsonl", b'{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', "line 2: an object has the name 'a' twice"),
    "a key twice, within": ("x.json", b'[{"a": {"b": 1, "b": 1}}]', "an object has the name 'b' twice"),
    "nested": ("x.jsonl", b'{"a": ' + b"[" * 100_000, "line 1: brackets are nested too deep"),
    "an item": ("x.json", b'[{"a": 1}, 2]', "item 2: a number where"),
    "an array cut off": ("x.json", b'[{"a": 1},\n', "not JSON at line 2"),
    "latin": ("x.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', r"line 2: byte 11 is not UTF-8"),
    "utf-16": ("x.csv", "a,b\n1,2\n".encode("utf-16"), "line 1: byte 1 is not UTF-8"),
    "an empty line": ("x.jsonl", b'{"a": 1}\n\n{"a": 2}\n', "line 2: the line is empty"),
    "an empty line of cells": ("x.csv", b"a,b\n1,2\n\n3,4\n", "line 3: the line is empty"),
    "empty": ("x.jsonl", b"", "there are no rows"),
    "blank": ("x.jsonl", b"\n \n", "there are no rows"),
    "empty array": ("x.json", b"[]", "there are no rows"),
    "header only": ("x.csv", b"text,label\n", "there are no rows"),
    "no header": ("x.csv", b",\n1,2\n", "line 1: the header is empty"),
    "too few cells": ("x.csv", b"a,b,c\n1,2,3\n1,2\n", r"line 3: 2 cells, but the header has 3 columns \(a, b, c\)"),
    "too many cells": ("x.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 cells, but the header has 2 columns"),
    "a name twice": ("x.csv", b"a,a\n1,2\n", "names the column 'a' twice"),
    "semicolons": ("x.csv", b"text;label\nx;1\n", "header is one cell, 'text;label'. Separate .csv files with commas"),
    "commas for tabs": ("x.tsv", b"text,label\nx,1\n", "and .tsv files with tabs"),
    "an open quote": ("x.csv", b'a,b\n1,2\n3,"4\n5,6\n', "line 3: unexpected end of data"),
    "old line ends": ("x.csv", b"a,b\r1,2\r3,4\r", "line 1: .* Save the file with line feeds"),
    "a carriage return": ("x.tsv", b"a\tb\n1\t2\nx\ry\t3\n", "line 3: .* without a line feed.* or remove it"),
    "a text of a book": ("x.csv", b"a,b\n1,2\n" + b"x" * 200_000 + b",2\n", "line 3: .* such long texts as .jsonl"),
    "a quote open for long": ("x.csv", b'a,b\n1,"2\n' + b"3,4\n" * 50_000, "line 2: .*Close the quotation mark"),
    "a packed file cut off": (
        "x.jsonl.gz",
        gzip.compress(b'{"a": 1}\n' * 999)[:-20],
        "the gzip file is broken or cut off",
    ),
    "not packed": ("x.jsonl.gz", b'{"a": 1}\n', "the gzip file is broken or cut off"),
    "no parquet": ("x.parquet", b"PAR1 and nothing else", "not a readable Parquet file"),
}


@pytest.mark.parametrize(("name", "data", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_an_error_with_its_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    source = _save(tmp_path / name, data)
    with pytest.raises(DataError, match=message) as caught:
        list(rows(source))
    assert str(caught.value).startswith(source)


MISSING = {
    "a slip": ("trian.jsonl", DataError, "There is no file .* Did you mean 'train.jsonl'"),
    "a folder": ("no/train.jsonl", DataError, "folder .* does not exist either"),
    "a format": ("train.xlsx", DataError, "files ending in '.xlsx' are not read. Expected one of .jsonl"),
}


@pytest.mark.parametrize(("name", "kind", "message"), MISSING.values(), ids=MISSING)
def test_a_missing_file_is_an_error_before_anything_is_read(
    tmp_path: Path, name: str, kind: type[PromptuaryError], message: str
) -> None:
    for there in ("train.jsonl", "train.xlsx"):
        (tmp_path / there).touch()
    with pytest.raises(kind, match=message):
        rows(str(tmp_path / name))


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a file has no splits"):
        rows(_save(tmp_path / "x.jsonl", '{"a": 1}'), "train")


def test_parquet_rows_come_out_as_they_went_in(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    objects = [{"text": f"row {i}", "label": i % 2, "tokens": ["a", "b"]} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects), tmp_path / "x.parquet")
    found = list(rows(str(tmp_path / "x.parquet")))
    assert [row.fields for row in found] == objects
    assert found[-1].place.endswith("x.parquet, row 2500")


def test_a_parquet_file_with_two_columns_of_one_name_is_an_error(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"there are two columns 'text'\. Expected different names"):
        list(rows(str(tmp_path / "x.parquet")))


def test_saved_data_sets_are_read_by_split(tmp_path: Path) -> None:
    import datasets

    train, other = datasets.Dataset.from_list([{"a": 1}, {"a": 2}]), datasets.Dataset.from_list([{"a": 3}])
    datasets.DatasetDict({"train": train, "test": other}).save_to_disk(str(tmp_path / "both"))
    both = str(tmp_path / "both")
    assert [row.fields for row in rows(both, "train")] == [{"a": 1}, {"a": 2}]
    assert next(rows(f"{both}:test")) == Row({"a": 3}, f"{both}:test, row 1")
    with pytest.raises(DataError, match=r"no split 'tset'. Did you mean 'test'"):
        next(rows(f"{both}:tset"))
    with pytest.raises(SettingError, match=r"names the split .test., and split=.train. another"):
        next(rows(f"{both}:test", "train"))
    with pytest.raises(SettingError, match=r"needs a split. Write"):
        next(rows(both))


def test_without_a_network_a_name_of_the_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"is no file here, .* \(HF_HUB_OFFLINE is set\)"):
        next(rows("someone/something:train"))


def test_samples_are_named_with_or_without_their_split() -> None:
    first = next(rows("sample:intents/train"))
    assert first == next(rows("sample:intents", "train"))
    assert first.place == "sample:intents/train, line 1"
