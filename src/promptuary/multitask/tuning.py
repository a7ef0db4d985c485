"""One prompt that several tasks share, tuned on a mixture of their rows.

Every step's batch holds rows of several tasks, which pass through the frozen model together; each task has a read-out
of its own. A choice of dynamic prompting that is made for a task (where the prompt is split, how long it is, which
prompts of a pool it mixes) is made for each task, over the vectors that all share. In the end each task has a prompt
folder like any other: the shared vectors, its own choices, its own read-out.

Dynamic prompting's multi-task setting is claimed in its abstract (Yang et al. 2023) and no code of it was published:
what is shared and what is not is ours. A prompt of a mixture is also what SPoT starts others from (Vu et al. 2022):
`tune --init prompt:FOLDER`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from promptuary import places
from promptuary.assembly import prompted, start
from promptuary.backbones.backbone import Backbone
from promptuary.counts import count
from promptuary.data.loader import Loader
from promptuary.data.mixture import InTurn, Mixture
from promptuary.errors import SettingError
from promptuary.initial import Initial
from promptuary.material import Material
from promptuary.model import SoftPrompted
from promptuary.multitask.plan import Multitask, gather_tasks
from promptuary.prepared import Prepared, begun, made_of, prepare, rates, ready
from promptuary.readouts import ByTask, Readout
from promptuary.train import tracking
from promptuary.train.evaluation import Measure, Pairs, by_task, goodness
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Progress
from promptuary.train.team import Team, joined
from promptuary.tuning import Outcome, bar, tracked


@dataclass(frozen=True, eq=False)
class MultitaskOutcome:
    """One finished run on a mixture.

    Arguments:
        tasks: of each task its prompt, where it lies, and its own scores.
        folder: of the run, with its state and its record. result: of the whole; `mean` is the score that selected.
    """

    tasks: Mapping[str, Outcome]
    folder: Path
    result: Result
    seed: int

    def summary(self) -> dict[str, Any]:
        """The run in plain values, and below `tasks` each task's part as `Outcome.summary` gives it."""
        return {
            "seed": self.seed,
            "folder": str(self.folder),
            "score": self.result.score,
            "best_step": self.result.best_step,
            "steps": self.result.steps,
            "trainable": self.result.counts.nominal,
            "seconds": self.result.seconds,
            "alarms": [a.sentence for a in self.result.alarms],
            "tasks": {name: outcome.summary() for name, outcome in self.tasks.items()},
        }


def tune_tasks(
    plan: Multitask,
    *,
    backbone: Backbone | None = None,
    materials: Mapping[str, Material] | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    progress: Progress | None = None,
) -> list[MultitaskOutcome]:
    """Tune one prompt on all tasks for each seed, and save each task's. The same call goes on where it was interrupted.

    The best step is the one with the best mean, over tasks, of the score that each task's `metric` names. Arguments
    that are not named here are those of `tune`.

    Arguments:
        materials: `gather_tasks(plan)`, where that was done already.

    Raises:
        PromptuaryError: one of its kinds, before any long work where that can be known.
    """
    team = joined()
    materials = gather_tasks(plan) if materials is None else materials
    console = console if team.lead else None
    run, out = next(iter(plan.runs.values())), Path(plan.shared["out"])
    tracking.check(run.track)
    folders = {seed: out if len(run.seeds) == 1 else out / f"seed-{seed}" for seed in run.seeds}
    for folder in folders.values():
        places.check(folder, overwrite)
        for name in plan.runs:
            places.check(folder / name, overwrite, run=folder)
    backbone = ready(run, backbone, console)
    grounds = {name: prepare(own, backbone, materials[name], console) for name, own in plan.runs.items()}
    _check_alike(grounds, backbone)
    init = _start(grounds, backbone)
    return [
        _one(plan, grounds, backbone, init, seed, folder, progress or bar(run, seed, console), overwrite, team)
        for seed, folder in folders.items()
    ]


def _one(
    plan: Multitask, grounds: Mapping[str, Prepared], backbone: Backbone, init: Initial | None,
    seed: int, folder: Path, progress: Progress, overwrite: bool, team: Team,
) -> MultitaskOutcome:  # fmt: skip
    run = next(iter(grounds.values())).run
    recipe, settings = run.full_recipe(), {**run.settings}
    if plan.conditioned is not None:
        settings["tasks"] = plan.conditioned
    readouts = [ground.reading.reader(backbone, ground.wording, seed=seed) for ground in grounds.values()]
    readout = ByTask(readouts)
    model = prompted(backbone, run.method, settings, init=init, seed=seed, dropout=recipe.dropout, readout=readout)
    pad = backbone.tokenizer.pad_token_id or 0
    rows = {name: ground.examples for name, ground in grounds.items()}
    train = Mixture(rows, recipe.batch, pad=pad, temperature=plan.temperature, seed=seed)
    held = InTurn([Loader(g.held, 2 * recipe.batch, pad=pad, task=n) for n, g in enumerate(grounds.values())])
    identity = {
        "method": made_of(run) | {"tasks": plan.conditioned},
        "init": begun(next(iter(grounds.values())).init),
        "tasks": {name: {**ground.identity(), "metric": ground.run.metric} for name, ground in grounds.items()},
        "temperature": plan.temperature,
        "dropout": run.dropout,
    }

    def fitted() -> Result:
        return fit(
            model, readout, train, held, recipe,
            seed=seed, folder=folder, settings=identity, metric="mean", progress=progress, save_every=run.save_every,
            names={name: ground.wording.task.labels for name, ground in grounds.items()},
            rates=rates(run, model, readout), measure=_measure(grounds, model, readouts, team), team=team,
            tracking=tracked(run, folder, team),
        )  # fmt: skip

    result = places.fitted(folder, overwrite, fitted, results=[folder / name for name in grounds], team=team)
    outcomes = {}
    for number, (name, ground) in enumerate(grounds.items()):
        alone, read = _alone(model, number), readouts[number]
        own = {k.removeprefix(f"{name}/"): v for k, v in result.scores.items() if k.startswith(f"{name}/")}
        silent = {_alone_named(tensor, number) for tensor in result.silent}
        counts = count(alone, read, silent)
        part = replace(result, scores=own, score=own[ground.run.metric], counts=counts, silent=silent)
        tuned = ground.save(folder / name, alone, read, part, seed=seed, team=team)
        outcomes[name] = Outcome(tuned, folder / name, part, seed)
    return MultitaskOutcome(outcomes, folder, result, seed)


def _measure(grounds: Mapping[str, Prepared], model: SoftPrompted, readouts: Sequence[Readout], team: Team) -> Measure:
    """Each task's scores as `TASK/METRIC`, and `mean`, that of the scores that their metrics name."""
    own = {n: (name, g, g.measure(model, readouts[n], team)) for n, (name, g) in enumerate(grounds.items())}

    def measured(pairs: Pairs) -> Mapping[str, float]:
        found, good = dict[str, float](), []
        for number, given in by_task(pairs).items():
            name, ground, measure = own[number]
            scores = measure(given)
            good.append(goodness(scores, ground.run.metric))
            found |= {f"{name}/{metric}": value for metric, value in scores.items()}
        return {"mean": fmean(good), **found}

    return measured


def _alone(model: SoftPrompted, task: int) -> SoftPrompted:
    """The shared prompt as one task's own."""
    generator, injection = copy.deepcopy((model.generator, model.injection))
    own = SoftPrompted(model.backbone, generator, injection, dropout=model.dropout)
    own.settle(task)
    return own


def _alone_named(tensor: str, task: int) -> str:
    """The name of a trained tensor in the prompt and the read-out that a task has to itself."""
    own = f"readout.readouts.{task}."
    return f"readout.{tensor.removeprefix(own)}" if tensor.startswith(own) else tensor


def _check_alike(grounds: Mapping[str, Prepared], backbone: Backbone) -> None:
    """Refuse tasks that no prompt can be shared by.

    Raises:
        SettingError: naming two of them and in what they differ.
    """
    marked = {name: ground.run.settings for name, ground in grounds.items()}
    heard = {n: sorted(g.reading.reader(backbone, g.wording).reads(backbone.shape)) for n, g in grounds.items()}
    for what, of in (("mark other soft tokens in their templates", marked), ("are read off other towers", heard)):
        (first, value), *others = of.items()
        for name, other in others:
            if other != value:
                raise SettingError(
                    f"Tasks {first!r} and {name!r} {what} ({value} and {other}), so they cannot share a prompt. Give "
                    "them one kind of template and read-out."
                )


def _start(grounds: Mapping[str, Prepared], backbone: Backbone) -> Initial | None:
    """Where the prompt starts: a vocabulary is that of all tasks' rows.

    Raises:
        SettingError: as `start`, and for labels, which tasks do not share.
    """
    ground = next(iter(grounds.values()))
    if ground.init == "labels":
        raise SettingError("init='labels': each task has its own. Use 'vocabulary', or words:SOME WORDS.")
    examples = [example for own in grounds.values() for example in own.examples]
    readout = ground.reading.reader(backbone, ground.wording)
    return start(ground.init, backbone, ground.wording, examples, ground.run.settings, readout=readout)
