"""A task that tiny random models can learn: the class is a token that stands in each row at two places."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.backbones.backbone import Backbone
from promptuary.data.batch import Batch
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import Prediction, Readout
from promptuary.train.recipe import Recipe
from promptuary.values import Output
from tests.backbones import backbone

MARKS = (5, 7)
RECIPE = Recipe(rate=0.3, head_rate=1e-2, batch=8, epochs=3)


class Head(Readout):
    """A linear layer on the mean state."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, classes)
        nn.init.normal_(self.head.weight, std=0.02, generator=torch.Generator().manual_seed(3))
        nn.init.zeros_(self.head.bias)

    def scores(self, out: Output, batch: Batch) -> Tensor:
        states = out.hidden.float().masked_fill(~batch.mask[:, :, None], 0.0)
        scores: Tensor = self.head(states.sum(1) / batch.mask.sum(1)[:, None])
        return scores

    def loss(self, out: Output, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return F.cross_entropy(self.scores(out, batch).float(), batch.labels)

    def count(self, batch: Batch) -> int:
        return len(batch.ids)

    def predict(self, out: Output, batch: Batch) -> Prediction:
        scores = self.scores(out, batch).float()
        return Prediction(scores.argmax(1), scores.softmax(1))


@dataclass
class Toy:
    """`count` batches of `size` rows; epochs differ in their order."""

    count: int = 8
    size: int = 8
    seed: int = 0
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int, /) -> Iterator[Batch]:
        self.asked.append(number)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed * 100 + number))
        return (self.batch(int(i)) for i in order)

    def batch(self, index: int) -> Batch:
        source = torch.Generator().manual_seed(self.seed * 1000 + index)
        ids = torch.randint(10, 90, (self.size, 8), generator=source)
        labels = torch.arange(self.size) % 2
        marks = torch.tensor(MARKS)[labels]
        ids[:, 1], ids[:, 5] = marks, marks
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[0, 6:] = False
        rows = torch.arange(self.size) + index * self.size
        return Batch(ids, mask, torch.zeros_like(ids), torch.zeros_like(labels), rows, labels=labels)


@dataclass
class Listed:
    """The same batches in every epoch."""

    batches: list[Batch]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, /) -> Iterator[Batch]:
        return iter(self.batches)


def recipe(**changes: Any) -> Recipe:
    return replace(RECIPE, **changes)


def parts(
    family: str = "bert",
    name: str = "prompt-tuning",
    *,
    b: Backbone | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[SoftPrompted, Head]:
    """A prompted model and a head, equal for equal arguments."""
    b = b or backbone(family)
    with torch.random.fork_rng():
        torch.manual_seed(7)  # networks behind a prompt draw their start from torch's own generator
        generator, injection = method(name).parts(b.shape, **{"length": 4, **settings} if name != "frozen" else {})
    return SoftPrompted(b, generator, injection, dropout=dropout), Head(2, b.shape.output)


def numbers(model: SoftPrompted, readout: Readout) -> dict[str, Tensor]:
    """Copies of all trained tensors."""
    named = {**dict(model.named_parameters()), **{f"head.{n}": p for n, p in readout.named_parameters()}}
    return {name: p.detach().clone() for name, p in named.items()}
