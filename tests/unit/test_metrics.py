"""Metrics against examples worked by hand, and against what scikit-learn and a naive count say."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.errors import DataError
from promptuary.metrics import (
    accuracy,
    binary_f1,
    entities,
    entity_f1,
    exact_match,
    f1,
    illegal_rate,
    majority,
    normalised,
    token_f1,
)

GOLD = [0, 0, 0, 1, 1, 2]
SAID = [0, 1, 0, 1, -1, 0]


def test_accuracy_counts_an_illegal_answer_as_wrong() -> None:
    assert accuracy(GOLD, SAID) == 3 / 6


def test_macro_f1_worked_by_hand() -> None:
    # 0: precision 2/3, recall 2/3; 1: precision 1/2, recall 1/2; 2: nothing right.
    assert f1(GOLD, SAID, classes=3) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # A fourth class that occurs nowhere counts 0.
    assert f1(GOLD, SAID, classes=4) == pytest.approx((2 / 3 + 1 / 2) / 4)


def test_micro_f1_worked_by_hand() -> None:
    # 3 right; 5 legal answers; 6 expected.
    assert f1(GOLD, SAID, classes=3, average="micro") == pytest.approx(2 * 3 / (5 + 6))
    assert f1([0, 1, 2], [0, 2, 2], classes=3, average="micro") == pytest.approx(accuracy([0, 1, 2], [0, 2, 2]))


def test_binary_f1_takes_an_illegal_answer_for_the_opposite_of_the_truth() -> None:
    gold, said = [1, 1, 0, 0, 1], [1, -1, -1, 0, 7]
    # Read as 1, 0, 1, 0, 0: one true positive, one false positive, two false negatives.
    assert binary_f1(gold, said) == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    # For class 0: answers 1, 0, 1, 0, 0 of 1, 1, 0, 0, 1: one right, two wrong, one missed.
    assert binary_f1(gold, said, positive=0) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert binary_f1([0, 0], [0, 0]) == 0.0


pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 2)), min_size=1, max_size=12)


@given(pairs, st.randoms())
def test_binary_f1_is_the_naive_count_in_any_order(rows: list[tuple[int, int]], random: Any) -> None:
    right = sum(g == 1 and p == 1 for g, p in rows)
    wrong = sum(g == 0 and p not in (0,) for g, p in rows)
    missed = sum(g == 1 and p != 1 for g, p in rows)
    naive = 2 * right / (2 * right + wrong + missed) if right else 0.0
    random.shuffle(rows)
    assert binary_f1(*map(list, zip(*rows, strict=True))) == pytest.approx(naive)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=15))
def test_macro_f1_is_the_naive_mean_over_classes(rows: list[tuple[int, int]]) -> None:
    each = []
    for c in range(4):
        right = sum(g == c and p == c for g, p in rows)
        off = sum((g == c) != (p == c) for g, p in rows)
        each.append(2 * right / (2 * right + off) if right else 0.0)
    gold, said = map(list, zip(*rows, strict=True))
    assert f1(gold, said, classes=4) == pytest.approx(sum(each) / 4)


def test_illegal_rate_and_majority_baseline() -> None:
    assert illegal_rate(SAID) == pytest.approx(1 / 6)
    assert majority([1, 2, 2, 1, 0], [1, 1, 2], accuracy) == pytest.approx(2 / 3)  # 1 and 2 are tied: the smaller
    assert majority([1, 1, 0], [1, 0, 1], binary_f1) == pytest.approx(2 * 2 / (2 * 2 + 1))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
        ("I-PER I-PER O", {("PER", 0, 2)}),  # an entity may begin with I, as in CoNLL
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("O B-ORG I-ORG", {("ORG", 1, 3)}),
        ("B-a-b I-a-b", {("a-b", 0, 2)}),
        ("", set()),
    ],
)
def test_entities_of_a_tagged_sentence(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_entity_f1_counts_whole_entities_over_all_sentences() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    said = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"]]
    # 3 expected, 3 said, 1 right: a wrong kind and a wrong end do not count.
    assert entity_f1(gold, said) == pytest.approx(1 / 3)
    assert entity_f1(gold, gold) == 1.0
    assert entity_f1(gold, [["O"] * 4, ["O"] * 2]) == 0.0
    assert entity_f1([["O"]], [["O"]]) == 1.0


def test_the_normal_form_of_squad() -> None:
    assert normalised("The  Cat, a dog & an ox.") == "cat dog ox"
    assert normalised("Theatre. A-1") == "theatre a1"


def test_answers_to_questions_worked_by_hand() -> None:
    gold = [["the Eiffel Tower", "Eiffel tower in Paris"], ["1989"], [""], [""]]
    said = ["eiffel tower!", "in 1989", "", "nothing"]
    assert exact_match(gold, said) == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert token_f1(gold, said) == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    # Words count as often as they occur on both sides: "b b c" and "b c c" share b and c once each.
    assert token_f1([["b b c"]], ["b c c"]) == pytest.approx(2 * 2 / 6)
    assert token_f1([["the"]], ["a"]) == 1.0  # both empty in normal form


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: accuracy([], []), "nothing to score"),
        (lambda: accuracy([1], [1, 0]), "1 answers and 2 predictions"),
        (lambda: f1([1], [], classes=2), "predictions"),
        (lambda: binary_f1([], []), "nothing"),
        (lambda: illegal_rate([]), "nothing"),
        (lambda: majority([], [1], accuracy), "nothing"),
        (lambda: entities(["B"]), "'B-kind'"),
        (lambda: entities(["X-PER"]), "'X-PER'"),
        (lambda: entities(["O-PER"]), "'O-PER'"),
        (lambda: entity_f1([["O"]], [["O", "O"]]), "Sentence 0"),
        (lambda: exact_match([[]], ["x"]), "Question 0"),
        (lambda: token_f1(["a text"], ["x"]), "list"),
    ],
)
def test_what_cannot_be_scored_is_refused(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        ask()
