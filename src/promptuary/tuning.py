"""The main job: labelled text and a frozen model in, a tuned prompt out."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from promptuary import activations, checkpoint, places
from promptuary.activations import Activations
from promptuary.assembly import check_given, make_wording, prompted, start
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example, digest
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.data.template import marks
from promptuary.initial import Initial
from promptuary.kinds import Kind
from promptuary.material import Material, gather
from promptuary.methods import method
from promptuary.methods.method import STARTS
from promptuary.model import SoftPrompted
from promptuary.specs import Run
from promptuary.train import groups, record
from promptuary.train.evaluation import arithmetic
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Progress, Silent, Terminal
from promptuary.train.recipe import Recipe
from promptuary.tuned import Tuned


@dataclass(frozen=True, eq=False)
class Outcome:
    """One finished run: the prompt, where it lies, and how training went."""

    tuned: Tuned
    folder: Path
    result: Result
    seed: int

    def summary(self) -> dict[str, Any]:
        """The run in plain values: scores on the validation rows, sizes, seconds, alarms."""
        return {
            "seed": self.seed,
            "folder": str(self.folder),
            "score": self.result.score,
            "scores": dict(self.result.scores),
            "best_step": self.result.best_step,
            "steps": self.result.steps,
            "trainable": self.result.counts.nominal,
            "counts": vars(self.result.counts),
            "bytes": (self.folder / checkpoint.PROMPT).stat().st_size,
            "seconds": self.result.seconds,
            "alarms": [a.sentence for a in self.result.alarms],
        }


@dataclass(frozen=True, eq=False)
class _Ground:
    """What the runs of all seeds share: texts are read, written as ids and hashed once.

    Arguments:
        rows: those of the validation set; examples, held: the encoded training and validation rows.
        init: the name of the start; start: where the prompt starts, or `None` for the method's own start.
        digest: of all examples, so that data may move and must not change.
    """

    reading: Kind
    wording: Encoder
    rows: Sequence[Row]
    examples: Sequence[Example]
    held: Sequence[Example]
    init: str
    start: Initial | None
    digest: str


def tune(
    run: Run,
    *,
    backbone: Backbone | None = None,
    material: Material | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Tune a prompt for each seed of `run`, and save it. The same call goes on where an interrupted one stopped.

    Arguments:
        backbone: a loaded one to use instead of loading `run.backbone`; device, precision and dropout are those of
            the run.
        material: `gather(run)`, where that was done already.
        overwrite: erase what the folder holds of another run, or of one that cannot go on; the same run goes on, and
            its finished seeds stay.
        console: where progress and alarms are shown; `None` is silent.
        progress: told of every step instead of a bar on the console.

    Raises:
        PromptuaryError: one of its kinds, before any long work where that can be known.
    """
    material = gather(run) if material is None else material
    recipe = run.full_recipe()
    out = Path(run.out)
    folders = {seed: out if len(run.seeds) == 1 else out / f"seed-{seed}" for seed in run.seeds}
    for folder in folders.values():
        places.check(folder, overwrite)
    if backbone is None:
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        backbone = load(run.backbone, dtype=dtype, dropout=run.dropout, device=run.device)
    else:
        check_given(backbone, device=run.device, precision=recipe.precision, dropout=run.dropout)
    run = _with_marks(run)
    ground = _ground(run, backbone, material, console)
    return [
        _one(run, recipe, backbone, ground, seed, place, progress or _bar(run, seed, console), console, overwrite)
        for seed, place in folders.items()
    ]


def _bar(run: Run, seed: int, console: Console | None) -> Progress:
    return Silent() if console is None else Terminal(f"{run.method}, seed {seed}")


def _ground(run: Run, backbone: Backbone, material: Material, console: Console | None) -> _Ground:
    task, train, validation = material.task, material.train, material.validation
    columns = sorted(set(train[0].fields) - {run.label})
    trial = prompted(backbone, run.method, run.settings, init=None, seed=run.seeds[0])
    reading = run.kind.begin(run, backbone, task, soft=trial.generator.length, columns=columns)
    wording = make_wording(backbone, task, trial, reading)
    examples, held = (reading.taught(wording.encode(rows), wording) for rows in (train, validation))
    init = method(run.method).init if run.init == "auto" else run.init
    reader = reading.reader(backbone, wording, seed=run.seeds[0])
    first = start(init, backbone, wording, examples, run.settings, readout=reader)
    _told_cut(examples, console, run)
    _told_hidden(trial, examples)
    return _Ground(reading, wording, validation, examples, held, init, first, digest(examples, held))


def _one(
    run: Run, recipe: Recipe, backbone: Backbone, ground: _Ground,
    seed: int, folder: Path, progress: Progress, console: Console | None, overwrite: bool,
) -> Outcome:  # fmt: skip
    reading, wording = ground.reading, ground.wording
    readout = reading.reader(backbone, wording, seed=seed)
    model = prompted(
        backbone, run.method, run.settings, init=ground.start, seed=seed, dropout=recipe.dropout, readout=readout
    )
    pad = backbone.tokenizer.pad_token_id or 0
    train = Loader(ground.examples, recipe.batch, pad=pad, seed=seed, shuffle=True)
    held = Loader(ground.held, 2 * recipe.batch, pad=pad, seed=seed)

    kept, asking = None, model
    if not run.dropout:  # with it the frozen model says another thing each time
        kept = activations.keep(
            model, readout, [*ground.examples, *ground.held], pad=pad, precision=recipe.precision,
            folder=activations.default_folder() if run.activations_in is None else Path(run.activations_in),
            limit_bytes=int(run.activations_gib * 2**30),
        )  # fmt: skip
        asking = model if kept is None else model.asking(kept.encode)
        _told_activations(kept, console)

    rates = {**groups.known(method(run.method).rates, model, readout), **run.rates}

    def fitted() -> Result:
        return fit(
            asking, readout, train, held, recipe,
            seed=seed, folder=folder, settings=_identity(run, ground), metric=run.metric, names=wording.task.labels,
            progress=progress, save_every=run.save_every, rates=rates, activations=kept,
            measure=reading.measure(asking, readout, wording, ground.rows, ground.held, metric=run.metric),
        )  # fmt: skip

    result = places.fitted(folder, overwrite, fitted)
    told = {
        "method": run.method, "settings": run.settings, "seed": seed, "backbone": backbone.name,
        "fingerprint": backbone.fingerprint(), "family": backbone.shape.family, "dim": backbone.shape.dim,
        "run": _kept(run, recipe, ground, result),
    }  # fmt: skip
    with arithmetic(backbone.device, recipe.precision):  # the network behind the prompt runs once more, for its table
        manifest = checkpoint.save_prompt(folder, told, model.generator, model.injection, readout)
    model.eval()
    readout.eval()
    return Outcome(Tuned(model, readout, wording, reading, manifest), folder, result, seed)


def _identity(run: Run, ground: _Ground) -> dict[str, Any]:
    """What makes this run this run, beside what `fit` knows of it. Names of places are no part of it: they may move."""
    return {
        "method": {"name": run.method, **{k: _content(k, v) for k, v in run.settings.items()}},
        "init": ground.init,
        "task": {k: v for k, v in ground.wording.task.to_json().items() if k != "name"},  # which is the folder's
        "reading": ground.reading.model_dump(mode="json"),
        "data": ground.digest,
        "dropout": run.dropout,
    }


def _content(setting: str, value: Any) -> Any:
    """A method's setting as it makes a run that run: of folders it starts from, what is in them."""
    if setting not in STARTS or value is None:
        return value
    return places.content(Path(value)) if isinstance(value, str) else [places.content(Path(v)) for v in value]


def _kept(run: Run, recipe: Recipe, ground: _Ground, result: Result) -> dict[str, Any]:
    """What the manifest keeps of the run: what using the prompt needs, and how it was made."""
    data = {"train": run.train, "validation": run.validation, "holdout": run.holdout, "digest": ground.digest}
    return {
        **ground.reading.model_dump(mode="json"), "task": ground.wording.task.to_json(),
        "precision": recipe.precision, "recipe": asdict(recipe), "rates": run.rates, "init": ground.init, "data": data,
        "scores": dict(result.scores), "best_step": result.best_step, "steps": result.steps,
        "counts": vars(result.counts), "seconds": result.seconds, "alarms": [a.sentence for a in result.alarms],
        **record.surroundings(),
    }  # fmt: skip


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


def _told_activations(kept: Activations | None, console: Console | None) -> None:
    if kept is not None and console is not None:
        told = kept.told()
        console.print(
            f"States of the frozen model are kept for {told['rows']:,} rows ({told['bytes'] / 2**20:,.0f} MiB, "
            f"{told['made']:,} rows made in {told['seconds']:.0f} s).",
            highlight=False,
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
