"""The plan of a study: which methods compete on which tasks, with which rows, seeds and search. TOML on one side.

    name = "main"
    methods = ["frozen", "prompt-tuning", "fine-tuning"]
    seeds = [0, 1, 2]
    against = "frozen"          # what every method is held against

    [rivals]                    # for some methods, another one instead
    fine-tuning = "prompt-tuning"

    [budget]                    # of one training run, the same for every method
    epochs = 5

    [budgets.ladder-1m]         # what differs on a backbone
    precision = "fp32"

    [search]                    # the same number of trials for every method; the first one is its default
    trials = 3

    [search.space.prompt-tuning]
    rate = [0.1, 0.3, 0.9]
    length = {low = 5, high = 50}

    [variants."prompt-tuning@5"]  # a method with other settings, by a name that stands beside the others
    of = "prompt-tuning"
    settings = {length = 5}

    [variants.published]
    of = "ipt"
    preset = "paper"            # what the plan does not say

    [tasks.sst2]                # a task with a name, or columns of any rows
    task = "sst2/classifier"
    report = "task:sst2/classifier/test"

    [regimes.full]
    rows = 2000

    [regimes.few]               # so many rows a class, and as many others to select with, drawn for each seed
    each = 16
    budget = {epochs = 40, batch = 8}

    [mixtures.moods]            # tasks that share one prompt; each is reported beside the tasks by themselves
    tasks = ["sst2", "mr"]
    methods = ["prompt-tuning"]

    [[transfers]]               # what was learned on one task is also asked of another
    from = "qqp"
    to = "mrpc"
    labels = {duplicate = "equivalent", not_duplicate = "not_equivalent"}

A plan is looked at as a whole before anything runs: names, settings, the size of every search space.
"""

import tomllib
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from promptuary.bench.contender import Contender
from promptuary.bench.contenders import CONTENDERS, contender
from promptuary.bench.sections import Budget, Mixture, Name, Part, Regime, Search, TaskPlan, Transfer, Variant
from promptuary.bench.space import Space, draws, first
from promptuary.errors import SettingError, nearest
from promptuary.specs import Run, Seed, complaint


class Plan(Part):
    """A plan.

    Arguments:
        backbones: as `promptuary tune --backbone`. methods: promptuary's methods and baselines, and variants, by name.
        seeds: of everything random, and of the rows where they are drawn. device: where the models run.
        against: the method that every other one is held against. rivals: for some, by name, another one instead.
        budgets: what differs from the plan's budget on a backbone, by its name.
        budget, search, variants, tasks, regimes, mixtures, transfers: see there; `budget` of a regime wins over that of
            a task or a mixture, which wins over that of a backbone, which wins over that of the plan.
    """

    name: Name
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] = ("minilm",)
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    against: str = "frozen"
    rivals: dict[str, str] = Field({})
    device: str = "auto"
    budget: Budget = Budget()
    budgets: dict[str, dict[str, Any]] = Field({})
    search: Search = Search()
    variants: dict[Name, Variant] = Field({})
    tasks: Annotated[dict[Name, TaskPlan], Field(min_length=1)]
    regimes: Annotated[dict[Name, Regime], Field(min_length=1)] = Field({"full": Regime()})
    mixtures: dict[Name, Mixture] = Field({})
    transfers: tuple[Transfer, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in self.variants:
            if name in CONTENDERS:
                raise SettingError(f"Variant {name!r} has the name of a method. Give it one of its own.")
        for method in self.named_methods():
            self.contender(method)
        for method, rival in self.rivals.items():
            if method == rival:
                raise SettingError(f"Rivals: {method!r} is held against itself. Expected another method.")
            for competing in [self.methods, *(r.methods for r in self.regimes.values() if r.methods is not None)]:
                if method in competing:
                    _known("Rivals", f"{method} = {rival}", "method", rival, competing)
            _known("Rivals", f"{method} = {rival}", "method", method, {*self.named_methods()})
        for name, regime in self.regimes.items():
            for task in regime.tasks or ():
                _known("Regime", name, "task", task, self.tasks)
        for transfer in self.transfers:
            where = f"{transfer.source} to {transfer.to}"
            for task in (transfer.source, transfer.to):
                _known("Transfer", where, "task", task, self.tasks)
            kinds = [self.run(task).kind.name for task in (transfer.source, transfer.to)]
            if kinds[0] != kinds[1]:
                raise SettingError(f"Transfer {where!r}: their kinds are {kinds[0]!r} and {kinds[1]!r}; expected one.")
        for name, mixture in self.mixtures.items():
            self._check_mixture(name, mixture)
        for method, space in self.search.space.items():
            _known("Search", "space", "method", method, {*CONTENDERS, *self.variants})
            self.contender(method).check(first(space))
        for name in self.budgets:
            _known("Budgets", name, "backbone", name, self.backbones)
        for name, task, backbone in product(self.regimes, (*self.tasks, *self.mixtures), self.backbones):
            self.budget_of(task, name, backbone)
        for task in self.tasks:
            self._check(task)
            if not any(self.fits(method, task) for method in self.named_methods()):
                raise SettingError(
                    f"Task {task!r}: none of the methods learns tasks of kind {self.run(task).kind.name!r}."
                )
        for method in self.named_methods():
            for settings in self.trials(method):
                self.contender(method).check(settings)
        return self

    def contender(self, name: str) -> Contender:
        """The method, or that which a variant is of.

        Raises:
            SettingError: for an unknown name, with the nearest known one.
        """
        if name in self.variants:
            return contender(self.variants[name].of)
        return contender(name, self.variants)

    def named_methods(self) -> Iterator[str]:
        """Every method that the plan names, some more than once."""
        yield from self.methods
        yield self.against
        for regime in self.regimes.values():
            yield from regime.methods or ()
        for mixture in self.mixtures.values():
            yield from mixture.methods

    def _check_mixture(self, name: str, mixture: Mixture) -> None:
        """Raise `SettingError` for a mixture that no run could be made of."""
        if name in self.tasks:
            raise SettingError(f"Mixture {name!r} has the name of a task. Give it one of its own.")
        for task in mixture.tasks:
            _known("Mixture", name, "task", task, self.tasks)
        if len({self.tasks[task].dropout for task in mixture.tasks}) > 1:
            raise SettingError(f"Mixture {name!r}: its tasks differ in dropout, which is of the frozen model.")
        for method in mixture.methods:
            if not self.contender(method).mixes:
                raise SettingError(
                    f"Mixture {name!r}: {method!r} learns one task at a time. Expected methods of promptuary's own."
                )

    def fits(self, method: str, task: str) -> bool:
        """Whether a method learns tasks of this one's kind (of a mixture: of all of its tasks')."""
        return all(self.run(own).kind.name in self.contender(method).kinds for own in self.members(task))

    def members(self, task: str) -> tuple[str, ...]:
        """The tasks of a mixture; of a task, itself."""
        return self.mixtures[task].tasks if task in self.mixtures else (task,)

    def _check(self, task: str) -> None:
        """Raise `SettingError` for a task that no run could be made of."""
        of = self.tasks[task]
        train, report = of.source("train", of.train), of.source("test", of.report)
        selection = None if isinstance(of.selection, float) else of.source("validation", of.selection)
        used = {train: "teach", **({} if selection is None or self._draws(task) else {selection: "select"})}
        if report in used:
            raise SettingError(
                f"Task {task!r}: the rows that report, {report!r}, also {used[report]}. What was chosen on rows says "
                f"nothing when it is scored on them: write report = other rows, or selection = 0.1 (a share of those "
                f"that teach) into [tasks.{task}]."
            )
        run = self.run(task)
        if run.metric == "loss" and run.named is None:
            known = [name for name in run.kind.metrics if name != "loss"]
            raise SettingError(
                f"Task {task!r} is scored by its loss, which is no score to report. Write metric = one of "
                f"{', '.join(map(repr, known))} into [tasks.{task}]."
            )

    def _draws(self, task: str) -> bool:
        """Whether every regime that a task is in draws the rows that select from those that teach."""
        return all(regime.drawn for regime in self.regimes.values() if regime.tasks is None or task in regime.tasks)

    def run(self, task: str, **more: Any) -> Run:
        """The run that a task describes, before a method is chosen; `more` are settings of a run."""
        of = self.tasks[task]
        train = of.source("train", of.train)
        return Run(**{"out": "-", "train": train, "device": self.device, **of.asked(), **more})

    def budget_of(self, task: str, regime: str, backbone: str) -> Budget:
        """What one training run on a task, or a mixture, under a regime and on a backbone may spend."""
        of, learnt = self.budget.model_dump(), (self.mixtures if task in self.mixtures else self.tasks)[task]
        for own in (self.budgets.get(backbone, {}), learnt.budget, self.regimes[regime].budget):
            of |= {"steps": 0, **own} if "epochs" in own else own  # epochs that are stated win over steps that were
        try:
            return Budget(**of)
        except ValidationError as error:
            raise SettingError(complaint(error, "Budget")) from error

    def space(self, method: str) -> Space:
        """What a search may change of a method: the plan's space, or the method's own.

        A variant has the space of its method, without what it sets. A preset sets all of it: what is searched beside it
        the plan says under the variant's name.
        """
        if self.published(method) and method not in self.search.space:
            return {}
        of = self.contender(method)
        space = self.search.space.get(method, self.search.space.get(of.name, of.space))
        return {name: values for name, values in space.items() if name not in self.settings(method)}

    def settings(self, method: str) -> dict[str, Any]:
        """What every trial of a variant has; of a method nothing."""
        if method not in self.variants:
            return {}
        variant = self.variants[method]
        return ({} if variant.preset is None else {"preset": variant.preset}) | variant.settings

    def published(self, method: str) -> dict[str, Any]:
        """The preset of a variant, as a run states it; of others nothing."""
        preset = self.settings(method).get("preset")
        return {} if preset is None else {"method": self.contender(method).name, "preset": preset}

    def trials(self, method: str) -> list[dict[str, Any]]:
        """The settings that a method's search tries, in order: first the default, then others drawn from its space.

        Raises:
            SettingError: where the space has fewer points than every method may try.
        """
        of, own = self.contender(method), self.settings(method)
        if not self.space(method):
            return [own]
        found = draws(self.space(method), self.search.trials - 1, seed=self.search.seed, without=of.begun(own))
        if len(found) < self.search.trials - 1 and not of.small:
            raise SettingError(
                f"search.trials = {self.search.trials}, but the space of {method!r} has only {len(found)} settings "
                f"beside the default. Every method must have the same number: widen [search.space.{method}], or lower "
                "trials."
            )
        return [own | settings for settings in ({}, *found)]


def placed(value: Any, **names: str) -> Any:
    """A setting with what stands in braces filled in: `{folder}` of the study, `{task}`, `{backbone}`."""
    if isinstance(value, str):
        for name, own in names.items():
            value = value.replace(f"{{{name}}}", own)
        return value
    return [placed(own, **names) for own in value] if isinstance(value, list | tuple) else value


def read(path: Path) -> Plan:
    """The plan in a TOML file.

    Raises:
        SettingError: when the file is missing or is not TOML, and for whatever is wrong with the plan.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}. Expected a TOML file that describes a study.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}.") from error
    try:
        _one_length(document, "")
        return Plan(**document)
    except ValidationError as error:
        raise SettingError(f"{path}: {complaint(error, 'Key')}") from error
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


def _one_length(table: Mapping[str, Any], where: str) -> None:
    """Raise `SettingError` for a budget that was written with epochs and with steps."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            if (name == "budget" or where == "budgets.") and value.get("steps") and "epochs" in value:
                raise SettingError(
                    f"[{where}{name}] has epochs = {value['epochs']} and steps = {value['steps']}. Write one of them."
                )
            _one_length(value, f"{where}{name}.")


def _known(what: str, where: str, kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise SettingError(f"{what} {where!r}: there is no {kind} {name!r}. {nearest(name, known)}")
