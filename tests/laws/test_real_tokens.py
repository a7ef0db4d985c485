"""Real tokens' embeddings given as soft tokens are real tokens: the bare model on the ids in place says the same."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptuary.generators import Free
from promptuary.initial import from_words, matched
from promptuary.injections import Embeddings
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.placements import Placement, Slots, Split
from tests.answers import BFLOAT16, EXACT, Answer, answers, bare_answer, distance, gap
from tests.backbones import FAMILIES, backbone, bare
from tests.laws.checks import loss_of
from tests.strategies import SIDES, Side, Text, ragged, seeds, sides, splits, texts

WORDS = [17, 42, 8]

# How ids `w` are spliced into a row `r`, written without any index arithmetic of the library.
PLACES: dict[str, tuple[Callable[[], Placement], Callable[[list[Any], list[Any]], list[Any]]]] = {
    "before": (lambda: Split(), lambda r, w: w + r),
    "behind": (lambda: Split(0), lambda r, w: r + w),
    "around": (lambda: Split(2), lambda r, w: w[:2] + r + w[2:]),
    "after the first": (lambda: Split(head=1), lambda r, w: r[:1] + w + r[1:]),
    "before the last": (lambda: Split(0, tail=1), lambda r, w: r[:-1] + w + r[-1:]),
    "inside": (lambda: Split(1, head=1, tail=1), lambda r, w: r[:1] + w[:1] + r[1:-1] + w[1:] + r[-1:]),
}


def splice(text: Text, words: list[int], into: Callable[[list[Any], list[Any]], list[Any]]) -> tuple[Text, list[int]]:
    """The text with real words in it, and where its own tokens went."""
    tagged = into([("own", i) for i in range(len(text.ids))], [("word", i) for i in range(len(words))])
    ids = [text.ids[i] if kind == "own" else words[i] for kind, i in tagged]
    types = [text.types[i] if kind == "own" else 0 for kind, i in tagged]
    return Text(ids, types, text.choices), [tagged.index(("own", i)) for i in range(len(text.ids))]


def expected(family: str, text: Text, words: list[int], into: Callable[..., list[Any]], **bare_as: Any) -> Answer:
    whole, own = splice(text, words, into)
    answer = bare_answer(bare(family, **bare_as), whole)
    return Answer(answer.tokens[own], answer.choices)


def speaking(family: str, words: list[int], placement: Placement, **as_: Any) -> SoftPrompted:
    b = backbone(family, **as_)
    start = from_words(b.embeddings, words, rest=matched(1.0))
    generator = Free(len(words), b.shape.dim, start)
    return SoftPrompted(b, generator, Embeddings(b.shape, placement)).eval()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_soft_tokens_that_are_real_tokens_equal_real_tokens(family: str, side: Side, place: str) -> None:
    placement, into = PLACES[place]
    rows = ragged(6, 2, 4)
    found = answers(speaking(family, WORDS, placement()), rows, side, extra=1)
    for row, answer in zip(rows, found, strict=True):
        assert distance(answer, expected(family, row, WORDS, into)) <= EXACT


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_soft_tokens_the_model_is_the_bare_model(family: str) -> None:
    rows = ragged(6, 2, 4)
    for row, answer in zip(rows, answers(speaking(family, [], Split()), rows, "between"), strict=True):
        assert distance(answer, bare_answer(bare(family), row)) <= EXACT


@pytest.mark.parametrize("place", ["before", "after the first"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_any_padding_and_without_targets_too(family: str, place: str) -> None:
    """Models skip the mask here; what is causal must stay so."""
    placement, into = PLACES[place]
    rows = ragged(6, 6)
    for words in ([], WORDS):
        for row, answer in zip(rows, answers(speaking(family, words, placement()), rows, scored=False), strict=True):
            whole = expected(family, row, words, into)
            assert gap(answer.tokens, whole.tokens) <= EXACT


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(rows=texts(most=3), side=sides, seed=seeds, split=splits())
@torch.no_grad()
def test_any_number_of_soft_tokens_split_anywhere_equals_real_tokens_there(
    family: str, rows: list[Text], side: Side, seed: int, split: tuple[int, int, int, int]
) -> None:
    length, before, head, tail = split
    words = random.Random(seed).choices(range(5, 99), k=length)

    def into(row: list[Any], w: list[Any]) -> list[Any]:
        start = min(head, len(row))
        end = max(len(row) - tail, start)
        return [*row[:start], *w[:before], *row[start:end], *w[before:], *row[end:]]

    model = speaking(family, words, Split(before, head=head, tail=tail))
    for row, answer in zip(rows, answers(model, rows, side, extra=1, seed=seed), strict=True):
        assert distance(answer, expected(family, row, words, into)) <= EXACT


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_soft_tokens_gradient_is_the_gradient_of_the_real_token_in_its_place(family: str, side: Side) -> None:
    model = speaking(family, WORDS, Split(head=1))
    rows = ragged(6, 2, 4)
    loss_of(answers(model, rows, side, scored=False)).backward()
    (found,) = (p.grad for p in model.parameters())
    oracle = bare(family)
    table = (oracle.get_encoder() if oracle.config.is_encoder_decoder else oracle).get_input_embeddings()
    seen: list[torch.Tensor] = []

    def note(_module: object, _given: object, out: torch.Tensor) -> torch.Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    wanted = torch.zeros_like(found)
    tokens = []
    for row in rows:
        whole, own = splice(row, WORDS, PLACES["after the first"][1])
        with table.register_forward_hook(note):
            seen.clear()
            ids, types = torch.tensor([whole.ids]), torch.tensor([whole.types])
            if oracle.config.is_encoder_decoder:
                said = oracle.get_encoder()(input_ids=ids).last_hidden_state
            elif getattr(oracle.config, "type_vocab_size", 0) > 1:
                said = oracle(input_ids=ids, token_type_ids=types).logits
            else:
                said = oracle(input_ids=ids).logits
        tokens.append((seen[0], said[0, own]))
    loss_of([Answer(said, []) for _, said in tokens]).backward()
    for embeds, _ in tokens:
        assert embeds.grad is not None
        wanted += embeds.grad[0, 1 : 1 + len(WORDS)]
    assert gap(found, wanted) <= EXACT


def marked(text: Text, gaps: list[int]) -> tuple[Text, Callable[[list[Any], list[Any]], list[Any]]]:
    """The text with a mark in each gap, and how to splice words at these marks."""

    def into(row: list[Any], words: list[Any]) -> list[Any]:
        laid: list[Any] = []
        for g in range(len(row) + 1):
            laid += [w for w, at in zip(words, gaps, strict=True) if at == g]
            laid += row[g : g + 1]
        return laid

    marks = [-1 - i for i in range(len(gaps))]  # any negative id marks
    template = into(list(text.ids), marks)
    types = into(list(text.types), [0] * len(gaps))
    return Text(template, types, text.choices), into


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(rows=texts(shortest=1, longest=7, most=3), side=sides, seed=seeds, data=st.data())
@torch.no_grad()
def test_soft_tokens_at_a_templates_marks_equal_real_tokens_there(
    family: str, rows: list[Text], side: Side, seed: int, data: st.DataObject
) -> None:
    gaps = [sorted(data.draw(st.integers(0, len(row.ids))) for _ in WORDS) for row in rows]
    templates = [marked(row, g) for row, g in zip(rows, gaps, strict=True)]
    found = answers(speaking(family, WORDS, Slots()), [t for t, _ in templates], side, seed=seed)
    for (template, into), row, answer in zip(templates, rows, found, strict=True):
        whole, own = splice(row, WORDS, into)
        bared = bare_answer(bare(family), whole)
        # A template's marks are tokens of the caller too: there the output is the soft token's.
        everywhere = Answer(bared.tokens, bared.choices)
        assert len(template.ids) == len(whole.ids)
        assert distance(answer, everywhere) <= EXACT
        assert gap(answer.tokens[own], bared.tokens[own]) <= EXACT


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_p_tuning_template_of_the_method_takes_real_tokens_too(family: str) -> None:
    b = backbone(family)
    _, injection = METHODS["p-tuning"].parts(b.shape, length=len(WORDS), template=True)
    generator = Free(len(WORDS), b.shape.dim, from_words(b.embeddings, WORDS, rest=matched(1.0)))
    rows = ragged(6, 2, 4)
    templates = [marked(row, [0, 1, len(row.ids)]) for row in rows]
    found = answers(SoftPrompted(b, generator, injection), [t for t, _ in templates], "left")
    for (_, into), row, answer in zip(templates, rows, found, strict=True):
        whole, _ = splice(row, WORDS, into)
        assert distance(answer, bare_answer(bare(family), whole)) <= EXACT


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_in_bfloat16_soft_tokens_that_are_real_tokens_equal_real_tokens(family: str, side: Side) -> None:
    model = speaking(family, WORDS, Split(head=1), dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    rows = ragged(6, 2, 4)
    # The same order of roundings on both sides: the same kernel, and rows too short for it to sum them in groups of 16.
    kernel = "eager" if family in ("deberta", "gemma2") else "sdpa"
    for row, answer in zip(rows, answers(model, rows, side), strict=True):
        whole = expected(family, row, WORDS, PLACES["after the first"][1], dtype=torch.bfloat16, attention=kernel)
        assert distance(answer, whole) <= BFLOAT16
