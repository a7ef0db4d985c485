"""The model without a prompt, as if it were one: its task is to go on with a text."""

import torch

from promptuary import checkpoint
from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.data.task import text_to_text
from promptuary.kinds import Text
from promptuary.readouts import LanguageModel
from promptuary.store import BASE
from promptuary.tuned import Tuned


def base(backbone: Backbone) -> Tuned:
    """A prompt of no soft tokens; the column of its rows is `text`."""
    task = text_to_text(name=BASE, text="text", text_pair=None, label="target")
    reading = Text(max_length=None, template=None, columns=(), max_new_tokens=1)
    model = prompted(backbone, "frozen", {}, init=None, seed=0)
    shape = backbone.shape
    manifest = checkpoint.Manifest(
        method="frozen", settings={}, seed=0, backbone=backbone.name, fingerprint="", family=shape.family,
        dim=shape.dim, form="flat", run={"precision": "bf16" if backbone.dtype == torch.bfloat16 else "fp32"},
    )  # fmt: skip
    return Tuned(model.eval(), LanguageModel().eval(), reading.wording(backbone, task, model.room), reading, manifest)
