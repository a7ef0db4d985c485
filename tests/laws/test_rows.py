"""A row is answered by itself: batch, order, padding and absent slots leave no trace in it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptuary.generators import Free, Generator
from promptuary.initial import normal
from promptuary.injections import HiddenStates
from promptuary.model import SoftPrompted
from promptuary.placements import Split
from promptuary.values import Instance, Prompt
from tests.answers import BFLOAT16, EXACT, LENGTH, answers, distance, parts, prompted
from tests.backbones import POSITIONS, backbone
from tests.laws.checks import PAIRS, PROMPTED, STATIC, TEXTS, alone, heard
from tests.strategies import Text, ragged, seeds, sides, text, texts


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_row_alone_is_that_row_in_a_batch_padded_anywhere(family: str, method: str) -> None:
    alone(prompted(family, method))


@pytest.mark.parametrize(("family", "method"), PAIRS)
@settings(max_examples=3)
@given(rows=texts(), side=sides, seed=seeds, extra=st.integers(0, 3), data=st.data())
@torch.no_grad()
def test_a_row_alone_is_that_row_in_any_batch_in_any_order(
    family: str, method: str, rows: list[Text], side: str, seed: int, extra: int, data: st.DataObject
) -> None:
    model = prompted(family, method)
    order = data.draw(st.permutations(range(len(rows))))
    found = answers(model, [rows[i] for i in order], side, extra=extra, seed=seed)
    for i, answer in zip(order, found, strict=True):
        assert distance(answer, answers(model, [rows[i]])[0]) <= EXACT


@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PAIRS if f in ("roberta", "llama", "gemma3", "t5")])
@torch.no_grad()
def test_in_bfloat16_a_row_alone_is_that_row_in_a_batch(family: str, method: str) -> None:
    model = SoftPrompted(backbone(family, dtype=torch.bfloat16), *parts(family, method)).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    found = answers(model, TEXTS, "left", extra=2)
    for row, answer in zip(TEXTS, found, strict=True):
        assert distance(answer, answers(model, [row])[0]) <= 4 * BFLOAT16


@pytest.mark.parametrize(("family", "steps"), [("bert", ()), ("gpt2", (2,)), ("gpt2", (9,))])
@torch.no_grad()
def test_rows_that_fit_by_themselves_fit_together(family: str, steps: tuple[int, ...]) -> None:
    model = prompted(family, "prompt-tuning")
    rows = [text(POSITIONS - LENGTH - 1, seed=0, steps=steps and (1,)), text(4, seed=1, steps=steps)]
    found = answers(model, rows, extra=0 if steps else 5)
    for row, answer in zip(rows, found, strict=True):
        assert distance(answer, answers(model, [row])[0]) <= EXACT


@pytest.mark.parametrize(("family", "method"), PROMPTED)
def test_the_output_moves_when_the_prompt_moves(family: str, method: str) -> None:
    heard(prompted(family, method))


class Missing(Generator):
    """`inner` with absent slots: `keep[b]` says for each row which."""

    def __init__(self, inner: Generator, keep: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.keep, self.length, self.width = inner, keep, inner.length, inner.width

    def forward(self, x: Instance) -> Prompt:
        p: Prompt = self.inner(x)
        return Prompt(p.values * self.keep[..., None], p.keep * self.keep)


class Chosen(Generator):
    """Only the slots `which` of `inner`."""

    def __init__(self, inner: Generator, which: list[int]) -> None:
        super().__init__()
        self.inner, self.which, self.length, self.width = inner, which, len(which), inner.width

    def forward(self, x: Instance) -> Prompt:
        p: Prompt = self.inner(x)
        return Prompt(p.values[:, self.which], p.keep[:, self.which])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PROMPTED if m in STATIC])
@torch.no_grad()
def test_a_prompt_with_absent_slots_is_the_shorter_prompt(family: str, method: str, side: str) -> None:
    generator, injection = parts(family, method)
    keep = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    rows = ragged(3, 6, 4)
    found = answers(SoftPrompted(backbone(family), Missing(generator, keep), injection).eval(), rows, side)
    for i, which in enumerate(([0, 2], [2], [])):
        shorter = SoftPrompted(backbone(family), Chosen(generator, which), injection).eval()
        assert distance(found[i], answers(shorter, [rows[i]])[0]) <= EXACT


@pytest.mark.parametrize("before", [0, None])
@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
@torch.no_grad()
def test_absent_slots_take_no_position_from_a_row_as_long_as_the_model_allows(family: str, before: int | None) -> None:
    b, keep = backbone(family), torch.tensor([[0.0, 1.0, 0.0]])
    injection = HiddenStates(b.shape, Split(before))
    generator = Free(3, injection.width, normal(1.0))
    rows = [text(POSITIONS - 1, seed=0, steps=())]
    (found,) = answers(SoftPrompted(b, Missing(generator, keep), injection).eval(), rows, extra=3, scored=False)
    shorter = SoftPrompted(b, Chosen(generator, [1]), injection).eval()
    assert distance(found, answers(shorter, rows, scored=False)[0]) <= EXACT


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_evaluation_draws_no_randomness_and_repeats_itself(family: str, method: str) -> None:
    model = prompted(family, method)
    before = torch.get_rng_state()
    with torch.no_grad():
        one, other = (answers(model, TEXTS) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, other, strict=True))
