"""Soft keys and values: of real tokens they are real tokens; absent they are nothing; present they are heard."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from promptuary.errors import BackboneError, SettingError
from promptuary.generators import Free
from promptuary.initial import from_prompt, normal
from promptuary.injections import KeyValues
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.values import Part
from tests.answers import BFLOAT16, EXACT, Answer, Given, answers, bare_answer, distance, gap, prompted
from tests.backbones import (
    CAUSAL,
    ENCODER_DECODERS,
    ENCODERS,
    HOOKED,
    POSITIONS,
    VOCABULARY,
    backbone,
    bare,
)
from tests.strategies import SIDES, Side, Text, ragged, text

WORDS = [17, 42, 8]
DECODER: frozenset[Part] = frozenset({"decoder"})


def reading(family: str, words: list[int], **as_: Any) -> SoftPrompted:
    b = backbone(family, **as_)
    start = from_prompt(b.keys_values(words, DECODER))
    injection = KeyValues(b.shape, start=len(words))
    return SoftPrompted(b, Free(len(words), injection.width, start), injection).eval()


def after(words: list[int], row: Text, answer: Answer) -> Answer:
    return Answer(answer.tokens[len(words) :], answer.choices)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_keys_and_values_of_real_tokens_equal_real_tokens(family: str, side: Side) -> None:
    rows = ragged(6, 2, 4)
    oracle = bare(family)
    for row, answer in zip(rows, answers(reading(family, WORDS), rows, side, extra=1), strict=True):
        whole = bare_answer(oracle, Text(WORDS + row.ids, [0] * len(WORDS) + row.types, row.choices))
        assert distance(answer, after(WORDS, row, whole)) <= EXACT


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_in_bfloat16_keys_and_values_of_real_tokens_equal_real_tokens(family: str) -> None:
    rows = ragged(6, 2, 4)
    kernel = "eager" if family == "gemma2" else "sdpa"
    oracle = bare(family, dtype=torch.bfloat16, attention=kernel)
    model = reading(family, WORDS, dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    for row, answer in zip(rows, answers(model, rows, "left"), strict=True):
        whole = bare_answer(oracle, Text(WORDS + row.ids, [0] * len(WORDS) + row.types, row.choices))
        assert distance(answer, after(WORDS, row, whole)) <= 2 * BFLOAT16  # the bare model rounds in other groups


PROJECTIONS = {
    "t5": (
        "encoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.1.EncDecAttention",
        "k",
        "v",
    ),
    "mt5": (
        "encoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.1.EncDecAttention",
        "k",
        "v",
    ),
    "bart": (
        "model.encoder.layers.{}.self_attn",
        "model.decoder.layers.{}.self_attn",
        "model.decoder.layers.{}.encoder_attn",
        "k_proj",
        "v_proj",
    ),
}


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_the_keys_and_values_of_an_encoder_decoder_are_what_its_projections_say(family: str) -> None:
    """Read off the bare model's own linear layers, while it reads the words with both towers."""
    model = bare(family)
    *towers, key, value = PROJECTIONS[family]
    said: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith((f".{key}", f".{value}")):
            handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: said.update({name: out[0]})))
    ids = torch.tensor([WORDS])
    model(input_ids=ids, decoder_input_ids=ids)
    for handle in handles:
        handle.remove()
    layers = range(2)
    order: dict[frozenset[Part], list[str]] = {
        frozenset({"encoder"}): [towers[0].format(i) for i in layers],
        DECODER: [towers[1].format(i) for i in layers],
        frozenset({"cross"}): [towers[2].format(i) for i in layers],
    }
    for parts, modules in order.items():
        expected = torch.cat([said[f"{m}.{p}"] for m in modules for p in (key, value)], 1)
        assert gap(backbone(family).keys_values(WORDS, parts), expected) <= EXACT


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_an_absent_prefix_is_no_prefix(family: str) -> None:
    b = backbone(family)
    injection = KeyValues(b.shape)
    rows = ragged(6, 2, 4)
    gone = Given(torch.randn(3, injection.width), torch.zeros(3))
    never = Free(0, injection.width, normal(1.0))
    for side in SIDES:
        found = answers(SoftPrompted(b, gone, injection).eval(), rows, side)
        plain = answers(SoftPrompted(b, never, injection).eval(), rows, side)
        for row, one, other in zip(rows, found, plain, strict=True):
            assert distance(one, other) <= 2e-6  # another number of columns, another grouping of the same sums
            assert distance(other, bare_answer(bare(family), row)) <= EXACT


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_a_prefix_of_zeros_is_a_prefix(family: str) -> None:
    """It takes its share of the attention; only absence is nothing."""
    b = backbone(family)
    injection = KeyValues(b.shape)
    zeros = SoftPrompted(b, Given(torch.zeros(3, injection.width)), injection).eval()
    rows = ragged(6, 2, 4)
    for row, answer in zip(rows, answers(zeros, rows), strict=True):
        assert distance(answer, bare_answer(bare(family), row)) > 1e-2


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_each_part_of_an_encoder_decoder_is_chosen_by_itself(family: str, part: Part) -> None:
    b = backbone(family)
    injection = KeyValues(b.shape, parts={part})
    model = SoftPrompted(b, Given(torch.randn(3, injection.width) * 2), injection).eval()
    (row,) = ragged(6)
    (answer,), plain = answers(model, [row]), bare_answer(bare(family), row)
    moved = gap(answer.tokens, plain.tokens)
    assert moved > 1e-1 if part == "encoder" else moved <= EXACT  # the encoder hears its own prefix only
    assert min(gap(a, b) for a, b in zip(answer.choices, plain.choices, strict=True)) > 1e-2


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_every_layer_of_every_part_has_soft_keys_and_values_of_its_own(family: str, part: Part) -> None:
    b = backbone(family)
    injection = KeyValues(b.shape, parts={part})
    base = torch.randn(3, injection.width)
    rows = ragged(6)
    (plain,) = answers(SoftPrompted(b, Given(base), injection).eval(), rows)
    at = 0
    for a in (a for a in b.shape.attention if a.part == part):
        for of in (slice(at, at + a.heads * a.key), slice(at + a.heads * a.key, at + a.width)):
            changed = base.clone()
            changed[:, of] += 1.0
            (moved,) = answers(SoftPrompted(b, Given(changed), injection).eval(), rows)
            assert gap(moved.choices[0], plain.choices[0]) > 1e-3
        at += a.width


@torch.no_grad()
def test_the_layers_of_albert_share_weights_but_not_soft_keys_and_values() -> None:
    b = backbone("albert")
    injection = KeyValues(b.shape)
    base = torch.randn(3, injection.width)
    first, second = base.clone(), base.clone()
    first[:, : b.shape.attention[0].width] += 1.0
    second[:, b.shape.attention[0].width :] += 1.0
    rows = ragged(6)
    one, other, plain = (answers(SoftPrompted(b, Given(v), injection).eval(), rows)[0] for v in (first, second, base))
    assert min(distance(one, plain), distance(other, plain), distance(one, other)) > 1e-2


@torch.no_grad()
def test_a_learned_prefix_is_seen_through_a_sliding_window() -> None:
    b = backbone("mistral")
    assert [a.window for a in b.shape.attention] == [4, 4]
    injection = KeyValues(b.shape)
    long = text(40, seed=3)
    (one,), (other,) = (
        answers(SoftPrompted(b, Given(torch.randn(3, injection.width)), injection).eval(), [long]) for _ in range(2)
    )
    assert gap(one.tokens[-1], other.tokens[-1]) > 1e-2


@torch.no_grad()
def test_soft_tokens_in_the_row_are_hidden_by_a_sliding_window() -> None:
    """Not a law we like, but what the model is: two layers of window 4 reach back 6 places, not 40."""
    b = backbone("mistral")
    long = text(40, seed=3)
    one, other = (answers(prompted("mistral", "prompt-tuning", seed=seed), [long])[0] for seed in (1, 2))
    assert gap(one.tokens[-1], other.tokens[-1]) == 0.0
    assert b.shape.attention[0].window is not None


LIMITED = tuple(f for f in (*ENCODERS, *CAUSAL, *ENCODER_DECODERS) if backbone(f).shape.positions is not None)


@pytest.mark.parametrize("family", [f for f in LIMITED if f in HOOKED])
@torch.no_grad()
def test_a_prefix_leaves_all_positions_to_the_input(family: str) -> None:
    b = backbone(family)
    injection = KeyValues(b.shape)
    model = SoftPrompted(b, Given(torch.randn(3, injection.width), torch.zeros(3)), injection).eval()
    assert model.room == b.shape.positions
    assert b.shape.positions is not None
    longest = text(min(b.shape.positions, 80), seed=4, steps=())
    (answer,) = answers(model, [longest], scored=False)
    assert gap(answer.tokens, bare_answer(bare(family), longest).tokens) <= EXACT


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "albert", "electra", "gpt2", "opt", "bart"])
@torch.no_grad()
def test_the_stated_number_of_positions_is_the_number_that_fits(family: str) -> None:
    limit = backbone(family).shape.positions
    assert limit == (POSITIONS - 2 if family == "roberta" else POSITIONS)
    model = bare(family)
    tower = model.get_encoder() if model.config.is_encoder_decoder else model
    tower(input_ids=torch.full((1, limit), VOCABULARY - 1))
    with pytest.raises(Exception, match=r"index|size|range"):
        tower(input_ids=torch.full((1, limit + 1), VOCABULARY - 1))


@pytest.mark.parametrize("family", [name for name in ENCODERS if name in HOOKED])
@torch.no_grad()
def test_an_encoder_counts_on_behind_a_prefix_with_positions(family: str) -> None:
    b, ids = backbone(family), torch.tensor([ragged(6)[0].ids])
    injection = KeyValues(b.shape, start=2)
    model = SoftPrompted(b, Free(0, injection.width, from_prompt(torch.zeros(0, injection.width))), injection).eval()
    first = 2 + (int(b.model.config.pad_token_id) + 1 if family == "roberta" else 0)
    expected = bare(family)(input_ids=ids, position_ids=torch.arange(first, first + 6)[None]).logits
    out = model(model.instance(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert gap(out.logits(out.hidden), expected) <= EXACT


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_two_towers_have_no_position_to_start_from(family: str) -> None:
    with pytest.raises(SettingError, match="each of its towers counts by itself"):
        KeyValues(backbone(family).shape, start=2)


def test_a_model_without_a_hook_names_what_works_there() -> None:
    with pytest.raises(BackboneError, match="prompt-tuning"):
        KeyValues(backbone("deberta").shape)


@torch.no_grad()
def test_roberta_counts_positions_from_its_padding_id() -> None:
    """Counting from 0 would be silently wrong by this much."""
    model = bare("roberta")
    ids = torch.tensor([ragged(6)[0].ids])
    right = model(input_ids=ids).logits
    naive = model(input_ids=ids, position_ids=torch.arange(6)[None]).logits
    assert gap(naive, right) > 1e-1
    (answer,) = answers(prompted("roberta", "frozen"), ragged(6), "left", extra=3)
    plain = bare_answer(model, ragged(6)[0])
    assert distance(answer, plain) <= EXACT


class Asked(TorchDispatchMode):
    """Counts how often the device is waited for: a number of a tensor becomes a number of Python."""

    times = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", ["bert", "llama"])
@torch.no_grad()
def test_more_layers_wait_no_more_often_for_the_device(family: str, side: Side) -> None:
    counts = []
    for layers in (1, 4):
        b = backbone(family, num_hidden_layers=layers)
        model = SoftPrompted(b, *METHODS["p-tuning-v2"].parts(b.shape, length=3)).eval()
        for lengths in ((6, 6), (6, 2)):  # without any padding the models make no mask
            with Asked() as asked:
                answers(model, ragged(*lengths), side, scored=False)
            counts.append(asked.times)
    assert counts[:2] == counts[2:]
