"""What is generated is what the model says token by token, under every kind of prompt and every kind of cache.

Two oracles: the argmax (or a beam search written out) over `SoftPrompted.forward`, which has no cache and does not
go through transformers' `generate`; and the bare model's own `generate` on real tokens, with none of our code.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation, Sampling
from promptuary.backbones.load import wrap
from promptuary.errors import BackboneError, SettingError
from promptuary.injections import Embeddings, HiddenStates, KeyValues
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.placements import Split
from promptuary.values import Instance, Targets
from tests.answers import Given
from tests.backbones import CAUSAL, ENCODER_DECODERS, bare, config, fresh
from tests.backbones import backbone as cached
from tests.strategies import SIDES, Side, pad, ragged, text

FAMILIES = (*CAUSAL, *ENCODER_DECODERS)
STEPS = 12  # beyond every window, and longer than the shortest row with its prompt
PREFIX = [7, 8, 9]
TEXTS = ragged(6, 2, 4, seed=3)
CACHES: tuple[Literal["dynamic", "static", "none"], ...] = ("dynamic", "static", "none")
NO_END: Any = {"max_new_tokens": STEPS, "end": ()}


@cache
def changes(family: str) -> tuple[tuple[str, Any], ...]:
    # A tied head repeats one token for ever, and so would show little.
    untied = "tie_word_embeddings" in config(family).to_dict() and family != "bart"
    return (("tie_word_embeddings", False),) if untied else ()


def backbone(family: str) -> Backbone:
    return cached(family, **dict(changes(family)))


@pytest.mark.parametrize("texts", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_gets_states_that_lie_together(family: str, texts: int) -> None:
    """A slice of the states of all tokens is multiplied row by row in bfloat16 on a CPU."""
    b = wrap(fresh(family, dtype=torch.bfloat16), family)
    model, batch = embeddings(b), pad(TEXTS[:texts], "left")
    call = model.call(model.instance(batch.ids, batch.mask, batch.types))
    b.generate(call, Generation(max_new_tokens=1, end=()))  # what is tried when it first writes asks the head too
    seen: list[bool] = []
    b.model.get_output_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append(given[0].stride() == torch.empty(given[0].shape).stride())
    )
    b.generate(call, Generation(max_new_tokens=3, end=()))
    assert len(seen) == 3
    assert all(seen)


def noise(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(11)) * scale


def embeddings(b: Backbone) -> SoftPrompted:
    return SoftPrompted(b, Given(noise(3, b.shape.dim, scale=b.shape.deviation)), Embeddings(b.shape))


def split(b: Backbone) -> SoftPrompted:
    placed = Embeddings(b.shape, Split(1, head=1, tail=1))
    return SoftPrompted(b, Given(noise(3, b.shape.dim, scale=b.shape.deviation)), placed)


def absent(b: Backbone) -> SoftPrompted:
    values, keep = noise(3, b.shape.dim, scale=b.shape.deviation), torch.tensor([1.0, 0.0, 1.0])
    return SoftPrompted(b, Given(values, keep), Embeddings(b.shape))


def hidden_states(b: Backbone) -> SoftPrompted:
    inject = HiddenStates(b.shape)
    return SoftPrompted(b, Given(noise(3, inject.width)), inject)


def keys_values(b: Backbone) -> SoftPrompted:
    inject = KeyValues(b.shape)
    return SoftPrompted(b, Given(noise(3, inject.width), torch.tensor([1.0, 1.0, 0.0])), inject)


def keys_values_of_tokens(b: Backbone) -> SoftPrompted:
    inject = KeyValues(b.shape, start=len(PREFIX))
    return SoftPrompted(b, Given(b.keys_values(PREFIX, inject.parts)), inject)


def made(b: Backbone) -> SoftPrompted:
    """By the input's own tokens; short rows have fewer soft tokens."""
    return SoftPrompted(b, *METHODS["ipt"].parts(b.shape, length=3, combine="add"))


def chosen(b: Backbone) -> SoftPrompted:
    """Split around the input, elsewhere in each row."""
    model = SoftPrompted(b, *METHODS["dp-position-instance"].parts(b.shape, length=3))
    (choice,) = model.choices.values()
    assert choice.weight is not None
    choice.weight.data.copy_(noise(*choice.weight.shape))
    return model


STATIC = (embeddings, split, absent, hidden_states, keys_values, keys_values_of_tokens)
PROMPTS = MappingProxyType({p.__name__: p for p in (*STATIC, made, chosen)})
CASES = tuple(
    (family, prompt)
    for family, prompt in itertools.product(FAMILIES, PROMPTS)
    if family in CAUSAL or prompt != "keys_values_of_tokens"
)


def instance(model: SoftPrompted, side: Side = "left") -> Instance:
    batch = pad(TEXTS, side, extra=1)
    return model.instance(batch.ids.clamp(min=0), batch.mask)


def next_scores(model: SoftPrompted, x: Instance, so_far: Tensor) -> Tensor:
    """Log-probabilities of the token after each of `choices` texts: [batch, choices, vocabulary]."""
    dummy = torch.zeros(*so_far.shape[:2], 1, dtype=torch.long)
    ids = torch.cat([so_far, dummy], 2)
    out = model(x, Targets(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert out.targets is not None
    return out.logits(out.targets[:, :, -1]).float().log_softmax(2)


@torch.no_grad()
def step_by_step(model: SoftPrompted, x: Instance, steps: int = STEPS) -> Tensor:
    so_far = torch.zeros(len(x.ids), 1, 0, dtype=torch.long)
    for _ in range(steps):
        so_far = torch.cat([so_far, next_scores(model, x, so_far).argmax(2)[:, :, None]], 2)
    return so_far[:, 0]


@torch.no_grad()
def beam_search(model: SoftPrompted, x: Instance, beams: int, steps: int) -> list[list[list[int]]]:
    """The most probable texts of every row, best first, found by a beam search without ends."""
    found = []
    for row in range(len(x.ids)):
        alone = model.instance(x.ids[row : row + 1], x.mask[row : row + 1])
        kept: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(steps):
            scores = next_scores(model, alone, torch.tensor([[ids for _, ids in kept]], dtype=torch.long))[0]
            grown = [
                (total + score, [*ids, token])
                for (total, ids), row_scores in zip(kept, scores.tolist(), strict=True)
                for token, score in enumerate(row_scores)
            ]
            kept = sorted(grown, key=lambda one: -one[0])[:beams]
        found.append([ids for _, ids in kept])
    return found


def generated(model: SoftPrompted, x: Instance, how: Generation) -> Tensor:
    with torch.no_grad():
        return model.backbone.generate(model.call(x), how)


@pytest.mark.parametrize(("family", "prompt"), CASES)
def test_greedy_generation_is_the_argmax_of_every_step_with_every_cache(family: str, prompt: str) -> None:
    model = PROMPTS[prompt](backbone(family)).eval()
    expected = step_by_step(model, instance(model))
    for how in CACHES if family in ENCODER_DECODERS else CACHES[:2]:
        found = generated(model, instance(model), Generation(**NO_END, cache=how))
        assert torch.equal(found, expected), how


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_what_is_made_or_chosen_by_the_input_differs_from_row_to_row(family: str) -> None:
    b = backbone(family)
    x = instance(made(b).eval())
    assert made(b).generator(x).values.unique(dim=0).shape[0] == len(TEXTS)
    (choice,) = chosen(b).eval().choices.values()
    assert len(choice(x).argmax(1).unique()) > 1


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("prompt", ["made", "chosen"])
def test_a_prompt_of_the_input_is_made_once_and_not_of_what_is_written(family: str, prompt: str) -> None:
    model = PROMPTS[prompt](backbone(family)).eval()
    parts = [model.generator, *model.choices.values()]
    seen: list[Tensor] = []
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0].ids)) for part in parts]
    x = instance(model)
    generated(model, x, Generation(**NO_END))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(parts)
    assert all(ids is x.ids for ids in seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_random_models_say_enough_for_these_tests_to_mean_something(family: str) -> None:
    said = [step_by_step(p(backbone(family)).eval(), instance(p(backbone(family)))) for p in (embeddings, keys_values)]
    assert not torch.equal(*said)
    assert len(torch.cat(said).unique()) > 4


@pytest.mark.parametrize(("family", "prompt"), [c for c in CASES if c[0] in ("gpt2", "mistral", "t5")])
def test_generation_does_not_depend_on_where_the_padding_stands(family: str, prompt: str) -> None:
    model = PROMPTS[prompt](backbone(family)).eval()
    first, *others = (generated(model, instance(model, side), Generation(**NO_END)) for side in SIDES)
    for other in others:
        assert torch.equal(first, other)


@pytest.mark.parametrize(("family", "prompt"), [c for c in CASES if c[1] not in ("split", "absent")])
def test_beams_find_what_a_beam_search_without_cache_finds(family: str, prompt: str) -> None:
    model = PROMPTS[prompt](backbone(family)).eval()
    x, how = instance(model), Generation(max_new_tokens=4, end=(), beams=3, sequences=2)
    found = generated(model, x, how).reshape(len(TEXTS), 2, 4).tolist()
    assert found == [best[:2] for best in beam_search(model, x, 3, 4)]


@torch.no_grad()
def said_by_the_bare_model(family: str, ids: Sequence[int]) -> list[int]:
    """Greedy generation from real tokens by transformers alone."""
    model: Any = bare(family, **dict(changes(family)))
    row = torch.tensor([list(ids)])
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "forced_eos_token_id": None}
    made = model.generate(input_ids=row, attention_mask=torch.ones_like(row), **settings)
    return made[0, 1 if model.config.is_encoder_decoder else len(ids) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_real_tokens_as_soft_tokens_generate_what_the_bare_model_generates(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = backbone(family)
    # The bare model cannot be told otherwise by an argument: BART's own file forces an end at the last step.
    monkeypatch.setattr(bare(family, **dict(changes(family))).generation_config, "forced_eos_token_id", None)
    monkeypatch.setattr(bare(family, **dict(changes(family))).generation_config, "eos_token_id", None)
    model = SoftPrompted(b, Given(b.embed(torch.tensor([PREFIX]))[0]), Embeddings(b.shape)).eval()
    found = generated(model, instance(model), Generation(**NO_END)).tolist()
    assert found == [said_by_the_bare_model(family, [*PREFIX, *one.ids]) for one in TEXTS]


@pytest.mark.parametrize("family", CAUSAL)
def test_keys_and_values_of_real_tokens_generate_what_the_bare_model_generates(family: str) -> None:
    model = keys_values_of_tokens(backbone(family)).eval()
    found = generated(model, instance(model), Generation(**NO_END, cache="static")).tolist()
    assert found == [said_by_the_bare_model(family, [*PREFIX, *one.ids]) for one in TEXTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_ends_at_its_end_token_and_padding_follows(family: str) -> None:
    model = embeddings(backbone(family)).eval()
    whole = step_by_step(model, instance(model)).tolist()
    end = whole[0][3]
    found = generated(model, instance(model), Generation(max_new_tokens=STEPS, end=(end,), pad=0)).tolist()
    for row, expected in zip(found, whole, strict=True):
        cut = expected[: expected.index(end) + 1] if end in expected else expected
        assert row == (cut + [0] * STEPS)[: len(row)]


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_what_the_models_own_file_says_of_generation_does_not_leak_in(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = embeddings(backbone(family)).eval()
    expected = step_by_step(model, instance(model))
    own = model.backbone.model.generation_config
    last = int(expected[0, 0])
    for name, value in {
        "do_sample": True,
        "forced_eos_token_id": last,
        "suppress_tokens": [last],
        "num_beams": 2,
    }.items():
        monkeypatch.setattr(own, name, value)
    assert torch.equal(generated(model, instance(model), Generation(**NO_END)), expected)
    assert own is model.backbone.model.generation_config
    # The end tokens are the exception: they are a matter of the vocabulary.
    monkeypatch.setattr(own, "eos_token_id", [last, 4])
    assert generated(model, instance(model), Generation(max_new_tokens=STEPS, pad=0))[0].tolist()[:2] == [last, 0]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_sampling_repeats_with_the_seed_and_the_single_most_probable_token_is_greedy(family: str) -> None:
    model = keys_values(backbone(family)).eval()
    x = instance(model)

    def drawn(seed: int, **limits: Any) -> Tensor:
        torch.manual_seed(seed)
        return generated(model, x, Generation(**NO_END, sampling=Sampling(**limits), sequences=2))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    greedy = step_by_step(model, x).repeat_interleave(2, 0)
    assert torch.equal(drawn(3, top_k=1), greedy)
    assert torch.equal(drawn(3, top_p=1e-6), greedy)
    assert torch.equal(drawn(3, temperature=1e-6), greedy)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_allowed_tokens_follow_and_the_start_token_is_not_among_what_is_said(family: str) -> None:
    model = embeddings(backbone(family)).eval()
    asked: list[list[int]] = []

    def allowed(so_far: Sequence[int]) -> list[int]:
        asked.append(list(so_far))
        return [10 + len(so_far), 20 + len(so_far)]

    found = generated(model, instance(model), Generation(max_new_tokens=3, end=(), allowed=allowed))
    assert all(token in (10 + i, 20 + i) for row in found.tolist() for i, token in enumerate(row))
    assert asked[0] == []
    # Among these, the most probable.
    scores = next_scores(model, instance(model), torch.zeros(len(TEXTS), 1, 0, dtype=torch.long))
    assert found[:, 0].tolist() == [10 if s[10] > s[20] else 20 for s in scores[:, 0]]


def test_generation_leaves_nothing_behind() -> None:
    model = keys_values(backbone("gpt2")).eval()
    before, plain = model.backbone.digest(), embeddings(backbone("gpt2")).eval()
    expected = generated(plain, instance(plain), Generation(**NO_END))
    generated(model, instance(model), Generation(**NO_END, cache="static"))
    assert torch.equal(generated(plain, instance(plain), Generation(**NO_END)), expected)
    assert model.backbone.digest() == before


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Generation(max_new_tokens=0), "max_new_tokens=0"),
        (lambda: Generation(beams=0), "beams=0"),
        (lambda: Generation(sequences=3, beams=2), "beams=3"),
        (lambda: Generation(cache="hybrid"), "cache='hybrid'"),  # type: ignore[arg-type]
        (lambda: Sampling(temperature=0.0), "temperature=0.0"),
        (lambda: Sampling(top_k=-1), "top_k=-1"),
        (lambda: Sampling(top_p=0.0), "top_p=0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        build()


def test_a_text_that_would_not_fit_is_refused_before_it_is_begun() -> None:
    model = embeddings(backbone("gpt2")).eval()  # 64 positions: 3 soft tokens, 6 of the longest text
    assert generated(model, instance(model), Generation(max_new_tokens=55, end=())).shape == (3, 55)
    with pytest.raises(SettingError, match="lower max_new_tokens by 1"):
        generated(model, instance(model), Generation(max_new_tokens=56, end=()))
    bart = embeddings(backbone("bart")).eval()
    with pytest.raises(SettingError, match="lower max_new_tokens by 1"):
        generated(bart, instance(bart), Generation(max_new_tokens=65, end=()))


def test_what_a_backbone_cannot_do_it_says() -> None:
    model = embeddings(backbone("gpt2"))
    with pytest.raises(BackboneError, match="without a cache"):
        generated(model, instance(model), Generation(cache="none"))
    encoder = SoftPrompted(cached("bert"), Given(noise(2, 32)), Embeddings(cached("bert").shape))
    one = text(3, seed=1)
    x = encoder.instance(torch.tensor([one.ids]), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(BackboneError, match="does not generate"):
        generated(encoder, x, Generation())
