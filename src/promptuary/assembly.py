"""From names to parts: the wording, the start of a prompt and the prompted model that a run or a manifest describes.

Training and loading both build through here, so that what is loaded is what was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from promptuary import pretrained
from promptuary.backbones.backbone import Backbone
from promptuary.checkpoint import check_backbone, read_manifest, read_tensors
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.task import Task
from promptuary.data.wording import frequent
from promptuary.errors import SettingError
from promptuary.initial import (
    Initial,
    from_activations,
    from_embeddings,
    from_file,
    from_labels,
    from_prompt,
    from_vocabulary,
    from_words,
    uniform,
    zeros,
)
from promptuary.kinds import Kind
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train.evaluation import unmoved_randomness
from promptuary.values import Shape

INITS = (
    "auto", "random", "uniform", "zeros", "vocabulary", "labels", "words:...", "file:...", "prompt:...", "activations",
    "embeddings", "peft:...",
)  # fmt: skip


def make_wording(backbone: Backbone, task: Task, model: SoftPrompted, reading: Kind) -> Encoder:
    """How the task's rows are written for this backbone, in the room that the prompt leaves.

    Raises:
        SettingError: as the wordings do; for marks of soft tokens where the prompt does not stand at marks.
    """
    wording = reading.wording(backbone, task, model.room)
    wording.tells_fields = model.reads_fields
    if wording.soft != model.marks:
        raise SettingError(
            f"The template marks {wording.soft} soft tokens, but this prompt stands at {model.marks} marks. "
            + (
                f"Write a template with {model.marks} <soft>."
                if model.marks
                else "Leave <soft> out, or use method='p-tuning' with template=true (--set template=true)."
            )
        )
    return wording


def start(
    init: str,
    backbone: Backbone,
    wording: Encoder,
    examples: Sequence[Example],
    settings: Mapping[str, Any],
    readout: Readout | None = None,
) -> Initial | None:
    """The start that `init` names; `None` leaves it to the method. `readout` as for `prompted`.

    Raises:
        SettingError: for an unknown name, and for labels where the task has none.
    """
    kind, _, rest = init.partition(":")
    if kind in ("auto", "random") and not rest:
        return None
    if kind in ("uniform", "zeros") and not rest:
        return uniform() if kind == "uniform" else zeros()
    if kind == "embeddings" and not rest:
        return from_embeddings(backbone.table)
    if kind in ("file", "prompt") and rest:
        if kind == "prompt":
            manifest = read_manifest(Path(rest))
            check_backbone(manifest, backbone, Path(rest))
            read_tensors(Path(rest), manifest)  # a damaged one is told, and not learnt from
        try:
            return from_file(rest)
        except SafetensorError as error:
            raise SettingError(f"init={init!r}: no readable safetensors file ({error}).") from error
    if kind == "peft" and rest:
        from promptuary.interop.peft import read_adapter  # which itself puts prompts together

        return from_prompt(read_adapter(rest).numbers(backbone, counted=bool(settings.get("counted"))))
    ids = torch.tensor(frequent(examples, backbone.tokenizer))
    if kind == "activations" and not rest:
        parts = frozenset(settings.get("parts") or _heard(backbone, readout).parts)
        return from_activations(lambda chosen: backbone.keys_values(chosen, parts), ids)
    vocabulary = from_vocabulary(backbone.embeddings, ids)
    if kind == "vocabulary" and not rest:
        return vocabulary
    if kind == "labels" and not rest:
        if not wording.task.values:
            raise SettingError(f"init='labels': a task of kind {wording.task.kind!r} has none. Use 'vocabulary'.")
        return from_labels(backbone.embeddings, wording.tokens.words(wording.task.words), vocabulary)
    if kind == "words" and rest:
        return from_words(backbone.embeddings, wording.tokens.words([rest])[0], vocabulary)
    raise SettingError(f"init={init!r}: expected one of {', '.join(INITS)}.")


def prompted(
    backbone: Backbone,
    name: str,
    settings: Mapping[str, Any],
    *,
    init: Initial | None,
    seed: int,
    dropout: float = 0.0,
    readout: Readout | None = None,
) -> SoftPrompted:
    """The backbone with a method's prompt before it.

    Arguments:
        readout: what will read the output: the prompt has no soft keys and values where it would not hear them.
            `None` hears all that the backbone has.

    Raises:
        SettingError: as the method does.
        CheckpointError: for a generator that was pre-trained for another tokenizer, or with other settings.
    """
    if settings.get("pretrained") is not None:
        pretrained.check_tokenizer(Path(settings["pretrained"]), backbone.tokenizer, backbone.name)
    starts = {} if init is None else {"init": init}
    generator, injection = method(name).parts(_heard(backbone, readout), seed=seed, **starts, **settings)
    return SoftPrompted(backbone, generator, injection, dropout=dropout)


def _heard(backbone: Backbone, readout: Readout | None) -> Shape:
    shape = backbone.shape
    return shape if readout is None else replace(shape, heard=readout.reads(shape))


def check_given(backbone: Backbone, *, device: str, precision: str, dropout: bool) -> None:
    """Refuse a loaded backbone that is not as a run describes it: what is described is what is recorded.

    Raises:
        SettingError: naming what the run says and what the backbone does.
    """
    where, names = backbone.device, {torch.float32: "fp32", torch.bfloat16: "bf16"}
    asked = {"device": device, "precision": precision, "dropout": dropout}
    found = {
        "device": device if device in ("auto", where.type, str(where)) else str(where),
        "precision": names.get(backbone.dtype, str(backbone.dtype).removeprefix("torch.")),
        "dropout": _drops(backbone),
    }
    for name, value in asked.items():
        if found[name] != value:
            raise SettingError(
                f"The run has {name}={value!r}, but the backbone that was given has {name}={found[name]!r}. "
                "Say so in the run, or load the backbone as the run says."
            )


def _drops(backbone: Backbone) -> bool:
    """Whether the frozen model drops anything while a prompt is tuned: then it says two things of one input."""
    model = prompted(backbone, "frozen", {}, init=None, seed=0)
    ids, was = torch.arange(3, 8, device=backbone.device)[None], backbone.model.training
    x = model.instance(ids, torch.ones_like(ids, dtype=torch.bool))
    backbone.train(True)
    try:
        with torch.no_grad(), unmoved_randomness(backbone.device):
            return not torch.equal(model(x).hidden, model(x).hidden)
    finally:
        backbone.train(was)
