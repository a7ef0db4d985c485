"""The plan of a study: which methods compete on which tasks, with which rows, seeds and search. TOML on one side.

    name = "main"
    methods = ["frozen", "prompt-tuning", "fine-tuning"]
    seeds = [0, 1, 2]
    against = "frozen"          # what every method is held against

    [budget]                    # of one training run, the same for every method
    epochs = 5

    [search]                    # the same number of trials for every method; the first one is its default
    trials = 3

    [search.space.prompt-tuning]
    rate = [0.1, 0.3, 0.9]
    length = {low = 5, high = 50}

    [tasks.sst2]                # a task with a name, or columns of any rows
    task = "sst2/classifier"
    report = "task:sst2/classifier/test"

    [regimes.full]
    rows = 2000

    [regimes.few]               # so many rows a class, and as many others to select with, drawn for each seed
    each = 16
    budget = {epochs = 40, batch = 8}

    [[transfers]]               # what was learned on one task is also asked of another
    from = "qqp"
    to = "mrpc"
    labels = {duplicate = "equivalent", not_duplicate = "not_equivalent"}

A plan is looked at as a whole before anything runs: names, settings, the size of every search space.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from promptuary.bench.contender import Contender
from promptuary.bench.contenders import CONTENDERS, contender
from promptuary.bench.space import Range, Space, draws, first
from promptuary.errors import SettingError, nearest
from promptuary.specs import Run, Seed, complaint

Name = Annotated[str, Field(pattern=r"^[\w.@-]+$")]
Positive = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    """A table of a plan: frozen, and an unknown key is answered with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, values: Any, made: ModelWrapValidatorHandler[Self]) -> Self:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for name in values if isinstance(values, Mapping) else ():
            if name not in known and name not in cls.model_fields:
                what = " ".join((cls.__doc__ or "").split(".")[0].split())
                raise SettingError(f"{what}: there is no key {name!r}. {nearest(name, known)}")
        return made(values)


class Budget(Part):
    """What one training run may spend. It is the same for every method; nothing stops early.

    Arguments:
        epochs: passes over the rows that teach. steps: optimizer steps instead, if positive. batch: rows a step.
        evaluations: how often an epoch the rows that select are scored.
        precision: of the frozen model's arithmetic.
    """

    epochs: Positive = 5
    steps: Annotated[int, Field(ge=0)] = 0
    batch: Positive = 32
    evaluations: Positive = 1
    precision: Literal["fp32", "bf16"] = "fp32"


class Search(Part):
    """How hyperparameters are searched: as many trials for every method, chosen by the rows that select.

    Arguments:
        trials: of every method that has something to search; the first is its default.
        each_seed: search anew for every seed. Otherwise the first seed searches, and the others run what it chose.
        seed: of what is drawn from the spaces.
        space: instead of a method's own space: settings of the method, or fields of its recipe.
    """

    trials: Positive = 1
    each_seed: bool = False
    seed: Seed = 0
    space: dict[str, dict[str, tuple[Any, ...] | Range]] = {}


class TaskPlan(Part):
    """One task of a plan.

    Arguments:
        task: a task with a name (and wording), which fills in columns, wording, metric and rows; or `classification`.
        train: rows that teach (as for `promptuary tune`). selection: rows that select, or the share of the training
            rows that is held out for it. report: rows that report.
        text, text_pair, label, template, readout, pool, words, metric, max_length, dropout: as in a run.
        budget: what differs from the plan's.
    """

    task: str = "classification"
    train: str | None = None
    selection: Annotated[float, Field(gt=0, lt=1)] | str | None = None
    report: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    template: str | None = None
    readout: str | None = None
    pool: str | None = None
    words: dict[str, str | list[str]] | None = None
    metric: str | None = None
    max_length: int | None = None
    dropout: bool | None = None
    budget: dict[str, Any] = {}

    def asked(self) -> dict[str, Any]:
        """What it says of a run, rows and budget aside."""
        return self.model_dump(exclude={"train", "selection", "report", "budget"}, exclude_none=True)

    def source(self, part: Literal["train", "validation", "test"], given: str | None) -> str:
        """Where rows lie: as given, else that split of the named task.

        Raises:
            SettingError: for a task of the user's own, whose rows must be named.
        """
        if given is not None:
            return given
        if self.task == "classification":
            key = {"train": "train", "validation": "selection", "test": "report"}[part]
            raise SettingError(f'A task without a name must say where its rows are. Write {key} = "FILE".')
        return f"task:{self.task}/{part}"


class Regime(Part):
    """Which rows teach, and who competes there.

    Arguments:
        rows: at most so many rows that teach, stratified, the same for all seeds. each: instead, so many of every
            class, and as many others to select with, drawn for each seed.
        selected, reported: at most so many rows that select and report, stratified, the same for all seeds.
        tasks, methods, seeds, budget: those of the plan, unless stated.
    """

    rows: Positive | None = None
    each: Positive | None = None
    selected: Positive | None = None
    reported: Positive | None = None
    tasks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    budget: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.rows is not None and self.each is not None:
            raise SettingError(f"A regime has rows={self.rows} and each={self.each}. Write one of them.")
        return self

    @property
    def drawn(self) -> bool:
        """Whether each seed has rows of its own."""
        return self.each is not None


class Transfer(Part):
    """What was learned on one task, asked of another one without training; the checkpoint is the one chosen in-domain.

    Arguments:
        from: the task that was learned. to: the task whose reporting rows are asked.
        labels: from classes learned to classes asked, by name; those left out keep their name.
    """

    source: str = Field(alias="from")
    to: str
    labels: dict[str, str] = {}


class Plan(Part):
    """A plan.

    Arguments:
        backbones: as `promptuary tune --backbone`. methods: promptuary's methods and baselines, by name.
        seeds: of everything random, and of the rows where they are drawn. device: where the models run.
        against: the method that every other one is held against.
        budget, search, tasks, regimes, transfers: see there; `budget` of a regime wins over that of a task, which wins
            over that of the plan.
    """

    name: Name
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] = ("minilm",)
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    against: str = "frozen"
    device: str = "auto"
    budget: Budget = Budget()
    search: Search = Search()
    tasks: Annotated[dict[Name, TaskPlan], Field(min_length=1)]
    regimes: Annotated[dict[Name, Regime], Field(min_length=1)] = {"full": Regime()}
    transfers: tuple[Transfer, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for method in self._named_methods():
            contender(method)
        for name, regime in self.regimes.items():
            for task in regime.tasks or ():
                _known("Regime", name, "task", task, self.tasks)
        for transfer in self.transfers:
            for task in (transfer.source, transfer.to):
                _known("Transfer", f"{transfer.source} to {transfer.to}", "task", task, self.tasks)
        for method, space in self.search.space.items():
            _known("Search", "space", "method", method, CONTENDERS)
            contender(method).check(first(space))
        for name in self.regimes:
            for task in self.tasks:
                self.budget_of(task, name)
        for task in self.tasks:
            self._check(task)
        for method in self._named_methods():
            for settings in self.trials(method):
                contender(method).check(settings)
        return self

    def _named_methods(self) -> Iterator[str]:
        yield from self.methods
        yield self.against
        for regime in self.regimes.values():
            yield from regime.methods or ()

    def _check(self, task: str) -> None:
        """Raise `SettingError` for a task that no run could be made of."""
        of = self.tasks[task]
        of.source("train", of.train)
        of.source("test", of.report)
        if not isinstance(of.selection, float):
            of.source("validation", of.selection)
        run = self.run(task)
        if run.kind.name != "classification":
            raise SettingError(
                f"Task {task!r} is of kind {run.kind.name!r}. A plan compares classifiers: name a wording whose answer "
                "is a class."
            )

    def run(self, task: str, **more: Any) -> Run:
        """The run that a task describes, before a method is chosen."""
        of = self.tasks[task]
        train = of.source("train", of.train)
        return Run(**{"out": "-", "train": train, "device": self.device, **of.asked(), **more})

    def budget_of(self, task: str, regime: str) -> Budget:
        """What one training run on a task under a regime may spend."""
        of = {**self.budget.model_dump(), **self.tasks[task].budget, **self.regimes[regime].budget}
        try:
            return Budget(**of)
        except ValidationError as error:
            raise SettingError(complaint(error, "Budget")) from error

    def space(self, method: str) -> Space:
        """What a search may change of a method: the plan's space, or the method's own."""
        return self.search.space.get(method, contender(method).space)

    def trials(self, method: str) -> list[dict[str, Any]]:
        """The settings that a method's search tries, in order: first the default, then others drawn from its space.

        Raises:
            SettingError: where the space has fewer points than every method may try.
        """
        of: Contender = contender(method)
        if not of.space and method not in self.search.space:
            return [{}]
        found = draws(self.space(method), self.search.trials - 1, seed=self.search.seed, without=of.default)
        if len(found) < self.search.trials - 1 and not of.small:
            raise SettingError(
                f"search.trials = {self.search.trials}, but the space of {method!r} has only {len(found)} settings "
                f"beside the default. Every method must have the same number: widen [search.space.{method}], or lower "
                "trials."
            )
        return [{}, *found]


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
        return Plan(**document)
    except ValidationError as error:
        raise SettingError(f"{path}: {complaint(error, 'Key')}") from error
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


def _known(what: str, where: str, kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise SettingError(f"{what} {where!r}: there is no {kind} {name!r}. {nearest(name, known)}")
