"""Soft tokens that do not see the input: against the bare model with a mask that says so, row by row."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from promptuary.backbones.generation import Generation
from promptuary.backbones.load import wrap
from promptuary.choices import Choice
from promptuary.errors import BackboneError, SettingError
from promptuary.generators import Free, Shortened
from promptuary.initial import normal
from promptuary.injections import Embeddings, KeyValues
from promptuary.methods import METHODS, method
from promptuary.mixing import Share, run
from promptuary.model import SoftPrompted
from promptuary.placements import Split
from promptuary.readouts import WordsAsContinuation
from tests.answers import EXACT, gap
from tests.backbones import ENCODER_DECODERS, FAMILIES, backbone, bare, fresh
from tests.laws.checks import STATIC

BOTH_WAYS = tuple(f for f, made in FAMILIES.items() if made.kind != "decoder" and f != "deberta")
TOLD = tuple(f for f in BOTH_WAYS if f != "modernbert")  # whose bare model takes a mask of queries and keys as it is
COMPILED = tuple(f for f in BOTH_WAYS if f != "bart")
AT_INPUT = tuple(n for n, m in METHODS.items() if "sees_input" in m.settings() and n not in ("ipt-prefix", "dp-deep"))
COMPILING = 1e-5  # of the largest number
LENGTH = 3
IDS = torch.tensor([[5, 17, 31, 8, 44, 60, 71], [9, 12, 60, 33, 0, 0, 0], [7, 8, 9, 10, 11, 0, 0]])
MASK = IDS > 0


def soft(family: str, *, sees_input: bool = False, before: int | None = None, length: int = LENGTH) -> SoftPrompted:
    b = backbone(family)
    generator = Free(length, b.shape.dim, normal(1.0), seed=3)
    return SoftPrompted(b, generator, Embeddings(b.shape, Split(before), sees_input=sees_input))


def wave(states: Tensor) -> Tensor:
    """Some scalar that depends on every number, and on each differently."""
    return (states * torch.linspace(-1, 1, states.numel()).cos().view(states.shape)).sum()


def read(model: SoftPrompted, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The states of all real tokens (or at `columns`), and the prompt's gradient of a scalar of them."""
    out = model(model.instance(IDS, MASK), None, columns).hidden
    states = out[MASK] if columns is None else out.gather(1, columns[:, :, None].expand(-1, -1, out.shape[2]))
    (gradient,) = torch.autograd.grad(wave(states), model.generator.table)
    return states.detach(), gradient


def naive(family: str, table: Tensor, before: int) -> tuple[Tensor, Tensor]:
    """The same by the bare model: one row at a time, soft tokens around it, and a mask."""
    model = bare(family)
    stack = model.get_encoder() if family in ENCODER_DECODERS else model.base_model
    table = table.detach().clone().requires_grad_()
    found = []
    for ids, real in zip(IDS, MASK.sum(1).tolist(), strict=True):
        row = torch.cat([table[:before], model.get_input_embeddings()(ids[:real]), table[before:]])
        is_soft = torch.tensor([True] * before + [False] * real + [True] * (LENGTH - before))
        seen = ~is_soft[:, None] | is_soft[None, :]
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        states = stack(inputs_embeds=row[None], attention_mask=mask[None, None]).last_hidden_state[0]
        found.append(states[~is_soft])
    states = torch.cat(found)
    (gradient,) = torch.autograd.grad(wave(states), table)
    return states.detach(), gradient


@pytest.mark.parametrize("before", [LENGTH, 1, 0])
@pytest.mark.parametrize("family", TOLD)
def test_states_and_gradient_are_those_of_the_bare_model_with_a_mask(family: str, before: int) -> None:
    model = soft(family, before=before)
    for found, expected in zip(read(model), naive(family, model.generator.table, before), strict=True):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", BOTH_WAYS)
def test_reading_them_once_says_what_the_mask_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = soft(family)
    columns = torch.tensor([[2], [0], [3]])
    once, few = read(model), read(model, columns)
    assert model.backbone.attachment.reads_apart
    monkeypatch.setattr(model.backbone.attachment, "reads_apart", False)
    for found, expected in ((once, read(model)), (few, read(model, columns))):
        for one, other in zip(found, expected, strict=True):
            assert (one - other).abs().max() <= 1e-4 * other.abs().max()
    assert gap(once[0], read(soft(family, sees_input=True))[0]) > 1e-3


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "bart", "t5"])
def test_before_the_input_they_are_read_once_for_the_batch(family: str) -> None:
    model, seen = soft(family), list[tuple[int, int]]()
    attachment = model.backbone.attachment
    layers = [m for m, v in attachment.layers.items() if v[0].main]
    hooks = [
        m.register_forward_pre_hook(
            lambda _, a, k: seen.append((a[0] if a else k["hidden_states"]).shape[:2]), with_kwargs=True
        )
        for m in layers[-1:]
    ]
    model(model.instance(IDS, MASK))
    for hook in hooks:
        hook.remove()
    times = len(attachment.layers[layers[-1]]) if len(layers) == 1 else 1
    assert [tuple(s) for s in seen[-1:]] == [tuple(IDS.shape)]
    assert [tuple(s) for s in seen[:times]] == [(1, LENGTH)] * times


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_a_text_that_is_scored_hears_the_soft_tokens_own_states_too(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, words = soft(family), WordsAsContinuation([[[5, 8]], [[6]]])
    once = model(model.instance(IDS, MASK), words.choices(len(IDS))).targets
    monkeypatch.setattr(model.backbone.attachment, "reads_apart", False)
    whole = model(model.instance(IDS, MASK), words.choices(len(IDS))).targets
    assert gap(once, whole) <= EXACT


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
@torch.no_grad()
def test_a_prefix_beside_them_is_heard(family: str, apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = soft(family)
    monkeypatch.setattr(model.backbone.attachment, "reads_apart", apart)
    inject = KeyValues(model.backbone.shape)
    prefix = SoftPrompted(model.backbone, Free(2, inject.width, normal(1.0), seed=4), inject)
    x = model.instance(IDS, MASK)
    both = replace(model.call(x), keys_values=prefix.call(x).keys_values)
    found = model.backbone.run(both).hidden[MASK]
    assert gap(found, model(x).hidden[MASK]) > 1e-3
    none = replace(both, keys_values={i: replace(kv, keep=kv.keep & False) for i, kv in both.keys_values.items()})
    assert gap(model.backbone.run(none).hidden[MASK], model(x).hidden[MASK]) <= EXACT
    monkeypatch.setattr(model.backbone.attachment, "reads_apart", False)
    assert gap(found, model.backbone.run(both).hidden[MASK]) <= EXACT


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
@torch.no_grad()
def test_they_share_a_pass_with_all_others(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = backbone(family)
    inject, longer = KeyValues(b.shape), Embeddings(b.shape, sees_input=False)
    prefix = SoftPrompted(b, Free(2, inject.width, normal(1.0), seed=4), inject)
    other = SoftPrompted(b, Free(5, b.shape.dim, normal(1.0), seed=5), longer)
    models = [soft(family), prefix, soft(family, sees_input=True), other, soft(family, before=1)]
    rows = [(IDS, MASK), (IDS[:2, :5], MASK[:2, :5]), (IDS.flip(1), MASK.flip(1)), (IDS, MASK), (IDS, MASK)]
    shares = [Share(m, m.instance(*given)) for m, given in zip(models, rows, strict=True)]
    alone = [m(s.x).hidden[s.x.mask] for m, s in zip(models, shares, strict=True)]
    runs: list[int] = []
    plain = b.run
    monkeypatch.setattr(b, "run", lambda call, t: runs.append(len(call.layout.mask)) or plain(call, t))
    for own, out, expected in zip(shares, run(shares), alone, strict=True):
        assert gap(out.hidden[own.x.mask], expected) <= EXACT
    assert runs == [sum(s.rows for s in shares)]


@torch.no_grad()
def test_a_row_is_the_same_alone_padded_and_in_a_mixed_batch() -> None:
    model, other = soft("roberta"), soft("roberta", sees_input=True)
    whole = model(model.instance(IDS, MASK)).hidden
    for row, real in enumerate(MASK.sum(1).tolist()):
        alone = model(model.instance(IDS[row : row + 1, :real], MASK[row : row + 1, :real])).hidden[0]
        assert gap(whole[row, :real], alone) <= EXACT
        left = model(model.instance(IDS.roll(-real, 1), MASK.roll(-real, 1))).hidden[row, -real:]
        assert gap(left, alone) <= EXACT
    blind, seeing = run([Share(model, model.instance(IDS, MASK)), Share(other, other.instance(IDS, MASK))])
    assert gap(blind.hidden[MASK], whole[MASK]) <= EXACT
    assert gap(seeing.hidden[MASK], other(other.instance(IDS, MASK)).hidden[MASK]) <= EXACT


def test_absent_soft_tokens_are_not_there() -> None:
    b = backbone("bert")
    table = Free(LENGTH, b.shape.dim, normal(1.0), seed=3)
    inject = Embeddings(b.shape, sees_input=False)
    short = SoftPrompted(b, Shortened(table, Choice(LENGTH, prefer=1)), inject).eval()
    two = Free(2, b.shape.dim, lambda *_: table.table.detach()[:2])
    with torch.no_grad():
        found = short(short.instance(IDS, MASK)).hidden
        expected = SoftPrompted(b, two, inject)(short.instance(IDS, MASK)).hidden
    assert gap(found[MASK], expected[MASK]) <= EXACT


def test_a_prompt_that_differs_by_row_is_read_row_by_row() -> None:
    b = backbone("bert")
    table = Free(LENGTH, b.shape.dim, normal(1.0), seed=3)
    model = SoftPrompted(b, table, Embeddings(b.shape, sees_input=False), dropout=0.5).train()
    x = model.instance(IDS, MASK)
    call = model.call(x)
    assert call.blind is not None
    found = b.run(call).hidden
    for row in range(len(IDS)):
        alone = Free(LENGTH, b.shape.dim, lambda *_, row=row: call.blind.values[row].detach())
        one = SoftPrompted(b, alone, Embeddings(b.shape, sees_input=False)).eval()
        expected = one(one.instance(IDS[row : row + 1], MASK[row : row + 1])).hidden
        assert gap(found[row, MASK[row]], expected[0, MASK[row]]) <= EXACT


def compiled(model: SoftPrompted) -> SoftPrompted:
    """The compiled prompt, which is another one: no soft token stands in its row."""
    short = model.compiled()
    assert not short.call(short.instance(IDS, MASK)).layout.prompts.shape[1]
    assert model.call(model.instance(IDS, MASK)).layout.prompts.shape[1]
    return short


LONG = torch.tensor([[5, 17, 31, 8, 44, 60, 71, 3, 9, 12, 33, 41], [9, 12, 60, 33, 7, 21, 13, 4, 0, 0, 0, 0]])


@pytest.mark.parametrize("length", [LENGTH, 7])  # some texts are out of the reach of the longer one's first
@pytest.mark.parametrize("family", COMPILED)
@torch.no_grad()
def test_compiled_they_say_what_they_say(family: str, length: int) -> None:
    model = soft(family, length=length)
    short, columns = compiled(model), torch.tensor([[2], [0]])
    for ids in (IDS, IDS.flip(1), IDS[:1], LONG, LONG[:1, :3]):
        mask = ids > 0
        expected = model(model.instance(ids, mask)).hidden[mask]
        assert gap(short(short.instance(ids, mask)).hidden[mask], expected) <= COMPILING
    seeing, x = soft(family, sees_input=True, length=length), model.instance(LONG, LONG > 0)
    found, expected, other = (m(x, None, columns).hidden[[0, 1], [2, 0]] for m in (short, model, seeing))
    assert gap(found, expected) <= COMPILING
    assert gap(found, other) > 1e-3
    assert short.room == model.room


@pytest.mark.parametrize("family", ["t5", "mt5"])
@torch.no_grad()
def test_compiled_they_are_heard_by_what_is_written(family: str) -> None:
    model, words = soft(family), WordsAsContinuation([[[5, 8]], [[6]]])
    short = compiled(model)
    x = model.instance(IDS, MASK)
    assert gap(short(x, words.choices(3)).targets, model(x, words.choices(3)).targets) <= COMPILING
    for how in (Generation(max_new_tokens=6, end=()), Generation(max_new_tokens=4, end=(), beams=3, sequences=2)):
        assert torch.equal(*(m.backbone.generate(m.call(x), how) for m in (short, model)))
    drafts = [model.backbone.begin(m.call(x)) for m in (short, model)]
    for _ in range(3):
        assert gap(drafts[0].scores, drafts[1].scores) <= COMPILING
        drafts = [model.backbone.advance(d, [5, 6, 7]) for d in drafts]


@pytest.mark.parametrize("family", COMPILED)
@torch.no_grad()
def test_compiled_they_share_a_pass_with_all_others(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = backbone(family)
    inject = KeyValues(b.shape)
    prefix = SoftPrompted(b, Free(2, inject.width, normal(1.0), seed=4), inject)
    longer = soft(family, length=7)
    models = [compiled(soft(family)), prefix, compiled(longer), soft(family, sees_input=True), soft(family, before=1)]
    whole = [soft(family), prefix, longer, *models[3:]]
    rows = [(IDS, MASK), (IDS[:2, :5], MASK[:2, :5]), (LONG, LONG > 0), (IDS.flip(1), MASK.flip(1)), (IDS, MASK)]
    shares = [Share(m, m.instance(*given)) for m, given in zip(models, rows, strict=True)]
    alone = [m(s.x).hidden[s.x.mask] for m, s in zip(whole, shares, strict=True)]
    runs: list[int] = []
    plain = b.run
    monkeypatch.setattr(b, "run", lambda call, t: runs.append(len(call.layout.mask)) or plain(call, t))
    for own, out, expected in zip(shares, run(shares), alone, strict=True):
        assert gap(out.hidden[own.x.mask], expected) <= COMPILING
    assert runs == [sum(s.rows for s in shares)]


@torch.no_grad()
def test_where_positions_cannot_be_given_they_stay_in_the_row() -> None:
    model = soft("bart")  # its encoder counts by itself
    assert model.compiled() is model
    for where in (1, 0):
        model = soft("bert", before=where)
        assert model.compiled() is model


@torch.no_grad()
def test_absent_soft_tokens_are_absent_when_compiled() -> None:
    b = backbone("roberta")
    table = Free(LENGTH, b.shape.dim, normal(1.0), seed=3)
    one = table.fixed()
    one.values[:, 1], one.keep[:, 1] = 0.0, 0.0
    table.fixed = lambda: one  # type: ignore[method-assign]
    short = SoftPrompted(b, table, Embeddings(b.shape, sees_input=False)).eval().compiled()
    two = Free(2, b.shape.dim, lambda *_: table.table.detach()[::2])
    fewer = SoftPrompted(b, two, Embeddings(b.shape, sees_input=False)).eval()
    x = fewer.instance(IDS, MASK)
    assert gap(short(x).hidden[MASK], fewer(x).hidden[MASK]) <= COMPILING


def test_recomputing_activations_changes_neither_states_nor_gradient() -> None:
    for family in ("bert", "t5"):
        b = wrap(fresh(family), family)
        model = SoftPrompted(b, Free(LENGTH, b.shape.dim, normal(1.0), seed=3), Embeddings(b.shape, sees_input=False))
        expected = read(model)
        b.checkpoint_activations(True)
        b.train(True)
        for found, wanted in zip(read(model), expected, strict=True):
            assert gap(found, wanted) <= EXACT


def test_where_it_would_mean_nothing_it_is_refused() -> None:
    with pytest.raises(SettingError, match="sees_input=False on 'gpt2'"):
        Embeddings(backbone("gpt2").shape, sees_input=False)
    with pytest.raises(BackboneError, match="sees_input=False on 'deberta-v2'"):
        Embeddings(backbone("deberta").shape, sees_input=False)


@pytest.mark.parametrize("name", AT_INPUT)
@torch.no_grad()
def test_it_is_a_setting_of_every_method_at_the_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = backbone("bert")

    def made(**settings: bool) -> SoftPrompted:
        return SoftPrompted(b, *method(name).parts(b.shape, length=LENGTH, seed=3, **settings)).eval()

    blind = made(sees_input=False)
    x = blind.instance(IDS, MASK)
    found, seeing = blind(x).hidden[MASK], made()(x).hidden[MASK]
    assert gap(found, seeing) > 1e-4
    monkeypatch.setattr(b.attachment, "reads_apart", False)
    assert gap(found, blind(x).hidden[MASK]) <= EXACT
    assert (blind.compiled() is not blind) == (name in STATIC)
    assert method(name).settings()["sees_input"] is True


@pytest.mark.parametrize(("name", "what"), [("ipt-prefix", "variant='prefix'"), ("dp-deep", "deep=True")])
def test_where_a_method_does_not_enter_as_embeddings_it_is_refused(name: str, what: str) -> None:
    with pytest.raises(SettingError, match=f"sees_input=False with {what}"):
        method(name).parts(backbone("bert").shape, sees_input=False)
    with pytest.raises(SettingError, match="has no setting 'sees_input'"):
        method("p-tuning-v2").parts(backbone("bert").shape, sees_input=False)
