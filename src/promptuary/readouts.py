"""From the backbone's output to the task: a loss while training, a prediction afterwards."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from promptuary.data.batch import Batch
from promptuary.values import Output, Targets


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a read-out says of each row: the index of its class and the probability of every class."""

    label: Int[Tensor, " batch"]
    probability: Float[Tensor, "batch classes"]


class Readout(nn.Module, ABC):
    """Reads a task's answer off the backbone's output, which is aligned with the batch's own tokens."""

    def targets(self, batch: Batch) -> Targets | None:
        """The continuations the backbone should score for `batch`; `None` where the input's states suffice."""
        return None

    @abstractmethod
    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        """The mean loss over the batch's rows, in nats."""

    @abstractmethod
    def predict(self, out: Output, batch: Batch) -> Prediction:
        """The most probable class of each row, and all probabilities."""
