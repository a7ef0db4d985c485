"""The model without a prompt, as if it were one: its task is to go on with a text."""

from collections.abc import Sequence

import torch

from promptuary import checkpoint
from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import text_to_text
from promptuary.data.wording import Wording
from promptuary.kinds import Text
from promptuary.kinds.kind import causal
from promptuary.readouts import LanguageModel
from promptuary.store import BASE
from promptuary.tuned import Tuned


class Bare(Wording):
    """Writes a text as it is; a list of token ids, which somebody else wrote, stands for itself."""

    def _encode(self, rows: Sequence[Row], labelled: bool) -> list[Example]:
        written = (row.fields[self.task.text] for row in rows)
        return [
            self._given(ids, row.place) if isinstance(ids, list) else super(Bare, self)._encode([row], labelled)[0]
            for row, ids in zip(rows, written, strict=True)
        ]

    def _given(self, ids: list[int], place: str) -> Example:
        self.writer.limit.excess(len(ids), place, self._reserved if self.tokens.causal else 0)
        return Example(ids, [0] * len(ids))


def base(backbone: Backbone) -> Tuned:
    """A prompt of no soft tokens; the column of its rows is `text`, a text or token ids."""
    task = text_to_text(name=BASE, text="text", text_pair=None, label="target")
    reading = Text(max_length=None, template=None, columns=(), max_new_tokens=1)
    model = prompted(backbone, "frozen", {}, init=None, seed=0)
    wording = Bare(backbone.tokenizer, task, room=model.room, reserved=reading.max_new_tokens, causal=causal(backbone))
    shape = backbone.shape
    manifest = checkpoint.Manifest(
        method="frozen", settings={}, seed=0, backbone=backbone.name, fingerprint="", family=shape.family,
        dim=shape.dim, form="flat", run={"precision": "bf16" if backbone.dtype == torch.bfloat16 else "fp32"},
    )  # fmt: skip
    return Tuned(model.eval(), LanguageModel().eval(), wording, reading, manifest)
