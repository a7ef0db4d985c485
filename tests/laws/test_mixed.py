"""Rows under different prompts in one pass say what each says in a pass of its own.

The oracle is `SoftPrompted` alone on its own rows, without any of `mixing`.
"""

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from promptuary.backbones.generation import Generation, Sampling
from promptuary.errors import BackboneError, SettingError
from promptuary.injections import KeyValues, Late
from promptuary.methods import METHODS
from promptuary.mixing import Share, generate, run, stacked
from promptuary.model import SoftPrompted
from promptuary.placements import Split
from promptuary.values import Call, KeyValue, Layout, Output, Targets
from tests.answers import BFLOAT16, EXACT, Answer, Given, answers, distance, gap, small
from tests.backbones import FAMILIES, backbone
from tests.laws.checks import REFUSED, loss_of, trainable
from tests.laws.test_generation import backbone as untied
from tests.strategies import SIDES, Side, Text, pad, pad_targets, ragged

FOUR = ("bert", "t5", "gpt2", "llama")
KINDS = (
    "frozen", "prompt-tuning", "p-tuning-v2", "deep-prompt-tuning", "ipt-lstm", "ipt-prefix", "dp-position-instance",
    "dp-length", "dp-vector", "dp-deep", "lpt",
)  # fmt: skip
FEW = ("frozen", "prompt-tuning", "p-tuning-v2", "deep-prompt-tuning", "ipt-prefix", "dp-position-instance")
TEXTS = (ragged(6, 2, seed=1), ragged(3, 9, 4, seed=2))
STEPS = ((3, 1), (2, 4, 1))


@cache
def tuned(family: str, method: str, number: int) -> SoftPrompted:
    """The prompt of one task, far from where it started; two tasks differ in length."""
    b = untied(family) if FAMILIES[family].kind != "encoder" else backbone(family)
    settings = small(method)
    if "length" in settings:
        settings["length"] += 2 * number
    with torch.random.fork_rng():
        torch.manual_seed(number)
        model = SoftPrompted(b, *METHODS[method].parts(b.shape, **settings))
        for parameter in trainable(model).values():
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def pairs(methods: Sequence[str], families: Sequence[str], often: Sequence[str] | None = None) -> list[Any]:
    """Every pair of methods, one with itself too, on every family that takes both.

    The default tests take each method of `often` (by default all) with its two neighbours in it, the slow ones all.
    """
    often = often or methods
    near = {frozenset(two) for two in zip(often, (*often[1:], often[0]), strict=True)}
    found = itertools.product(families, itertools.combinations_with_replacement(methods, 2))
    return [
        pytest.param(f, *two, marks=[] if frozenset(two) in near else pytest.mark.slow)
        for f, two in found
        if not any((f, m) in REFUSED for m in two)
    ]


def share(model: SoftPrompted, texts: Sequence[Text], side: Side, *, scored: bool = False) -> Share:
    batch = pad(texts, side, extra=1)
    return Share(
        model,
        model.instance(batch.ids.clamp(min=0), batch.mask, batch.types),
        pad_targets(texts, side)[0] if scored else None,
    )


def continued(texts: Sequence[Text], steps: Sequence[int]) -> list[Text]:
    return [Text(t.ids, t.types, [x.ids for x in ragged(*steps, seed=len(t.ids))]) for t in texts]


def taken(model: SoftPrompted, out: Output, texts: Sequence[Text], side: Side, *, scored: bool) -> list[Answer]:
    """One share's output as answers to its texts."""
    columns = pad(texts, side, extra=1).columns
    states = out.hidden if FAMILIES[model.backbone.name].kind == "encoder_decoder" else out.logits(out.hidden)
    assert states.shape[1] == max(len(t.ids) for t in texts) + 1
    if not scored:
        assert out.targets is None
        return [Answer(states[row, at], []) for row, at in enumerate(columns)]
    assert out.targets is not None
    scores, (targets, steps) = out.logits(out.targets), pad_targets(texts, side)
    assert scores.shape[:3] == targets.ids.shape
    return [
        Answer(states[row, at], [scores[row, i, own] for i, own in enumerate(steps[row])])
        for row, at in enumerate(columns)
    ]


@pytest.mark.parametrize("family", FOUR)
@torch.no_grad()
def test_all_methods_mix_in_one_batch_in_any_order(family: str) -> None:
    models = [tuned(family, m, n % 2) for n, m in enumerate(METHODS) if (family, m) not in REFUSED]
    for order in (models, models[::-1]):
        said = run([share(m, TEXTS[n % 2], "left") for n, m in enumerate(order)])
        for n, (model, out) in enumerate(zip(order, said, strict=True)):
            for row, found in zip(TEXTS[n % 2], taken(model, out, TEXTS[n % 2], "left", scored=False), strict=True):
                assert distance(found, answers(model, [row], scored=False)[0]) <= EXACT


@pytest.mark.parametrize("family", FOUR)
@torch.no_grad()
def test_the_backbone_runs_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [tuned(family, m, n % 2) for n, m in enumerate(FEW)]
    shares = [share(m, TEXTS[0], "right") for m in models]
    runs: list[int] = []
    plain = models[0].backbone.run
    monkeypatch.setattr(models[0].backbone, "run", lambda call, t: runs.append(len(call.layout.mask)) or plain(call, t))
    run(shares)
    assert runs == [len(FEW) * len(TEXTS[0])]


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
@torch.no_grad()
def test_what_is_drawn_for_a_row_is_drawn_from_its_own_prompt(family: str) -> None:
    # The same seed and as many rows draw the same numbers, whoever's rows they are.
    models, rows = [tuned(family, m, n % 2) for n, m in enumerate(FEW)], ragged(5)
    how = Generation(max_new_tokens=6, end=(), sampling=Sampling())

    def drawn(shares: Sequence[Share]) -> Tensor:
        torch.manual_seed(4)
        return torch.cat(generate(shares, how))

    mixed = drawn([share(m, rows, "right") for m in models])
    assert len(mixed.unique(dim=0)) > 1
    for n, model in enumerate(models):
        assert torch.equal(mixed[n], drawn([share(model, rows * len(models), "right")])[n])


class Told:
    """A streamer: it is told the next token of every row at each step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def put(self, ids: Tensor) -> None:
        if ids.dim() == 1:  # what was generated; the prompt itself comes first, as rows
            self.steps.append(ids)

    def end(self) -> None:
        self.steps.append(torch.empty(0))


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
@torch.no_grad()
def test_a_stream_tells_of_every_row_what_it_is_told_alone(family: str) -> None:
    models, streamer = [tuned(family, m, n % 2) for n, m in enumerate(FEW)], Told()
    how = Generation(max_new_tokens=6, end=())
    said = generate([share(m, TEXTS[1], "left") for m in models], how, streamer=streamer)
    *steps, end = streamer.steps
    assert end.numel() == 0
    assert torch.equal(torch.stack(steps, 1), torch.cat(said))
    for model, ids in zip(models, said, strict=True):
        alone = Told()
        model.backbone.generate(model.call(share(model, TEXTS[1][:1], "left").x), how, streamer=alone)
        assert torch.equal(torch.stack(alone.steps[:-1], 1)[0], ids[0])


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("family", FOUR)
def test_the_gradient_of_a_mixed_loss_is_the_sum_of_separate_gradients(family: str, scored: bool) -> None:
    scored = scored and family != "bert"
    models = [tuned(family, m, n % 2) for n, m in enumerate(KINDS[1:]) if (family, m) not in REFUSED]

    def gradients() -> list[Tensor]:
        found = [p for m in models for p in trainable(m).values()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in found]
        for p in found:
            p.grad = None
        return gradients

    texts = [continued(TEXTS[n % 2], STEPS[n % 2]) for n in range(len(models))]
    for model in models:
        model.train()
    try:
        torch.manual_seed(3)  # prompts that choose draw in the order of the shares
        said = run([share(m, t, "left", scored=scored) for m, t in zip(models, texts, strict=True)])
        torch.stack(
            [loss_of(taken(m, o, t, "left", scored=scored)) for m, o, t in zip(models, said, texts, strict=True)]
        ).sum().backward()
        mixed = gradients()
        torch.manual_seed(3)
        for model, rows in zip(models, texts, strict=True):
            own = share(model, rows, "left", scored=scored)
            out = model(own.x, own.targets)
            loss_of(taken(model, out, rows, "left", scored=scored)).backward()
        separate = gradients()
    finally:
        for model in models:
            model.eval()
    assert sum(bool(g.abs().max() > 0) for g in mixed) > len(models)
    for one, other in zip(mixed, separate, strict=True):
        assert gap(one, other) <= 10 * EXACT


@torch.no_grad()
def test_a_row_that_counts_on_behind_a_prefix_shares_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    b = untied("gpt2")
    inject = KeyValues(b.shape, start=3)
    counting = SoftPrompted(b, Given(b.keys_values([7, 8, 9], inject.parts)), inject).eval()
    models = (tuned("gpt2", "prompt-tuning", 0), counting, tuned("gpt2", "p-tuning-v2", 1))
    expected = [[answers(m, [row], scored=False)[0] for row in TEXTS[0]] for m in models]
    runs: list[int] = []
    plain = b.run
    monkeypatch.setattr(b, "run", lambda call, t: runs.append(len(call.layout.mask)) or plain(call, t))
    said = run([share(m, TEXTS[0], "right") for m in models])
    assert runs == [len(models) * len(TEXTS[0])]
    for model, out, own in zip(models, said, expected, strict=True):
        for found, alone in zip(taken(model, out, TEXTS[0], "right", scored=False), own, strict=True):
            assert distance(found, alone) <= EXACT


@pytest.mark.parametrize("family", ["bert", "t5"])
@torch.no_grad()
def test_prompts_that_join_late_share_a_pass_wherever_they_stand(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = untied(family) if family == "t5" else backbone(family)

    def late(length: int, before: int) -> SoftPrompted:
        values = torch.randn(length, b.shape.hidden, generator=torch.Generator().manual_seed(length))
        return SoftPrompted(b, Given(values), Late(b.shape, 1, Split(before))).eval()

    models, texts = (late(2, 0), tuned(family, "prompt-tuning", 0), late(4, 1)), (TEXTS[0], TEXTS[0], TEXTS[1])
    shares = [share(m, t, "left") for m, t in zip(models, texts, strict=True)]
    expected = [[answers(m, [row], scored=False)[0] for row in t] for m, t in zip(models, texts, strict=True)]
    runs: list[bool] = []
    plain = b.run
    monkeypatch.setattr(b, "run", lambda call, *t: runs.append(call.until is None) or plain(call, *t))
    said = run(shares)
    assert sum(runs) == 2
    with pytest.raises(SettingError, match="A stream is of one pass"):
        generate(shares, Generation(), streamer=Told())
    for model, rows, out, own in zip(models, texts, said, expected, strict=True):
        for found, alone in zip(taken(model, out, rows, "left", scored=False), own, strict=True):
            assert distance(found, alone) <= EXACT


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@torch.no_grad()
def test_in_bfloat16_a_row_of_a_mixed_batch_is_that_row_alone(family: str) -> None:
    b = backbone(family, dtype=torch.bfloat16)
    models = [SoftPrompted(b, m.generator, m.injection).eval() for m in (tuned(family, kind, 1) for kind in FEW)]
    said = run([share(m, TEXTS[1], "left") for m in models])
    for model, out in zip(models, said, strict=True):
        for row, found in zip(TEXTS[1], taken(model, out, TEXTS[1], "left", scored=False), strict=True):
            assert distance(found, answers(model, [row], scored=False)[0]) <= 4 * BFLOAT16


@pytest.mark.parametrize("family", FOUR)
@torch.no_grad()
def test_absent_slots_of_a_prefix_stay_absent(family: str) -> None:
    b = tuned(family, "p-tuning-v2", 1).backbone
    inject = KeyValues(b.shape)
    values = torch.randn(3, inject.width, generator=torch.Generator().manual_seed(1))
    gone = SoftPrompted(b, Given(values, torch.tensor([1.0, 0.0, 1.0])), inject).eval()
    models = (gone, tuned(family, "p-tuning-v2", 1), tuned(family, "frozen", 0))
    said = run([share(m, TEXTS[0], "left") for m in models])
    for model, out in zip(models, said, strict=True):
        for row, found in zip(TEXTS[0], taken(model, out, TEXTS[0], "left", scored=False), strict=True):
            assert distance(found, answers(model, [row], scored=False)[0]) <= EXACT


def test_layers_with_the_same_slots_share_them_and_others_do_not() -> None:
    def call(prompt: int, *keeps: Tensor) -> Call:
        columns = torch.arange(2)[None]
        layout = Layout(torch.ones(1, 2, 3), columns > -1, columns * 0, columns, columns[:, :0])
        keys = torch.ones(1, 1, prompt, 2)
        return Call(layout, {i: KeyValue(keys, keys, keep) for i, keep in enumerate(keeps)})

    some, none, short = torch.tensor([[True, False, True]]), torch.tensor([[False] * 3]), torch.tensor([[True]])
    found = stacked([call(3, some, none, some), call(1, short, short, short), call(1)]).keys_values
    assert found[0].keep is found[2].keep
    for layer, first in ((0, some), (1, none)):
        assert found[layer].keep.tolist() == [first[0].tolist(), [True, False, False], [False] * 3]
    assert found[0].key[:, 0, :, 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@torch.no_grad()
def test_texts_of_other_rows_cost_a_row_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tuned("gpt2", "frozen", 0), tuned("gpt2", "prompt-tuning", 0)
    many, long = continued(TEXTS[0], [2] * 8), continued(TEXTS[0], [11])
    lengths: list[int] = []
    stack = model.backbone.towers(model.backbone.model)[0][0]
    hook = stack.register_forward_pre_hook(
        lambda _, a, k: lengths.append(k["inputs_embeds"].shape[1]), with_kwargs=True
    )
    run([share(model, many, "right", scored=True), share(other, long, "right", scored=True)])
    hook.remove()
    assert lengths == [6 + 1 + 3 + 10]


def test_prompts_of_different_models_do_not_mix() -> None:
    with pytest.raises(SettingError, match="one loaded backbone"):
        run([share(tuned(f, "frozen", 0), TEXTS[0], "right") for f in ("gpt2", "llama")])
    one = share(tuned("bert", "frozen", 0), TEXTS[0], "right")
    targets = Targets(one.x.ids[:, None], one.x.mask[:, None])
    with pytest.raises(BackboneError, match="cannot continue"):
        run([one, Share(one.model, one.x, targets)])


def test_nothing_is_said_of_no_rows_and_one_call_is_itself() -> None:
    assert run([]) == []
    assert generate([], Generation()) == []
    one: Any = share(tuned("gpt2", "p-tuning-v2", 0), TEXTS[0], "right")
    call = one.model.call(one.x)
    assert stacked([call]) is call


@pytest.mark.parametrize(("family", "one", "other"), pairs(KINDS, FOUR))
@torch.no_grad()
def test_a_row_of_a_mixed_batch_is_that_row_alone(family: str, one: str, other: str) -> None:
    models = tuned(family, one, 0), tuned(family, other, 1)
    for side in SIDES:
        # Both have texts to score, of different number and length; or only the second; or none.
        for scored in ((True, True), (False, True), (False, False))[2 * (family == "bert") :]:
            texts = [continued(t, s) for t, s in zip(TEXTS, STEPS, strict=True)]
            given = list(zip(models, texts, scored, strict=True))
            said = run([share(m, t, side, scored=s) for m, t, s in given])
            for (model, rows, asked), out in zip(given, said, strict=True):
                for row, found in zip(rows, taken(model, out, rows, side, scored=asked), strict=True):
                    assert distance(found, answers(model, [row], scored=asked)[0]) <= EXACT


@pytest.mark.parametrize(("family", "one", "other"), pairs(KINDS, ("t5", "gpt2", "llama"), often=FEW))
@torch.no_grad()
def test_a_mixed_batch_generates_what_each_row_generates_alone(family: str, one: str, other: str) -> None:
    models = tuned(family, one, 0), tuned(family, other, 1)
    ways = (
        Generation(max_new_tokens=8, end=()),
        Generation(max_new_tokens=5, end=(), cache="static"),
        Generation(max_new_tokens=5, end=(), beams=3, sequences=2),
        Generation(max_new_tokens=4, end=(), sampling=Sampling(top_k=1), sequences=2),
    )
    for how, side in zip(ways, (*SIDES, "left"), strict=True):
        said = generate([share(m, t, side) for m, t in zip(models, TEXTS, strict=True)], how)
        for model, rows, ids in zip(models, TEXTS, said, strict=True):
            alone = [model.backbone.generate(model.call(share(model, [row], "right").x), how) for row in rows]
            assert torch.equal(ids, torch.cat(alone))
