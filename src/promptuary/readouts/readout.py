"""What a read-out is; its commonest kind, one class a row; and the loss that most of them end in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.data.batch import Batch
from promptuary.errors import DataError
from promptuary.values import Output, Part, Shape, Targets


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a read-out says of each row: the index of its class and the probability of every class."""

    label: Int[Tensor, " batch"]
    probability: Float[Tensor, "batch classes"]


class Readout(nn.Module, ABC):
    """Reads a task's answer off the backbone's output, which is aligned with the batch's own tokens.

    Use: `out = model(x, readout.targets(batch), readout.columns(batch))`, then `readout.loss(out, batch)` or
    `readout.predict(out, batch)`.
    """

    def targets(self, batch: Batch) -> Targets | None:
        """The continuations the backbone should score for `batch`; `None` where the input's states suffice."""
        return None

    def reads(self, shape: Shape) -> frozenset[Part]:
        """The parts of the model that bear on what is read: without targets, the tower that reads the input."""
        return frozenset({"encoder"} if shape.encodes else {"decoder"})

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"] | None:
        """The batch's tokens whose last states are read beside those that predict targets; `None` where they are many.

        States of other tokens are undefined then, and need not be made.
        """
        return None

    def idle(self) -> int:
        """How many of its trained numbers one row's answer never depends on, at least."""
        return 0

    @abstractmethod
    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        """The mean loss over the batch's known answers, in nats; 0 where it has none.

        Raises:
            DataError: where the batch lacks what the loss compares with.
        """

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """How many answers `loss` is the mean of, which is the batch's weight in a mean over several: rows with a
        known class, tokens of texts, tagged words, ends of spans.

        Raises:
            DataError: as `loss`.
        """

    @abstractmethod
    def predict(self, out: Output, batch: Batch) -> Any:
        """The best answers: a `Prediction` where each row has one class, else a value of the read-out's own file."""


class ClassReadout(Readout, ABC):
    """One class a row: a subclass scores the classes, the loss and the prediction follow."""

    @abstractmethod
    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Unnormalised log-probabilities of the classes."""

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        return known_entropy(self.scores(out, batch), labels_of(batch))

    def count(self, batch: Batch) -> int:
        return known(labels_of(batch))

    def predict(self, out: Output, batch: Batch) -> Prediction:
        scores = self.scores(out, batch)
        return Prediction(scores.argmax(1), scores.softmax(1))


def labels_of(batch: Batch) -> Int[Tensor, " batch"]:
    """The class of each row, -1 where it is unknown.

    Raises:
        DataError: for a batch without labels.
    """
    if batch.labels is None:
        raise DataError("This batch has no labels to compare with. Expected Batch.labels, a class for each row.")
    return batch.labels


def known(labels: Int[Tensor, "*n"]) -> int:
    """How many labels are not -1."""
    return int((labels != -1).sum())


def known_entropy(scores: Float[Tensor, "*n classes"], labels: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over those places whose label is not -1; 0 where none is known, never NaN."""
    total = F.cross_entropy(scores.flatten(0, -2), labels.flatten(), ignore_index=-1, reduction="sum")
    return total / (labels != -1).sum().clamp(min=1)


def head(outputs: int, inputs: int, *, seed: int, bias: bool = True) -> nn.Linear:
    """A float32 layer with small normal weights (deviation 0.02, as in BERT's own new heads) and biases of 0."""
    # By way of the meta device, since the layer's own first weights would be drawn from the global generator.
    layer = nn.Linear(inputs, outputs, bias, dtype=torch.float32, device="meta").to_empty(device="cpu")
    nn.init.normal_(layer.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def in_float32(layer: nn.Linear, states: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n outputs"]:
    """`layer` in float32, whatever precision the backbone has or an autocast around us asks for."""
    with torch.autocast(states.device.type, enabled=False):
        scores: Tensor = layer(states.float())
    return scores
