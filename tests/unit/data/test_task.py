"""A task reads rows in one way only, and says where a row is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.source import Row
from promptuary.data.task import Task, answering, classification, tagging, text_to_text
from promptuary.errors import CheckpointError, DataError


def _rows(*labels: Any) -> list[Row]:
    return [Row({"text": "t", "label": label}, f"train.jsonl, line {i}") for i, label in enumerate(labels, 1)]


LABELS = st.lists(st.integers(), min_size=2, unique=True) | st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip), min_size=2, unique=True
)


@given(LABELS, st.randoms())
def test_the_order_of_classes_does_not_depend_on_the_order_of_rows(labels: list[Any], shuffle: Any) -> None:
    task = classification(_rows(*labels), name="x")
    shuffle.shuffle(labels)
    again = classification(_rows(*labels, *labels), name="x")
    assert task == again
    assert [again.values[again.index(row)] for row in _rows(*labels)] == labels


@pytest.mark.parametrize(
    ("labels", "values", "names"),
    [
        (["b", "a"], ("a", "b"), ("a", "b")),
        ([10, 2, -1], (-1, 2, 10), ("-1", "2", "10")),
        (["10", "2"], ("2", "10"), ("2", "10")),
        ([True, False], (False, True), ("false", "true")),
        ([1.0, 0.0], (0, 1), ("0", "1")),
        ([1, 0.0], (0, 1), ("0", "1")),
    ],
)
def test_classes_keep_the_type_of_the_data(labels: list[Any], values: tuple[Any, ...], names: tuple[str, ...]) -> None:
    task = classification(_rows(*labels), name="x")
    assert [(type(v), v) for v in task.values] == [(type(v), v) for v in values]
    assert task.labels == names


def test_label_words_have_spaces_for_underscores() -> None:
    assert classification(_rows("refund_missing", "_", "ok"), name="x").words == ("_", "ok", "refund missing")


@given(LABELS)
def test_a_task_survives_json(labels: list[Any]) -> None:
    task = classification(_rows(*labels), name="x")
    again = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert again == task
    assert [again.index(row) for row in _rows(*labels)] == [task.index(row) for row in _rows(*labels)]


@pytest.mark.parametrize("plain", [None, {}, {"name": "x"}, text_to_text(name="x").to_json() | {"kind": "poetry"}])
def test_what_is_no_task_is_refused(plain: Any) -> None:
    with pytest.raises(CheckpointError, match="is no task"):
        Task.from_json(plain)


BAD_LABELS = {
    "two types": ([0, "1"], r"line 2: label '1' is a text, but 0 \(train.jsonl, line 1\) is a number"),
    "a number and a boolean": (
        [1, True],
        r"line 2: label true is a boolean, but 1 \(train.jsonl, line 1\) is a number",
    ),
    "one class": (["a", "a"], "the only label is 'a'. Expected at least two"),
    "no rows": ([], "no training rows"),
    "null": (["a", None], "line 2: 'label' is empty"),
    "empty": (["a", ""], "line 2: 'label' is empty"),
    "a fraction": ([0, 0.5], "line 2: 'label' holds 0.5, which is a number. Expected a name, a whole number"),
    "a list": ([["a"]], r"line 1: 'label' holds \['a'\], which is a list"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_errors_with_their_place(labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification(_rows(*labels), name="x")


BAD_TEXTS = {
    "empty": ("", "line 7: 'text' is empty"),
    "blank": (" \n", "line 7: 'text' is empty"),
    "null": (None, "line 7: 'text' is null"),
    "a number": (5, "line 7: 'text' holds 5, which is a number. Expected a text; name the column"),
    "a list": (["a"], "which is a list"),
    "half a pair": ("a\ud800", "half a surrogate pair at character 1"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_texts_are_errors_with_their_place(text: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification([Row({"text": text, "label": "a"}, "train.jsonl, line 7")], name="x")


def test_a_missing_column_is_told_with_the_columns_there_are() -> None:
    row = Row({"texts": "a", "label": "b"}, "train.csv, line 2")
    with pytest.raises(
        DataError, match=r"line 2: there is no column 'text'; the columns are 'texts', 'label'. Did you mean 'texts'"
    ):
        classification([row], name="x")


def test_a_label_nobody_trained_on_is_told_with_the_known_ones() -> None:
    task = classification(_rows("no", "yes"), name="x")
    with pytest.raises(
        DataError, match=r"test.csv, line 3: label 'maybe' does not occur in the training rows, which know 'no', 'yes'"
    ):
        task.index(Row({"label": "maybe"}, "test.csv, line 3"))
    with pytest.raises(DataError, match="label true does not occur"):
        classification(_rows(0, 1), name="x").index(Row({"label": True}, "x"))


def test_tags_are_collected_over_all_words() -> None:
    row = Row({"tokens": ["a", "b", "c"], "tags": ["O", "B", "I"]}, "x, line 1")
    assert tagging([row], name="x").values == ("B", "I", "O")


BAD_WORDS = {
    "no list": ({"tokens": "a b", "tags": []}, "'tokens' holds 'a b'. Expected a list of one word"),
    "no words": ({"tokens": [], "tags": []}, "Expected a list of one word"),
    "a blank word": ({"tokens": ["a", " "], "tags": ["O", "O"]}, "Expected a list of one word"),
    "too few tags": ({"tokens": ["a", "b"], "tags": ["O"]}, "'tags' holds 1 tags for 2 words"),
    "no tags": ({"tokens": ["a"], "tags": "O"}, "'tags' holds 'O' for 1 words"),
    "two types": ({"tokens": ["a", "b"], "tags": ["O", 1]}, "is a number, but 'O'"),
}


@pytest.mark.parametrize(("fields", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_bad_words_and_tags_are_errors_with_their_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"x, line 1: .*{message}"):
        tagging([Row(fields, "x, line 1")], name="x")


def test_question_answering_reads_a_question_and_a_context() -> None:
    row = Row({"question": "why?", "context": "because"}, "x")
    assert answering(name="x").texts(row) == ("why?", "because")
