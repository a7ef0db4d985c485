"""Metrics against examples worked by hand, and against what scikit-learn and a naive count say."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from promptuary.errors import DataError
from promptuary.metrics import (
    accuracy,
    binary_f1,
    bleu,
    chrf,
    entities,
    entity_f1,
    exact_match,
    f1,
    group_match,
    illegal_rate,
    majority,
    mean_over_tasks,
    normalised,
    referent_accuracy,
    relation_f1,
    rouge,
    same_referent,
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


classes = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=15)


@given(classes)
def test_the_three_class_f1_of_cb_is_that_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    # T5's mean_multiclass_f1(num_classes=3): all three labels count, also where one is absent or nothing is legal.
    gold, said = map(list, zip(*rows, strict=True))
    wanted = f1_score(gold, said, labels=[0, 1, 2], average="macro", zero_division=0)
    assert f1(gold, said, classes=3) == pytest.approx(wanted)


def test_the_three_class_f1_of_cb_with_an_absent_class_and_with_nothing_legal() -> None:
    assert f1([0, 1, 1], [0, 1, 1], classes=3) == pytest.approx(2 / 3)
    assert f1([0, 1, 2], [-1, -1, -1], classes=3) == 0.0


@given(pairs)
def test_the_f1_over_answers_of_multirc_is_that_of_t5(rows: list[tuple[int, int]]) -> None:
    gold, said = map(list, zip(*rows, strict=True))
    turned = [p if p in (0, 1) else 1 - g for g, p in rows]
    assert binary_f1(gold, said) == pytest.approx(f1_score(gold, turned, zero_division=0))


def test_a_question_of_multirc_is_right_where_all_its_answers_are() -> None:
    groups = ["q1", "q1", "q2", "q2", "q3"]
    assert group_match(groups, [1, 0, 1, 0, 1], [1, 0, 1, 1, 1]) == pytest.approx(2 / 3)
    assert group_match(groups, [1, 0, 1, 0, 1], [-1] * 5) == 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(-1, 1)), min_size=1), st.randoms())
def test_the_match_of_groups_is_the_naive_count_in_any_order(rows: list[tuple[int, int, int]], random: Any) -> None:
    groups = {group for group, _, _ in rows}
    right = [all(g == p for own, g, p in rows if own == group) for group in groups]
    random.shuffle(rows)
    assert group_match(*map(list, zip(*rows, strict=True))) == pytest.approx(sum(right) / len(groups))


@pytest.mark.parametrize(
    ("referent", "said", "same"),
    [
        ("the fuzzy bunny", "Bunny", True),
        ("bunny", "his fuzzy bunny", True),
        ("Bob", "Bob's hat", False),
        ("Bob's hat", "Bob's", True),
        ("Bob", "Bob and Ann's", False),
        ("Mr. Smith", "Smith", True),
        ("the table", "the chair", False),
        ("the dog", "dog.", False),  # T5 keeps punctuation
        ("fuzzy bunny", "fuzzy dog", False),
        ("the dog", "", None),
        ("the dog", " The ", None),
    ],
)
def test_a_referent_is_named_by_a_subset_of_its_words(referent: str, said: str, same: bool | None) -> None:
    assert same_referent(referent, said) is same


def test_wsc_counts_agreement_with_the_label_and_an_empty_text_never() -> None:
    said = ["dog", "cat", "cat", "dog", "", "the"]
    assert referent_accuracy([True, True, False, False, False, True], ["the dog"] * 6, said) == pytest.approx(2 / 6)


RELATIONS = [f"{name}({way})" for name in ("Cause-Effect", "Message-Topic") for way in ("e1,e2", "e2,e1")]
relations = st.sampled_from([*RELATIONS, "Other"])


def test_relations_worked_by_hand() -> None:
    gold = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Other", "Other"]
    said = ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Other", "Cause-Effect(e1,e2)", None]
    # Cause-Effect: 1 right of 3 said and 2 expected; Message-Topic: none right.
    assert relation_f1(gold, said) == pytest.approx((2 * (1 / 3 * 1 / 2) / (1 / 3 + 1 / 2) + 0) / 2)
    assert relation_f1(gold, [None] * 5) == 0.0


@given(st.lists(st.tuples(relations, relations | st.just("-")), min_size=1, max_size=20))
def test_the_score_of_relations_is_the_mean_of_scikit_learns_pooled_directions(rows: list[tuple[str, str]]) -> None:
    gold, said = map(list, zip(*rows, strict=True))
    names = sorted({label.split("(")[0] for label in gold} - {"Other"})
    if not names:
        with pytest.raises(DataError, match="Other"):
            relation_f1(gold, said)
        return
    each = [
        f1_score(gold, said, labels=[r for r in RELATIONS if r.startswith(name)], average="micro", zero_division=0)
        for name in names
    ]
    wanted = sum(each) / len(each)
    assert relation_f1(gold, [None if label == "-" else label for label in said]) == pytest.approx(wanted)


def test_the_superglue_average_takes_the_mean_of_a_tasks_metrics_first() -> None:
    # Lester et al. 2021, table 3, the ensemble: 91.7 100/100 100 67.1/89.4 93.2/93.9 93.5 77.4 96.2 make 91.3.
    printed = {
        "boolq": (91.7,), "cb": (100.0, 100.0), "copa": (100.0,), "multirc": (67.1, 89.4), "record": (93.2, 93.9),
        "rte": (93.5,), "wic": (77.4,), "wsc": (96.2,),
    }  # fmt: skip
    found = mean_over_tasks({task: dict(enumerate(own)) for task, own in printed.items()})  # type: ignore[arg-type]
    assert round(found, 1) == 91.3


WRITTEN = ["the box is here", "a card came late today", "no"]
REFERENCES = [["the box is in here", "here is the box"], ["a card came late today"], ["yes", "no", "no it is not"]]


def test_texts_with_several_references_are_scored_as_by_sacrebleu() -> None:
    import sacrebleu

    columns = [
        ["the box is in here", *REFERENCES[1], "yes"],
        ["here is the box", None, "no"],
        [None, None, "no it is not"],
    ]
    assert bleu(REFERENCES, WRITTEN) == pytest.approx(sacrebleu.BLEU().corpus_score(WRITTEN, columns).score / 100)
    assert chrf(REFERENCES, WRITTEN) == pytest.approx(sacrebleu.CHRF().corpus_score(WRITTEN, columns).score / 100)
    one = [own[0] for own in REFERENCES]
    assert bleu(one, WRITTEN) == pytest.approx(sacrebleu.BLEU().corpus_score(WRITTEN, [one]).score / 100)
    assert bleu([[text] for text in one], WRITTEN) == bleu(one, WRITTEN)


@given(st.lists(st.sampled_from("abcd"), max_size=8), st.lists(st.sampled_from("abc"), min_size=1))
def test_rouge_l_is_the_longest_common_subsequence(said: list[str], gold: list[str]) -> None:
    table = [[0] * (len(gold) + 1) for _ in range(len(said) + 1)]
    for i, word in enumerate(said):
        for j, other in enumerate(gold):
            table[i + 1][j + 1] = table[i][j] + 1 if word == other else max(table[i][j + 1], table[i + 1][j])
    wanted = 2 * table[-1][-1] / (len(said) + len(gold))
    assert rouge([" ".join(gold)], [" ".join(said)]) == pytest.approx(wanted)
    assert rouge([["x y z", " ".join(gold)]], [" ".join(said)]) == pytest.approx(wanted)


def test_rouge_1_worked_by_hand() -> None:
    assert rouge(["a b c d"], ["b a x"], kind="rouge1") == pytest.approx(2 * 2 / 7)


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
        (lambda: group_match(["q"], [1, 0], [1, 0]), "expected as many"),
        (lambda: referent_accuracy([True], [], ["x"]), "expected as many"),
        (lambda: relation_f1(["Other"], ["Other"]), "Other"),
        (lambda: mean_over_tasks({}), "nothing to average"),
        (lambda: mean_over_tasks({"cb": {}}), "nothing to average"),
        (lambda: bleu([["a"], []], ["a", "b"]), "Row 1"),
        (lambda: rouge([], []), "nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        ask()
