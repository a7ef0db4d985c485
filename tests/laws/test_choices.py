"""Several texts behind one row are scored as each by itself, and the row is read once for all of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from torch import Tensor

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.errors import SettingError
from promptuary.generators import Free
from promptuary.initial import from_prompt, from_words, matched
from promptuary.injections import Embeddings, KeyValues
from promptuary.model import SoftPrompted
from promptuary.readouts import ClassReadout, LanguageModel, Prediction, WordsAsContinuation
from promptuary.values import Targets
from tests.answers import EXACT, gap, parts, prompted
from tests.backbones import CAUSAL, ENCODER_DECODERS, POSITIONS, VOCABULARY, backbone, bare
from tests.laws.checks import PROMPTED, STATIC, trainable
from tests.strategies import SIDES, Side, Text, pad, pad_targets, ragged, text

FRONT = [17, 42, 8]
WORDS = {
    "one token each": [[[31]], [[32]], [[33], [34]]],
    "several tokens": [[[31, 40, 41]], [[32, 43]], [[33, 45], [34, 46, 47]]],
    "common beginnings": [[[31, 40]], [[31, 41]], [[31], [31, 40, 42]]],
}


def spoken(b: Backbone) -> SoftPrompted:
    """The backbone with real words' embeddings as its prompt: what the bare model reads as ids."""
    start = from_words(b.embeddings, FRONT, rest=matched(1.0))
    return SoftPrompted(b, Free(len(FRONT), b.shape.dim, start), Embeddings(b.shape)).eval()


def recalled(b: Backbone) -> SoftPrompted:
    """The backbone with what real words leave in its attention as its prompt: it goes on counting after them."""
    start = from_prompt(b.keys_values(FRONT, frozenset({"decoder"})))
    injection = KeyValues(b.shape, start=len(FRONT))
    return SoftPrompted(b, Free(len(FRONT), injection.width, start), injection).eval()


def asked(rows: Sequence[Text], side: Side, labels: Sequence[int] | None = None, *, extra: int = 1) -> Batch:
    padded, count = pad(rows, side, extra=extra), len(rows)
    known = None if labels is None else torch.tensor(labels)
    task = torch.zeros(count, dtype=torch.long)
    return Batch(padded.ids, padded.mask, padded.types, task, torch.arange(count), known)


def scored(model: SoftPrompted, readout: ClassReadout, batch: Batch) -> Tensor:
    x = model.instance(batch.ids, batch.mask, batch.types)
    return readout.scores(model(x, readout.targets(batch)), batch)


@torch.no_grad()
def naive(model: hf.PreTrainedModel, row: Text, words: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """A loop over labels and words: a whole forward of the bare model each, and the sum of what it says of the word."""
    labels = []
    for label in words:
        each = []
        for word in label:
            ids = [*FRONT, *row.ids]
            if model.config.is_encoder_decoder:
                begun = torch.tensor([[model.config.decoder_start_token_id, *word[:-1]]])
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=begun).logits[0]
            else:
                logits = model(input_ids=torch.tensor([[*ids, *word[:-1]]])).logits[0, len(ids) - 1 :]
            each.append(sum(logits.log_softmax(1)[i, token] for i, token in enumerate(word)))
        labels.append(torch.stack(each).exp().sum().log())
    return torch.stack(labels)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", [*CAUSAL, *ENCODER_DECODERS])
@torch.no_grad()
def test_label_words_score_as_one_whole_pass_for_each_would(family: str, side: Side, words: str) -> None:
    rows, readout = ragged(6, 2, 9), WordsAsContinuation(WORDS[words])
    found = scored(spoken(backbone(family)), readout, asked(rows, side))
    for row, mine in zip(rows, found, strict=True):
        assert gap(mine, naive(bare(family), row, WORDS[words])) <= EXACT


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "neox", "opt"])
@torch.no_grad()
def test_label_words_after_keys_and_values_of_real_tokens_score_as_after_these_tokens(family: str) -> None:
    rows, words = ragged(6, 2, 9), WORDS["several tokens"]
    found = scored(recalled(backbone(family)), WordsAsContinuation(words), asked(rows, "left"))
    for row, mine in zip(rows, found, strict=True):
        assert gap(mine, naive(bare(family), row, words)) <= EXACT


def bloom() -> hf.BloomForCausalLM:
    """Positions by distance in the row, attention without a hook: nothing can be packed."""
    torch.manual_seed(0)
    model = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    return model


@pytest.mark.parametrize("words", WORDS)
@torch.no_grad()
def test_a_model_that_sees_through_the_packing_reads_a_text_at_a_time(words: str) -> None:
    rows, model = ragged(6, 2, 9), bloom()
    found = scored(spoken(wrap(model)), WordsAsContinuation(WORDS[words]), asked(rows, "left"))
    for row, mine in zip(rows, found, strict=True):
        assert gap(mine, naive(bloom(), row, WORDS[words])) <= EXACT


STEPS = (3, 1, 2, 3)


def apart(targets: Targets) -> Iterator[Targets]:
    for i in range(targets.ids.shape[1]):
        yield Targets(targets.ids[:, i : i + 1], targets.mask[:, i : i + 1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PROMPTED if m in STATIC and f in CAUSAL])
def test_texts_together_are_the_texts_one_at_a_time_and_so_are_their_gradients(
    family: str, method: str, side: Side
) -> None:
    rows = [text(n, seed=n, steps=STEPS) for n in (6, 2, 4)]
    batch, (targets, _) = asked(rows, side), pad_targets(rows, side, extra=1)
    said, gradients = [], []
    for each in ([targets], list(apart(targets))):
        model = SoftPrompted(backbone(family, dtype=torch.float64), *parts(family, method)).double().train()
        x = model.instance(batch.ids, batch.mask, batch.types)
        outs = [model(x, one) for one in each]
        states = torch.cat([out.targets for out in outs], 1)[targets.mask]
        said.append(torch.cat([states, outs[-1].hidden[batch.mask]]).detach())
        (states * torch.linspace(-1, 1, states.numel()).cos().view(states.shape)).mean().backward()
        gradients.append({name: p.grad for name, p in trainable(model).items()})
    assert gap(said[0], said[1]) <= 1e-6
    for name, wanted in gradients[1].items():  # some norms are made in float32
        assert gap(gradients[0][name] / wanted.abs().max(), wanted / wanted.abs().max()) <= 1e-5


@torch.no_grad()
def test_texts_together_take_positions_and_not_columns() -> None:
    """Five texts of three tokens fit wherever one does."""
    for family in ("gpt2", "opt"):
        model, words = spoken(backbone(family)), [[[30 + i, 40, 50 + i]] for i in range(5)]
        longest = POSITIONS - len(FRONT) - 2  # nothing is read behind a text's last token
        rows = [text(longest, seed=0), text(3, seed=1)]
        found = scored(model, WordsAsContinuation(words), asked(rows, "right", extra=9))
        for row, mine in zip(rows, found, strict=True):
            assert gap(mine, naive(bare(family), row, words)) <= EXACT
        with pytest.raises(SettingError, match=f"has {POSITIONS + 1} tokens.*{POSITIONS} positions"):
            scored(model, WordsAsContinuation(words), asked([text(longest + 1, seed=0)], "right"))


class Work:
    """What passes through a backbone: columns of its layers, and rows of its head."""

    columns: list[tuple[int, int]]
    heads: list[int]


@contextmanager
def watched(b: Backbone) -> Iterator[Work]:
    work = Work()
    work.columns, work.heads = [], []
    layer, head = next(iter(b.attachment.layers)), b.model.get_output_embeddings()

    def note(_: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        work.columns.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2]))

    handles = [
        layer.register_forward_pre_hook(note, with_kwargs=True),
        head.register_forward_pre_hook(lambda _, args: work.heads.append(args[0].numel() // args[0].shape[-1])),
    ]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


COSTS = {  # columns behind the row, and states that are scored
    "one token each": (0, 1),
    "several tokens": (2 + 1 + 1 + 2, 1 + 2 + 1 + 1 + 2),
    "common beginnings": (2, 3),
}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@torch.no_grad()
def test_a_row_is_read_once_and_each_beginning_scored_once_for_loss_and_prediction(family: str, words: str) -> None:
    model, rows = prompted(family, "prompt-tuning"), ragged(6, 2, 9)
    readout, batch = WordsAsContinuation(WORDS[words]).eval(), asked(rows, "right", [0, 2, 1])
    scored(model, readout, batch)  # the first time a backbone is asked, it tries whether it can pack
    with watched(model.backbone) as work:
        out = model(model.instance(batch.ids, batch.mask, batch.types), readout.targets(batch))
        readout.predict(out, batch)
        readout.loss(out, batch)
    behind, states = COSTS[words]
    ((count, columns),) = work.columns
    assert count == len(rows)
    assert columns <= batch.ids.shape[1] + 3 + behind + 2  # a prompt of 3; texts of unequal length leave gaps
    assert work.heads == [len(rows) * states]


@torch.no_grad()
def test_ranking_texts_computes_their_scores_once_for_loss_and_prediction() -> None:
    model, rows = prompted("gpt2", "prompt-tuning"), ragged(6, 2, 9)
    texts = [label[0] for label in WORDS["several tokens"]]
    readout, batch = LanguageModel(texts).eval(), asked(rows, "right", [0, 2, 1])
    model(model.instance(batch.ids, batch.mask, batch.types), readout.targets(batch))
    with watched(model.backbone) as work:
        out = model(model.instance(batch.ids, batch.mask, batch.types), readout.targets(batch))
        assert isinstance(readout.predict(out, batch), Prediction)
        readout.loss(out, batch)
    assert len(work.columns) == 1
    assert work.heads == [len(rows) * (1 + 2 + 1 + 1)]


def test_what_was_scored_without_a_gradient_is_not_learned_from() -> None:
    model, batch = SoftPrompted(backbone("gpt2"), *parts("gpt2", "prompt-tuning")), asked(ragged(4), "right", [1])
    readout = WordsAsContinuation(WORDS["one token each"])
    out = model(model.instance(batch.ids, batch.mask, batch.types), readout.targets(batch))
    with torch.no_grad():
        readout.predict(out, batch)
    readout.loss(out, batch).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(model).values())
