"""A loss over many rows is one mean over all their answers, however the rows are cut into batches."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier, LanguageModel, Readout, Span, Tagger, WordsAsContinuation
from promptuary.train.evaluation import evaluate
from promptuary.train.stepper import Stepper
from tests.answers import EXACT, gap, parts
from tests.backbones import backbone
from tests.unit.train.toy import Listed, recipe

TOKENS = (3, 9, 5, 4, 8, 6)
CUTS = ((4, 2), (2, 1, 3), (1, 1, 1, 1, 1, 1))
WORDS = ((11, 12, 13), (14,), (15, 16))


def drawn(count: int, source: torch.Generator) -> list[int]:
    return torch.randint(10, 60, (count,), generator=source).tolist()


def examples(kind: str) -> list[Example]:
    """Six rows of unequal length; some of their answers are unknown."""
    source, made = torch.Generator().manual_seed(1), []
    for row, tokens in enumerate(TOKENS):
        ids, types, label = drawn(tokens, source), [0] * tokens, row % 3
        if kind == "class":
            made.append(Example(ids, types, label=-1 if row == 3 else label))
        elif kind == "words":
            made.append(Example(ids, types, label=label))
        elif kind == "labelled text":
            made.append(Example(ids, types, label=label, target=list(WORDS[label])))
        elif kind == "text":
            made.append(Example(ids, types, target=drawn(1 + 2 * row, source)))
        elif kind == "tag":
            begins = [i if i > row else -1 for i in range(tokens)]
            made.append(Example(ids, types, words=begins, tags=[i % 3 if i > 0 else -1 for i in begins]))
        else:
            span = (-1, -1) if row == 1 else (1, tokens - 1)
            made.append(Example(ids, types, span=span, context=[(i, i + 1) for i in range(tokens)]))
    return made


def pair(kind: str, family: str) -> tuple[SoftPrompted, Readout]:
    to = backbone(family)
    readouts: dict[str, Readout] = {
        "class": Classifier(3, to.shape.output),
        "words": WordsAsContinuation([[word] for word in WORDS]),
        "text": LanguageModel(z_loss=0.1),
        "labelled text": LanguageModel(WORDS),
        "tag": Tagger(3, to.shape.output),
        "span": Span(to.shape.output),
    }
    return SoftPrompted(to, *parts(family, "p-tuning-v2")), readouts[kind]


def together(kind: str, rows: Sequence[int]) -> Batch:
    known = examples(kind)
    return collate([known[row] for row in rows], rows, 0)


def cut(kind: str, sizes: Sequence[int]) -> list[Batch]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [together(kind, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def mean(model: SoftPrompted, readout: Readout, batch: Batch) -> Tensor:
    x = model.instance(batch.ids, batch.mask, batch.types, batch.task)
    return readout.loss(model(x, readout.targets(batch)), batch)


KINDS = (
    ("class", "bert"),
    ("words", "gpt2"),
    ("text", "gpt2"),
    ("text", "t5"),
    ("labelled text", "t5"),
    ("tag", "bert"),
    ("span", "bert"),
)


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_accumulated_batches_have_the_loss_and_the_gradient_of_one_batch(
    kind: str, family: str, sizes: tuple[int, ...]
) -> None:
    model, readout = pair(kind, family)
    named = [p for part in (model, readout) for p in part.parameters()]
    loss = mean(model, readout, together(kind, range(len(TOKENS))))
    wanted = torch.autograd.grad(loss, named)
    stepper = Stepper(model, readout, recipe(clip=0.0, accumulation=len(sizes)), 1)
    step = stepper.step(1, cut(kind, sizes))
    found = [p.grad for p in named]
    stepper.close()
    assert step.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for gradient, whole in zip(found, wanted, strict=True):
        assert gradient is not None
        assert gap(gradient, whole) <= EXACT


@pytest.mark.parametrize("sizes", CUTS)
def test_what_a_choice_adds_is_a_mean_over_rows_however_long_their_answers_are(sizes: tuple[int, ...]) -> None:
    made = METHODS["dp-vector"].parts(backbone("gpt2").shape, length=3, entropy=0.5)
    model, readout = SoftPrompted(backbone("gpt2"), *made), LanguageModel()
    weight = model.generator.choice.weight
    torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(2))
    whole = together("text", range(len(TOKENS)))
    x = model.instance(whole.ids, whole.mask, whole.types, whole.task)
    loss = readout.loss(model(x, readout.targets(whole)), whole) + sum(x.losses)
    (wanted,) = torch.autograd.grad(loss, weight)
    stepper = Stepper(model, readout, recipe(clip=0.0, accumulation=len(sizes)), 1)
    step, found = stepper.step(1, cut("text", sizes)), weight.grad
    stepper.close()
    assert step.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert gap(found, wanted) <= EXACT


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_the_loss_of_an_evaluation_does_not_depend_on_the_batch_size(
    kind: str, family: str, sizes: tuple[int, ...]
) -> None:
    model, readout = pair(kind, family)
    with torch.no_grad():
        wanted = float(mean(model.eval(), readout.eval(), together(kind, range(len(TOKENS)))))
    found = evaluate(model, readout, Listed(cut(kind, sizes)), measure=lambda pairs: {})
    assert found.scores["loss"] == pytest.approx(wanted, rel=1e-5)
