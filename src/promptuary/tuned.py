"""A tuned prompt in memory, ready to use: it answers rows, scores rows, saves itself, and opens from a folder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from promptuary import checkpoint
from promptuary.assembly import make_wording, prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.checkpoint import Manifest
from promptuary.data.batch import Batch
from promptuary.data.collate import collate, stream
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.kept import kept
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.errors import BackboneError, CheckpointError, DataError
from promptuary.kinds import KINDS, Kind
from promptuary.kinds.classification import Answer
from promptuary.manifests import MANIFEST
from promptuary.methods.method import STARTS
from promptuary.model import SoftPrompted
from promptuary.precision import Precision
from promptuary.readouts import Readout
from promptuary.specs import complaint
from promptuary.train.evaluation import arithmetic, evaluate

__all__ = ["Answer", "Tuned", "open_prompt"]


@dataclass(frozen=True, eq=False)
class Tuned:
    """A prompt, the frozen backbone it belongs to, and how its task is worded and read."""

    model: SoftPrompted
    readout: Readout
    wording: Encoder
    reading: Kind
    manifest: Manifest

    @property
    def task(self) -> Task:
        return self.wording.task

    @property
    def backbone(self) -> Backbone:
        return self.model.backbone

    def tensors(self) -> list[Tensor]:
        """All numbers that it holds; the backbone's are not its own."""
        model, readout = self.model, self.readout
        return [
            *model.generator.parameters(),
            *model.generator.buffers(),
            *model.injection.tensors(),
            *readout.parameters(),
            *readout.buffers(),
        ]

    def compiled(self) -> "Tuned":
        """The same prompt as keys and values that all its rows share, where it can be one (`SoftPrompted.compiled`).

        It answers the same, faster, and takes more memory: `Shape.key_value_width` numbers for each soft token. It is
        for use; what is trained, saved or shown is the prompt itself.
        """
        with arithmetic(self.backbone.device, self.precision):
            return replace(self, model=self.model.compiled())

    def predict(self, rows: Iterable[Row], *, batch: int = 64) -> Iterator[Any]:
        """The answer for each row, in order, in constant memory: an `Answer` with label and probability, or what the
        kind of the task says instead (`prediction`; see `promptuary.kinds`).

        Raises:
            DataError: for a row without a text, or one that is too long.
        """
        chunks = ((chunk, self.wording.encode(chunk, labelled=False)) for chunk in _chunks(rows, 1024))
        pairs = (pair for chunk, examples in chunks for pair in zip(chunk, examples, strict=True))
        return stream(pairs, lambda pair: len(pair[1].ids), batch, self._answers)

    def outputs(self, rows: Iterable[Row], *, batch: int = 64) -> Iterator[dict[str, Any]]:
        """The fields of each row's answer, as `promptuary predict` writes them; else as `predict`."""
        return map(self.reading.output, self.predict(rows, batch=batch))

    def written(self, rows: Iterable[Row], *, mode: str = "free", batch: int = 64) -> Iterator[dict[str, Any]]:
        """What the backbone writes for each row, in order, in constant memory: `written`, and `label`, which is
        `None` where that is no label.

        Arguments:
            mode: as for `decode`.

        Raises:
            SettingError: as `decode`.
            DataError: as `predict`.
        """
        for chunk in _chunks(rows, 1024):
            self.model.eval()
            with arithmetic(self.backbone.device, self.precision):
                found = self.reading.written(mode, self.model, self.wording, chunk, batch)
            yield from map(vars, found)

    def predict_texts(self, texts: Sequence[str | tuple[str, str] | list[str]], *, batch: int = 64) -> list[Any]:
        """The answer for each text (pair of texts, question with its context, list of words to tag), in order.

        Raises:
            DataError: for one text where the task has two, or two where it has one; for a bare text instead of a list
                of them; and as `predict`.
        """
        if isinstance(texts, str):
            raise DataError(f"texts={texts[:40]!r}: expected a list of texts. Write predict_texts([...]).")
        columns = [c for c in (self.task.text, self.task.text_pair) if c is not None]
        given = [t if isinstance(t, tuple) else (t,) for t in texts]
        for i, t in enumerate(given, 1):
            if len(t) != len(columns):
                raise DataError(f"text {i}: {len(t)} given, this task has {len(columns)} ({', '.join(columns)}).")
        rows = [Row(dict(zip(columns, t, strict=True)), f"text {i}") for i, t in enumerate(given, 1)]
        return list(self.predict(rows, batch=batch))

    def evaluate(self, rows: Iterable[Row], *, batch: int = 64) -> dict[str, Any]:
        """Scores on labelled rows: those of the kind of task (0 to 1), `loss` (nats), `n` (rows).

        Classes have `accuracy`, `macro_f1`, and beside them `majority`, the accuracy of always naming the most
        frequent class of these rows.

        Raises:
            DataError: for a row without a text or a known label.
        """
        given = list(rows)
        examples = kept(self.reading.taught(chunk, self.wording) for chunk in self.wording.chunks(given))
        loader = Loader(examples, batch, pad=self.pad)
        measure = self.reading.measure(self.model, self.readout, self.wording, given, examples)
        found = evaluate(self.model, self.readout, loader, measure=measure, precision=self.precision)
        return {**found.scores, **self.reading.beside(self.task, examples), "n": len(examples)}

    def decode(self, rows: Iterable[Row], *, mode: str = "free", batch: int = 64) -> dict[str, Any]:
        """Scores on labelled rows when the backbone writes its answers (see `promptuary.decoding`).

        Arguments:
            mode: `free` (what is written must be a label; `illegal` is the share that is not), `rank`, `calibrated`,
                `constrained`.

        Returns:
            `accuracy` and `macro_f1` (0 to 1; an illegal answer is wrong), `illegal` (0 to 1), `n` (rows).

        Raises:
            SettingError: for an unknown mode, and for a prompt that was not tuned to write its classes.
        """
        self.model.eval()
        with arithmetic(self.backbone.device, self.precision):
            return self.reading.decode(mode, self.model, self.wording, list(rows), batch)

    @property
    def precision(self) -> str:
        """Of the frozen model's arithmetic, `fp32` or `bf16`: that under which the prompt was tuned and selected."""
        return str(self.manifest.run["precision"])

    @property
    def pad(self) -> int:
        """The id that fills rows up; the mask alone says what is real."""
        pad = self.backbone.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def _answers(self, pairs: Sequence[tuple[Row, Example]]) -> list[Any]:
        rows, examples = [row for row, _ in pairs], [example for _, example in pairs]
        said = self._said(collate(examples, range(len(examples)), self.pad).to(self.backbone.device))
        return self.reading.answers(said, self.wording, rows, examples)

    def _said(self, batch: Batch) -> Any:
        self.model.eval()
        self.readout.eval()
        with torch.no_grad(), arithmetic(self.backbone.device, self.precision):
            return self.reading.predict(self.model, self.readout, batch)


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
    precision, task, reading = _kept(manifest, place / MANIFEST)
    if not isinstance(backbone, Backbone):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        backbone = _loaded(backbone, manifest, place, dtype, device)
    checkpoint.check_backbone(manifest, backbone, place)
    settings = {name: value for name, value in manifest.settings.items() if name not in STARTS}
    built = partial(prompted, backbone, manifest.method, settings, init=None, seed=manifest.seed)
    wording = make_wording(backbone, task, built(), reading)
    readout = reading.reader(backbone, wording)
    model = built(readout=readout)
    generator = checkpoint.restore(place, manifest, model.generator, model.injection, readout, trainable=trainable)
    whole = SoftPrompted(backbone, generator, model.injection)
    return Tuned(whole.to(backbone.device).eval(), readout.to(backbone.device).eval(), wording, reading, manifest)


class _Kept(BaseModel):
    """What using a prompt needs of what its manifest keeps of the run, whatever its kind."""

    model_config = ConfigDict(strict=True)

    task: dict[str, Any]
    precision: Precision


def _kept(manifest: Manifest, path: Path) -> tuple[str, Task, Kind]:
    try:
        run = _Kept(**manifest.run)
        task = Task.from_json(run.task)
        return run.precision, task, KINDS[task.kind].kept(manifest.run, task)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged. {complaint(error, 'Field')} Tune the prompt again.") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged. {error} Tune the prompt again.") from error


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


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
