"""Token ids of several rows, padded to one length, with what a read-out needs to know of each row."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from promptuary.values import Targets


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on its way into a model.

    Arguments:
        ids: token ids; negative ids mark the places of soft tokens in a template.
        mask: true where a token is real.
        types: segment ids (0 for backbones without segments).
        task: index of each row's task.
        fields: which text of the row each token belongs to (`Instance.fields`), where a prompt asks for it.
        rows: number of each row in its data set, for putting predictions back in order.
        labels: class index of each row, or -1 where it is unknown; `None` for tasks without classes.
        targets: the text each row should produce, for read-outs that learn text.
        blanks: columns of the mask tokens of a cloze template, in order, or `None`.
        words: for tagging, the index of the word each token begins, or -1 (continuation, special, padding).
        tags: for tagging, the class of each token where `words` is not -1, else -1.
        spans: for extractive question answering, columns of the answer's first and last token, or -1.
        context: for extractive question answering, true where a token may be part of an answer.
        parts: of rows of several tasks (`collate.together`), those of each task in order, as long as the whole; what a
            read-out needs to know stands in these. Empty where all rows are of one task.
    """

    ids: Int[Tensor, "batch tokens"]
    mask: Bool[Tensor, "batch tokens"]
    types: Int[Tensor, "batch tokens"]
    task: Int[Tensor, " batch"]
    rows: Int[Tensor, " batch"]
    labels: Int[Tensor, " batch"] | None = None
    targets: Targets | None = None
    blanks: Int[Tensor, "batch blanks"] | None = None
    words: Int[Tensor, "batch tokens"] | None = None
    tags: Int[Tensor, "batch tokens"] | None = None
    spans: Int[Tensor, "batch 2"] | None = None
    context: Bool[Tensor, "batch tokens"] | None = None
    fields: Int[Tensor, "batch tokens"] | None = None
    parts: "tuple[Batch, ...]" = ()

    def every(self, step: int, first: int) -> "Batch | None":
        """Rows `first`, `first + step`, ... as a batch of the same width; `None` where there are none."""
        if step == 1:
            return self
        if first >= len(self.ids):
            return None
        own: dict[str, Any] = {
            name: value[first::step] if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        if self.targets is not None:
            own["targets"] = Targets(self.targets.ids[first::step], self.targets.mask[first::step])
        before, parts = 0, list[Batch | None]()
        for part in self.parts:
            parts.append(part.every(step, (first - before) % step))
            before += len(part.ids)
        own["parts"] = tuple(part for part in parts if part is not None)
        return Batch(**own)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        if self.targets is not None:
            moved["targets"] = Targets(self.targets.ids.to(device), self.targets.mask.to(device))
        moved["parts"] = tuple(part.to(device) for part in self.parts)
        return Batch(**moved)
