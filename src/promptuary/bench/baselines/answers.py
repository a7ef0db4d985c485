"""What a baseline's model and read-out answer to rows, as the kind of task has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from promptuary.bench.contender import Answers
from promptuary.data.encoder import Encoder
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.kinds import Kind
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train.evaluation import arithmetic, evaluating, on_cpu


@dataclass(frozen=True, eq=False)
class Reader:
    """A model and its read-out, which answer rows in batches of `size`."""

    model: SoftPrompted
    readout: Readout
    reading: Kind
    wording: Encoder
    size: int
    precision: str

    def __call__(self, rows: Sequence[Row]) -> Answers:
        examples, found = self.wording.encode(rows, labelled=False), dict[int, Any]()
        backbone = self.model.backbone
        batches = Loader(examples, self.size, pad=int(backbone.tokenizer.pad_token_id or 0))
        with (
            evaluating(self.model, self.readout),
            torch.no_grad(),
            arithmetic(backbone.device, self.precision),
        ):
            for batch in batches.epoch(0):
                said = self.reading.predict(self.model, self.readout, batch.to(backbone.device))
                own = batch.rows.tolist()
                given = [rows[i] for i in own], [examples[i] for i in own]
                found |= zip(own, self.reading.answers(_plain(said), self.wording, *given), strict=True)
        return [found[i] for i in range(len(rows))]


def _plain(said: Any) -> Any:
    """A prediction on the CPU; texts are there already."""
    return said if isinstance(said, list) else on_cpu(said)
