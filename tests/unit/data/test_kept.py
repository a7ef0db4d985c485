"""Rows in a file are the rows, whoever reads them and in whichever order."""

import os
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data import kept as keeping
from promptuary.data.example import Example
from promptuary.data.kept import Mapped, kept
from promptuary.errors import TrainingError

NUMBERS = st.lists(st.integers(-1, 300_000), max_size=6)
SPAN = st.tuples(st.integers(-1, 500), st.integers(-1, 500))
EXAMPLES = st.builds(
    Example, ids=NUMBERS, types=NUMBERS, label=st.none() | st.integers(-1, 9), target=st.none() | NUMBERS,
    blanks=st.none() | NUMBERS, words=st.none() | NUMBERS, tags=st.none() | NUMBERS, span=st.none() | SPAN,
    context=st.none() | st.lists(st.none() | SPAN, max_size=4), fields=st.none() | NUMBERS, cut=st.integers(0, 99),
)  # fmt: skip


def test_every_field_of_an_example_is_drawn_here() -> None:
    assert {field.name for field in fields(Example)} == {
        "ids", "types", "label", "target", "blanks", "words", "tags", "span", "context", "fields", "cut",
    }  # fmt: skip


@given(rows=st.lists(EXAMPLES, min_size=1, max_size=8), data=st.data())
def test_what_is_mapped_is_what_was_put_in(rows: list[Example], data: Any) -> None:
    found = Mapped(iter(rows))
    assert list(found) == rows
    assert len(found) == len(rows)
    place = data.draw(st.integers(-len(rows), len(rows) - 1))
    assert found[place] == rows[place]
    part = data.draw(st.slices(len(rows)))
    assert found[part] == rows[part]
    with pytest.raises(IndexError):
        found[len(rows)]


@pytest.mark.parametrize("held", [0, 5, 12, 1000])
def test_few_stay_in_memory_and_of_many_none_is_lost(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(keeping, "HELD", held)
    chunks = [[Example([n] * 3, [0] * 3, label=n) for n in range(first, first + 2)] for first in range(0, 10, 2)]
    found = kept(iter(chunks))
    assert [e.label for e in found] == list(range(10))
    assert isinstance(found, list) is (held == 1000)


def test_no_rows_are_no_rows() -> None:
    assert list(kept([])) == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(keeping, "mmap", full)
    with pytest.raises(TrainingError, match=r"could not be written \(No space left on device\)\. Make room there, or"):
        Mapped([Example([1], [0])])
