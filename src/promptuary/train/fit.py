"""Tuning a prompt on a frozen backbone: one loop for every method, task and backbone.

`fit` steps, scores the validation rows now and then, keeps the best prompt, saves its state, and ends with the best
prompt in the model. Run again with the same arguments and the same folder, it goes on where it stopped and arrives at
the same numbers, to the last bit on a CPU. Nothing in here knows what a method is.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from promptuary.activations import Activations
from promptuary.counts import Counts, count
from promptuary.data.batch import Batch
from promptuary.errors import SettingError, TrainingError
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train import alarms, record, schedule, state
from promptuary.train.alarms import Alarm, Watch
from promptuary.train.batches import Batches
from promptuary.train.evaluation import (
    Evaluation,
    Measure,
    arithmetic,
    classification,
    evaluate,
    goodness,
    training,
    unmoved_randomness,
)
from promptuary.train.progress import Progress, Silent
from promptuary.train.recipe import Recipe
from promptuary.train.record import Event, Record
from promptuary.train.stepper import Stepper
from promptuary.train.team import Team
from promptuary.train.tracking import Tracking

# The share of a run's time that saving states may take: they may be gigabytes on a slow disk. A kill costs the steps
# since the last state, so at most about twenty times what saving one takes, or `save_every` steps.
SAVING = 0.05


@dataclass(frozen=True, eq=False)
class Result:
    """How a run ended. The model and read-out hold the tensors of `best_step`.

    Arguments:
        scores: those of the best step on the validation rows; empty without validation rows.
        score: the one that selected it, or `None` without validation rows.
        best_step: where the model's tensors come from; the last step without validation rows.
        steps: how many were made. stopped: whether patience ended the run before its last step.
        history: the run's events, as in its record.
        alarms: what looks wrong, in words.
        counts: how many numbers were trained, got a gradient, and bear on one row.
        silent: the names (`train.groups.trained`) of the tensors that never got any gradient.
        seconds: of the whole run, with those before an interruption.
    """

    scores: Mapping[str, float]
    score: float | None
    best_step: int
    steps: int
    stopped: bool
    history: Sequence[Event]
    alarms: Sequence[Alarm]
    counts: Counts
    silent: Set[str]
    seconds: float


def fit(
    model: SoftPrompted,
    readout: Readout,
    train: Batches,
    validation: Batches | None,
    recipe: Recipe,
    *,
    seed: int = 0,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    measure: Measure = classification,
    metric: str = "accuracy",
    rates: Mapping[str, float] | None = None,
    names: Mapping[str, Sequence[str]] = MappingProxyType({}),
    progress: Progress | None = None,
    save_every: int = 100,
    audit: bool = True,
    activations: Activations | None = None,
    team: Team | None = None,
    tracking: Tracking | None = None,
) -> Result:
    """Tune the prompt of `model`, and `readout`, on `train`.

    Arguments:
        validation: rows that select the best step; without them the last step is kept.
        seed: of everything random while training. The prompt's and the read-out's start have seeds of their own.
        folder: where the state and the record go; with one, the same call goes on after an interruption.
        settings: what else makes this run this run (method settings, a hash of the data): it is written to the
            record, and a saved state of a run with other settings is refused.
        measure: scores from batches and predictions. metric: the score that selects (`loss`: the smallest).
        rates: learning rates of single parts by prefix of their names; see `train/groups.py`.
        names: of the classes by task, in the order of the tasks' numbers, for what is told of them.
        save_every: steps between saved states (one is also saved after the first step and after each scoring); more
            where saving would take over a twentieth of the time.
        audit: compare every byte of the backbone's weights before and after.
        activations: whom `model` asks for states of the rows (`SoftPrompted.asking`): the record tells of them.
        team: the processes that all make this call and tune together; the lead alone uses the folder.
        tracking: is told each event of the record.

    Raises:
        SettingError: for settings that do not fit together.
        CheckpointError: for a saved state that is damaged or of another run.
        DivergedError: when loss or gradient are no finite numbers.
        TrainingError: when memory is short, the disk is full, or the backbone was changed.
    """
    if save_every < 1:
        raise SettingError(f"save_every={save_every}: expected a number of steps, 1 or more.")
    if model.backbone.int8 == "dynamic":
        raise SettingError(
            f"{model.backbone.name!r} is rounded on the way (int8='dynamic'), which has no gradient. Tune on the model "
            "as it is, then use the prompt on the rounded one; or round its weights alone (int8='weights')."
        )
    plan = schedule.plan(recipe, len(train))
    stepper = Stepper(model, readout, recipe, plan.total, rates, team)
    before = model.backbone.digest() if audit else ""
    with unmoved_randomness(stepper.device), _recomputing(model, recipe):
        state.seed_random(seed, stepper.device)
        identity = {"seed": seed, "metric": metric, "rates": dict(rates or {}), "settings": dict(settings or {})}
        run = _Run(
            stepper, plan, train, validation, measure, metric, names, progress or Silent(), save_every, activations,
            seed, tracking,
        )  # fmt: skip
        try:
            run.begin(folder, identity)
            run.loop()
            result = run.finish()
        finally:
            run.progress.end()
            stepper.close()
            if tracking is not None:
                tracking.end()
    if audit and model.backbone.digest() != before:
        raise TrainingError(
            f"The weights of {model.backbone.name!r} changed while tuning; they must stay as they are. A read-out or a "
            "generator writes into the backbone: give it copies."
        )
    return result


@dataclass
class _Best:
    """The best step so far: its scores, a copy of its tensors, and whether it is at the majority class."""

    step: int
    scores: dict[str, float]
    tensors: dict[str, Tensor]
    majority: Alarm | None


@dataclass(eq=False)
class _Run:
    """The values a run carries from step to step, and what is done with them."""

    stepper: Stepper
    plan: schedule.Plan
    train: Batches
    validation: Batches | None
    measure: Measure
    metric: str
    names: Mapping[str, Sequence[str]]
    progress: Progress
    save_every: int
    activations: Activations | None
    seed: int
    tracking: Tracking | None
    step: int = 0
    worse: int = 0
    seconds: float = 0.0
    rows: int = 0
    due: float = 0.0
    over: bool = False
    best: _Best | None = None
    found: list[Alarm] = field(default_factory=list)

    def begin(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        """Start anew, or go on from the state in `folder`."""
        if self.validation is not None:  # a wrong metric or a row without label shows now, not after an epoch
            goodness(self._evaluate(limit=1).scores, self.metric)
        self.settings, self.team = state.plain({**self._identity(), **identity}), self.stepper.team
        self.path = None if folder is None else folder / state.NAME
        place = None if folder is None or not self.team.lead else folder / record.NAME
        self.record = Record(place) if self.tracking is None else Record(place, self.tracking.hear)
        saved = self.team.led(lambda: None if self.path is None else state.load(self.path, self.settings))
        if saved is not None:
            self._restore(saved)
        else:
            told = self.settings | record.surroundings() | {"processes": self.team.size}
            self.team.led(lambda: self.record.begin(told))
        self.started = time.perf_counter() - self.seconds
        self.progress.begin(self.plan.total, self.step)

    def loop(self) -> None:
        """Step until the plan or patience ends."""
        if self.over:
            return
        patience = self.stepper.recipe.patience
        for step, group in schedule.steps(self.plan, self.train, self.step):
            self._step(step, group)
            scored = self.validation is not None and self.plan.scores(step)
            if scored:
                self._score()
            self.over = step == self.plan.total or 0 < patience <= self.worse
            if self.over:
                break
            wanted = scored or step == 1 or step % self.save_every == 0
            if wanted and self.team.led(lambda: time.perf_counter() >= self.due):
                self._save()

    def finish(self) -> Result:
        """Put the best tensors in place, look for alarms, close the record."""
        if self.best is not None:
            state.restore(self.stepper.named, self.best.tensors)
        best_step = self.step if self.best is None else self.best.step
        counts = count(self.stepper.model, self.stepper.readout, self.stepper.watch.silent)
        if self.record.events[-1]["event"] != "end":
            self._tell_choices()  # the steps behind the last scoring; all of them without validation rows
            self._look_back()
            self.seconds = time.perf_counter() - self.started
            if self.activations is not None:
                self.record.add("activations", step=self.step, **self.activations.told())
            ended = {"best_step": best_step, "rows": self.rows, "counts": vars(counts), "seconds": self.seconds}
            self.record.add("end", step=self.step, **ended)
            self._save()
        return Result(
            scores={} if self.best is None else self.best.scores,
            score=None if self.best is None else self.best.scores[self.metric],
            best_step=best_step,
            steps=self.step,
            stopped=self.step < self.plan.total,
            history=tuple(self.record.events),
            alarms=tuple(self.found),
            counts=counts,
            silent=frozenset(self.stepper.watch.silent),
            seconds=self.seconds,
        )

    def _step(self, step: int, group: Sequence[Batch]) -> None:
        if self.team.size > 1:
            state.seed_random(self.team.seed(self.seed, step), self.stepper.device)
        done = self.stepper.step(step, group)
        self.step, self.rows = step, self.rows + sum(len(batch.ids) for batch in group)
        self.record.add("step", step=step, loss=done.loss, norm=done.norm, rates=dict(done.rates))
        self.progress.stepped(step, done.loss)

    def _evaluate(self, limit: int | None = None) -> Evaluation:
        assert self.validation is not None
        s = self.stepper
        return evaluate(
            s.model, s.readout, self.validation, measure=self.measure, precision=s.recipe.precision, limit=limit,
            team=s.team,
        )  # fmt: skip

    def _score(self) -> None:
        found = self._evaluate()
        scores = dict(found.scores)
        better = self.best is None or goodness(scores, self.metric) > goodness(self.best.scores, self.metric)
        self.worse = 0 if better else self.worse + 1
        if better:
            tensors = {name: p.detach().cpu().clone() for name, p in self.stepper.named.items()}
            self.best = _Best(self.step, scores, tensors, alarms.majority(found.pairs, self.names))
        self.record.add("scores", step=self.step, **scores, best=better)
        self._tell_choices()
        self.progress.scored(self.step, scores, self.metric, better)

    def _tell_choices(self) -> None:
        noted = self.stepper.entropies.read()
        if noted is not None:
            self.record.add("choices", step=self.step, **noted)

    def _look_back(self) -> None:
        """Raise alarms about the whole run, and about the prompt it ends with."""
        s = self.stepper
        losses = [event["loss"] for event in self.record.events if event["event"] == "step"]
        probe = next(iter(self.train.epoch(0))).to(s.device)
        training(s.model, s.readout, True)  # what fitted the memory in a step fits it here
        with arithmetic(s.device, s.recipe.precision):
            unread = alarms.unread(s.model, s.readout, probe)
        s.close()
        noted = [event for event in self.record.events if event["event"] == "choices"]
        trained = {name for name, choice in s.model.choices.items() if choice.trained}
        trend = alarms.risen(losses) or alarms.still(losses)
        found = [*s.watch.alarms(), unread, alarms.saturated(s.model, probe), trend]
        found += alarms.settled(noted, trained)
        found.append(alarms.ineffective(s.model, s.readout, probe))
        found.append(None if self.best is None else self.best.majority)
        self.found = [alarm for alarm in found if alarm is not None]
        for alarm in self.found:
            self.record.add("alarm", step=self.step, **asdict(alarm))
            self.progress.alarmed(alarm)

    def _identity(self) -> dict[str, Any]:
        """What must be equal, besides the caller's settings, for a saved state to go on."""
        s = self.stepper
        validation = None if self.validation is None else len(self.validation)
        return {
            "recipe": asdict(s.recipe),
            "backbone": s.model.backbone.fingerprint(),
            "batches": {"train": len(self.train), "validation": validation},
            "first_batch": _digest(next(iter(self.train.epoch(0)))),
            "tensors": {name: list(p.shape) for name, p in s.named.items()},
        }

    def _save(self) -> None:
        if self.path is None:
            return
        began = time.perf_counter()
        self.record.settle()
        self.seconds = began - self.started
        s, best = self.stepper, self.best
        notes = {
            **{name: getattr(self, name) for name in _NOTED},
            "events": len(self.record.events),
            "watch": s.watch.notes(),
            "choices": s.entropies.notes(),
            "alarms": [asdict(alarm) for alarm in self.found],
            "best": None if best is None else {"step": best.step, "scores": best.scores},
            "majority": None if best is None or best.majority is None else asdict(best.majority),
        }
        tensors = state.copied(s.named, "parameter") | state.copied(state.random_tensors(s.device), "random")
        tensors |= state.copied(state.optimizer_tensors(s.optimizer, s.named), "optimizer")
        tensors |= state.copied({} if best is None else best.tensors, "best")
        tensors |= state.copied(dict(s.model.named_buffers()), "buffer")  # what the parts keep of the run, in its order
        if self.team.lead:
            state.save(self.path, state.State(self.settings, notes, tensors))
        saved = time.perf_counter()
        self.due = saved + (saved - began) * (1 / SAVING - 1)

    def _restore(self, saved: state.State) -> None:
        s, notes = self.stepper, saved.notes
        self.record.events = self.team.led(lambda: self.record.resume(notes["step"], notes["events"]))
        for name in _NOTED:
            setattr(self, name, notes[name])
        self.found = [Alarm(**alarm) for alarm in notes["alarms"]]
        if notes["best"] is not None:
            majority = None if notes["majority"] is None else Alarm(**notes["majority"])
            self.best = _Best(**notes["best"], tensors=saved.under("best"), majority=majority)
        s.watch = Watch.from_notes(notes["watch"])
        s.entropies.resume(notes.get("choices", s.entropies.notes()))  # states of earlier versions have none
        state.restore(s.named, saved.under("parameter"))
        state.restore_optimizer(s.optimizer, s.named, saved.under("optimizer"))
        kept = saved.under("buffer")
        state.restore({name: b for name, b in s.model.named_buffers() if name in kept}, kept)
        state.restore_random(saved.under("random"), s.device)


_NOTED = ("step", "worse", "seconds", "rows", "over")


@contextmanager
def _recomputing(model: SoftPrompted, recipe: Recipe) -> Iterator[None]:
    """Gradient checkpointing for the time of a run: the backbone may be shared with runs that want none."""
    if not recipe.checkpointing:
        yield
        return
    model.backbone.checkpoint_activations(True)
    try:
        yield
    finally:
        model.backbone.checkpoint_activations(False)


def _digest(batch: Batch) -> str:
    """A hash of a batch's numbers, which tells one data set (and one order of it) from another."""
    extra = [] if batch.targets is None else [batch.targets.ids]
    tensors = [v for _, v in sorted(vars(batch).items()) if isinstance(v, Tensor)] + extra
    data = b"".join(t.cpu().long().numpy().tobytes() for t in tensors)
    return hashlib.blake2b(data, digest_size=16).hexdigest()
