"""A generator that reads the input's tokens, trained before any prompt and without the backbone (Jiang et al. 2022).

Table and encoder learn to tell classes of any labelled text apart, through a linear layer on the mean soft token that
is thrown away. Of the backbone only the tokenizer and the sizes are used. What comes out starts prompts
(`pretrained=FOLDER`) for any task, on any backbone with that tokenizer and width.

Differences from the published code: the table is trained (there it is in no optimizer, and what is saved of it is
noise); the texts are the user's (the published 13 classes of sources have no licence); padding is never read; the
layer sees the mean soft token, so that its size does not grow with the prompt (there each network has a layer of its
own); one optimizer and rate for all networks, those of the method's recipe.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from promptuary import places, pretrained
from promptuary.assembly import make_wording, start
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.idle import Idle
from promptuary.backbones.load import load
from promptuary.data.example import digest
from promptuary.data.kept import kept
from promptuary.data.loader import Loader
from promptuary.data.tokens import fingerprint
from promptuary.errors import SettingError
from promptuary.generators import Generator, Mapped
from promptuary.initial import Initial
from promptuary.injections import HiddenStates
from promptuary.kinds import Classification
from promptuary.lookups import Lookup, Table
from promptuary.material import Material, gather
from promptuary.methods import METHODS, method
from promptuary.model import SoftPrompted
from promptuary.prepared import begun, rates
from promptuary.pretrained import Pretrained
from promptuary.specs import Run
from promptuary.train import record
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Progress, Silent, Terminal


@dataclass(frozen=True, eq=False)
class Pretraining:
    """A finished pre-training: the generator's manifest, where it lies, and how training went."""

    manifest: Pretrained
    folder: Path
    result: Result

    def summary(self) -> dict[str, Any]:
        """The run in plain values: scores on the validation rows, counts, sizes, seconds, alarms."""
        return {
            "seed": self.manifest.seed,
            "folder": str(self.folder),
            "score": self.result.score,
            "scores": dict(self.result.scores),
            "best_step": self.result.best_step,
            "steps": self.result.steps,
            "counts": vars(self.result.counts),
            "bytes": (self.folder / pretrained.TENSORS).stat().st_size,
            "seconds": self.result.seconds,
            "alarms": [a.sentence for a in self.result.alarms],
        }


def pretrain(
    run: Run,
    *,
    backbone: Backbone | None = None,
    material: Material | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Pretraining:
    """Train table and encoder of `run.method` on the labelled texts of `run`, and save them in `run.out`.

    The same call goes on where an interrupted one stopped.

    Arguments:
        run: of a method with a table of the vocabulary (`ipt` and its relatives), with one seed. The read-out is always
            a layer on the mean soft token; counts include it.
        backbone: a loaded one to take tokenizer and sizes from, instead of loading `run.backbone`. It is never run.
        material, overwrite, console: as for `promptuary.tune`.

    Raises:
        PromptuaryError: one of its kinds, before any long work where that can be known.
    """
    _check(run)
    material = gather(run) if material is None else material
    folder, recipe, seed = Path(run.out), run.full_recipe(), run.seeds[0]
    places.check(folder, overwrite)
    real = load(run.backbone, device=run.device) if backbone is None else backbone
    trial = _alone(_generator(run, real, None)[0], real)
    reading = _reading(run, trial, material)
    wording = make_wording(trial.backbone, material.task, trial, reading)
    examples, held = (kept(wording.chunks(rows)) for rows in (material.train, material.validation))
    init = method(run.method).init if run.init == "auto" else run.init
    generator, table = _generator(run, real, start(init, real, wording, examples, run.settings))
    model, readout = _alone(generator, real, recipe.dropout), reading.reader(trial.backbone, wording, seed=seed)
    pad = real.tokenizer.pad_token_id or 0
    train = Loader(examples, recipe.batch, pad=pad, seed=seed, shuffle=True)
    validation = Loader(held, 2 * recipe.batch, pad=pad, seed=seed)
    sizes = {"tokenizer": fingerprint(real.tokenizer), "vocabulary": table.size, "width": table.width}
    data = {"train": run.train, "validation": run.validation, "holdout": run.holdout, "digest": digest(examples, held)}
    own = {**method(run.method).settings(), **run.settings}

    def fitted() -> Result:
        progress: Progress = Silent() if console is None else Terminal(f"generator of {run.method}, seed {seed}")
        identity = {
            "pretraining": {"name": run.method, **own}, "init": begun(init), "reading": reading.model_dump(mode="json"),
            "task": {k: v for k, v in material.task.to_json().items() if k != "name"}, "data": data["digest"], **sizes,
        }  # fmt: skip
        return fit(
            model, readout, train, validation, recipe,
            seed=seed, folder=folder, settings=identity, metric=run.metric, progress=progress,
            names={material.task.name: material.task.labels}, save_every=run.save_every,
            rates=rates(run, model, readout),
            measure=reading.measure(model, readout, wording, material.validation, held),
        )  # fmt: skip

    result = places.fitted(folder, overwrite, fitted)
    made = {
        "labels": list(material.task.labels), "recipe": asdict(recipe), "init": init, "data": data,
        "scores": dict(result.scores), "best_step": result.best_step, "steps": result.steps,
        "counts": vars(result.counts), "seconds": result.seconds, "alarms": [a.sentence for a in result.alarms],
        **record.surroundings(),
    }  # fmt: skip
    told = {"method": run.method, "settings": own, "seed": seed, **sizes, "backbone": real.name, "run": made}
    return Pretraining(pretrained.save(folder, told, generator), folder, result)


def _check(run: Run) -> None:
    """Raise `SettingError` for a run that pre-trains nothing."""
    able = [name for name, known in METHODS.items() if "pretrained" in known.settings()]
    if "pretrained" not in method(run.method).settings():
        raise SettingError(
            f"Method {run.method!r} has no table of the vocabulary, so there is nothing to pre-train. "
            f"Expected one of {', '.join(able)}."
        )
    if run.settings.get("pretrained") is not None:
        raise SettingError(f"pretrained={run.settings['pretrained']!r}: a generator is pre-trained once. Leave it out.")
    if run.kind is not Classification:
        raise SettingError(f"task={run.task!r}: a generator is pre-trained on texts with a class. Leave it out.")
    if len(run.seeds) > 1:
        raise SettingError(f"seeds={list(run.seeds)}: a folder holds one generator. Name one seed, and another --out.")


def _generator(run: Run, real: Backbone, init: Initial | None) -> tuple[Mapped, Table]:
    """What reads the input's tokens in a prompt of the method, taken out of it, and its table."""
    starts = {} if init is None else {"init": init}
    whole, _ = method(run.method).parts(real.shape, seed=run.seeds[0], **starts, **run.settings)
    for part in whole.modules():
        if isinstance(part, Mapped) and isinstance(part.inner, Lookup):
            return part, part.inner.table
    raise AssertionError(f"{run.method} takes pretrained generators and has no Lookup")


def _alone(generator: Generator, real: Backbone, dropout: float = 0.0) -> SoftPrompted:
    """The generator on a backbone that does nothing, with the sizes and the tokenizer of the real one."""
    idle = Idle(real.shape, real.device, width=generator.width, tokenizer=real.tokenizer)
    return SoftPrompted(idle, generator, HiddenStates(idle.shape), dropout=dropout)


def _reading(run: Run, trial: SoftPrompted, material: Material) -> Classification:
    """Classes, read off the mean soft token."""
    mean = run.model_copy(update={"readout": "classifier", "pool": "mean"})
    columns = sorted(set(material.train[0].fields) - {run.label})
    return Classification.begin(mean, trial.backbone, material.task, soft=trial.generator.length, columns=columns)
