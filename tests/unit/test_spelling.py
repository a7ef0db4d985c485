"""The text of tokens that come one at a time, by tokenizers of three kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptuary.serve.spelling import Spelling, spelled
from tests.unit.data.vocabularies import gpt2, llama, t5

TOKENIZERS = {"gpt2": gpt2, "llama": llama, "t5": t5}
TEXTS = st.text(alphabet="abe tho.€é🙂\n", max_size=25)


def pieces(kind: str, ids: list[int], stop: list[str]) -> tuple[list[str], bool]:
    """What is told after each token and at the end; nothing is written behind a stop string."""
    spelling, found = Spelling(TOKENIZERS[kind](), stop), []
    for token in ids:
        found.append(spelling.add(token))
        if spelling.stopped:
            return found, True
    return [*found, spelling.end()], spelling.stopped


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXTS, more=st.lists(st.integers(0, 600), max_size=9))
def test_pieces_joined_are_what_the_tokenizer_says_of_all(kind: str, text: str, more: list[int]) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], *more]
    said, stopped = pieces(kind, ids, [])
    assert "".join(said) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not stopped
    assert not any("\ufffd" in piece for piece in said[:-1] if not more)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXTS, stop=st.lists(st.text(alphabet="abe tho.€", min_size=1, max_size=4), max_size=3))
def test_nothing_is_told_of_a_stop_string_or_behind_it(kind: str, text: str, stop: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    ends = [whole.index(s) + len(s) for s in stop if s in whole]
    said, stopped = pieces(kind, ids, ["", *stop])
    assert stopped == bool(ends)
    if stopped:  # the text ends with the token that completes the first stop string
        first = min(whole.index(s) for s in stop if s in whole and whole.index(s) + len(s) <= max(ends))
        assert "".join(said) in {whole[: whole.index(s)] for s in stop if s in whole}
        assert len("".join(said)) >= first
    else:
        assert "".join(said) == whole
    assert spelled(tokenizer, ids, stop) == (
        whole[: min((whole.index(s) for s in stop if s in whole), default=len(whole))],
        stopped,
    )


def test_what_may_begin_a_stop_string_is_kept_back_until_it_is_none() -> None:
    tokenizer = gpt2()
    ids = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcabd"]
    spelling = Spelling(tokenizer, ["abd"])
    assert [spelling.add(token) for token in ids] == ["", "", "abc", "", "", ""]
    assert spelling.stopped
    assert spelling.end() == ""
