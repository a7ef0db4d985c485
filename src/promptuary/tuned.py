"""A tuned prompt in memory, ready to use: it labels texts, scores rows, saves itself, and opens from a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from promptuary import checkpoint, decoding, metrics
from promptuary.assembly import Reading, make_readout, prompted, with_targets
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.checkpoint import Manifest
from promptuary.data.batch import Batch
from promptuary.data.collate import collate, stream
from promptuary.data.example import Example
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.data.task import Label, Task
from promptuary.data.tokens import Tokens
from promptuary.data.wording import Wording
from promptuary.decoding import Decoded, Labels
from promptuary.errors import BackboneError, CheckpointError, SettingError, nearest
from promptuary.model import SoftPrompted
from promptuary.readouts import Prediction, Readout
from promptuary.specs import complaint
from promptuary.train.evaluation import evaluate
from promptuary.values import Instance

MODES: Mapping[str, Callable[[SoftPrompted, Instance, Labels], Decoded]] = MappingProxyType(
    {"free": decoding.free, "rank": decoding.rank, "constrained": decoding.constrained}
)


@dataclass(frozen=True)
class Answer:
    """What a prompt says of one text.

    Arguments:
        label: the class as it stood in the training data (text, number or boolean).
        probability: of that class, 0 to 1. probabilities: of every class, by its name.
    """

    label: Label
    probability: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Tuned:
    """A prompt, the frozen backbone it belongs to, and how its task is worded and read."""

    model: SoftPrompted
    readout: Readout
    wording: Wording
    reading: Reading
    manifest: Manifest

    @property
    def task(self) -> Task:
        return self.wording.task

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone

    def predict(self, rows: Iterable[Row], *, batch: int = 64) -> Iterator[Answer]:
        """The answer for each row, in order, in constant memory.

        Raises:
            DataError: for a row without a text, or one that is too long.
        """
        examples = (e for chunk in _chunks(rows, 1024) for e in self.wording.encode(chunk, labelled=False))
        return stream(examples, lambda e: len(e.ids), batch, self._answers)

    def predict_texts(self, texts: Sequence[str | tuple[str, str]], *, batch: int = 64) -> list[Answer]:
        """The answer for each text (or pair of texts), in order."""
        columns = [c for c in (self.task.text, self.task.text_pair) if c is not None]
        rows = [
            Row(dict(zip(columns, (t,) if isinstance(t, str) else t, strict=False)), f"text {i + 1}")
            for i, t in enumerate(texts)
        ]
        return list(self.predict(rows, batch=batch))

    def evaluate(self, rows: Iterable[Row], *, batch: int = 64) -> dict[str, Any]:
        """Scores on labelled rows: `accuracy` and `macro_f1` (0 to 1), `loss` (nats), `majority` (the accuracy of
        always naming the most frequent class of these rows), `n` (rows).

        Raises:
            DataError: for a row without a text or a known label.
        """
        examples = self.wording.encode(rows)
        counts = [sum(e.label == c for e in examples) for c in range(len(self.task.labels))]
        targeted = with_targets(examples, self.readout, self.wording, self.reading)
        found = evaluate(self.model, self.readout, Loader(targeted, batch, pad=self._pad))
        return {**found.scores, "majority": max(counts) / len(examples), "n": len(examples)}

    def decode(self, rows: Iterable[Row], *, mode: str = "free", batch: int = 64) -> dict[str, Any]:
        """Scores on labelled rows when the backbone writes its answers (see `promptuary.decoding`).

        Arguments:
            mode: `free` (what is written must be a label; `illegal` is the share that is not), `rank`, `constrained`.

        Returns:
            `accuracy` and `macro_f1` (0 to 1; an illegal answer is wrong), `illegal` (0 to 1), `n` (rows).

        Raises:
            SettingError: for an unknown mode, and for a prompt that was not tuned to write text.
        """
        if mode not in MODES:
            raise SettingError(f"decode={mode!r}. {nearest(mode, MODES)}")
        if self.reading.kind != "text":
            raise SettingError(
                f"decode={mode!r}: this prompt reads its classes by {self.reading.kind!r}. "
                "Tune with readout='text' on a model that writes."
            )
        examples = self.wording.encode(rows)
        labels = self._written_labels()
        gold: list[int] = []
        said: list[int] = []
        self.model.eval()
        for some in Loader(examples, batch, pad=self._pad).epoch(0):
            moved = some.to(self.backbone.device)
            x = self.model.instance(moved.ids, moved.mask, moved.types, moved.task)
            said += MODES[mode](self.model, x, labels).label.tolist()
            gold += moved.labels.tolist() if moved.labels is not None else []
        classes = len(self.task.labels)
        return {
            "accuracy": metrics.accuracy(gold, said),
            "macro_f1": metrics.f1(gold, said, classes=classes),
            "illegal": metrics.illegal_rate(said),
            "n": len(gold),
        }

    def _written_labels(self) -> Labels:
        texts = tuple(w[0] for w in self.reading.words)
        tokenizer = self.backbone.tokenizer
        return Labels(
            texts,
            tuple(tuple(ids) for ids in self.wording.targets(texts)),
            end=int(tokenizer.eos_token_id),
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)).strip(),
        )

    @property
    def _pad(self) -> int:
        pad = self.backbone.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def _answers(self, examples: Sequence[Example]) -> list[Answer]:
        said = self._said(collate(examples, range(len(examples)), self._pad).to(self.backbone.device))
        names, values = self.task.labels, self.task.values
        return [
            Answer(values[label], row[label], dict(zip(names, row, strict=True)))
            for label, row in zip(said.label.tolist(), said.probability.float().tolist(), strict=True)
        ]

    def _said(self, batch: Batch) -> Prediction:
        self.model.eval()
        self.readout.eval()
        with torch.no_grad():
            x = self.model.instance(batch.ids, batch.mask, batch.types, batch.task)
            said: Prediction = self.readout.predict(self.model(x, self.readout.targets(batch)), batch)
        return said


def open_prompt(
    folder: Path | str,
    *,
    backbone: Backbone | str | None = None,
    device: torch.device | str = "auto",
    trainable: bool = False,
) -> Tuned:
    """A saved prompt, ready to use.

    Arguments:
        backbone: a loaded backbone (one serves any number of prompts), or the name of one; by default the one the
            prompt was tuned on.
        device: where a backbone that is loaded here runs; `auto` is the GPU where there is one.
        trainable: with the network that made the prompt, where there was one, so that training can go on.

    Raises:
        CheckpointError: when the folder is damaged, or the backbone is another one.
        BackboneError: when the backbone is not to be had.
    """
    place = Path(folder)
    manifest = checkpoint.read_manifest(place)
    run, task = _kept(manifest, place / checkpoint.MANIFEST)
    if not isinstance(backbone, Backbone):
        dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
        backbone = _loaded(backbone, manifest, place, dtype, device)
    checkpoint.check_backbone(manifest, backbone, place)
    how = Reading(run.readout, run.pool, tuple(tuple(w) for w in run.words))
    model = prompted(backbone, manifest.method, manifest.settings, init=None, seed=manifest.seed)
    wording = make_wording(
        backbone, task, model, how, template=run.template, columns=run.columns, max_length=run.max_length
    )
    readout = make_readout(backbone, wording, task, how, blanks=run.blanks)
    generator = checkpoint.restore(place, manifest, model.generator, model.injection, readout, trainable=trainable)
    whole = SoftPrompted(backbone, generator, model.injection)
    return Tuned(whole.to(backbone.device), readout.to(backbone.device), wording, how, manifest)


class _Kept(BaseModel):
    """What using a prompt needs of what its manifest keeps of the run."""

    model_config = ConfigDict(strict=True)

    task: dict[str, Any]
    readout: Literal["classifier", "verbalizer", "text"]
    pool: Literal["first", "mean", "last"]
    words: list[list[str]]
    template: str | None
    max_length: int | None
    columns: list[str]
    blanks: int
    precision: Literal["fp32", "bf16"]


def _kept(manifest: Manifest, path: Path) -> tuple[_Kept, Task]:
    try:
        run = _Kept(**manifest.run)
        task = Task.from_json(run.task)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged. {complaint(error, 'Field')} Tune the prompt again.") from error
    if len(run.words) != len(task.labels):
        raise CheckpointError(
            f"{path} is damaged. It has words for {len(run.words)} labels, and the task has {len(task.labels)}. "
            "Tune the prompt again."
        )
    return run, task


def _loaded(
    name: str | None, manifest: Manifest, folder: Path, dtype: torch.dtype, device: torch.device | str
) -> Backbone:
    try:
        return load(name or manifest.backbone, dtype=dtype, device=device)
    except BackboneError as error:
        if name is not None:
            raise
        raise BackboneError(
            f"{folder} was tuned on {manifest.backbone!r}; if that lies elsewhere, name it with --backbone. {error}"
        ) from error


def make_wording(
    backbone: Backbone,
    task: Task,
    model: SoftPrompted,
    how: Reading,
    *,
    template: str | None,
    columns: Iterable[str],
    max_length: int | None,
) -> Wording:
    """How the task's rows are written for this backbone, in the room that the prompt leaves.

    Where the classes' words continue the input, they need room in the same row.

    Raises:
        SettingError: as `Wording` does; for marks of soft tokens where the prompt does not stand at marks.
    """
    causal = backbone.shape.decodes and not backbone.shape.encodes
    room = model.room
    if room is not None and causal and how.kind != "classifier":
        tokens = Tokens(backbone.tokenizer, causal=True)
        room -= max(len(ids) for words in how.words for ids in tokens.targets(words))
    wording = Wording(
        backbone.tokenizer, task, template=template, columns=columns, max_length=max_length, room=room, causal=causal
    )
    if wording.soft != model.marks:
        raise SettingError(
            f"template {template!r} marks {wording.soft} soft tokens, but this prompt stands at {model.marks} marks. "
            + (
                f"Write a template with {model.marks} <soft>."
                if model.marks
                else "Leave <soft> out, or use method='p-tuning' with template=true (--set template=true)."
            )
        )
    return wording


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
