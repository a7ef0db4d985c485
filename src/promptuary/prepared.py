"""What all seeds of a run share: its rows written as ids and hashed, once; and what is kept of a run when it ends."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from promptuary import checkpoint, places
from promptuary.assembly import check_given, make_wording, prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example, digest
from promptuary.data.kept import kept
from promptuary.data.source import Row
from promptuary.data.template import marks
from promptuary.kinds import Kind
from promptuary.material import Material
from promptuary.methods import method
from promptuary.methods.method import STARTS
from promptuary.model import SoftPrompted
from promptuary.precision import unwise
from promptuary.readouts import Readout
from promptuary.specs import Run
from promptuary.train import groups, record
from promptuary.train.evaluation import Measure, arithmetic
from promptuary.train.fit import Result
from promptuary.train.team import Team
from promptuary.tuned import Tuned


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run's task, ready for training.

    Arguments:
        rows: those of the validation set; examples, held: the encoded training and validation rows.
        digest: of all examples, so that data may move and must not change.
    """

    run: Run
    reading: Kind
    wording: Encoder
    rows: Sequence[Row]
    examples: Sequence[Example]
    held: Sequence[Example]
    digest: str

    @property
    def init(self) -> str:
        """The name of the prompt's start."""
        return method(self.run.method).init if self.run.init == "auto" else self.run.init

    def identity(self) -> dict[str, Any]:
        """What makes the task this task. Names of places are no part of it: they may move."""
        task = self.wording.task.to_json()
        return {
            "task": {k: v for k, v in task.items() if k != "name"},  # which is the folder's
            "reading": self.reading.model_dump(mode="json"),
            "data": self.digest,
        }

    def measure(self, model: SoftPrompted, readout: Readout, team: Team) -> Measure:
        """How predictions of the validation rows are scored."""
        metric = self.run.metric
        return self.reading.measure(model, readout, self.wording, self.rows, self.held, metric=metric, team=team)

    def save(
        self, folder: Path, model: SoftPrompted, readout: Readout, result: Result, *, seed: int, team: Team
    ) -> Tuned:
        """Write the prompt that a run ended with, with how it was made; it is ready to use.

        Arguments:
            team: the processes that all call this; the lead writes.
        """
        run, backbone, recipe = self.run, model.backbone, self.run.full_recipe()
        told = {
            "method": run.method, "settings": run.settings, "seed": seed, "backbone": backbone.name,
            "fingerprint": backbone.fingerprint(), "family": backbone.shape.family, "dim": backbone.shape.dim,
            "run": self._kept(result),
        }  # fmt: skip
        with arithmetic(backbone.device, recipe.precision):  # a network behind the prompt runs once more, for its table
            manifest = team.led(lambda: checkpoint.save_prompt(folder, told, model.generator, model.injection, readout))
        model.eval()
        readout.eval()
        return Tuned(model, readout, self.wording, self.reading, manifest)

    def _kept(self, result: Result) -> dict[str, Any]:
        """What the manifest keeps of the run: what using the prompt needs, and how it was made."""
        run, recipe = self.run, self.run.full_recipe()
        data = {"train": run.train, "validation": run.validation, "holdout": run.holdout, "digest": self.digest}
        return {
            **self.reading.model_dump(mode="json"), "task": self.wording.task.to_json(),
            "precision": recipe.precision, "recipe": asdict(recipe), "rates": run.rates, "init": self.init,
            "data": data, "scores": dict(result.scores), "best_step": result.best_step, "steps": result.steps,
            "counts": vars(result.counts), "seconds": result.seconds, "alarms": [a.sentence for a in result.alarms],
            **record.surroundings(),
        }  # fmt: skip


def prepare(run: Run, backbone: Backbone, material: Material, console: Console | None) -> Prepared:
    """Decide how the task is read on this backbone, and write its rows as ids.

    Raises:
        PromptuaryError: for whatever of the run does not fit the backbone or the rows.
    """
    run = _with_marks(run)
    task, train, validation = material.task, material.train, material.validation
    columns = sorted(set(train[0].fields) - {run.label})
    trial = prompted(backbone, run.method, run.settings, init=None, seed=run.seeds[0])
    reading = run.kind.begin(run, backbone, task, soft=trial.generator.length, columns=columns)
    wording = make_wording(backbone, task, trial, reading)
    examples, held = (
        kept(reading.taught(chunk, wording) for chunk in wording.chunks(rows)) for rows in (train, validation)
    )
    _told_cut(examples, console, run)
    _told_hidden(trial, examples)
    return Prepared(run, reading, wording, validation, examples, held, digest(examples, held))


def ready(run: Run, backbone: Backbone | None, console: Console | None) -> Backbone:
    """The backbone as a run describes it: loaded, or the one that was given, if it is that.

    Arguments:
        console: is told where its precision is the slower one.

    Raises:
        BackboneError: as `load`.
        SettingError: as `check_given`.
    """
    recipe = run.full_recipe()
    if backbone is None:
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        backbone = load(run.backbone, dtype=dtype, dropout=run.dropout, device=run.device)
    else:
        check_given(backbone, device=run.device, precision=recipe.precision, dropout=run.dropout)
    said = unwise(recipe.precision, backbone.device)
    if said and console is not None:
        console.print(said, highlight=False)
    return backbone


def rates(run: Run, model: SoftPrompted, readout: Readout) -> dict[str, float]:
    """Learning rates of parts: those that the run states; the method's and the preset's where the part is there."""
    chosen = method(run.method)
    published = () if run.preset is None else chosen.preset(run.preset).run.get("rates", ())
    usual = {**chosen.rates, **{part: run.rates[part] for part in published}}
    stated = {part: rate for part, rate in run.rates.items() if part not in published}
    return {**groups.known(usual, model, readout), **stated}


def made_of(run: Run) -> dict[str, Any]:
    """The method and its settings as they make a run that run: of folders it starts from, what is in them."""
    return {"name": run.method, **{k: _content(k, v) for k, v in run.settings.items()}}


def begun(init: str) -> str:
    """The name of a prompt's start as it makes a run that run: of a file or folder, what is in it."""
    from promptuary.interop.peft import TENSORS  # which itself puts prompts together

    kind, _, place = init.partition(":")
    if kind == "prompt":
        return f"{kind}:{places.content(Path(place))}"
    files = {"file": checkpoint.PROMPT, "peft": TENSORS}
    if kind not in files:
        return init
    path = Path(place)
    data = (path / files[kind] if path.is_dir() else path).read_bytes()
    return f"{kind}:{hashlib.sha256(data).hexdigest()}"


def _content(setting: str, value: Any) -> Any:
    """A method's setting as it makes a run that run: of folders it starts from, what is in them."""
    if setting not in STARTS or value is None:
        return value
    return places.content(Path(value)) if isinstance(value, str) else [places.content(Path(v)) for v in value]


def _with_marks(run: Run) -> Run:
    """A template that marks soft tokens says where and how many: a method that can stand at marks does."""
    count = marks(run.template or "")
    if not count or "template" not in method(run.method).settings():
        return run
    return run.model_copy(update={"settings": {"template": True, "length": count, **run.settings}})


def _told_cut(examples: Sequence[Example], console: Console | None, run: Run) -> None:
    cut = sum(e.cut > 0 for e in examples)
    if cut and console is not None:
        console.print(
            f"{cut:,} of {len(examples):,} training texts were cut to {run.max_length} tokens.", highlight=False
        )


def _told_hidden(model: SoftPrompted, examples: Sequence[Example]) -> None:
    longest = max(len(e.ids) for e in examples)
    hidden = model.out_of_sight(longest)
    if hidden:
        warnings.warn(
            f"{model.backbone.name!r} attends through sliding windows: in the longest text the last {hidden} of "
            f"{longest} tokens cannot see a prompt at the input. Keys and values are seen everywhere (p-tuning-v2).",
            stacklevel=2,
        )
