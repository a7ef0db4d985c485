"""Laws of what is chosen and of what is made from the input (specs of dynamic and instance-wise prompting).

Oracles: prompts built by hand for the option in question, a Python loop over all options, the bare decision without any
of our placements.
"""

import math

import pytest
import torch
from torch import Tensor

from promptuary.choices import (
    Choice,
    Constant,
    Exponential,
    Linear,
    OfficialCompounding,
    embedding_max,
    embedding_mean,
    encoding_mean,
    schedule,
)
from promptuary.errors import SettingError
from promptuary.generators import Free, Pool, Shortened, Summed, Weighted
from promptuary.initial import from_embeddings, from_prompt, normal, zeros
from promptuary.injections import Embeddings, HiddenStates, KeyValues
from promptuary.lookups import Dense
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.placements import Adaptive, Split
from promptuary.values import Instance, Targets
from tests.answers import EXACT, Given, answers, bare_answer, distance, gap
from tests.backbones import backbone, bare, dropping
from tests.laws.checks import FIVE, REFUSED, TEXTS, loss_of
from tests.strategies import Text, pad, pad_targets, ragged

LENGTH = 4
SIDES = ("left", "right")


def fixed(options: int, taken: int, **more: object) -> Choice:
    """A choice that always takes one option."""
    choice = Choice(options, **more)  # type: ignore[arg-type]
    with torch.no_grad():
        choice.bias.fill_(-1e4)
        choice.bias[:, taken] = 1e4
    return choice


def table(family: str, seed: int = 0) -> Free:
    shape = backbone(family).shape
    return Free(LENGTH, shape.dim, normal(shape.deviation), seed=seed)


def on(family: str, generator: object, placement: object = None) -> SoftPrompted:
    b = backbone(family)
    return SoftPrompted(b, generator, Embeddings(b.shape, placement))  # type: ignore[arg-type]


def batch(family: str, side: str = "right") -> tuple[Tensor, Tensor]:
    padded = pad(TEXTS, side)  # type: ignore[arg-type]
    return padded.ids, padded.mask


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", FIVE)
def test_adaptive_at_k_is_a_split_at_k(family: str, training: bool, side: str) -> None:
    for k in range(LENGTH + 1):
        adaptive = on(family, table(family), Adaptive(fixed(LENGTH + 1, k))).train(training)
        split = on(family, table(family), Split(k)).train(training)
        for one, other in zip(answers(adaptive, TEXTS, side), answers(split, TEXTS, side), strict=True):  # type: ignore[arg-type]
            assert distance(one, other) <= EXACT


@torch.no_grad()
def test_a_rotated_split_puts_the_last_soft_tokens_first() -> None:
    b = backbone("t5")
    values = table("t5").table
    for k in range(LENGTH + 1):
        rotated = on("t5", table("t5"), Adaptive(fixed(LENGTH + 1, k), order="rotate")).eval()
        by_hand = Free(LENGTH, b.shape.dim, from_prompt(values.roll(k, 0)))
        split = on("t5", by_hand, Split(k)).eval()
        for one, other in zip(answers(rotated, TEXTS), answers(split, TEXTS), strict=True):
            assert distance(one, other) <= EXACT


def candidates(p: Tensor, x: Tensor, real: int, a: int, width: int) -> Tensor:
    """The row for one option by concatenation: soft tokens around the real tokens, zeros for padding."""
    row = torch.cat([p[:a], x[:real], p[a:]])
    return torch.cat([row, row.new_zeros(width - len(row), row.shape[1])])


def test_the_row_and_its_gradients_are_those_of_a_loop_over_all_options() -> None:
    """Float64, right padding: values, and gradients to soft tokens, input and choice, against plain concatenation."""
    torch.manual_seed(0)
    batch, tokens, dim = 3, 5, 6
    mask = torch.arange(tokens)[None] < torch.tensor([5, 3, 1])[:, None]
    embeds = (torch.randn(batch, tokens, dim, dtype=torch.float64) * mask[..., None]).requires_grad_()
    values = torch.randn(batch, LENGTH, dim, dtype=torch.float64, requires_grad=True)
    weights = torch.eye(LENGTH + 1, dtype=torch.float64)[[0, 2, 4]].requires_grad_()
    upstream = torch.randn(batch, tokens + LENGTH, dim, dtype=torch.float64)
    upstream = upstream * (torch.arange(tokens + LENGTH)[None] < mask.sum(1, keepdim=True) + LENGTH)[..., None]

    class Given(Choice):
        def forward(self, x: Instance) -> Tensor:
            return weights

    ids = torch.zeros(batch, tokens, dtype=torch.long)
    x = Instance(ids, mask, embeds, ids, ids[:, 0])
    from promptuary.values import Prompt

    laid = Adaptive(Given(LENGTH + 1))(Prompt(values, torch.ones(batch, LENGTH)), x)
    ours = torch.autograd.grad((laid.embeds * upstream).sum(), (values, embeds, weights))
    looped = torch.stack(
        [
            sum(weights[b, a] * candidates(values[b], embeds[b], int(mask[b].sum()), a, tokens + LENGTH)
                for a in range(LENGTH + 1))
            for b in range(batch)
        ]
    )  # fmt: skip
    theirs = torch.autograd.grad((looped * upstream).sum(), (values, embeds, weights))
    torch.testing.assert_close(laid.embeds * laid.mask[..., None], looped, rtol=0, atol=1e-12)
    for mine, naive in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, naive, rtol=0, atol=1e-12)


@torch.no_grad()
def test_position_acts_through_position_terms_alone() -> None:
    """Without T5's relative bias the encoder cannot tell where the prompt stands; with it, it can."""
    b = backbone("t5")
    states = {}
    for biased in (True, False):
        bias = b.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        kept = bias.clone()
        try:
            if not biased:
                bias.zero_()
            for k in range(LENGTH + 1):
                model = on("t5", table("t5"), Split(k)).eval()
                ids, mask = batch("t5")
                states[biased, k] = model(model.instance(ids, mask)).hidden[mask]
        finally:
            bias.copy_(kept)
    for k in range(1, LENGTH + 1):
        assert torch.allclose(states[False, k], states[False, 0], atol=1e-5)
        assert not torch.allclose(states[True, k], states[True, 0], atol=1e-3)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", FIVE)
def test_a_length_of_k_is_a_prompt_of_k(family: str, training: bool, side: str) -> None:
    b = backbone(family)
    for k in range(LENGTH + 1):
        shortened = on(family, Shortened(table(family), fixed(LENGTH + 1, k), least=0)).train(training)
        short = on(family, Free(k, b.shape.dim, from_prompt(table(family).table[:k]))).train(training)
        for one, other in zip(answers(shortened, TEXTS, side), answers(short, TEXTS, side), strict=True):  # type: ignore[arg-type]
            assert distance(one, other) <= EXACT


def test_gradients_of_a_length_are_sane_at_every_length() -> None:
    for k in range(1, LENGTH + 1):
        choice = fixed(LENGTH, k - 1)
        with torch.no_grad():
            choice.bias.div_(1e4)
        model = on("t5", Shortened(table("t5"), choice)).train()
        torch.manual_seed(k)
        ids, mask = batch("t5")
        model(model.instance(ids, mask, step=1)).hidden[mask].square().mean().backward()
        assert choice.bias.grad is not None
        assert choice.bias.grad.isfinite().all()
        assert choice.bias.grad.abs().max() < 1e3


def decided(choice: Choice, rows: int = 1, step: int = 1) -> Tensor:
    ids = torch.zeros(rows, 1, dtype=torch.long)
    x = Instance(ids, ids == 0, torch.zeros(rows, 1, 3), ids, ids[:, 0], step=step)
    found: Tensor = choice(x)
    return found


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_a_hard_choice_is_distributed_as_the_softmax_at_any_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    choice = Choice(3, temperature=Constant(temperature), rows=True).train()
    with torch.no_grad():
        choice.bias.copy_(torch.tensor([[0.5, -0.5, 0.0]]))
    found = decided(choice, rows=20_000)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert (found.sum(1) == 1).all()
    torch.testing.assert_close(found.detach().mean(0), choice.bias.detach()[0].softmax(0), rtol=0, atol=0.015)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [None, 3])
def test_a_hard_choice_is_exactly_one_option_in_any_precision(autocast: torch.dtype | None, dim: int | None) -> None:
    torch.manual_seed(0)
    choice = Choice(5, dim=dim, temperature=Constant(0.3), rows=True).train()
    with torch.no_grad():
        choice.bias.normal_()
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        found = decided(choice, rows=500)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert set(found.to(dtype).unique().tolist()) == {0.0, 1.0}
            assert (found.to(dtype).sum(1) == 1).all()
        (found * torch.arange(5)).sum().backward()
    assert choice.bias.grad is not None
    assert choice.bias.grad.isfinite().all()
    assert choice.bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_row_that_is_split_while_training_is_the_split_row_to_the_last_bit(
    dtype: torch.dtype, autocast: bool
) -> None:
    b = backbone("bert", dtype=dtype)
    ids, mask = batch("bert")
    for k in range(LENGTH + 1):
        laid = []
        for placement in (Adaptive(fixed(LENGTH + 1, k)), Split(k)):
            model = SoftPrompted(b, table("bert"), Embeddings(b.shape, placement)).train()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                layout = model.call(model.instance(ids, mask, step=1)).layout
            laid.append(layout.embeds.to(dtype)[layout.mask])  # as the backbone gets them
        assert torch.equal(*laid)


def test_a_task_draws_once_for_a_batch_and_an_input_for_each_row() -> None:
    torch.manual_seed(0)
    task = torch.stack([decided(Choice(5).train(), rows=64) for _ in range(20)])
    assert (task == task[:, :1]).all()
    assert (decided(Choice(5, dim=3).train(), rows=64).sum(0) > 0).sum() > 1


def test_evaluation_takes_the_most_likely_option_and_draws_nothing() -> None:
    choice = Choice(4, prefer=2).eval()
    before = torch.get_rng_state()
    assert decided(choice).tolist() == [[0, 0, 1, 0]]
    assert torch.equal(torch.get_rng_state(), before)
    soft = Choice(4, prefer=2, mode="soft").eval()
    torch.testing.assert_close(decided(soft), soft.bias.softmax(1))
    best_two = Choice(4, prefer=2, mode="top", top=2).eval()
    assert (decided(best_two) > 0).sum() == 2


def test_the_gradient_of_a_hard_choice_is_that_of_its_softmax() -> None:
    torch.manual_seed(3)
    choice = Choice(3, temperature=Constant(0.7)).train()
    state = torch.get_rng_state()
    (decided(choice) * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    torch.set_rng_state(state)
    noise = -(-torch.rand(1, 3).log()).log()
    logits = choice.bias.detach().clone().requires_grad_()
    (((logits + noise) / 0.7).softmax(1) * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    torch.testing.assert_close(choice.bias.grad, logits.grad)


def test_temperatures_are_functions_of_the_step() -> None:
    assert [Constant(2.0)(n) for n in (0, 9)] == [2.0, 2.0]
    assert Linear(1.0, 0.5, 10)(5) == 0.75
    assert Linear(1.0, 0.5, 10)(99) == 0.5
    assert Exponential(rate=0.1)(5) == pytest.approx(math.exp(-0.5))
    assert [Exponential(rate=0.1, last=0.5)(n) for n in (6, 7, 999)] == [pytest.approx(math.exp(-0.6)), 0.5, 0.5]
    official, product = OfficialCompounding(), 1.0
    for n in range(1, 679):  # the published loop, written out
        product = max(product * math.exp(-3e-5 * n / 10), 0.5)
        assert official(n) == pytest.approx(product, rel=1e-9)
    assert official(679) > 0.5 >= official(680)


def test_an_entropy_bonus_is_earned_by_undecided_choices() -> None:
    def lost(bias: float) -> float:
        choice = Choice(2, entropy=0.1).train()
        with torch.no_grad():
            choice.bias[0, 0] = bias
        ids = torch.zeros(1, 1, dtype=torch.long)
        x = Instance(ids, ids == 0, torch.zeros(1, 1, 3), ids, ids[:, 0], step=1)
        choice(x), choice(x)
        (only,) = x.losses  # made once, whoever asks
        return only.item()

    assert lost(0.0) == pytest.approx(-0.1 * math.log(2))
    assert lost(0.0) < lost(3.0) < 0


@pytest.mark.parametrize("family", FIVE)
def test_a_query_knows_nothing_of_padding_prompt_or_dropout(family: str) -> None:
    model = on(family, table(family)).train()
    found = {}
    for side in SIDES:
        padded = pad(TEXTS, side, extra=3, seed=1)  # type: ignore[arg-type]
        x = model.instance(padded.ids, padded.mask)
        found[side] = embedding_mean(x), encoding_mean(x)
    for one, other in zip(found["left"], found["right"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert not one.requires_grad


@pytest.mark.parametrize("family", FIVE)
def test_a_query_is_read_without_the_frozen_models_own_dropout(family: str) -> None:
    b = dropping(family)
    model = SoftPrompted(b, Free(LENGTH, b.shape.dim, normal(1.0)), Embeddings(b.shape))
    expected = answers(on(family, model.generator).eval(), TEXTS)
    ids, mask = batch(family)
    read = {}
    for training in (False, True):
        b.train(training)
        state = torch.get_rng_state()
        x = model.instance(ids, mask)
        read[training] = [embedding_mean(x), encoding_mean(x), encoding_mean(x, 1)]
        assert torch.equal(torch.get_rng_state(), state)
        assert b.model.training == training
    assert all(torch.equal(one, other) for one, other in zip(read[False], read[True], strict=True))
    drops = answers(model, TEXTS), answers(model, TEXTS)  # all else has the dropout that was asked for
    assert all(distance(one, other) > EXACT for one, other in zip(*drops, strict=True))
    b.train(False)
    assert all(distance(one, other) <= EXACT for one, other in zip(answers(model, TEXTS), expected, strict=True))


@torch.no_grad()
def test_a_pool_of_one_is_its_prompt_and_a_picked_one_is_the_picked() -> None:
    tables = [table("bert", seed) for seed in range(3)]
    for picked in range(3):
        pooled = on("bert", Pool(fixed(3, picked), *tables)).eval()
        single = on("bert", tables[picked]).eval()
        for one, other in zip(answers(pooled, TEXTS), answers(single, TEXTS), strict=True):
            assert distance(one, other) <= EXACT
    only = on("bert", Pool(Choice(1, mode="soft"), tables[0])).eval()
    for one, other in zip(answers(only, TEXTS), answers(on("bert", tables[0]).eval(), TEXTS), strict=True):
        assert distance(one, other) <= EXACT


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_a_mixture_that_is_split_is_the_mixture_of_the_split_prompts(training: bool) -> None:
    tables = [table("bert", seed) for seed in range(3)]
    mix = Choice(3, dim=32, mode="soft")
    mix.weight.normal_()
    ids, mask = batch("bert")
    for k in range(LENGTH + 1):
        mixed = on("bert", Pool(mix, *tables), Split(k)).train(training)
        x = mixed.instance(ids, mask, step=1)
        rows = torch.stack([on("bert", own, Split(k)).call(x).layout.embeds for own in tables], 1)
        expected = (mix(x)[:, :, None, None] * rows).sum(1)
        laid = mixed.call(x).layout
        torch.testing.assert_close(laid.embeds[laid.mask], expected[laid.mask], rtol=0, atol=1e-5)


@torch.no_grad()
def test_equal_relevance_is_plain_prompt_tuning() -> None:
    plain = on("bert", table("bert")).eval()
    weighted = on("bert", Weighted(table("bert"), Choice(LENGTH, dim=32, mode="soft"))).eval()
    for one, other in zip(answers(weighted, TEXTS), answers(plain, TEXTS), strict=True):
        assert distance(one, other) <= EXACT


def test_a_bank_takes_place_and_prompt_by_one_choice() -> None:
    b = backbone("t5")
    generator, injection = METHODS["dp-bank"].parts(b.shape, length=2)
    model = SoftPrompted(b, generator, injection).train()
    assert generator.choice is injection.placement.choice
    ids, mask = batch("t5")
    torch.manual_seed(0)
    for _ in range(10):
        x = model.instance(ids, mask, step=1)
        call = model.call(x)
        taken = int(generator.choice(x)[0].argmax())
        assert call.layout.prompts[0].tolist() == [i if i < taken else i + int(mask[0].sum()) for i in range(2)]
        torch.testing.assert_close(generator(x).values[0], generator.generators[taken].table)


@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_deep_prompts_stand_at_the_same_places_in_every_layer(family: str) -> None:
    b = backbone(family)
    wide = Free(LENGTH, HiddenStates(b.shape).width, normal(1.0))
    for k in range(LENGTH + 1):
        adaptive = SoftPrompted(b, wide, HiddenStates(b.shape, Adaptive(fixed(LENGTH + 1, k)))).eval()
        split = SoftPrompted(b, wide, HiddenStates(b.shape, Split(k))).eval()
        for one, other in zip(answers(adaptive, TEXTS), answers(split, TEXTS), strict=True):
            assert distance(one, other) <= EXACT


def test_a_deep_choice_hears_of_every_layer() -> None:
    """Its gradient comes through the soft rows too, not through the input's places alone."""
    b = backbone("bert")
    injection = HiddenStates(b.shape, Adaptive(Choice(LENGTH + 1, prefer=2)))
    model = SoftPrompted(b, Free(LENGTH, injection.width, normal(1.0)), injection).train()
    ids, mask = batch("bert")
    torch.manual_seed(0)
    x = model.instance(ids, mask, step=1)
    call = model.call(x)
    assert call.layout.placed is not None
    call.layout.placed.retain_grad()
    b.run(call).hidden[mask].square().sum().backward()
    assert call.layout.placed.grad is not None
    assert call.layout.placed.grad.abs().max() > 0


@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_an_instance_prefix_at_scale_zero_is_the_prefix(family: str) -> None:
    b = backbone(family)
    generator, injection = METHODS["ipt-prefix"].parts(b.shape, length=LENGTH, scale=0.0)
    assert isinstance(generator, Summed)
    plain = SoftPrompted(b, generator.generators[0], KeyValues(b.shape)).eval()
    ours = SoftPrompted(b, generator, injection).eval()
    for one, other in zip(answers(ours, TEXTS), answers(plain, TEXTS), strict=True):
        assert distance(one, other) <= EXACT


@pytest.mark.parametrize("combine", ["replace", "concatenate", "add"])
@torch.no_grad()
def test_an_instance_prefix_stands_alone_behind_the_tasks_own_or_is_added_to_it(combine: str) -> None:
    b = backbone("bert")
    settings = {"length": LENGTH, "combine": combine, "layers": [0, 1], "scale": 0.5}
    generator, injection = METHODS["ipt-prefix"].parts(b.shape, **settings)
    both = [generator] if combine == "replace" else generator.generators
    table = both[-1].inner.inner.table.weight
    full = [text for text in TEXTS if len(text.ids) >= LENGTH]
    made = 0.5 * table[torch.tensor([text.ids[:LENGTH] for text in full])]
    own = both[0].table.expand_as(made) if combine != "replace" else made
    by_hand = {"replace": made, "concatenate": torch.cat([own, made], 1), "add": own + made}[combine]
    found = answers(SoftPrompted(b, generator, injection).eval(), full)
    expected = answers(SoftPrompted(b, Given(by_hand), KeyValues(b.shape)).eval(), full)
    assert len(full) > 1
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) <= EXACT


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        (
            "ipt-prefix",
            {"combine": "concatenate"},
            r"zeros that are attended to. Expected all 2 layers .layers=.0, 1..",
        ),
        ("ipt-prefix", {"combine": "replace", "layers": [1]}, "Expected all 2 layers"),
        ("ipt-prefix", {"combine": "both"}, "expected 'replace', 'concatenate' or 'add'"),
        ("ipt", {"scale": 0.1}, "only a prefix has them. Leave them out, or write variant='prefix'"),
        ("ipt-cnn", {"layers": [1]}, "only a prefix has them"),
    ],
)
def test_what_would_do_nothing_in_an_instances_prompt_is_refused(
    method: str, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        METHODS[method].parts(backbone("bert").shape, **settings)


@torch.no_grad()
def test_adding_a_table_of_zeros_is_prompt_tuning() -> None:
    b = backbone("bert")
    generator, injection = METHODS["ipt"].parts(b.shape, length=LENGTH, combine="add")
    generator.generators[1].inner.table.weight.zero_()
    plain = SoftPrompted(b, generator.generators[0], injection).eval()
    for one, other in zip(
        answers(SoftPrompted(b, generator, injection).eval(), TEXTS), answers(plain, TEXTS), strict=True
    ):
        assert distance(one, other) <= EXACT


@pytest.mark.parametrize("pad", ["mask", "row", "task"])
@pytest.mark.parametrize("more", [{}, {"rank": 3}, {"buckets": 7}], ids=str)
@torch.no_grad()
def test_a_table_that_starts_at_zeros_adds_nothing(pad: str, more: dict[str, int]) -> None:
    b = backbone("bert")
    for name, settings in (("ipt", {"combine": "add"}), ("ipt-prefix", {"scale": 0.7})):
        given = {"length": LENGTH, "pad": pad, **settings, **more}
        generator, injection = METHODS[name].parts(b.shape, init=zeros(), **given)
        plain = SoftPrompted(b, generator.generators[0], injection).eval()
        for one, other in zip(
            answers(SoftPrompted(b, generator, injection).eval(), TEXTS), answers(plain, TEXTS), strict=True
        ):
            assert distance(one, other) <= EXACT


@torch.no_grad()
def test_a_table_that_starts_as_the_embeddings_repeats_the_text() -> None:
    """A look-up of the backbone's own embeddings is the text's first tokens once more, as inputs."""
    b = backbone("bert")
    generator, _ = METHODS["ipt"].parts(b.shape, length=LENGTH, init=from_embeddings(b.table))
    ids, mask = batch("bert")
    x = SoftPrompted(b, generator, Embeddings(b.shape)).eval().instance(ids, mask)
    p = generator(x)
    for row, length in enumerate(mask.sum(1).tolist()):
        seen = min(length, LENGTH)
        assert torch.equal(p.values[row, :seen], x.embeds[row][mask[row]][:seen])
    low, _ = METHODS["ipt"].parts(b.shape, length=LENGTH, rank=b.shape.dim, init=from_embeddings(b.table))
    torch.testing.assert_close(low(x).values, p.values, rtol=0, atol=1e-5)
    for wrong in ({"buckets": 7}, {"variant": "prefix"}):
        with pytest.raises(SettingError, match="not with buckets, not as a prefix"):
            METHODS["ipt"].parts(b.shape, length=LENGTH, init=from_embeddings(b.table), **wrong)


@pytest.mark.parametrize("name", ["ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix"])
@torch.no_grad()
def test_one_text_has_one_prompt_and_another_token_another(name: str) -> None:
    b = backbone("bert")
    generator, injection = METHODS[name].parts(
        b.shape, length=LENGTH, **({} if name == "ipt" else {"tokens": 3} if "prefix" not in name else {})
    )
    model = SoftPrompted(b, generator, injection).eval()
    ids = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 9, 7]])
    values = generator(model.instance(ids, ids > 0)).values
    assert torch.equal(values[0], values[1])
    assert not torch.allclose(values[0], values[2])


# Methods that read the input.
READERS = [
    ("dp-position-instance", {}), ("dp-position-instance", {"query": "encoder"}), ("dp-length-instance", {}),
    ("dp-vector", {}), ("dp-vector-position", {}), ("dp-position-vector", {}), ("dp-position-length", {}),
    ("dp-bank", {"position": "instance"}), ("dp-deep", {}), ("idpg", {}), ("lpt", {}), ("ipl", {}), ("smop", {}),
    ("attempt", {}), ("ipt", {}), ("ipt-cnn", {}), ("ipt-lstm", {}), ("ipt-prefix", {}),
]  # fmt: skip

SPECIAL = [
    Text([0, 1, 2, 3, 4], [0] * 5, [[0, 1], [2]]),  # padding, begin, end, mask: as real tokens
    Text([7] * 6, [0] * 6, [[7, 7], [7]]),
    Text([3, 9, 3, 9], [0, 1, 0, 1], [[3], [9, 3]]),
    Text([2], [0], [[2], [2, 2]]),
]


@pytest.mark.parametrize(("name", "settings"), READERS, ids=str)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@torch.no_grad()
def test_special_and_repeated_tokens_are_read_like_any_other(
    family: str, name: str, settings: dict[str, object]
) -> None:
    if (family, name) in REFUSED:
        pytest.skip(REFUSED[family, name])
    b = backbone(family)
    model = SoftPrompted(b, *METHODS[name].parts(b.shape, length=LENGTH, **settings)).eval()
    for choice in model.choices.values():
        if choice.weight is not None:
            choice.weight.normal_(generator=torch.Generator().manual_seed(2))
    singly = [answers(model, [text])[0] for text in SPECIAL]
    for side in SIDES:
        for one, other in zip(answers(model, SPECIAL, side, extra=2), singly, strict=True):  # type: ignore[arg-type]
            assert distance(one, other) <= EXACT


SPOKEN = [17, 42, 8, 60]  # real tokens, as soft ones
ALONE = [
    *((name, {}) for name in METHODS if name.startswith("dp-") and name != "dp-deep"),
    ("dp-position-instance", {"query": "encoder"}), ("ipl", {}), ("smop", {}), ("ipt", {"pad": "task"}),
    ("ipt", {"combine": "add"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), ALONE, ids=str)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_row_without_tokens_is_its_prompt_alone(family: str, name: str, settings: dict[str, object]) -> None:
    b = backbone(family)
    model = SoftPrompted(b, *METHODS[name].parts(b.shape, length=LENGTH, **settings)).eval()
    with torch.no_grad():
        for own, p in model.generator.named_parameters():
            if own.endswith(("table", "fill")) and len(p):
                p.copy_(b.embed(torch.tensor([SPOKEN]))[0])
    rows = [Text([], [], [[5, 6, 7], [9]]), *TEXTS]
    for side in SIDES:
        found = answers(model, rows, side, extra=1)  # type: ignore[arg-type]
        for one, other in zip(found[1:], answers(model, TEXTS), strict=True):
            assert distance(one, other) <= EXACT
        if family != "bert":
            spoken = bare_answer(bare(family), Text(SPOKEN, [0] * LENGTH, rows[0].choices))
            assert all(gap(one, other) <= EXACT for one, other in zip(found[0].choices, spoken.choices, strict=True))
    torch.manual_seed(0)
    loss_of(answers(model.train(), rows, extra=1)[1:]).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_a_token_that_is_repeated_is_looked_up_alike_in_every_slot_and_padding_as_a_token_is_one() -> None:
    b = backbone("bert")
    generator, injection = METHODS["ipt"].parts(b.shape, length=LENGTH)
    model = SoftPrompted(b, generator, injection).eval()
    padded = pad(SPECIAL, "right")
    p = generator(model.instance(padded.ids, padded.mask))
    assert torch.equal(p.values[0], generator.inner.table.weight[:LENGTH])
    assert torch.equal(p.values[1], generator.inner.table.weight[7].expand(LENGTH, -1))
    assert p.keep.tolist() == [[1] * 4, [1] * 4, [1] * 4, [1, 0, 0, 0]]


@pytest.mark.parametrize("name", ["ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix"])
@torch.no_grad()
def test_a_table_of_equal_rows_makes_the_same_prompt_of_every_text(name: str) -> None:
    b = backbone("bert")
    generator, injection = METHODS[name].parts(b.shape, length=LENGTH)
    (rows,) = (t.weight for t in generator.modules() if isinstance(t, Dense))
    rows.copy_(rows[:1].expand_as(rows).clone())
    model = SoftPrompted(b, generator, injection).eval()
    texts = [text for text in ragged(6, 4, 9, seed=2) if len(text.ids) >= LENGTH]
    padded = pad(texts, "left")
    values = generator(model.instance(padded.ids, padded.mask)).values
    assert len(texts) == 3
    by_hand = SoftPrompted(b, Given(values[0]), injection).eval()  # a prompt that no text bears on
    for one, other in zip(answers(model, texts), answers(by_hand, texts), strict=True):
        assert distance(one, other) <= EXACT


# --- many tasks, other tasks' prompts, controls ---


@torch.no_grad()
def test_choices_of_a_task_are_its_own() -> None:
    choice = Choice(3, tasks=2).eval()
    choice.bias[0, 1], choice.bias[1, 2] = 5.0, 5.0
    model = on("bert", table("bert"))
    ids, mask = batch("bert")
    task = torch.arange(len(ids)) % 2
    taken = choice(model.instance(ids, mask, task=task)).argmax(1)
    assert taken.tolist() == [2 if t else 1 for t in task.tolist()]


@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_attempt_at_one_source_is_that_source_and_the_own_prompt(side: str) -> None:
    b = backbone("bert")
    generator, injection = METHODS["attempt"].parts(b.shape, length=LENGTH, prompts=2, init=normal(b.shape.deviation))
    own, pool = generator.generators  # type: ignore[union-attr]
    sources = [g.table for g in pool.generators]  # type: ignore[union-attr]
    assert [s.requires_grad for s in sources] == [False, False, True]
    assert sources[2] is own.table
    pool.choice.weight.zero_()  # type: ignore[union-attr]
    for j in range(3):
        pool.choice.bias.fill_(-1e4)[:, j] = 1e4  # type: ignore[union-attr]
        found = answers(SoftPrompted(b, generator, injection).eval(), TEXTS, side)  # type: ignore[arg-type]
        by_hand = on("bert", Free(LENGTH, b.shape.dim, from_prompt(own.table + sources[j]))).eval()
        for one, other in zip(found, answers(by_hand, TEXTS), strict=True):
            assert distance(one, other) <= EXACT


@torch.no_grad()
def test_the_largest_embeddings_are_those_of_real_tokens() -> None:
    for side in SIDES:
        ids, mask = batch("bert", side)
        x = on("bert", table("bert")).instance(ids, mask)
        expected = torch.stack([x.embeds[i][mask[i]].amax(0) for i in range(len(ids))])
        assert torch.equal(embedding_max(x), expected)
    nothing = on("bert", table("bert")).instance(ids[:1], torch.zeros_like(mask[:1]))
    assert not embedding_max(nothing).any()


@pytest.mark.parametrize("variant", ["prompt", "prefix"])
@torch.no_grad()
def test_a_shuffled_control_gives_each_row_what_another_rows_text_made(variant: str) -> None:
    b = backbone("bert")
    ids, mask = batch("bert")
    made = {}
    for control in ("none", "shuffled"):
        parts = METHODS["ipt"].parts(b.shape, length=LENGTH, variant=variant, control=control)
        model = SoftPrompted(b, *parts).eval()
        made[control] = model.generator(model.instance(ids, mask))
    rows = [len(ids) - 1, *range(len(ids) - 1)]
    assert torch.equal(made["shuffled"].values, made["none"].values[rows])
    assert variant == "prefix" or torch.equal(made["shuffled"].keep, made["none"].keep[rows])


def controlled(name: str, settings: dict[str, object], control: str) -> SoftPrompted:
    """A method under a control, whose choices are no longer alike for all texts."""
    b = backbone("bert")
    model = SoftPrompted(b, *METHODS[name].parts(b.shape, length=LENGTH, control=control, **settings)).eval()
    source = torch.Generator().manual_seed(5)
    for choice in model.choices.values() if control != "frozen" else ():
        for p in (choice.bias, choice.weight):
            if p is not None:
                p.data.copy_(torch.randn(p.shape, generator=source))
    return model


def made_of(model: SoftPrompted, x: Instance) -> list[Tensor]:
    """What a model makes of each row, and what it chooses for each row by the input."""
    p = model.generator(x)
    chosen = [choice(x) for choice in model.choices.values() if choice.weight is not None]
    return [p.values.expand(len(x.ids), -1, -1), p.keep.expand(len(x.ids), -1), *chosen]


@pytest.mark.parametrize(("name", "settings"), READERS, ids=str)
@torch.no_grad()
def test_under_a_shuffled_control_each_row_has_what_another_rows_text_says(
    name: str, settings: dict[str, object]
) -> None:
    plain, shuffled = (controlled(name, settings, control) for control in ("none", "shuffled"))
    ids = torch.arange(5, 95).view(9, 10)
    mask = torch.arange(10) < torch.tensor([[10], [3], [7]]).repeat(3, 1)
    rows = [len(ids) - 1, *range(len(ids) - 1)]
    own, another = made_of(plain, plain.instance(ids, mask)), made_of(shuffled, shuffled.instance(ids, mask))
    assert any(not torch.allclose(one, one[rows]) for one in own)  # the text bears on it
    for one, other in zip(own, another, strict=True):
        torch.testing.assert_close(other, one[rows], rtol=0, atol=1e-6)
    alone = [made_of(shuffled, shuffled.instance(ids[i : i + 1], mask[i : i + 1])) for i in range(len(ids))]
    for found in zip(*alone, strict=True):  # there is no other row: never its own text, the same for all
        assert all(torch.equal(one, found[0]) for one in found)
        assert found[0].isfinite().all()


@pytest.mark.parametrize(("name", "settings"), READERS, ids=str)
def test_under_a_frozen_control_what_reads_the_text_differs_by_it_and_does_not_learn(
    name: str, settings: dict[str, object]
) -> None:
    plain, frozen = (controlled(name, settings, control) for control in ("none", "frozen"))
    learned = {name for name, p in frozen.named_parameters() if p.requires_grad}
    left = {name for name, p in plain.named_parameters() if p.requires_grad} - learned
    choices = {
        f"{name}.{own}" for name, c in frozen.choices.items() if c.weight is not None for own, _ in c.named_parameters()
    }
    assert left == choices if choices else left
    ids = torch.arange(5, 95).view(9, 10)
    with torch.no_grad():
        found = made_of(frozen, frozen.instance(ids, ids > 0))
    assert any(not torch.allclose(rows, rows[:1].expand_as(rows)) for rows in found)


def test_a_control_of_what_is_not_made_from_the_input_is_refused() -> None:
    shape = backbone("bert").shape
    for name, settings in (("dp-position", {}), ("dp-vector", {"pooled": "task"}), ("lpt", {"instance": False})):
        with pytest.raises(SettingError, match="nothing of this prompt is made from the input"):
            METHODS[name].parts(shape, control="shuffled", **settings)
    for name in ("ipt", "idpg", "smop"):
        with pytest.raises(SettingError, match="expected 'none', 'shuffled' or 'frozen'"):
            METHODS[name].parts(shape, control="shufled")


def test_a_frozen_control_trains_nothing_of_what_reads_the_text() -> None:
    b = backbone("bert")
    for name in ("ipt", "ipt-lstm"):
        generator, _ = METHODS[name].parts(b.shape, length=LENGTH, control="frozen")
        assert not [p for p in generator.parameters() if p.requires_grad]
    prefix, _ = METHODS["ipt-prefix"].parts(b.shape, length=LENGTH, control="frozen")
    assert [tuple(p.shape) for p in prefix.parameters() if p.requires_grad] == [(LENGTH, prefix.width)]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_deep_choice_hears_the_same_whatever_stands_behind_the_row(family: str) -> None:
    b = backbone(family)
    generator, injection = METHODS["dp-deep"].parts(b.shape, length=LENGTH)
    model = SoftPrompted(b, generator, injection).train()

    def gradient(extra: int, targets: Targets | None) -> Tensor:
        torch.manual_seed(0)
        batch = pad(TEXTS, "right", extra=extra)
        x = model.instance(batch.ids.clamp(min=0), batch.mask)
        states = model(x, targets).hidden[x.mask]
        (states * torch.linspace(-1, 1, states.numel()).cos().view(states.shape)).sum().backward()
        (choice,) = model.choices.values()
        found, choice.weight.grad = choice.weight.grad, None
        return found

    plain = gradient(0, None)
    assert plain.abs().max() > 0
    assert (gradient(b.shape.positions or 0, None) - plain).abs().max() <= 10 * EXACT * plain.abs().max()
    if b.shape.decodes:
        scored = gradient(0, pad_targets(TEXTS, "right")[0])
        assert (scored - plain).abs().max() <= 10 * EXACT * plain.abs().max()


# --- a control that nothing learns ---


def asked(ids: Tensor, mask: Tensor) -> Instance:
    return Instance(ids, mask, torch.zeros(*ids.shape, 3), ids * 0, torch.zeros(len(ids), dtype=torch.long), step=1)


@pytest.mark.parametrize("dim", [None, 3])
def test_a_control_takes_at_evaluation_one_option_for_a_text_and_all_alike_over_texts(dim: int | None) -> None:
    choice, source = Choice(5, dim=dim, trained=False).eval(), torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30_000, (4000, 9), generator=source)
    found = choice(asked(ids, ids > 0))
    assert (found.sum(1) == 1).all()
    torch.testing.assert_close(found.mean(0), torch.full((5,), 0.2), rtol=0, atol=0.02)
    alone = torch.cat([choice(asked(row[None], row[None] > 0)) for row in ids[:20]])
    assert torch.equal(alone, found[:20])
    padded = torch.nn.functional.pad(ids, (3, 2), value=7)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[:, 3:-2] = True
    assert torch.equal(choice(asked(padded, mask)), found)
    assert torch.equal(choice(asked(ids[:1, :0], ids[:1, :0] > 0)).sum(), torch.tensor(1.0))  # an empty row


def test_of_equal_options_the_first_is_taken() -> None:
    ids = torch.zeros(3, 1, dtype=torch.long)
    for options in (2, 21, 300):
        assert Choice(options).eval()(asked(ids, ids == 0)).argmax(1).tolist() == [0, 0, 0]
        best = Choice(options, mode="top", top=2).eval()(asked(ids, ids == 0))
        assert (best[:, :2] == 0.5).all()


def test_soft_weights_are_those_of_evaluation_at_any_temperature() -> None:
    choice = Choice(3, mode="soft", temperature=Constant(0.1), spread=2.0).train()
    torch.testing.assert_close(decided(choice), choice.bias.softmax(1))
    torch.testing.assert_close(decided(choice), decided(choice.eval()))


def test_logits_are_made_in_float32_under_autocast() -> None:
    choice = Choice(21, dim=64, spread=1.0).eval()
    ids = torch.zeros(512, 4, dtype=torch.long)
    embeds = torch.randn(512, 4, 64, generator=torch.Generator().manual_seed(0))
    x = Instance(ids, ids == 0, embeds, ids, ids[:, 0], step=1)
    plain = choice.probabilities(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(choice.probabilities(Instance(ids, ids == 0, embeds, ids, ids[:, 0], step=1)), plain)


@pytest.mark.parametrize(
    "name", ["dp-position", "dp-position-instance", "dp-length", "dp-length-instance", "dp-position-length"]
)
@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_what_is_chosen_starts_at_the_plain_prompt(family: str, name: str) -> None:
    b = backbone(family)
    generator, injection = METHODS[name].parts(b.shape, length=LENGTH)
    plain, _ = METHODS["prompt-tuning"].parts(b.shape, length=LENGTH)
    found = answers(SoftPrompted(b, generator, injection).eval(), TEXTS)
    for one, other in zip(found, answers(on(family, plain).eval(), TEXTS), strict=True):
        assert distance(one, other) <= EXACT


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dp-position", {}),
        ("dp-position-instance", {}),
        ("dp-length-instance", {}),
        ("dp-position-length", {}),
        ("dp-vector-position", {"mode": "top", "top": 2}),
        ("dp-bank", {}),
    ],
)
def test_a_methods_settings_reach_each_of_its_choices(name: str, more: dict[str, object]) -> None:
    b = backbone("t5")
    settings = {"temperature": "linear:steps=7", "entropy": 0.01, "query": "encoder", **more}
    model = SoftPrompted(b, *METHODS[name].parts(b.shape, length=LENGTH, **settings))
    assert model.choices
    for choice in model.choices.values():
        assert choice.temperature == Linear(steps=7)
        assert choice.entropy == 0.01
        assert choice.weight is None or choice.query is encoding_mean
        assert choice.mode == ("top" if more and choice.options == 4 else "hard")


def test_a_choice_by_the_input_is_the_same_at_any_scale_of_the_model() -> None:
    """So that one rate suits every model: a query's mean and deviation do not bear on the logits."""
    choice = Choice(5, dim=64, spread=1.0).eval()
    ids = torch.zeros(8, 4, dtype=torch.long)
    embeds = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1)
    found = [
        choice.probabilities(Instance(ids, ids == 0, scale * embeds + shift, ids, ids[:, 0]))
        for scale, shift in ((1.0, 0.0), (100.0, 0.0), (1.0, 3.0))
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)
    assert found[0].std(0).min() > 0.01


# --- as the published code chooses ---

PUBLISHED = [name for name in METHODS if name.startswith("dp-")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_choice_as_published_learns(name: str) -> None:
    b = backbone("t5")
    model = SoftPrompted(b, *METHODS[name].parts(b.shape, compat="official", length=LENGTH)).train()
    choices = [part for part in model.modules() if isinstance(part, Choice)]
    assert choices
    torch.manual_seed(0)
    padded = pad(TEXTS, "right")
    for _ in range(4):  # a drawn choice may be one of which no gradient tells
        model(model.instance(padded.ids, padded.mask)).hidden[padded.mask].pow(2)[:, ::3].sum().backward()
    for choice in choices:
        learned = [p for p in (choice.bias, choice.weight) if p is not None]
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned)


def test_a_choice_as_published_starts_cuts_and_squashes_as_published() -> None:
    shape = backbone("t5").shape

    def made(name: str) -> list[Choice]:
        model = SoftPrompted(backbone("t5"), *METHODS[name].parts(shape, compat="official"))
        return [part for part in model.modules() if isinstance(part, Choice)]

    [task] = made("dp-position")
    assert task.activation is None
    assert 0.3 < task.bias.abs().max() <= 0.5
    assert task.bias.std() > 0.1
    [instance] = made("dp-position-instance")
    assert instance.activation is torch.relu
    assert instance.weight is not None
    bound = shape.dim**-0.5
    assert 0.9 * bound < instance.weight.abs().max() <= bound
    [alone] = made("dp-vector")
    assert alone.activation is torch.tanh
    assert {choice.activation for choice in made("dp-vector-position")} == {torch.relu, None}
    assert {choice.activation for choice in made("dp-position-vector")} == {None}
    ours = SoftPrompted(backbone("t5"), *METHODS["dp-vector-position"].parts(shape))
    assert {part.activation for part in ours.modules() if isinstance(part, Choice)} == {None}
    drawn = [choice.bias for choice in made("dp-vector-position")]
    assert not torch.equal(drawn[0][:, :4], drawn[1][:, :4])


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_a_row_as_published_is_rotated_and_keeps_its_last_token_behind_all(family: str, side: str) -> None:
    """The published layout, whose option j counts the soft tokens behind the input: P[j:], x[:-1], P[:j], x[-1:]."""
    b = backbone(family)
    model = SoftPrompted(b, *METHODS["dp-position"].parts(b.shape, compat="official", length=LENGTH)).eval()
    (choice,), table = model.choices.values(), model.generator.table  # type: ignore[union-attr]
    ids, mask = batch(family, side)
    x = model.instance(ids, mask)
    for j in range(LENGTH + 1):
        choice.bias.fill_(-1.0)[:, LENGTH - j] = 1.0
        laid = model.call(model.instance(ids, mask)).layout
        for row in range(len(ids)):
            text = x.embeds[row][mask[row]]
            published = torch.cat([table[j:], text[:-1], table[:j], text[-1:]])
            assert torch.equal(laid.embeds[row][laid.mask[row]], published)


@pytest.mark.parametrize("mode", ["soft", "top"])
def test_a_pool_at_random_takes_one_prompt(mode: str) -> None:
    """A mixture would be the same for every text and at every step: nothing of it is random."""
    shape = backbone("t5").shape
    with pytest.raises(SettingError, match=f"mode='{mode}': every text gets the same mixture. Write mode='hard'"):
        METHODS["dp-vector"].parts(shape, pooled="random", mode=mode)
    METHODS["dp-vector"].parts(shape, pooled="random", mode="hard")


def test_a_temperature_is_written_with_its_numbers() -> None:
    assert schedule("linear:steps=200,last=0.1") == Linear(1.0, 0.1, 200)
    assert schedule("official_compounding:anneal=1") == OfficialCompounding(anneal=1.0)
    assert schedule("constant") == Constant()
    for wrong, said in (
        ("linaer", "expected one of"),
        ("linear:step=3", "first=1.0,last=0.5,steps=1000"),
        ("linear:steps=x", "first=1.0,last=0.5,steps=1000"),
        ("linear:steps=0", "above 0"),
    ):
        with pytest.raises(SettingError, match=said):
            schedule(wrong)
