"""Saved prompts of every kind of task on tiny models, made at once: their numbers are drawn, nothing is tuned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from promptuary import checkpoint
from promptuary.assembly import make_wording, prompted
from promptuary.backbones.backbone import Backbone
from promptuary.data.source import Row
from promptuary.data.task import Task, answering, tagging, text_to_text
from promptuary.kinds import Answering, Classification, Kind, Tagging, Text
from tests.laws.checks import trainable
from tests.saved import TEXTS

CLASSES = Task("mood", "classification", "text", None, "label", ("bad", "good"))
TAGS = tagging([Row({"tokens": ["a", "b"], "tags": ["O", "B-x"]}, "row")], name="things")
CONTENT = [text for own in TEXTS.values() for text in own]


def classes(readout: Any, **more: Any) -> Classification:
    """A reading of `CLASSES`."""
    settings = {"max_length": None, "template": None, "columns": (), "blanks": 0, "pool": "mean", **more}
    return Classification(readout=readout, words=(("bad",), ("good",)), **settings)


def text(max_new_tokens: int) -> Text:
    return Text(max_length=None, template=None, columns=(), max_new_tokens=max_new_tokens)


@dataclass(frozen=True)
class Made:
    """One prompt: its task, how it is read, its method and settings."""

    task: Task
    reading: Kind
    method: str
    settings: Mapping[str, Any]


def _made(reading: Kind, task: Task, method: str, **settings: Any) -> Made:
    return Made(task, reading, method, settings)


def every(family: str) -> dict[str, Made]:
    """Prompts of one family that differ in kind, read-out, method and length."""
    plain = classes("classifier")
    found = {
        "frozen": _made(plain, CLASSES, "frozen"),
        "prompt": _made(plain, CLASSES, "prompt-tuning", length=3),
        "longer": _made(plain, CLASSES, "prompt-tuning", length=7),
        "prefix": _made(plain, CLASSES, "p-tuning-v2", length=4),
        "deep": _made(plain, CLASSES, "deep-prompt-tuning", length=2),
        "ipt": _made(plain, CLASSES, "ipt-lstm", length=2),
        "position": _made(plain, CLASSES, "dp-position-instance", length=3),
        "vector": _made(plain, CLASSES, "dp-vector", length=3),
        "tags": _made(Tagging(max_length=None), TAGS, "p-tuning-v2", length=2),
        "spans": _made(Answering(max_length=None), answering(name="where"), "prompt-tuning", length=2),
    }
    if family == "bert":
        template = "{text} It was <mask> <mask> ."
        cloze = classes("verbalizer", template=template, blanks=2)
        return found | {"cloze": _made(cloze, CLASSES, "prompt-tuning", length=4)}
    return found | {
        "words": _made(classes("verbalizer"), CLASSES, "prompt-tuning", length=4),
        "named": _made(classes("text"), CLASSES, "p-tuning-v2", length=3),
        "reply": _made(text(9), text_to_text(name="reply"), "prompt-tuning", length=5),
        "short": _made(text(3), text_to_text(name="short"), "p-tuning-v2", length=3),
        "plain": _made(text(9), text_to_text(name="plain"), "deep-prompt-tuning", length=2),
    }


def keep(folder: Path, backbone: Backbone, made: Made, *, seed: int = 0, precision: str = "fp32") -> Path:
    """Write a prompt whose numbers are far from where they start; another seed is another version of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = prompted(backbone, made.method, made.settings, init=None, seed=seed)
        wording = make_wording(backbone, made.task, model, made.reading)
        readout = made.reading.reader(backbone, wording)
        model = prompted(backbone, made.method, made.settings, init=None, seed=seed, readout=readout)
        for parameter in trainable(model).values():
            parameter.data.add_(torch.randn_like(parameter) * backbone.shape.deviation * 2)
        for parameter in readout.parameters():
            parameter.data.add_(torch.randn_like(parameter))
    shape, run = backbone.shape, {**made.reading.model_dump(mode="json"), "task": made.task.to_json()}
    told = {
        "method": made.method, "settings": dict(made.settings), "seed": seed, "backbone": backbone.name,
        "fingerprint": backbone.fingerprint(), "family": shape.family, "dim": shape.dim,
        "run": {**run, "precision": precision},
    }  # fmt: skip
    checkpoint.save_prompt(folder, told, model.generator, model.injection, readout)
    return folder


def rows(count: int, *, start: int = 0) -> list[Row]:
    """Rows that have the columns of every kind, of different length."""
    found = []
    for i in range(start, start + count):
        said = f"{CONTENT[i % len(CONTENT)]} {'very ' * (i % 5)}much"
        fields = {"text": said, "tokens": said.split(), "question": "where is it ?", "context": said}
        found.append(Row(fields, f"row {i}"))
    return found
