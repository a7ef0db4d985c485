"""From names to parts: the read-out, the start of a prompt and the prompted model that a run or a manifest describes.

Training and loading both build through here, so that what is loaded is what was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from promptuary.backbones.backbone import Backbone
from promptuary.checkpoint import check_backbone, read_manifest
from promptuary.data.example import Example
from promptuary.data.task import Task
from promptuary.data.wording import Wording, frequent
from promptuary.errors import BackboneError, SettingError
from promptuary.initial import Initial, from_activations, from_file, from_labels, from_vocabulary, from_words
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier, LanguageModel, Readout, WordsAsContinuation, WordsAtBlanks

INITS = ("auto", "random", "vocabulary", "labels", "words:...", "file:...", "prompt:...", "activations")


@dataclass(frozen=True)
class Reading:
    """Which read-out, fully said: what `auto` means is decided once, when a run starts.

    `kind` is `classifier` (reads `pool`), `verbalizer` or `text`; `words` are the label words by class.
    """

    kind: str
    pool: str
    words: tuple[tuple[str, ...], ...]


def reading(backbone: Backbone, task: Task, kind: str, pool: str, words: Mapping[str, str | Sequence[str]]) -> Reading:
    """Decide what `auto` means, and check the label words.

    Raises:
        SettingError: for words of labels the task does not have, or labels without words.
        BackboneError: for a read-out the backbone cannot serve.
    """
    shape = backbone.shape
    if kind == "auto":
        kind = "classifier" if not shape.decodes else "text" if shape.encodes else "verbalizer"
    if kind == "text" and not shape.decodes:
        raise BackboneError(
            f"readout='text' on {backbone.name!r}: an encoder writes no text. Use 'classifier', or 'verbalizer' with "
            "a <mask>."
        )
    if kind == "verbalizer" and not backbone.has_head:
        raise BackboneError(
            f"readout='verbalizer' on {backbone.name!r}: it has no trained language-model head that could score words. "
            "Use readout='classifier'."
        )
    if pool == "auto":
        pool = "last" if shape.decodes and not shape.encodes else "mean"
    unknown = sorted(set(words) - set(task.labels))
    if unknown:
        raise SettingError(f"words: there is no label {unknown[0]!r}; the labels are {', '.join(task.labels)}.")
    named = dict(zip(task.labels, task.words, strict=True)) | dict(words)
    by_label = {k: (w,) if isinstance(w, str) else tuple(w) for k, w in ((k, named[k]) for k in task.labels)}
    _check_words(by_label, kind)
    return Reading(kind, pool, tuple(by_label.values()))


def _check_words(words: Mapping[str, Sequence[str]], kind: str) -> None:
    owner: dict[str, str] = {}
    for label, own in words.items():
        if not own or not all(w.strip() for w in own):
            raise SettingError(f"words: label {label!r} has {list(own)}. Expected one or more, none of them empty.")
        if kind == "text" and len(own) > 1:
            raise SettingError(f"words: label {label!r} has {list(own)}, and readout='text' writes one. Name one.")
        for word in own:
            if owner.setdefault(word, label) != label:
                raise SettingError(f"words: {word!r} stands for {owner[word]!r} and for {label!r}. Expected one label.")


def make_readout(
    backbone: Backbone, wording: Wording, task: Task, how: Reading, *, blanks: int, seed: int = 0
) -> Readout:
    """The read-out a reading describes. `blanks`: mask tokens of the template."""
    if how.kind == "classifier":
        return Classifier(len(task.labels), backbone.shape.output, pool=how.pool, seed=seed)  # type: ignore[arg-type]
    if how.kind == "text":
        return LanguageModel(wording.targets([w[0] for w in how.words]))
    if backbone.shape.decodes:
        write = wording.targets if backbone.shape.encodes else wording.label_tokens
        return WordsAsContinuation([write(list(w)) for w in how.words])
    if not blanks:
        raise SettingError(
            "readout='verbalizer' on a masked language model needs a template with a <mask>, "
            "for example template='{text} It was <mask> .'"
        )
    return WordsAtBlanks([wording.label_tokens(list(w)) for w in how.words], blanks=blanks)


def with_targets(examples: Sequence[Example], readout: Readout, wording: Wording, how: Reading) -> list[Example]:
    """Examples that carry their class's text, for a read-out that learns text."""
    if not isinstance(readout, LanguageModel):
        return list(examples)
    texts = wording.targets([w[0] for w in how.words])
    return [e if e.label in (None, -1) else replace(e, target=texts[e.label]) for e in examples]


def start(
    init: str, backbone: Backbone, wording: Wording, examples: Sequence[Example], settings: Mapping[str, Any]
) -> Initial | None:
    """The start that `init` names; `None` leaves it to the method.

    Raises:
        SettingError: for an unknown name.
    """
    kind, _, rest = init.partition(":")
    if kind in ("auto", "random") and not rest:
        return None
    if kind in ("file", "prompt") and rest:
        if kind == "prompt":
            check_backbone(read_manifest(Path(rest)), backbone, Path(rest))
        try:
            return from_file(rest)
        except SafetensorError as error:
            raise SettingError(f"init={init!r}: no readable safetensors file ({error}).") from error
    ids = torch.tensor(frequent(examples, backbone.tokenizer))
    if kind == "activations" and not rest:
        present = {a.part for a in backbone.shape.attention}
        parts = frozenset(settings.get("parts") or present)
        return from_activations(lambda chosen: backbone.keys_values(chosen, parts), ids)
    vocabulary = from_vocabulary(backbone.table, ids)
    if kind == "vocabulary" and not rest:
        return vocabulary
    if kind == "labels" and not rest:
        return from_labels(backbone.table, wording.label_tokens(), vocabulary)
    if kind == "words" and rest:
        return from_words(backbone.table, wording.label_tokens([rest])[0], vocabulary)
    raise SettingError(f"init={init!r}: expected one of {', '.join(INITS)}.")


def prompted(
    backbone: Backbone, name: str, settings: Mapping[str, Any], *, init: Initial | None, seed: int, dropout: float = 0.0
) -> SoftPrompted:
    """The backbone with a method's prompt before it."""
    starts = {} if init is None else {"init": init}
    generator, injection = method(name).parts(backbone.shape, seed=seed, **starts, **settings)
    return SoftPrompted(backbone, generator, injection, dropout=dropout)
