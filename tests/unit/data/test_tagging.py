"""Every word begins at one token and carries its tag there, whatever the tokenizer makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.source import Row
from promptuary.data.tagging import TagWording, tag_index
from promptuary.data.task import Task
from promptuary.errors import DataError
from tests.unit.data.vocabularies import CAUSAL, VOCABULARIES

NAMES = st.sampled_from(sorted(VOCABULARIES))
PLAIN = st.sampled_from(["parcel", "Berlin", "O'Neill", "don't", "12.50", "(", "…", "a"])
ODD = st.sampled_from(["\u200b", "東京", "🙂", "[SEP]", "</s>", "e\u0301", "\ufe0f", "a b"])
WORDS = st.lists(PLAIN | ODD, min_size=1, max_size=10)
TASK = Task("x", "tagging", "tokens", None, "tags", ("B", "I", "O"))


def _row(words: list[str]) -> Row:
    return Row({"tokens": words, "tags": ["BIO"[len(w) % 3] for w in words]}, "x, line 1")


def _wording(name: str, **settings: Any) -> TagWording:
    return TagWording(VOCABULARIES[name](), TASK, causal=name in CAUSAL, **settings)


@given(NAMES, WORDS)
def test_every_word_begins_once_and_in_order(name: str, words: list[str]) -> None:
    [example] = _wording(name).encode([_row(words)])
    assert example.words is not None
    assert example.tags is not None
    assert [word for word in example.words if word >= 0] == list(range(len(words)))
    tags = [TASK.values[tag] for tag in example.tags if tag >= 0]
    assert tags == _row(words).fields["tags"]
    assert [tag >= 0 for tag in example.tags] == [word >= 0 for word in example.words]
    assert len(example.ids) == len(example.types) == len(example.words) == len(example.tags)


@given(NAMES, st.lists(PLAIN, min_size=1, max_size=10))
def test_plain_words_are_written_as_their_sentence(name: str, words: list[str]) -> None:
    [example] = _wording(name).encode([_row(words)])
    assert example.ids == VOCABULARIES[name]()(" ".join(words))["input_ids"]


@given(NAMES, WORDS, st.integers(4, 20))
def test_words_that_are_cut_off_have_no_tag(name: str, words: list[str], length: int) -> None:
    [whole] = _wording(name).encode([_row(words)])
    [cut] = _wording(name, max_length=length).encode([_row(words)])
    assert cut.words is not None
    assert whole.words is not None
    assert len(cut.ids) <= length
    told = [word for word in cut.words if word >= 0]
    assert told == [word for word in whole.words if word >= 0][: len(told)]


def test_tags_of_a_subword_stand_at_its_first_token() -> None:
    [example] = _wording("bert").encode([Row({"tokens": ["xylophone", "a"], "tags": ["B", "O"]}, "x")])
    count = len(VOCABULARIES["bert"]()("xylophone", add_special_tokens=False)["input_ids"])
    assert count > 1
    assert example.words == [-1, 0, *[-1] * (count - 1), 1, -1]
    assert example.tags == [-1, 0, *[-1] * (count - 1), 2, -1]


def test_rows_without_tags_keep_their_words() -> None:
    [example] = _wording("bert").encode([Row({"tokens": ["a", "day"]}, "x")], labelled=False)
    assert example.tags is None
    assert example.words is not None


def test_an_entitys_tag_nobody_trained_on_is_nothing_to_learn_from() -> None:
    task = Task("x", "tagging", "tokens", None, "tags", ("O", "B-place"))
    assert [tag_index(task, tag, "x") for tag in ("O", "B-place", "I-place", "B-work")] == [0, 1, -1, -1]
    for slip in ("BWORK", "B-plce", "I-places"):
        with pytest.raises(DataError, match=f"x, line 9: label '{slip}' does not occur"):
            tag_index(task, slip, "x, line 9")


def test_a_tag_nobody_trained_on_is_an_error() -> None:
    with pytest.raises(DataError, match="x, line 9: label 'X' does not occur"):
        _wording("bert").encode([Row({"tokens": ["a"], "tags": ["X"]}, "x, line 9")])
