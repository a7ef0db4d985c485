"""The main job: labelled text and a frozen model in, a tuned prompt out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from promptuary import activations, checkpoint, places
from promptuary.activations import Activations
from promptuary.assembly import prompted, start
from promptuary.backbones.backbone import Backbone
from promptuary.data.loader import Loader
from promptuary.initial import Initial
from promptuary.material import Material, gather
from promptuary.prepared import Prepared, begun, made_of, prepare, rates, ready
from promptuary.specs import Run
from promptuary.train import tracking
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Progress, Silent, Terminal
from promptuary.train.team import Team, joined
from promptuary.train.tracking import Tracking
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

    In a process that torchrun started, all of them make this call and tune together (`promptuary.train.team`).

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
    team = joined()
    material = gather(run) if material is None else material
    console = console if team.lead else None
    tracking.check(run.track)
    folders = {seed: Path(run.out) if len(run.seeds) == 1 else Path(run.out) / f"seed-{seed}" for seed in run.seeds}
    for folder in folders.values():
        places.check(folder, overwrite)
    backbone = ready(run, backbone, console)
    ground = prepare(run, backbone, material, console)
    del material  # the rows that teach are needed no more
    reader = ground.reading.reader(backbone, ground.wording, seed=run.seeds[0])
    init = start(ground.init, backbone, ground.wording, ground.examples, ground.run.settings, readout=reader)
    return [
        _one(ground, backbone, init, seed, place, progress or bar(run, seed, console), console, overwrite, team)
        for seed, place in folders.items()
    ]


def tracked(run: Run, folder: Path, team: Team) -> Tracking | None:
    """Who else is told of a run's steps, if anybody."""
    return Tracking(run.track, folder) if run.track and team.lead else None


def bar(run: Run, seed: int, console: Console | None) -> Progress:
    """What shows a run's steps on the console, if there is one."""
    return Silent() if console is None else Terminal(f"{run.method}, seed {seed}")


def _one(
    ground: Prepared, backbone: Backbone, init: Initial | None,
    seed: int, folder: Path, progress: Progress, console: Console | None, overwrite: bool, team: Team,
) -> Outcome:  # fmt: skip
    run, recipe = ground.run, ground.run.full_recipe()
    readout = ground.reading.reader(backbone, ground.wording, seed=seed)
    model = prompted(backbone, run.method, run.settings, init=init, seed=seed, dropout=recipe.dropout, readout=readout)
    pad = backbone.tokenizer.pad_token_id or 0
    train = Loader(ground.examples, recipe.batch, pad=pad, seed=seed, shuffle=True)
    held = Loader(ground.held, 2 * recipe.batch, pad=pad, seed=seed)

    kept, asking = None, model
    if not run.dropout:  # with it the frozen model says another thing each time
        with team.lead_first():
            kept = activations.keep(
                model, readout, [ground.examples, ground.held], pad=pad, precision=recipe.precision,
                folder=activations.default_folder() if run.activations_in is None else Path(run.activations_in),
                limit_bytes=int(run.activations_gib * 2**30),
            )  # fmt: skip
        asking = model if kept is None else model.asking(kept.encode)
        _told_activations(kept, console)

    task = ground.wording.task
    identity = {"method": made_of(run), "init": begun(ground.init), **ground.identity(), "dropout": run.dropout}

    def fitted() -> Result:
        return fit(
            asking, readout, train, held, recipe,
            seed=seed, folder=folder, settings=identity, metric=run.metric, names={task.name: task.labels},
            progress=progress, save_every=run.save_every, rates=rates(run, model, readout), activations=kept,
            measure=ground.measure(asking, readout, team), team=team, tracking=tracked(run, folder, team),
        )  # fmt: skip

    result = places.fitted(folder, overwrite, fitted, team=team)
    return Outcome(ground.save(folder, model, readout, result, seed=seed, team=team), folder, result, seed)


def _told_activations(kept: Activations | None, console: Console | None) -> None:
    if kept is not None and console is not None:
        told = kept.told()
        console.print(
            f"States of the frozen model are kept for {told['rows']:,} rows ({told['bytes'] / 2**20:,.0f} MiB, "
            f"{told['made']:,} rows made in {told['seconds']:.0f} s).",
            highlight=False,
        )
