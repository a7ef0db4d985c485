"""A model that is asked for a few rows' states makes no others in its last layer, and says the same of these."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from promptuary.assembly import prompted
from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.mixing import Share, run
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier, LanguageModel, Readout, Tagger, WordsAsContinuation, WordsAtBlanks
from promptuary.values import Instance
from tests.answers import EXACT, gap, small
from tests.backbones import CAUSAL, ENCODER_DECODERS, FAMILIES, HOOKED, VOCABULARY, backbone, fresh
from tests.laws.checks import trainable

METHODS = ("prompt-tuning", "p-tuning-v2", "deep-prompt-tuning", "dp-position")
LENGTHS = (13, 9, 12)


def batch(side: str = "right") -> Batch:
    """Rows long enough that reading one token of each pays."""
    draw, longest = torch.Generator().manual_seed(1), max(LENGTHS) + 2
    real = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    mask = real if side == "right" else real.flip(1)
    ids = torch.randint(3, VOCABULARY, mask.shape, generator=draw)
    rows = torch.arange(len(LENGTHS))
    columns = mask.int().argmax(1)[:, None] + torch.tensor([4, 2])
    return Batch(ids, mask, ids * 0, rows * 0, rows, labels=rows % 2, blanks=columns)


def readouts(family: str) -> dict[str, Readout]:
    kind, shape = FAMILIES[family].kind, backbone(family).shape
    known: dict[str, Readout] = {p: Classifier(2, shape.output, pool=p) for p in ("first", "last")}
    if kind == "encoder":
        known["blanks"] = WordsAtBlanks([[[5, 6]], [[7, 8]]], blanks=2)
    if kind == "decoder":
        known["words"] = WordsAsContinuation([[[5, 8]], [[6]]])
        known["text"] = LanguageModel([[5, 8], [6, 9, 4]]).eval()
    return known


def losses(model: SoftPrompted, readout: Readout, given: Batch, columns: Tensor | None) -> dict[str, Tensor]:
    """The loss, and its gradients by name."""
    named = {**trainable(model), **{f"readout.{n}": p for n, p in readout.named_parameters()}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = model.instance_of(given, step=1)
        loss = readout.loss(model(x, readout.targets(given), columns), given)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {"loss": loss, **{n: torch.zeros(()) if g is None else g for n, g in zip(named, found, strict=True)}}


@contextmanager
def worked(model: SoftPrompted) -> Iterator[dict[str, int]]:
    """How many rows each linear layer of the last layer has multiplied, by name."""
    attachment, rows = model.backbone.attachment, dict[str, int]()
    (last,) = (m for m, v in attachment.layers.items() if any(a.main and a.layer == attachment.top for a in v))

    def note(name: str) -> object:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows[name] = rows.get(name, 0) + given[0].numel() // given[0].shape[-1]

        return hook

    kinds = {"Linear", "FrozenLinear", "Conv1D", "FrozenConv1D"}
    named = [(n, m) for n, m in last.named_modules() if type(m).__name__ in kinds]
    hooks = [m.register_forward_pre_hook(note(n)) for n, m in named]  # type: ignore[arg-type]
    yield rows
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_all_rows(family: str) -> None:
    methods = [m for m in METHODS if m != "p-tuning-v2" or family in HOOKED]
    for number, method in enumerate(methods):
        for name, readout in readouts(family).items():
            given = batch(("right", "left")[number % 2])
            model = prompted(backbone(family), method, small(method), init=None, seed=0, readout=readout).train()
            whole = losses(model, readout, given, None)
            some = losses(model, readout, given, readout.columns(given))
            for key, expected in whole.items():
                assert (some[key] - expected).abs().max() <= 1e-4 * expected.abs().max(), (method, name, key)


@contextmanager
def unselected(model: SoftPrompted) -> Iterator[None]:
    """With a last layer that makes all rows."""
    attachment = model.backbone.attachment
    selects, attachment.selects = attachment.selects, False
    yield
    attachment.selects = selects


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_reads_soft_tokens(family: str) -> None:
    """Where all tokens are read, the last layer makes none of the soft ones, where these are many."""
    shape, given = backbone(family).shape, batch()
    tags = replace(given, labels=None, tags=given.ids % 3)
    read: list[tuple[Readout, Batch]] = [
        (Classifier(2, shape.output, pool="mean"), given),
        (Tagger(3, shape.output), tags),
    ]
    for method in ("prompt-tuning", "deep-prompt-tuning", "dp-position"):
        for readout, asked in read:
            model = prompted(backbone(family), method, {"length": 24}, init=None, seed=0, readout=readout).train()
            with unselected(model):
                whole = losses(model, readout, asked, None)
            with worked(model) as rows:
                some = losses(model, readout, asked, None)
            for key, expected in whole.items():
                assert (some[key] - expected).abs().max() <= 1e-4 * expected.abs().max(), (method, key)
            if family in HOOKED and family != "albert":
                assert min(rows.values()) == asked.ids.numel()
                assert max(rows.values()) > 2 * asked.ids.numel()


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_what_stands_behind_the_attention_is_made_of_the_rows_read(family: str) -> None:
    model = prompted(backbone(family), "prompt-tuning", small("prompt-tuning"), init=None, seed=0)
    given = batch()
    x = model.instance_of(given)
    length = given.ids.shape[1] + model.generator.length
    with worked(model) as rows:
        model(x, None, Classifier(2, model.backbone.shape.output).columns(given))
    passes = 1 + FAMILIES[family].settings.get("num_hidden_layers", 2) if family == "albert" else 1  # one layer, shared
    assert min(rows.values()) <= len(LENGTHS) * (length * (passes - 1) + 1)
    assert max(rows.values()) <= len(LENGTHS) * (length * passes + 1)


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_without_padding_a_token_in_the_middle_still_sees_nothing_behind_it(family: str) -> None:
    model = prompted(backbone(family), "prompt-tuning", small("prompt-tuning"), init=None, seed=0).eval()
    ids = batch().ids
    x, columns = model.instance(ids, torch.ones_like(ids, dtype=torch.bool)), torch.tensor([[4, 9]]).expand(len(ids), 2)
    some, whole = model(x, None, columns).hidden, model(x).hidden
    assert gap(some[:, [4, 9]], whole[:, [4, 9]]) <= EXACT


def test_a_token_that_is_read_twice_is_heard_as_by_hand() -> None:
    model = prompted(backbone("bert"), "prompt-tuning", small("prompt-tuning"), init=None, seed=0)
    given = batch()
    x = model.instance_of(given)

    def gradient(columns: Tensor | None) -> Tensor:
        states = model(x, None, columns).hidden[:, 3]
        (found,) = torch.autograd.grad((states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum(),
                                       model.generator.table)  # fmt: skip
        return found

    twice = torch.tensor([[3, 3, 0]]).expand(len(LENGTHS), -1)
    assert gap(gradient(twice), gradient(None)) <= EXACT


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_a_text_that_is_scored_hears_every_token_of_the_input(family: str) -> None:
    model = prompted(backbone(family), "prompt-tuning", small("prompt-tuning"), init=None, seed=0).eval()
    given, words = batch(), WordsAsContinuation([[[5, 8]], [[6]]])
    x, targets = model.instance_of(given), words.choices(len(LENGTHS))
    few, whole = model(x, targets, given.blanks).targets, model(x, targets).targets
    assert few is not None
    assert whole is not None
    assert gap(few, whole) <= EXACT


def test_shares_of_a_mixed_batch_are_read_each_by_its_own_columns() -> None:
    b = backbone("roberta")
    given = [batch(), batch("left")]
    models = [prompted(b, m, small(m), init=None, seed=0).eval() for m in ("prompt-tuning", "p-tuning-v2")]
    columns = [torch.tensor([[2], [3], [4]]), torch.tensor([[9, 6], [7, 8], [5, 5]])]
    shares = [Share(m, m.instance_of(g), None, c) for m, g, c in zip(models, given, columns, strict=True)]
    with torch.no_grad(), worked(models[0]) as rows:
        outs = run(shares)
        alone = [m(s.x) for m, s in zip(models, shares, strict=True)]
    row = torch.arange(len(LENGTHS))[:, None]
    for out, whole, c in zip(outs, alone, columns, strict=True):
        assert gap(out.hidden[row, c], whole.hidden[row, c]) <= EXACT
    assert min(rows.values()) < max(rows.values())


def test_a_share_that_reads_everything_gets_everything() -> None:
    model = prompted(backbone("bert"), "prompt-tuning", small("prompt-tuning"), init=None, seed=0).eval()
    given = batch()
    x = model.instance_of(given)
    with torch.no_grad():
        few, all_ = run([Share(model, x, None, torch.zeros(len(LENGTHS), 1).long()), Share(model, x)])
        assert gap(all_.hidden[given.mask], model(x).hidden[given.mask]) <= EXACT
    assert few.hidden.shape == all_.hidden.shape


def test_families_whose_layers_do_not_go_along_make_all_rows() -> None:
    assert [f for f in FAMILIES if not backbone(f).attachment.selects] == ["deberta"]
    model = fresh("bert")
    layer = model.base_model.encoder.layer[-1]
    own = layer.forward

    def unlike(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:  # looks at another row by itself
        return own(hidden_states, *args, **kwargs) + hidden_states[:, :1]

    layer.forward = unlike
    b = wrap(model, "bert")
    assert not b.attachment.selects
    soft = prompted(b, "prompt-tuning", small("prompt-tuning"), init=None, seed=0)
    given = batch()
    x: Instance = soft.instance_of(given)
    with torch.no_grad():
        assert torch.equal(soft(x, None, given.blanks).hidden, soft(x).hidden)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_recomputing_activations_changes_neither_loss_nor_gradient(family: str) -> None:
    b = wrap(fresh(family), family)
    readout, given = Classifier(2, b.shape.output, pool="last"), batch()
    for method in ("prompt-tuning", "p-tuning-v2"):
        model = prompted(b, method, small(method), init=None, seed=0, readout=readout).train()
        expected = losses(model, readout, given, None)
        b.checkpoint_activations(True)
        b.train(True)
        with worked(model) as rows:
            found = losses(model, readout, given, readout.columns(given))
        b.checkpoint_activations(False)
        assert min(rows.values()) < max(rows.values()) / 4
        for key, value in expected.items():
            assert gap(found[key], value) <= EXACT
