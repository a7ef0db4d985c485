"""The embedded data sets are what their README says: sizes, balance, no leaks, and hard for a bag of words."""

import itertools
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from statistics import median

import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from promptuary import samples
from promptuary.data.source import rows
from promptuary.errors import SettingError

COLUMNS = {"intents": ("text",), "opinions": ("text",), "passages": ("question", "passage")}
CLASSES = {
    "intents": [
        "account_access",
        "cancel_order",
        "change_address",
        "complaint_service",
        "damaged_item",
        "delivery_status",
        "payment_problem",
        "product_question",
        "refund_missing",
        "return_item",
    ],
    "opinions": ["negative", "positive"],
    "passages": ["no", "yes"],
}
SIZES = {"train": 320, "validation": 80, "test": 100}
EACH = pytest.mark.parametrize("name", sorted(COLUMNS))

BAGS = {
    "counts": CountVectorizer,
    "tf-idf, words and pairs": lambda: TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
}
# Shares of right answers on the test rows: below the first the labels would be noise, above the second words would do.
BOUNDS = {
    ("intents", ("text",)): (0.60, 0.85),
    ("opinions", ("text",)): (0.40, 0.65),
    ("passages", ("question",)): (0.40, 0.62),
    ("passages", ("passage",)): (0.40, 0.60),
    ("passages", ("question", "passage")): (0.40, 0.62),
}


@cache
def _split(name: str, split: str) -> tuple[dict[str, str], ...]:
    return tuple(row.fields for row in rows(f"sample:{name}/{split}"))


def _told(name: str, split: str, columns: tuple[str, ...]) -> list[str]:
    return [" ".join(row[column] for column in columns) for row in _split(name, split)]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _labels(name: str, split: str) -> list[str]:
    return [row["label"] for row in _split(name, split)]


@cache
def _score(name: str, columns: tuple[str, ...], bag: str, split: str) -> float:
    model = make_pipeline(BAGS[bag](), LogisticRegression(C=10, max_iter=2000))
    model.fit(_told(name, "train", columns), _labels(name, "train"))
    return float(model.score(_told(name, split, columns), _labels(name, split)))


@EACH
@pytest.mark.parametrize("split", samples.SPLITS)
def test_every_class_has_as_many_rows(name: str, split: str) -> None:
    counts = Counter(_labels(name, split))
    assert sorted(counts) == CLASSES[name]
    assert set(counts.values()) == {SIZES[split] // len(CLASSES[name])}


@EACH
def test_rows_hold_their_columns_and_text_without_edges(name: str) -> None:
    for split in samples.SPLITS:
        for row in _split(name, split):
            assert tuple(row) == (*COLUMNS[name], "label")
            assert all(value == value.strip() and value for value in row.values())


@EACH
def test_no_text_is_there_twice(name: str) -> None:
    texts = [" ".join(_words(t)) for split in samples.SPLITS for t in _told(name, split, COLUMNS[name])]
    assert len(set(texts)) == len(texts)


@EACH
def test_no_text_of_one_split_is_nearly_one_of_another(name: str) -> None:
    assert _nearest(name) < 0.5


def test_no_passage_is_in_two_splits_and_each_has_both_answers() -> None:
    seen = [{row["passage"] for row in _split("passages", split)} for split in samples.SPLITS]
    assert all(not a & b for a, b in itertools.combinations(seen, 2))
    for split in samples.SPLITS:
        answers: dict[str, list[str]] = {}
        for row in _split("passages", split):
            answers.setdefault(row["passage"], []).append(row["label"])
        assert all(sorted(found) == ["no", "yes"] for found in answers.values())


@pytest.mark.parametrize("bag", BAGS)
@pytest.mark.parametrize(("name", "columns"), BOUNDS)
def test_a_bag_of_words_is_neither_blind_nor_enough(name: str, columns: tuple[str, ...], bag: str) -> None:
    floor, bound = BOUNDS[name, columns]
    assert floor <= _score(name, columns, bag, "test") <= bound


@pytest.mark.parametrize("name", ["intents", "opinions"])
def test_no_text_names_its_class(name: str) -> None:
    named = [
        (text, label) for s in SIZES for text, label in zip(_told(name, s, ("text",)), _labels(name, s), strict=True)
    ]
    assert not [text for text, label in named if label.replace("_", " ") in " ".join(_words(text))]


def test_the_readme_states_the_figures_of_this_test() -> None:
    text = (files(samples) / "README.md").read_text()
    for line in table():
        figures = re.findall(r"\d+\.\d+", line)
        pattern = re.escape(line)
        for figure in set(figures):
            pattern = pattern.replace(re.escape(figure), r"(\d+\.\d+)")
        found = re.search(pattern, text)
        assert found, line
        assert [float(x) for x in found.groups()] == pytest.approx([float(x) for x in figures], abs=0.031)
    assert re.findall(r"^\| `(\w+)` ", text, re.MULTILINE)[:3] == list(samples.SAMPLES)


def table() -> list[str]:
    """The README's lines of figures: words per row, nearest rows of two splits, and what a bag of words scores."""
    lines = []
    for name, columns in COLUMNS.items():
        sizes = [len(_words(t)) for split in samples.SPLITS for t in _told(name, split, columns)]
        lines.append(f"| {name} | {min(sizes)} / {median(sizes):.0f} / {max(sizes)} | {_nearest(name):.2f} |")
    for name, columns in BOUNDS:
        for bag in BAGS:
            scores = [f"{_score(name, columns, bag, split):.2f}" for split in ("validation", "test")]
            lines.append(f"| {name} | {' and '.join(columns)} | {bag} | {' | '.join(scores)} |")
    return lines


@cache
def _nearest(name: str) -> float:
    sets = {split: [frozenset(_words(t)) for t in _told(name, split, COLUMNS[name])] for split in samples.SPLITS}
    pairs = (
        len(a & b) / len(a | b)
        for one, other in itertools.combinations(samples.SPLITS, 2)
        for a, b in itertools.product(sets[one], sets[other])
    )
    return max(pairs)


UNKNOWN = {
    "a sample": ("intent/train", None, "no sample 'intent'. Did you mean 'intents'"),
    "a split": ("intents/trian", None, "no split 'trian'. Did you mean 'train'"),
    "no split": ("intents", None, "Write 'sample:intents/train'"),
    "two splits": ("intents/train", "test", "two different splits"),
}


@pytest.mark.parametrize(("name", "split", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_names_are_answered_with_the_nearest(name: str, split: str | None, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        samples.path(name, split)


if __name__ == "__main__":
    print("\n".join(table()))
