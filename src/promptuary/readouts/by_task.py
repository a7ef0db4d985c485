"""The read-outs of several tasks as one, for a prompt that they share (dynamic prompting's multi-task setting)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from promptuary import stacking
from promptuary.data.batch import Batch
from promptuary.readouts.readout import Readout
from promptuary.values import Output, Part, Shape, Targets


class ByTask(Readout):
    """Each row is read by the read-out of its task (`Batch.task`).

    The loss is the mean over rows of their tasks' losses: a task's weight is its share of the rows, however long its
    answers are.

    Arguments:
        readouts: of each task, by its number.
    """

    def __init__(self, readouts: Sequence[Readout]) -> None:
        super().__init__()
        self.readouts = nn.ModuleList(readouts)

    def of(self, batch: Batch) -> Readout:
        """The read-out of a batch of one task."""
        readout = self.readouts[int(batch.task[0])]
        assert isinstance(readout, Readout)
        return readout

    def targets(self, batch: Batch) -> Targets | None:
        parts = _parts(batch)
        return stacking.targets([self.of(part).targets(part) for part in parts], [len(part.ids) for part in parts])

    def reads(self, shape: Shape) -> frozenset[Part]:
        return frozenset[Part]().union(*(r.reads(shape) for r in self.readouts if isinstance(r, Readout)))

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"] | None:
        return stacking.columns([self.of(part).columns(part) for part in _parts(batch)])

    def idle(self) -> int:
        sizes = [sum(p.numel() for p in r.parameters() if p.requires_grad) for r in self.readouts]
        return sum(sizes) - max(sizes)

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        losses = [self.of(part).loss(own, part) * len(part.ids) for own, part in self._said(out, batch)]
        return torch.stack(losses).sum() / len(batch.ids)

    def count(self, batch: Batch) -> int:
        """How many rows `loss` is the mean of."""
        return len(batch.ids)

    def predict(self, out: Output, batch: Batch) -> Any:
        """What the task's own read-out predicts; the rows must be of one task."""
        ((own, part),) = self._said(out, batch)
        return self.of(part).predict(own, part)

    def _said(self, out: Output, batch: Batch) -> Iterator[tuple[Output, Batch]]:
        """Each part of a batch, with what was said of its rows."""
        first = 0
        for part in _parts(batch):
            rows, first = slice(first, first + len(part.ids)), first + len(part.ids)
            asked = None if out.targets is None else self.of(part).targets(part)
            texts = None
            if asked is not None and out.targets is not None:
                texts = out.targets[rows, : asked.ids.shape[1], : asked.ids.shape[2]]
            yield Output(out.hidden[rows], texts, out.logits), part


def _parts(batch: Batch) -> Sequence[Batch]:
    return batch.parts or (batch,)
