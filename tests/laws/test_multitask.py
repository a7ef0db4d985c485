"""One prompt that several tasks share: a mixed batch teaches what each task's rows teach, each task hears its own
choices, and what is kept for a task says what the shared prompt said of its rows.

The oracles are passes over the rows of one task, padded by themselves, read by that task's read-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from promptuary.choices import Choice
from promptuary.data.batch import Batch
from promptuary.data.collate import collate, together
from promptuary.data.example import Example
from promptuary.generators import RankOne
from promptuary.initial import normal
from promptuary.model import SoftPrompted
from promptuary.multitask.tuning import _alone
from promptuary.readouts import ByTask, Classifier, LanguageModel, Readout, Tagger, WordsAsContinuation
from tests.answers import EXACT, gap, prompted
from tests.backbones import backbone

FIVE = ("bert", "roberta", "gpt2", "llama", "t5")
CHOOSING = ("dp-position", "dp-length", "dp-bank")  # for a task
OWN = ("multitask-prompt-tuning", *CHOOSING)  # with something of each task's own
SHARED = ("prompt-tuning", "p-tuning-v2", "ipt-cnn", "dp-vector-position", *OWN)


@dataclass(frozen=True, eq=False)
class Taught:
    """A task with what reads it and some of its rows."""

    readout: Readout
    examples: Sequence[Example]

    def batch(self, task: int, width: int = 0) -> Batch:
        return collate(self.examples, range(len(self.examples)), 0, task=task, width=width)


def texts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 90, (length,), generator=source).tolist() for length in lengths]


def tasks(family: str) -> list[Taught]:
    """Tasks of different kinds, with rows of different lengths; as many kinds as the family can read."""
    shape = backbone(family).shape
    rows = [Example(ids, [0] * len(ids), n % 2) for n, ids in enumerate(texts(1, (3, 7)))]
    more = [Example(ids, [0] * len(ids), n) for n, ids in enumerate(texts(2, (5, 4, 9)))]
    found = [
        Taught(Classifier(2, shape.output, seed=1), rows),
        Taught(Classifier(3, shape.output, pool="mean", seed=2), more),
    ]
    if not shape.encodes or not shape.decodes:  # the encoder-decoder's decoder is another tower
        words = [Example(i, [0] * len(i), words=[*range(len(i))], tags=[1] * len(i)) for i in texts(3, (6, 2))]
        found.append(Taught(Tagger(2, shape.output, seed=3), words))
    if shape.decodes and not shape.encodes:
        found.append(Taught(WordsAsContinuation([[[5, 6]], [[7]]]), rows))
        found.append(Taught(LanguageModel(), [Example(i, [0] * len(i), target=i[:3]) for i in texts(4, (4, 8))]))
    return found


def mixed(given: Sequence[Taught]) -> Batch:
    width = max(len(e.ids) for task in given for e in task.examples)
    return together([task.batch(n, width) for n, task in enumerate(given)])


def shared(family: str, method: str, count: int) -> SoftPrompted:
    """A prompt that decides otherwise for each task, or is multiplied by other factors, where it is of tasks at all."""
    more = {"tasks": count} if method in OWN else {}
    model = prompted(family, method, **more)
    for part in model.modules():
        if isinstance(part, RankOne):
            torch.nn.init.normal_(part.tokens, std=0.5, generator=torch.Generator().manual_seed(1))
            torch.nn.init.normal_(part.dims, std=0.5, generator=torch.Generator().manual_seed(2))
    for choice in model.choices.values():
        with torch.no_grad():
            for task, bias in enumerate(choice.bias):
                bias[task % choice.options] += 9
    return model


def loss(model: SoftPrompted, readout: Readout, batch: Batch) -> torch.Tensor:
    return readout.loss(model(model.instance_of(batch), readout.targets(batch), readout.columns(batch)), batch)


def gradients(model: SoftPrompted, readouts: Sequence[Readout], value: torch.Tensor) -> list[torch.Tensor]:
    named = [p for part in (model, *readouts) for p in part.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, named, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(named, found, strict=True)]


@pytest.mark.parametrize("method", SHARED)
@pytest.mark.parametrize("family", FIVE)
def test_a_mixed_batch_teaches_what_each_tasks_rows_teach(family: str, method: str) -> None:
    given = tasks(family)
    model, readouts = shared(family, method, len(given)).eval(), [task.readout for task in given]
    together_, rows = mixed(given), sum(len(task.examples) for task in given)
    whole = ByTask(readouts)
    value = loss(model, whole, together_)
    alone = [loss(model, task.readout, task.batch(n)) * len(task.examples) / rows for n, task in enumerate(given)]
    assert abs(float(value.detach()) - sum(float(one.detach()) for one in alone)) <= EXACT * abs(float(value.detach()))
    expected = gradients(model, readouts, torch.stack(alone).sum())
    for found, one in zip(gradients(model, readouts, value), expected, strict=True):
        assert (found - one).abs().max() <= 10 * EXACT * max(1.0, float(one.abs().max()))


@pytest.mark.parametrize("method", SHARED)
@pytest.mark.parametrize("family", FIVE)
@torch.no_grad()
def test_a_tasks_own_prompt_says_what_the_shared_one_says_of_its_rows(family: str, method: str) -> None:
    given = tasks(family)
    model = shared(family, method, len(given)).eval()
    for number, task in enumerate(given):
        own, batch = _alone(model, number).eval(), task.batch(number)
        targets = task.readout.targets(batch)
        said, kept = (m(m.instance_of(b), targets) for m, b in ((model, batch), (own, task.batch(0))))
        assert gap(kept.hidden[batch.mask], said.hidden[batch.mask]) == 0
        assert all(len(choice.bias) == 1 for choice in own.choices.values())
    assert all(len(choice.bias) == (len(given) if method in CHOOSING else 1) for choice in model.choices.values())


def test_a_choice_for_a_task_learns_from_its_rows_alone() -> None:
    given = tasks("bert")
    model = shared("bert", "dp-position", len(given)).train()
    batch = given[1].batch(1)
    loss(model, ByTask([task.readout for task in given]), batch).backward()
    (choice,) = model.choices.values()
    assert choice.bias.grad is not None
    heard = choice.bias.grad.abs().amax(1) > 0
    assert heard.tolist() == [False, True, False]


def test_the_prompt_of_a_task_is_the_shared_one_times_its_matrix_of_rank_one() -> None:
    model = shared("bert", "multitask-prompt-tuning", 3)
    table, tokens, dims = (p.tolist() for p in model.generator.parameters())
    for task in range(3):
        rows = [[t * (1 + u) * (1 + v) for t, v in zip(row, dims[task], strict=True)]
                for row, u in zip(table, tokens[task], strict=True)]  # fmt: skip
        assert gap(_alone(model, task).generator.fixed().values[0], torch.tensor(rows)) <= EXACT


def test_tasks_start_from_the_prompt_that_they_share() -> None:
    same = {"seed": 5, "init": normal(0.1)}
    plain, factored = (prompted("bert", m, **same) for m in ("prompt-tuning", "multitask-prompt-tuning"))
    assert torch.equal(factored.generator.fixed().values, plain.generator.fixed().values)


def test_a_batch_of_one_task_is_read_by_that_tasks_readout() -> None:
    given = tasks("bert")
    model, whole = prompted("bert", "p-tuning-v2"), ByTask([task.readout for task in given])
    for number, task in enumerate(given[:2]):
        batch = task.batch(number)
        out = model(model.instance_of(batch))
        assert torch.equal(whole.predict(out, batch).probability, task.readout.predict(out, batch).probability)
    assert whole.count(mixed(given)) == 7  # rows


def test_settling_forgets_the_other_tasks() -> None:
    choice = Choice(4, tasks=3)
    with torch.no_grad():
        choice.bias.copy_(torch.arange(12.0).view(3, 4))
    choice.settle(2)
    assert choice.bias.tolist() == [[8.0, 9.0, 10.0, 11.0]]
    assert choice.trained
    alone = Choice(4, trained=False)
    alone.settle(5)
    assert (len(alone.bias), alone.trained) == (1, False)
