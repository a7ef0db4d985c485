"""The sections of a plan: what a run may spend, how a search goes, tasks, rows that teach, what is asked elsewhere."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from promptuary.bench.space import Range
from promptuary.errors import SettingError, nearest
from promptuary.kinds import KINDS
from promptuary.specs import Seed

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

    def recipe(self) -> dict[str, Any]:
        """What it says of a training run: of epochs nothing, where steps are counted."""
        return self.model_dump(exclude={"epochs"} if self.steps else set())


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
        task: a task with a name (and wording), which fills in columns, wording, metric and rows; or a kind of tasks
            (`classification`, `text`, `tagging`, `answering`).
        train: rows that teach (as for `promptuary tune`). selection: rows that select, or the share of the training
            rows that is held out for it. report: rows that report.
        text, text_pair, label, template, readout, pool, words, metric, max_length, max_new_tokens, dropout: as in a
            run.
        budget: what differs from the plan's.
    """

    task: str = "classification"
    train: str | None = None
    selection: float | str | None = None
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
    max_new_tokens: int | None = None
    dropout: bool | None = None
    budget: dict[str, Any] = {}

    @model_validator(mode="after")
    def _a_share(self) -> Self:
        if isinstance(self.selection, float) and not 0 < self.selection < 1:
            raise SettingError(
                f"selection = {self.selection:g}: expected a share of the training rows, above 0 and below 1, or the "
                "rows that select, as text. How many of them are used says a regime (`selected`)."
            )
        return self

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
        if self.task in KINDS:
            key = {"train": "train", "validation": "selection", "test": "report"}[part]
            raise SettingError(f'A task without a name must say where its rows are. Write {key} = "FILE".')
        return f"task:{self.task}/{part}"


class Regime(Part):
    """Which rows teach, and who competes there.

    Arguments:
        rows: at most so many rows that teach, stratified, the same for all seeds. each: instead, so many of every
            class (in all, where rows have no classes), and as many others to select with, drawn for each seed.
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


class Variant(Part):
    """A method under a name of its own, with settings that every one of its trials has.

    Arguments:
        of: a method of promptuary's or a baseline. settings: of the method, or fields of its recipe. In text, `{task}`
            is the task's name and `{folder}` the study's folder: `pretrained = "{folder}/generators/{task}"`.
        preset: a published set-up of the method: its recipe, its settings, and what a task leaves open (read-out, pool,
            the frozen model's dropout). What is stated beside it wins, and a run spends what the plan says.
    """

    of: str
    preset: str | None = None
    settings: dict[str, Any] = {}


class Mixture(Part):
    """Tasks that share one prompt, tuned on a mixture of their rows (`promptuary.multitask`).

    Arguments:
        tasks: of the plan. methods: promptuary's own.
        temperature: tasks are mixed at rates in proportion to n^(1/temperature).
        budget: what differs from the plan's. Its epochs pass over the rows of all tasks, so that a task has on average
            as many steps as by itself.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=2)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    budget: dict[str, Any] = {}


class Transfer(Part):
    """What was learned on one task, asked of another one without training; the checkpoint is the one chosen in-domain.

    Arguments:
        from: the task that was learned. to: the task whose reporting rows are asked.
        labels: from classes learned to classes asked, by name; those left out keep their name.
    """

    source: str = Field(alias="from")
    to: str
    labels: dict[str, str] = {}
