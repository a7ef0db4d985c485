"""An answer's span leads back to its text; an answer that was cut off has none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.data.answering import AnswerWording, answer_span, answer_text
from promptuary.data.source import Row
from promptuary.data.task import answering
from promptuary.errors import DataError
from tests.unit.data.vocabularies import CAUSAL, VOCABULARIES

NAMES = st.sampled_from(sorted(VOCABULARIES))
WORDS = st.lists(
    st.sampled_from(["parcel", "Berlin", "12", "Ångström", "don't", "naïve", "a", "🙂"]), min_size=1, max_size=12
)
TASK = answering(name="x")


def _wording(name: str, **settings: Any) -> AnswerWording:
    return AnswerWording(VOCABULARIES[name](), TASK, causal=name in CAUSAL, **settings)


def _row(context: str, answers: Any, question: str = "where was it ?") -> Row:
    return Row({"question": question, "context": context, "answers": answers}, "x, line 1")


@given(NAMES, WORDS, st.data())
def test_a_span_leads_back_to_its_answer(name: str, words: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    context, start = " ".join(words), len(" ".join([*words[:first], ""]))
    text = " ".join(words[first : last + 1])
    [example] = _wording(name).encode([_row(context, [{"text": text, "answer_start": start}])])
    assert example.span is not None
    assert answer_text(context, example, *example.span) == text


@given(NAMES, WORDS, st.integers(12, 40))
def test_an_answer_that_is_cut_off_has_no_span(name: str, words: list[str], length: int) -> None:
    context = " ".join([*words, "Berlin"])
    row = _row(context, [{"text": "Berlin", "answer_start": len(context) - 6}], question="w ?")
    [cut] = _wording(name, max_length=length).encode([row])
    assert cut.span is not None
    assert (cut.span == (-1, -1)) == (cut.cut > 0)
    assert cut.ids.count(-1) == 0
    assert len(cut.ids) <= length


@given(NAMES, WORDS, st.data(), st.sampled_from([" ", "  ", "\n", "\r\n"]))
def test_white_space_at_the_ends_of_an_answer_is_no_part_of_it(
    name: str, words: list[str], data: st.DataObject, space: str
) -> None:
    place = data.draw(st.integers(0, len(words) - 1))
    context, start = space.join(["", *words, ""]), len(space.join(["", *words[:place], ""]))
    wide = f"{space}{words[place]}{space}"
    bare, padded = _wording(name).encode(
        [
            _row(context, [{"text": words[place], "answer_start": start}]),
            _row(context, [{"text": wide, "answer_start": start - len(space)}]),
        ]
    )
    assert bare.span is not None
    assert bare.span == padded.span != (-1, -1)
    assert answer_text(context, bare, *bare.span) == words[place]


MARKED = ["cafe\u0301", "दिल्ली", "में", "Vie\u0323\u0302t"]


@given(NAMES, st.lists(st.sampled_from(MARKED), min_size=1, max_size=5), st.data())
def test_accents_that_a_tokenizer_reads_over_belong_to_the_answer(
    name: str, words: list[str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(words) - 1))
    start = len(" ".join([*words[:place], ""]))
    [example] = _wording(name).encode([_row(" ".join(words), [{"text": words[place], "answer_start": start}])])
    assert example.span is not None
    assert answer_text(" ".join(words), example, *example.span) == words[place]


@given(NAMES, WORDS)
def test_answers_consist_of_tokens_of_the_context(name: str, words: list[str]) -> None:
    context = " ".join(words)
    [example] = _wording(name).encode([_row(context, [])])
    assert example.context is not None
    assert example.span == (-1, -1)
    inside = [i for i, part in enumerate(example.context) if part is not None]
    assert inside == list(range(inside[0], inside[-1] + 1))
    assert answer_text(context, example, inside[0], inside[-1]) == context
    assert answer_text(context, example, 0, 0) == "" or example.context[0] is not None


def test_a_question_is_never_cut() -> None:
    wording = _wording("bert", max_length=12)
    with pytest.raises(DataError, match="even without its text the row is too long"):
        wording.encode([_row("a day", [], question="where " * 20)])


FORMS = {
    "a list": ([{"text": "day", "answer_start": 2}, {"text": "a", "answer_start": 0}], (2, 5)),
    "two lists": ({"text": ["day"], "answer_start": [2]}, (2, 5)),
    "none": ([], (-1, -1)),
    "none in two lists": ({"text": [], "answer_start": []}, (-1, -1)),
    "elsewhere": ([{"text": "night", "answer_start": -1}], (-1, -1)),
}


@pytest.mark.parametrize(("answers", "span"), FORMS.values(), ids=FORMS)
def test_answers_come_in_two_forms(answers: Any, span: tuple[int, int]) -> None:
    assert answer_span(_row("a day", answers), "answers", "a day") == span


BAD = {
    "a text": ("day", "'answers' holds 'day'. Expected a list such as"),
    "no start": ([{"text": "day"}], "Expected a list such as"),
    "elsewhere": ([{"text": "day", "answer_start": 1}], "the answer 'day' does not stand at character 1 .* says ' da'"),
    "behind the end": ([{"text": "day", "answer_start": 9}], "where it says ''"),
    "empty": ([{"text": "", "answer_start": 0}], "has a blank answer, ''. Write \\[\\] where there is none"),
    "blank": ([{"text": " ", "answer_start": 1}], "has a blank answer, ' '"),
    "a second without a text": ([{"text": "day", "answer_start": 2}, {"answer_start": 0}], "Expected a list such as"),
    "a second number": ([{"text": "day", "answer_start": 2}, {"text": 5, "answer_start": 0}], "Expected a list such"),
    "lists of two lengths": ({"text": ["day", "a"], "answer_start": [2]}, "Expected a list such as"),
    "null": (None, "'answers' holds 'None'. Expected a list such as"),
}


@pytest.mark.parametrize(("answers", "message"), BAD.values(), ids=BAD)
def test_bad_answers_are_errors_with_their_place(answers: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"x, line 1: .*{message}"):
        answer_span(_row("a day", answers), "answers", "a day")


def test_rows_without_answers_have_no_span() -> None:
    [example] = _wording("bert").encode([Row({"question": "why?", "context": "so"}, "x")], labelled=False)
    assert example.span is None
    assert example.context is not None
