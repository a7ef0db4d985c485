"""What a row becomes: the tokenizer itself is the oracle, and what is cut is the text alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from promptuary.data.answering import AnswerWording
from promptuary.data.collate import collate
from promptuary.data.source import Row
from promptuary.data.task import Task, text_to_text
from promptuary.data.tokens import Tokens
from promptuary.data.wording import Wording, frequent
from promptuary.data.writing import longest_first
from promptuary.errors import DataError, SettingError
from tests.unit.data.vocabularies import CAUSAL, MASKED, VOCABULARIES, sentences

WORDS = st.lists(st.sampled_from(" ".join(sentences()[:50]).split()), min_size=1, max_size=12).map(" ".join)
ANY = st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), min_size=1, max_size=30).filter(str.strip)
NAMES = st.sampled_from(sorted(VOCABULARIES))
MASKING = st.sampled_from(MASKED)

ONE = Task("x", "classification", "text", None, "label", ("bad", "good"))
TWO = Task("x", "classification", "text", "other", "label", ("bad", "good"))


def _row(text: str, other: str = "", **more: Any) -> Row:
    return Row({"text": text, "other": other, "label": "good", **more}, "x.jsonl, line 1")


def _wording(name: str, task: Task = ONE, **settings: Any) -> Wording:
    return Wording(VOCABULARIES[name](), task, causal=name in CAUSAL, **settings)


def _bare(name: str, text: str) -> list[int]:
    ids: list[int] = VOCABULARIES[name]()(text, add_special_tokens=False)["input_ids"]
    return ids


@given(NAMES, WORDS | ANY)
def test_a_text_is_written_as_the_tokenizer_writes_it(name: str, text: str) -> None:
    wanted = VOCABULARIES[name]()(text)
    assume(wanted["input_ids"])
    [example] = _wording(name).encode([_row(text)])
    assert example.ids == wanted["input_ids"]
    assert example.types == wanted.get("token_type_ids", [0] * len(example.ids))
    assert (example.label, example.cut, example.target, example.blanks) == (1, 0, None, None)


@given(st.sampled_from(["bert", "roberta", "t5", "xlm"]), WORDS | ANY, WORDS)
def test_two_texts_are_written_as_the_tokenizer_writes_them(name: str, text: str, other: str) -> None:
    [example] = _wording(name, TWO).encode([_row(text, other)])
    wanted = VOCABULARIES[name]()(text, other)
    assert example.ids == wanted["input_ids"]
    assert example.types == wanted.get("token_type_ids", [0] * len(example.ids))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_reads_two_texts_as_one_with_a_line_break(name: str) -> None:
    [example] = _wording(name, TWO).encode([_row("good day", "bad day")])
    assert example.ids == VOCABULARIES[name]()("good day\nbad day")["input_ids"]
    question = Task("x", "answering", "text", "other", None)
    [asked] = AnswerWording(VOCABULARIES[name](), question, causal=True).encode([_row("good day", "bad day")])
    assert asked.ids == example.ids


def test_where_nothing_separates_two_texts_a_line_break_does() -> None:
    [example] = Wording(VOCABULARIES["gpt2"](), TWO).encode([_row("good day", "bad day")])
    assert example.ids == _bare("gpt2", "good day\nbad day")


@given(MASKING, WORDS)
def test_a_template_without_soft_tokens_is_written_as_its_text(name: str, text: str) -> None:
    assume(name != "xlm")  # its tokenizer puts a space behind every mask; see the next test
    mask = VOCABULARIES[name]().mask_token
    for template in ("{text} It was <mask> .", "{text} It was <mask>.", "It was <mask>: {text}", "<mask> day. {text}!"):
        [example] = _wording(name, template=template).encode([_row(text)])
        assert example.ids == VOCABULARIES[name]()(template.format(text=text).replace("<mask>", mask))["input_ids"]
        assert example.blanks == [example.ids.index(VOCABULARIES[name]().mask_token_id)]


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{text} It was <mask>.", ["▁It", "▁was", "<mask>", "."]),
        ("{text} It was <mask> .", ["▁It", "▁was", "<mask>", "▁", "."]),
    ],
)
def test_behind_a_mask_a_space_is_where_the_template_has_one(template: str, written: list[str]) -> None:
    tokenizer = VOCABULARIES["xlm"]()
    [example] = _wording("xlm", template=template).encode([_row("good")])
    told = "".join(tokenizer.convert_ids_to_tokens(example.ids))
    assert told.endswith("".join(written) + "</s>")


@given(NAMES, WORDS)
def test_text_behind_soft_tokens_is_written_as_inside_a_sentence(name: str, text: str) -> None:
    inside = _bare(name, "a " + text)[len(_bare(name, "a")) :]
    [example] = _wording(name, template="<soft:3> {text} <soft> It was").encode([_row(text)])
    [head, tail] = Tokens(VOCABULARIES[name](), causal=name in CAUSAL).frame(1).parts
    it_was = _bare(name, "a It was")[len(_bare(name, "a")) :]
    assert example.ids == [*head, -1, -1, -1, *inside, -1, *it_was, *tail]


TEMPLATES = (
    "{text} It was <mask> .",
    "<soft:3> {text} <soft> It was <mask>.",
    "A <mask:2> text: {text}",
    "<soft>{text}<soft:2>",
    "{word}: {text} <soft> ({text})",
)
PAIRS = ("{text} ? <soft> <mask> , {pair}", "<soft:2> {pair} and {text}.", "{text}: {pair}")


@given(NAMES, st.sampled_from(TEMPLATES + PAIRS), WORDS, WORDS, st.integers(1, 60))
def test_only_texts_are_cut_and_from_their_ends(name: str, template: str, text: str, other: str, length: int) -> None:
    assume("<mask" not in template or name in MASKED)
    task = TWO if "{pair}" in template else ONE
    row = _row(text, other, word="day")
    try:
        cut = _wording(name, task, template=template, columns=["word"], max_length=length).encode([row])[0]
    except (SettingError, DataError):
        assume(False)
    whole = _wording(name, task, template=template, columns=["word"]).encode([row])[0]
    size = sum(i >= 0 for i in whole.ids)
    assert sum(i >= 0 for i in cut.ids) == min(length, size)
    assert cut.cut == max(0, size - length)
    assert len(cut.types) == len(cut.ids)
    least = _wording(name, task, template=template, columns=["word"]).encode([_row("a", "a", word="day")])[0]
    tokenizer = VOCABULARIES[name]()
    for kept in (-1, tokenizer.mask_token_id, tokenizer.eos_token_id):
        assert cut.ids.count(kept) == whole.ids.count(kept) == least.ids.count(kept)
    assert _is_subsequence(cut.ids, whole.ids)
    assert [cut.ids[i] for i in cut.blanks or []] == [whole.ids[i] for i in whole.blanks or []]
    assert all(cut.ids[i] == tokenizer.mask_token_id for i in cut.blanks or [])
    if cut.cut:
        assert cut.ids[-1] == whole.ids[-1] or template.endswith(("{pair}", "{text}"))


@given(st.sampled_from(["bert", "roberta", "xlm", "t5"]), WORDS, WORDS, st.integers(6, 40))
def test_two_texts_are_cut_as_the_tokenizer_cuts_them(name: str, text: str, other: str, length: int) -> None:
    [example] = _wording(name, TWO, max_length=length).encode([_row(text, other)])
    sizes = [len(_bare(name, text)), len(_bare(name, other))]
    wanted = VOCABULARIES[name]()(text, other, truncation="longest_first", max_length=length)["input_ids"]
    assert len(example.ids) == len(wanted)
    if sizes[0] != sizes[1] and abs(sizes[0] - sizes[1]) >= example.cut:  # one text alone is cut: no ties to break
        assert example.ids == wanted


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.data())
def test_the_longest_text_gives_first(sizes: list[int], data: st.DataObject) -> None:
    excess = data.draw(st.integers(0, sum(sizes)))
    left = longest_first(sizes, excess)
    assert sum(left) == sum(sizes) - excess
    assert all(0 <= b <= a for a, b in zip(sizes, left, strict=True))
    assert all(b == a for a, b in zip(sizes, left, strict=True) if a < max(left))
    shortened = [b for a, b in zip(sizes, left, strict=True) if b < a]
    assert max(shortened, default=0) - min(shortened, default=0) <= 1


@given(
    NAMES,
    st.lists(
        st.sampled_from(["[MASK]", "[SEP]", "<mask>", "</s>", "<s>", "<", " ", "a", "＜s＞", "<|endoftext|>"]),
        min_size=1,
    ),
)
def test_special_tokens_inside_a_text_are_text(name: str, pieces: list[str]) -> None:
    tokenizer = VOCABULARIES[name]()
    [written] = Tokens(tokenizer).write(["".join(pieces)])
    assert not set(written.ids) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    assert all(0 <= start <= end <= len("".join(pieces)) for start, end in written.offsets)


def test_special_tokens_inside_a_template_are_themselves() -> None:
    tokenizer = VOCABULARIES["bert"]()
    [example] = _wording("bert", template="It was [MASK] [SEP] {text}").encode([_row("good")])
    assert example.ids == tokenizer("It was [MASK] [SEP] good")["input_ids"]
    assert example.blanks == [example.ids.index(tokenizer.mask_token_id)]


def test_a_text_that_does_not_fit_is_an_error_with_its_place_and_the_way_out() -> None:
    with pytest.raises(DataError) as caught:
        _wording("bert", room=5).encode([_row("day " * 20)])
    assert str(caught.value) == (
        "x.jsonl, line 1: the text is 22 tokens long, and there is room for 5 beside the prompt. "
        "Shorten it, or pass max_length=5 (--max-length 5) to cut longer texts."
    )


BAD = {
    "longer than the room": (
        {"max_length": 9, "room": 8},
        "max_length=9: beside the prompt .* room for 8 tokens. Write max_length=8",
    ),
    "no length": ({"max_length": 0}, "max_length=0: expected 1 or more"),
    "no room for words": ({"max_length": 2}, "max_length=2: .* leave no place for a text. Expected 3 tokens or more"),
    "no room beside": ({"room": 2}, "room=2: .* leave no place for a text"),
    "unknown field": ({"template": "{txt} <mask>"}, "there is no field {txt}. Did you mean 'text'"),
    "unknown column": ({"template": "{text} {wrod}", "columns": ["word"]}, "no field {wrod}. Did you mean 'word'"),
    "open brace": ({"template": "{text} {"}, "the brace in '{' has no partner"),
    "no field": ({"template": "It was <mask>"}, "holds no text"),
    "only a column": ({"template": "{word}", "columns": ["word"]}, r"does not use \{text\}"),
    "a slip in a mark": ({"template": "{text} <sofft:3>"}, "'<sofft:3>' is no mark. Did you mean 'soft'"),
    "a broken count": ({"template": "{text} <mask:two>"}, "'<mask:two>' is no mark"),
    "no soft tokens": ({"template": "{text} <soft:0>"}, "'<soft:0>' in the template: expected 1 or more"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_what_cannot_work_fails_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _wording("bert", **settings)


def test_a_second_text_must_be_used() -> None:
    with pytest.raises(SettingError, match=r"does not use \{pair\}"):
        _wording("bert", TWO, template="{text} <mask>")


def test_a_mask_needs_a_tokenizer_that_has_one() -> None:
    with pytest.raises(SettingError, match=r"no mask token. Use a backbone trained to fill masks"):
        _wording("t5", template="{text} It was <mask>")


def test_other_marks_are_words() -> None:
    [example] = _wording("bert", template="<b> {text} </b>").encode([_row("good")])
    assert example.ids == VOCABULARIES["bert"]()("<b> good </b>")["input_ids"]


def test_soft_tokens_are_counted_and_take_no_room() -> None:
    wording = _wording("bert", template="<soft:3> {text} <soft:2> <mask>", max_length=5)
    assert wording.soft == 5
    [example] = wording.encode([_row("good good good good")])
    assert sum(i >= 0 for i in example.ids) == 5
    assert example.ids.count(-1) == 5


def test_columns_that_do_not_fit_beside_the_text_are_an_error() -> None:
    wording = _wording("bert", template="{word}: {text}", columns=["word"], max_length=8)
    with pytest.raises(DataError, match="line 1: even without its text the row is too long by"):
        wording.encode([_row("good", word="day " * 9)])


def test_a_row_without_any_token_is_an_error() -> None:
    silent = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(VOCABULARIES["bert"]().backend_tokenizer.to_str()), unk_token="[UNK]"
    )
    silent.backend_tokenizer.post_processor = processors.Sequence([])
    assert Wording(silent, ONE).encode([_row("a")])[0].cut == 0
    with pytest.raises(DataError, match="line 1: the tokenizer makes no token of the text"):
        Wording(silent, ONE).encode([_row("\u200b")])


@given(NAMES, WORDS)
def test_rows_without_answers_are_written_alike(name: str, text: str) -> None:
    wording = _wording(name)
    [known] = wording.encode([_row(text)])
    [unknown] = wording.encode([Row({"text": text}, "x")], labelled=False)
    assert (unknown.ids, unknown.types, unknown.label) == (known.ids, known.types, -1)


@given(NAMES, st.lists(WORDS, min_size=1, max_size=8))
def test_a_row_is_written_alike_in_any_company(name: str, texts: list[str]) -> None:
    wording = _wording(name, template="{text} <soft> so.", max_length=12)
    together = wording.encode([_row(text) for text in texts])
    assert together == [wording.encode([_row(text)])[0] for text in texts]


def test_label_words_are_written_as_inside_a_sentence() -> None:
    for name in VOCABULARIES:
        inside = [_bare(name, f"a {word}")[len(_bare(name, "a")) :] for word in ("bad", "good")]
        assert _wording(name).label_tokens() == inside
        assert _wording(name).label_tokens(["good"]) == inside[1:]


@given(NAMES, WORDS)
def test_target_texts_end_and_continue_the_input_of_causal_models(name: str, text: str) -> None:
    [ids] = _wording(name).targets([text])
    tokenizer = VOCABULARIES[name]()
    if name in CAUSAL:
        assert ids == [*_bare(name, "a " + text)[len(_bare(name, "a")) :], tokenizer.eos_token_id]
    else:
        assert ids == tokenizer(text)["input_ids"]


def test_target_texts_are_read_from_their_column() -> None:
    task = text_to_text(name="x", text="text", label="target")
    [example] = _wording("t5", task).encode([_row("a day", target="good day")])
    assert example.target == VOCABULARIES["t5"]()("good day")["input_ids"]
    assert example.label is None
    assert collate([example], [0], 0).targets is not None
    assert _wording("t5", task).encode([_row("a day")], labelled=False)[0].target is None


def test_a_causal_model_keeps_room_for_the_text_it_is_to_write() -> None:
    task = text_to_text(name="x", text="text", label="target")
    row = _row("day " * 30, target="good day")
    [example] = _wording("gpt2", task, max_length=20, room=20).encode([row])
    assert example.target is not None
    assert len(example.ids) + len(example.target) == 20
    with pytest.raises(DataError, match="there is room for"):
        _wording("gpt2", task, room=20).encode([row])


@pytest.mark.parametrize("max_length", [None, 8])
def test_a_text_to_write_that_leaves_no_room_is_told(max_length: int | None) -> None:
    task = text_to_text(name="x", text="text", label="target")
    rows = [_row("a day", target="good"), _row("a day", target="good day " * 10)]
    with pytest.raises(
        DataError, match=r"32 tokens are to be written .* room for 20 .* shorter target, or fewer max_new"
    ):
        _wording("gpt2", task, max_length=max_length, room=20).encode(rows)
    with pytest.raises(DataError, match="30 tokens are to be written"):
        _wording("gpt2", task, max_length=max_length, room=20, reserved=30).encode(rows[:1])


def test_a_text_longer_than_a_decoder_has_places_for_is_told() -> None:
    task = text_to_text(name="x", text="text", label="target")
    row = _row("a day", target="good day")
    [example] = _wording("t5", task).encode([row])
    assert example.target is not None
    size = len(example.target)
    assert _wording("t5", task, longest=size).encode([row]) == [example]
    with pytest.raises(DataError, match=f"'target' is {size} tokens long, and the model writes {size - 1} at most"):
        _wording("t5", task, longest=size - 1).encode([row])


def _counted(ids: Sequence[int], special: Sequence[int]) -> list[int]:
    return sorted(set(ids) - set(special), key=lambda i: (-ids.count(i), i))


@given(NAMES, st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 50))
def test_frequent_ids_are_ordered_and_not_special(name: str, texts: list[str], n: int) -> None:
    examples = _wording(name, template="<soft> {text}").encode([_row(text) for text in texts])
    tokenizer = VOCABULARIES[name]()
    ids = [i for e in examples for i in e.ids]
    assert frequent(examples, tokenizer, n) == _counted(ids, [-1, *tokenizer.all_special_ids])[:n]


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(SettingError, match="cannot tell which characters"):
        Wording(object(), ONE)


def _is_subsequence(part: Sequence[int], whole: Sequence[int]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)
