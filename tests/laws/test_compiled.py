"""A compiled prompt says what the prompt says: in the row on one side, as keys and values of every layer on the other.

The oracle is `SoftPrompted` as it was, on each row alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import transformers as hf

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation, Sampling
from promptuary.backbones.load import wrap
from promptuary.errors import BackboneError, SettingError
from promptuary.generators import Free
from promptuary.initial import normal
from promptuary.injections import Embeddings, HiddenStates, KeyValues
from promptuary.methods import METHODS
from promptuary.mixing import begin, beside, generate, run
from promptuary.model import SoftPrompted
from promptuary.placements import Slots, Split
from tests.answers import BFLOAT16, Answer, answers, distance, gap, prompted
from tests.backbones import CAUSAL, FAMILIES, POSITIONS, VOCABULARY, backbone
from tests.laws.checks import REFUSED, STATIC, trainable
from tests.laws.test_mixed import FEW, KINDS, STEPS, TEXTS, Told, continued, share, taken, tuned
from tests.strategies import SIDES, Side, ragged, text

EXACT = 2e-5  # of the largest number; rows of T5 alone and in a batch differ by 1.2e-5 without any compiling
# Before the input of a causal model.
IN_ROW = ("prompt-tuning", "p-tuning", "residual-prompt-tuning", "multitask-prompt-tuning", "deep-prompt-tuning")
PREFIXES = ("prefix-tuning", "p-tuning-v2")
assert {*IN_ROW, *PREFIXES, "frozen"} == set(STATIC)
COMPILED = [
    (family, method)
    for family in FAMILIES
    for method in (*IN_ROW, *PREFIXES)
    if (family, method) not in REFUSED and (method in PREFIXES or family in CAUSAL)
]
OFTEN = {
    ("gpt2", "prompt-tuning"),
    ("mistral", "deep-prompt-tuning"),
    ("gemma3", "prompt-tuning"),
    ("t5", "p-tuning-v2"),
}
WRITERS = [
    pytest.param(family, method, marks=[] if (family, method) in OFTEN else pytest.mark.slow)
    for family, method in COMPILED
    if FAMILIES[family].kind != "encoder"
]
SLOW = pytest.mark.slow


def compiled(model: SoftPrompted) -> SoftPrompted:
    """The compiled prompt, which is another one."""
    found = model.compiled()
    assert found is not model
    assert not trainable(found)
    return found


def close(found: Sequence[Answer], expected: Sequence[Answer], exact: float = EXACT) -> None:
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) <= exact


@pytest.mark.parametrize(("family", "method"), COMPILED)
@torch.no_grad()
def test_a_compiled_prompt_says_what_the_prompt_says(family: str, method: str) -> None:
    model = tuned(family, method, 0)
    short = compiled(model)
    rows = continued(ragged(6, 2, 9), (3, 1))  # the longest is out of the reach of small windows
    for scored in (True, False):
        expected = [answers(model, [row], scored=scored)[0] for row in rows]
        for side in SIDES:
            close(answers(short, rows, side, extra=1, scored=scored), expected)
    # Without any padding models make no mask, or another one.
    close(answers(short, ragged(6, 6), scored=False), answers(model, ragged(6, 6), scored=False))
    close(answers(short, ragged(1), scored=False), answers(model, ragged(1), scored=False))


@pytest.mark.parametrize(("family", "method"), WRITERS)
@torch.no_grad()
def test_a_compiled_prompt_generates_what_the_prompt_generates(family: str, method: str) -> None:
    model = tuned(family, method, 0)
    short, rows = compiled(model), ragged(6, 2, 4, seed=3)
    ways = (
        Generation(max_new_tokens=9, end=()),
        Generation(max_new_tokens=9, end=(), cache="static"),
        Generation(max_new_tokens=5, end=(), beams=3, sequences=2),
        Generation(max_new_tokens=3, end=(), sampling=Sampling(top_k=1), sequences=2),
    )
    for how, side in zip(ways, (*SIDES, "left"), strict=True):
        expected = [model.backbone.generate(model.call(share(model, [row], "right").x), how) for row in rows]
        assert torch.equal(short.backbone.generate(short.call(share(short, rows, side).x), how), torch.cat(expected))


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
@torch.no_grad()
def test_soft_keys_in_positions_that_differ_by_layer_are_refused(family: str) -> None:
    # What is seen of them is asked once for all layers, so that one layer's would be taken for every other's.
    b = backbone(family)
    inject = KeyValues(b.shape, start=3)
    model = SoftPrompted(b, Free(3, inject.width, normal(1.0)), inject).eval()
    call = model.call(share(model, ragged(6, 2), "right").x)
    last = call.keys_values[1]
    fewer = {**call.keys_values, 1: replace(last, keep=last.keep & torch.tensor([True, False, True]))}
    for layers in (fewer, {1: last}):
        with pytest.raises(BackboneError, match="the same ones in every layer"):
            b.run(replace(call, keys_values=layers))
    nowhere = replace(call, keys_values=fewer, start=None)  # every layer then says for itself what is there
    assert gap(b.run(nowhere).hidden, b.run(replace(nowhere, keys_values=call.keys_values)).hidden) > 1e-3


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_what_a_window_hides_of_a_prompt_it_hides_of_a_compiled_one(family: str) -> None:
    b, long = backbone(family), text(40, seed=3)
    tables = (Free(3, b.shape.dim, normal(1.0), seed=seed) for seed in range(2))
    one, other = (SoftPrompted(b, table, Embeddings(b.shape)).eval() for table in tables)
    close(answers(compiled(one), [long]), answers(one, [long]))
    moved = gap(answers(compiled(one), [long])[0].tokens[-1], answers(compiled(other), [long])[0].tokens[-1])
    assert (moved == 0.0) == bool(one.out_of_sight(40))
    assert compiled(one).out_of_sight(40) == one.out_of_sight(40)
    assert bool(one.out_of_sight(40)) == (family == "mistral")


@pytest.mark.parametrize(
    ("family", "method"), [c for c in COMPILED if c[0] in ("bert", "gpt2", "llama", "gemma3", "t5")]
)
@torch.no_grad()
def test_in_bfloat16_too(family: str, method: str) -> None:
    made = tuned(family, method, 1)
    b = backbone(family, dtype=torch.bfloat16)
    model = SoftPrompted(b, made.generator, made.injection).eval()
    short, rows = compiled(model), ragged(6, 2, 4)
    # Another number of columns is another grouping of the same sums, in every layer.
    close(answers(short, rows, "left"), answers(model, rows, "left"), 4 * BFLOAT16)
    call = short.call(share(short, rows, "left").x)
    assert {t.dtype for kv in call.keys_values.values() for t in (kv.key, kv.value)} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("family", "side"),
    [
        pytest.param(family, side, marks=[] if side == often else SLOW)
        for family, often in (("gpt2", "left"), ("llama", "right"), ("mistral", "left"), ("gemma3", "between"))
        for side in SIDES
    ],
)
@torch.no_grad()
def test_compiled_prompts_share_a_pass_with_each_other_and_with_all_others(
    family: str, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [tuned(family, m, n % 2) for n, m in enumerate(KINDS) if (family, m) not in REFUSED]
    mixed = [m for model in models for m in {model, model.compiled()}]
    assert sum(m.injection.occupies(m.generator.length) > m.generator.length for m in mixed) == 2  # of unlike lengths
    texts = [continued(TEXTS[n % 2], STEPS[n % 2]) for n in range(len(mixed))]
    runs: list[int] = []
    b, plain = models[0].backbone, models[0].backbone.run
    for scored in (True, False):
        expected = [
            [answers(model, [row], scored=scored)[0] for row in rows] for model, rows in zip(mixed, texts, strict=True)
        ]
        with monkeypatch.context() as patch:
            patch.setattr(b, "run", lambda call, t: runs.append(len(call.layout.mask)) or plain(call, t))
            said = run([share(m, t, side, scored=scored) for m, t in zip(mixed, texts, strict=True)])
        for model, rows, out, own in zip(mixed, texts, said, expected, strict=True):
            close(taken(model, out, rows, side, scored=scored), own)
    assert runs == [sum(map(len, texts))] * 2


@pytest.mark.parametrize(
    "family", ["mistral", *(pytest.param(f, marks=SLOW) for f in ("gpt2", "llama", "qwen3", "gemma3", "neox", "opt"))]
)
@torch.no_grad()
def test_compiled_prompts_of_unlike_lengths_generate_in_one_pass(family: str) -> None:
    whole = [tuned(family, m, n % 2) for n, m in enumerate(FEW) if (family, m) not in REFUSED]
    mixed = [m.compiled() for m in whole] + [tuned(family, "prompt-tuning", 0)]
    ways = (
        Generation(max_new_tokens=8, end=()),
        Generation(max_new_tokens=8, end=(), cache="static"),
        Generation(max_new_tokens=4, end=(), beams=3, sequences=2),
    )
    for how, side in zip(ways, SIDES, strict=True):
        shares = [share(m, TEXTS[n % 2], side) for n, m in enumerate(mixed)]
        for n, (model, ids) in enumerate(zip([*whole, mixed[-1]], generate(shares, how), strict=True)):
            alone = [model.backbone.generate(model.call(share(model, [r], "right").x), how) for r in TEXTS[n % 2]]
            assert torch.equal(ids, torch.cat(alone))


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_rows_of_compiled_prompts_join_and_leave_a_draft(family: str) -> None:
    whole = [tuned(family, m, n % 2) for n, m in enumerate(FEW) if (family, m) not in REFUSED]
    texts, b = [TEXTS[n % 2] for n in range(len(whole))], whole[0].backbone
    lengths = [9 - n % 4 for n, rows in enumerate(texts) for _ in rows]  # out of the reach of small windows
    coming = [
        (share(m.compiled(), rows, SIDES[n % 2]), len(rows))
        for n, (m, rows) in enumerate(zip(whole, texts, strict=True))
    ]
    found: list[list[int]] = []
    draft, held = None, []
    while coming or held:
        if coming:
            one, rows = coming.pop(0)
            [(_, begun)] = begin([one])
            draft = begun if not held else beside([draft, begun])
            held += range(len(found), len(found) + rows)
            found += [[] for _ in range(rows)]
        for number, token in zip(held, draft.scores.argmax(1).tolist(), strict=True):
            found[number].append(token)
        left = [place for place, number in enumerate(held) if len(found[number]) < lengths[number]]
        held = [held[place] for place in left]
        if held:
            draft = draft.kept(left)
            draft = b.advance(draft, [found[number][-1] for number in held])
    alone = [(model, row) for model, rows in zip(whole, texts, strict=True) for row in rows]
    for (model, row), steps, ids in zip(alone, lengths, found, strict=True):
        expected = b.generate(model.call(share(model, [row], "right").x), Generation(max_new_tokens=steps, end=()))
        assert ids == expected[0].tolist()


@torch.no_grad()
def test_compiled_prompts_stream_in_one_pass() -> None:
    mixed = [tuned("gpt2", "prompt-tuning", 0).compiled(), tuned("gpt2", "deep-prompt-tuning", 1).compiled()]
    streamer, how = Told(), Generation(max_new_tokens=6, end=())
    said = generate([share(m, TEXTS[1], "left") for m in mixed], how, streamer=streamer)
    assert torch.equal(torch.stack(streamer.steps[:-1], 1), torch.cat(said))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_depends_on_the_input_stays_as_it_is(family: str) -> None:
    b = backbone(family)

    def free(injection: Embeddings | HiddenStates, length: int = 3) -> SoftPrompted:
        return SoftPrompted(b, Free(length, injection.width, normal(1.0)), injection)

    for method in METHODS:
        if method not in STATIC and (family, method) not in REFUSED:
            model = prompted(family, method)
            assert model.compiled() is model, method
    placed = (Split(0), Split(2), Split(head=1), Slots(), *([] if family in CAUSAL else [Split()]))
    for model in (free(kind(b.shape, place)) for kind in (Embeddings, HiddenStates) for place in placed):
        assert model.compiled() is model
    assert free(Embeddings(b.shape), 0).compiled().injection.occupies(0) == 0
    short = prompted(family, "frozen").compiled()
    assert short.compiled() is short


@torch.no_grad()
def test_absent_soft_tokens_are_absent_when_compiled() -> None:
    for family in ("gpt2", "mistral"):
        b = backbone(family)
        for injection in (Embeddings(b.shape), HiddenStates(b.shape), KeyValues(b.shape)):
            generator = Free(4, injection.width, normal(1.0))
            one = generator.fixed()
            one.values[:, 1], one.keep[:, 1] = 0.0, 0.0
            generator.fixed = lambda one=one: one  # type: ignore[method-assign]
            model = SoftPrompted(b, generator, injection).eval()
            for rows, scored in ((ragged(6, 2, 4), True), (ragged(6, 6), False), (ragged(1), False)):
                expected = answers(model, rows, scored=scored)
                close(answers(compiled(model), rows, "left", scored=scored), expected)
            one.keep.zero_()
            assert model.compiled() is model


@pytest.mark.parametrize("method", [*IN_ROW, *PREFIXES])
@torch.no_grad()
def test_rows_share_one_copy_that_later_training_does_not_reach(method: str) -> None:
    with torch.random.fork_rng():
        model = prompted("llama", method, seed=4)
    short = compiled(model)
    before = answers(short, ragged(6, 2))
    calls = [short.call(share(short, ragged(*[4] * n), "left").x) for n in (1, 5)]
    for index in calls[0].keys_values:
        one, other = (call.keys_values[index] for call in calls)
        assert (one.key.data_ptr(), len(one.key), len(one.value)) == (other.key.data_ptr(), 1, 1)
    for parameter in trainable(model).values():
        parameter.add_(1.0)
    for one, other in zip(answers(short, ragged(6, 2)), before, strict=True):
        assert distance(one, other) == 0.0


def test_room_and_positions_are_those_of_the_prompt() -> None:
    b = backbone("gpt2")
    model = SoftPrompted(b, Free(50, b.shape.dim, normal(0.3)), Embeddings(b.shape)).eval()
    short = compiled(model)
    assert short.room == model.room == POSITIONS - 50
    with torch.no_grad():
        close(
            answers(short, [text(14, seed=1, steps=())], scored=False),
            answers(model, [text(14, seed=1, steps=())], scored=False),
        )
        # Short behind long soft tokens, long behind none: they fit by themselves, so they fit together.
        rows, none = ([text(9, seed=2)], [text(60, seed=3)]), prompted("gpt2", "frozen")
        for scored in (True, False):
            said = run([share(short, rows[0], "right", scored=scored), share(none, rows[1], "left")])
            close(taken(short, said[0], rows[0], "right", scored=scored), answers(model, rows[0], scored=scored))
            close(taken(none, said[1], rows[1], "left", scored=False), answers(none, rows[1], scored=False))
    for one in (model, short):
        with pytest.raises(SettingError, match=r"has 65 tokens with its prompt, the backbone 64 positions"):
            answers(one, [text(15, seed=1, steps=())], scored=False)
        with pytest.raises(SettingError, match="lower max_new_tokens by 2"):
            b.generate(one.call(share(one, [text(10, seed=1)], "left").x), Generation(max_new_tokens=6))


def test_a_model_that_does_not_go_on_from_keys_and_values_keeps_its_prompt_in_the_row() -> None:
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    recurrent = hf.Lfm2ForCausalLM(hf.Lfm2Config(**sizes, layer_types=["conv", "full_attention"]))
    unhooked = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    for made in (recurrent, unhooked):
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3, generator=torch.Generator().manual_seed(1))
        b: Backbone = wrap(made.eval(), "odd")
        model = SoftPrompted(b, *METHODS["prompt-tuning"].parts(b.shape, length=3))
        assert model.compiled() is model
