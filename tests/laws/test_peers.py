"""The nineteen silent errors of the living peer, PEFT 0.21.2, as laws that hold here (benchmarks/peft_errors.py).

The other side of each law is the bare model of transformers on one unpadded row: token by token, without a cache,
with the prompt's numbers before the embeddings of the text, or with a prefix as the model's own cache.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.load import wrap
from promptuary.checkpoint import check_backbone, read_manifest, restore, save_prompt
from promptuary.data.batch import Batch
from promptuary.errors import CheckpointError, SettingError
from promptuary.generators import Free
from promptuary.initial import from_prompt, from_words, matched
from promptuary.injections import Embeddings, Injection, KeyValues
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier, Span
from promptuary.values import Targets
from tests.answers import EXACT, gap
from tests.backbones import POSITIONS, VOCABULARY, backbone, bare, fresh

P = 5
STEPS = 6
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}  # a tied head would repeat one token for ever


def numbers(*shape: int, seed: int = 0, scale: float = 0.7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def some(*lengths: int, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(5, VOCABULARY, (n,), generator=source) for n in lengths]


def padded(texts: list[Tensor], length: int, *, left: bool) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, text in enumerate(texts):
        where = slice(length - len(text), length) if left else slice(0, len(text))
        ids[row, where], mask[row, where] = text, True
    return ids, mask


def soft(b: Backbone, table: Tensor, injection: Injection | None = None) -> SoftPrompted:
    generator = Free(table.shape[0], table.shape[1], from_prompt(table))
    return SoftPrompted(b, generator, Embeddings(b.shape) if injection is None else injection).eval()


def batch(ids: Tensor, mask: Tensor, **more: Tensor) -> Batch:
    zero = torch.zeros(len(ids), dtype=torch.long)
    return Batch(ids, mask, torch.zeros_like(ids), zero, torch.arange(len(ids)), **more)


def run(model: SoftPrompted, ids: Tensor, mask: Tensor | None = None, targets: Targets | None = None) -> Any:
    return model(model.instance(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask), targets)


class Heard(LogitsProcessor):
    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.clone())
        return scores


def written(model: SoftPrompted, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Our greedy continuation and the scores of its first token."""
    heard = Heard()
    x = model.instance(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)
    made = model.backbone.generate(
        model.call(x), Generation(max_new_tokens=STEPS, end=(), pad=0), logits_processor=[heard]
    )
    return made, heard.steps[0]


def embedded(model: PreTrainedModel, table: Tensor, text: Tensor) -> Tensor:
    return torch.cat([table, model.get_input_embeddings()(text)])[None]


def stepwise(model: PreTrainedModel, embeds: Tensor) -> Tensor:
    """The bare model's greedy continuation of a row of embeddings, without a cache."""
    for _ in range(STEPS):
        following = model(inputs_embeds=embeds, use_cache=False).logits[:, -1].argmax(-1)
        embeds = torch.cat([embeds, model.get_input_embeddings()(following)[:, None]], 1)
    table = model.get_input_embeddings().weight
    return torch.cdist(embeds[0, -STEPS:], table).argmin(1)


def prefixed(model: PreTrainedModel, table: Tensor, text: Tensor) -> Tensor:
    """The bare model's scores on one text behind a prefix that is its cache; the text's positions begin at 0."""
    c = model.config
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    whole = table.view(1, len(table), c.num_hidden_layers, 2, heads, -1)
    kept = DynamicCache()
    for layer in range(c.num_hidden_layers):
        kept.update(*(whole[:, :, layer, i].transpose(1, 2).contiguous() for i in (0, 1)), layer)
    return model(
        input_ids=text[None],
        past_key_values=kept,
        attention_mask=torch.ones(1, len(table) + len(text), dtype=torch.long),
        position_ids=torch.arange(len(text))[None],
    ).logits[0]


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama", "neox", "opt"])
@torch.no_grad()
def test_a01_left_padded_generation_equals_unpadded_generation(family: str) -> None:
    b, model = backbone(family, **UNTIED), bare(family, **UNTIED)
    table, texts = numbers(P, b.shape.dim), some(3, 9, 5, 7, 4, 8)
    ids, mask = padded(texts, 12, left=True)
    found, _ = written(soft(b, table), ids, mask)
    for row, text in zip(found, texts, strict=True):
        assert row.tolist() == stepwise(model, embedded(model, table, text)).tolist()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@torch.no_grad()
def test_a02_a_classifier_on_a_padded_row_reads_its_last_real_token(family: str, left: bool) -> None:
    b, model = backbone(family), bare(family)
    table, texts = numbers(P, 32), some(3, 9, 5, 7)
    ids, mask = padded(texts, 12, left=left)
    readout = Classifier(3, 32, pool="last")
    found = readout.scores(run(soft(b, table), ids, mask), batch(ids, mask))
    for row, text in zip(found, texts, strict=True):
        state = model.base_model(inputs_embeds=embedded(model, table, text)).last_hidden_state[0, -1]
        assert gap(row, readout.head(state)) <= EXACT


@torch.no_grad()
def test_a03_the_loss_of_a_span_asks_for_the_tokens_that_answer() -> None:
    b, model = backbone("bert"), bare("bert")
    table, ids = numbers(P, 32), torch.stack(some(8, 8, 8))
    spans = torch.tensor([[0, 3], [2, 2], [5, 7]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    readout = Span(32)
    found = readout.loss(run(soft(b, table), ids), batch(ids, mask, spans=spans, context=mask))
    losses = []
    for text, span in zip(ids, spans, strict=True):
        states = model.base_model(inputs_embeds=embedded(model, table, text)).last_hidden_state[0, P:]
        losses.append(F.cross_entropy(readout.head(states).T, span))
    assert gap(found, torch.stack(losses).mean()) <= EXACT


@torch.no_grad()
def test_a04_two_prompts_on_one_backbone_stay_apart_and_no_argument_is_ignored() -> None:
    b, model = backbone("llama"), bare("llama")
    tables, (text,) = (numbers(P, 32), numbers(P + 2, 32, seed=1)), some(6)
    apart = [soft(b, table) for table in tables]
    for _ in range(2):  # in turns: the one leaves nothing behind for the other
        for one, table in zip(apart, tables, strict=True):
            out = run(one, text[None])
            expected = model(inputs_embeds=embedded(model, table, text)).logits[0, len(table) :]
            assert gap(out.logits(out.hidden)[0], expected) <= EXACT
    x = apart[0].instance(text[None], torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(TypeError, match="adapter_names"):
        apart[0](x, adapter_names=["no such"])
    with pytest.raises(TypeError, match="adapter_names"):
        apart[0].instance(text[None], torch.ones(1, 6, dtype=torch.bool), adapter_names=["no such"])
    with pytest.raises(SettingError, match=r"lenght.*Did you mean 'length'"):
        method("prompt-tuning").parts(b.shape, lenght=5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a05_gradient_checkpointing_on_an_encoder_trains_the_prefix_just_as_without(family: str) -> None:
    ids = torch.stack(some(8, 8))
    gradients = []
    for on in (False, True):
        b = wrap(fresh(family), family)
        if on:
            b.checkpoint_activations(True)
        b.train(True)
        inject = KeyValues(b.shape)
        model = soft(b, numbers(P, inject.width), inject).train()
        readout = Classifier(2, 32)
        many = batch(ids, torch.ones_like(ids, dtype=torch.bool), labels=torch.tensor([0, 1]))
        readout.loss(run(model, ids), many).backward()
        gradients.append(model.generator.table.grad)
    assert (gradients[0].abs().amax(1) > 0).all()
    assert gap(gradients[1], gradients[0]) <= EXACT


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
@torch.no_grad()
def test_a06_left_padded_training_and_the_first_step_of_left_padded_generation_say_the_same(family: str) -> None:
    b, model = backbone(family), bare(family)
    inject = KeyValues(b.shape)
    table, texts = numbers(P, inject.width), some(3, 9, 5)
    ids, mask = padded(texts, 11, left=True)
    prompted = soft(b, table, inject)
    out = run(prompted, ids, mask)
    trained, generated = out.logits(out.hidden[:, -1]), written(prompted, ids, mask)[1]
    for row, text in enumerate(texts):
        expected = prefixed(model, table, text)[-1]
        assert gap(trained[row], expected) <= EXACT
        assert gap(generated[row], expected) <= EXACT


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["p-tuning", "prefix-tuning"])
def test_a07_a_saved_prompt_goes_on_training_where_it_stopped(name: str, seed: int, tmp_path: Path) -> None:
    b, (text,) = backbone("gpt2"), some(6)
    small = {"length": P, "middle": 16} if name == "prefix-tuning" else {"length": P}
    generator, injection = method(name).parts(b.shape, **small, seed=seed)
    model = SoftPrompted(b, generator, injection).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        run(model, text[None]).hidden.square().mean().backward()
        optimizer.step()
    save_prompt(tmp_path, manifest(b, name, small, seed), generator, injection, nn.Identity())
    read = read_manifest(tmp_path)
    torch.manual_seed(99)  # another process: nothing of this one's random state may be needed
    fresh_parts = method(read.method).parts(b.shape, **read.settings, seed=read.seed)
    for trainable in (True, False):
        restored = restore(tmp_path, read, fresh_parts[0], fresh_parts[1], nn.Identity(), trainable=trainable)
        again = SoftPrompted(b, restored, fresh_parts[1]).eval()
        with torch.no_grad():
            assert gap(run(again, text[None]).hidden, run(model, text[None]).hidden) <= EXACT
    assert len(list(fresh_parts[0].parameters())) == len(list(generator.parameters()))


def manifest(b: Backbone, name: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    return {
        "method": name,
        "settings": settings,
        "seed": seed,
        "backbone": b.name,
        "fingerprint": b.fingerprint(),
        "family": b.shape.family,
        "dim": b.shape.dim,
        "run": {},
    }


@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_a08_training_and_generation_of_a_text_to_text_model_use_the_same_prompt(family: str) -> None:
    b, model = backbone(family), bare(family)
    table, (text,) = numbers(P, 32), some(6)
    prompted = soft(b, table)
    begun = torch.tensor([[model.config.decoder_start_token_id]])
    expected = model(inputs_embeds=embedded(model, table, text), decoder_input_ids=begun).logits[0, 0]
    out = run(prompted, text[None], targets=Targets(text[None, None, :1], torch.ones(1, 1, 1, dtype=torch.bool)))
    assert gap(out.logits(out.targets)[0, 0, 0], expected) <= EXACT
    assert gap(written(prompted, text[None])[1][0], expected) <= EXACT


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a09_a_text_to_text_prompt_has_exactly_its_length_of_rows_and_each_gets_gradient(family: str) -> None:
    b, (text, answer) = backbone(family), some(6, 4)
    generator, injection = method("prompt-tuning").parts(b.shape, length=P)
    model = SoftPrompted(b, generator, injection)
    out = run(model, text[None], targets=Targets(answer[None, None], torch.ones(1, 1, 4, dtype=torch.bool)))
    F.cross_entropy(out.logits(out.targets)[0, 0], answer).backward()
    assert sum(p.numel() for p in model.parameters()) == P * 32
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert (parameter.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("family", ["gpt2", "t5", "gemma3"])
def test_a10_a_random_start_has_the_deviation_of_the_vocabulary(family: str) -> None:
    b = backbone(family)
    words = torch.arange(VOCABULARY)[None]
    table = bare(family).get_input_embeddings()(words)[0]
    generator, _ = method("prompt-tuning").parts(b.shape, length=100)
    assert float(generator.fixed().values.detach().std()) == pytest.approx(
        float(table[table.abs().sum(1) > 0].std()), rel=0.05
    )


def test_a10_a_start_from_words_is_these_words_once_and_then_the_rest() -> None:
    b = backbone("gpt2")
    words, rest = [17, 42, 8], matched(b.shape.deviation)
    start = from_words(b.embeddings, words, rest)(8, 32, torch.Generator().manual_seed(0))
    vocabulary = bare("gpt2").get_input_embeddings().weight
    found = [[i for i in range(VOCABULARY) if torch.equal(row, vocabulary[i])] for row in start]
    assert found == [[17], [42], [8], [], [], [], [], []]


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
@torch.no_grad()
def test_a11_a_second_turn_goes_on_from_the_first_as_one_text(family: str) -> None:
    b, model = backbone(family, **UNTIED), bare(family, **UNTIED)
    table, (first, more) = numbers(P, b.shape.dim), some(6, 4)
    prompted = soft(b, table)
    said, _ = written(prompted, first[None])
    turns = torch.cat([first, said[0], more])
    assert written(prompted, turns[None])[0][0].tolist() == stepwise(model, embedded(model, table, turns)).tolist()


@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_a12_without_the_prompt_a_shared_backbone_generates_as_the_bare_model(family: str) -> None:
    changes = UNTIED if family == "t5" else {}  # BART would untie its two towers' embeddings too
    b, model = backbone(family, **changes), bare(family, **changes)
    (text,) = some(6)
    prompted, off = soft(b, numbers(P, 32)), soft(b, torch.zeros(0, 32))
    begun = torch.tensor([[model.config.decoder_start_token_id]])
    for _ in range(STEPS):
        following = model(input_ids=text[None], decoder_input_ids=begun, use_cache=False).logits[:, -1].argmax(-1)
        begun = torch.cat([begun, following[:, None]], 1)
    changed, _ = written(prompted, text[None])
    plain, _ = written(off, text[None])
    assert plain.tolist() == begun[:, 1:].tolist()
    assert changed.tolist() != plain.tolist()
    direct = b.model(input_ids=text[None], decoder_input_ids=begun).logits
    assert gap(direct, model(input_ids=text[None], decoder_input_ids=begun).logits) <= EXACT


@torch.no_grad()
def test_a13_a_prefix_on_opt_says_the_same_with_and_without_a_cache() -> None:
    changes = {**UNTIED, "word_embed_proj_dim": 32}
    b, model = backbone("opt", **changes), bare("opt", **changes)
    inject = KeyValues(b.shape)
    table, texts = numbers(P, inject.width), torch.stack(some(6, 6, 6, 6))
    prompted = soft(b, table, inject)
    cached, _ = written(prompted, texts)
    anew = by_hand = texts
    for _ in range(STEPS):
        out = run(prompted, anew)
        anew = torch.cat([anew, out.logits(out.hidden[:, -1]).argmax(-1, keepdim=True)], 1)
        expected = torch.stack([prefixed(model, table, text)[-1].argmax() for text in by_hand])
        by_hand = torch.cat([by_hand, expected[:, None]], 1)
    assert anew[:, -STEPS:].tolist() == by_hand[:, -STEPS:].tolist()
    assert cached.tolist() == by_hand[:, -STEPS:].tolist()


@pytest.mark.parametrize("family", ["bert", "roberta"])
@torch.no_grad()
def test_a14_a_head_reads_the_callers_first_token_and_never_a_soft_one(family: str) -> None:
    b, model = backbone(family), bare(family)
    table, (text,) = numbers(P, 32), some(8)
    states = model.base_model(inputs_embeds=embedded(model, table, text)).last_hidden_state[0]
    first = run(soft(b, table), text[None]).hidden[0, 0]
    assert gap(first, states[P]) <= EXACT
    assert gap(first, states[0]) > 0.1


@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_a15_a_prefix_reaches_encoder_decoder_and_cross_attention_each_by_itself(family: str) -> None:
    b, (text,) = backbone(family), some(8)
    targets = Targets(text[None, None, :3], torch.ones(1, 1, 3, dtype=torch.bool))
    plain = run(soft(b, torch.zeros(0, 32)), text[None], targets=targets)
    assert KeyValues(b.shape).parts == {"encoder", "decoder", "cross"}
    for part in ("encoder", "decoder", "cross"):
        inject = KeyValues(b.shape, parts=[part])
        out = run(soft(b, numbers(P, inject.width), inject), text[None], targets=targets)
        assert (gap(out.hidden, plain.hidden) > 0.01) is (part == "encoder")
        assert gap(out.targets, plain.targets) > 0.01


OTHERS = {
    "another family of the same width": ("gpt2", {}),
    "the same family with more layers": ("llama", {"num_hidden_layers": 3}),
    "the same family with other heads": ("llama", {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("which", OTHERS)
def test_a16_a_prompt_is_refused_on(which: str, tmp_path: Path) -> None:
    family, changes = OTHERS[which]
    refused(wrap(fresh(family, **changes), "other"), tmp_path)


def test_a16_a_prompt_is_refused_on_the_same_family_with_other_weights(tmp_path: Path) -> None:
    other = fresh("llama")
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    refused(wrap(other, "other"), tmp_path)


def refused(other: Backbone, folder: Path) -> None:
    b = backbone("llama")
    model = soft(b, numbers(P, 32))
    save_prompt(folder, manifest(b, "prompt-tuning", {"length": P}, 0), model.generator, model.injection, nn.Identity())
    check_backbone(read_manifest(folder), b, folder)
    with pytest.raises(CheckpointError, match=r"was tuned on 'llama'.*'other'.*has other weights. Load it with"):
        check_backbone(read_manifest(folder), other, folder)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@torch.no_grad()
def test_a17_what_comes_out_has_the_length_of_what_went_in(family: str) -> None:
    b = backbone(family)
    ids, mask = padded(some(3, 6), 9, left=True)
    targets = None if family == "bert" else Targets(ids[:, None, :4], torch.ones(2, 1, 4, dtype=torch.bool))
    for inject in (Embeddings(b.shape), KeyValues(b.shape)):
        out = run(soft(b, numbers(P, inject.width), inject), ids, mask, targets)
        assert out.hidden.shape[:2] == (2, 9)
        assert targets is None or out.targets.shape[:3] == (2, 1, 4)


WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {}),  # two layers of window 4
    "gemma3": ("gemma3", {"layer_types": ["sliding_attention", "sliding_attention"]}),
    "gemma3 with a full layer": ("gemma3", {}),
    "modernbert": ("modernbert", {"global_attn_every_n_layers": 9, "num_hidden_layers": 3}),
    "llama": ("llama", {}),
    "t5": ("t5", {}),
}


@pytest.mark.parametrize("which", WINDOWED)
@pytest.mark.parametrize("tokens", [3, 40])
@torch.no_grad()
def test_a18_out_of_sight_counts_the_tokens_that_no_soft_token_before_the_input_moves(which: str, tokens: int) -> None:
    family, changes = WINDOWED[which]
    b, model = wrap(fresh(family, **changes)), fresh(family, **changes)
    (text,) = some(tokens)
    tower = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    tables = numbers(2, P, 32)
    one, other = (tower(inputs_embeds=embedded(model, t, text)).last_hidden_state[0, P:] for t in tables)
    unmoved = (one == other).all(-1)
    assert soft(b, numbers(P, 32)).out_of_sight(tokens) == int(unmoved.sum())
    assert unmoved.tolist() == sorted(unmoved.tolist())  # they are the trailing ones


@torch.no_grad()
def test_a18_keys_and_values_are_seen_past_every_window() -> None:
    b, (text,) = backbone("mistral"), some(40)
    inject = KeyValues(b.shape)
    one, other = (soft(b, numbers(P, inject.width, seed=seed), inject) for seed in (0, 1))
    assert one.out_of_sight(40) == 0
    assert gap(run(one, text[None]).hidden[0, -1], run(other, text[None]).hidden[0, -1]) > 0.01
    assert soft(b, torch.zeros(0, 32)).out_of_sight(40) == 0  # without a prompt nothing is hidden


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
@torch.no_grad()
def test_a19_a_prefix_leaves_every_position_to_the_input(family: str) -> None:
    b = backbone(family)
    inject = KeyValues(b.shape)
    limit = b.shape.positions
    assert limit == (POSITIONS - 2 if family == "roberta" else POSITIONS)
    prompted, (text,) = soft(b, numbers(P, inject.width), inject), some(limit)
    assert prompted.room == limit
    assert bool(run(prompted, text[None]).hidden.isfinite().all())
    assert soft(b, numbers(P, 32)).room == limit - P
    with pytest.raises(SettingError, match="no room for an input"):
        soft(b, numbers(limit, 32))
