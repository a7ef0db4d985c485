"""The description of one run: a TOML file and its overrides on one side, typed values on the other.

[run]
backbone = "minilm"
train = "messages.jsonl"
text = "body"
label = "topic"
method = "p-tuning-v2"
seeds = [0, 1, 2]

[method]          # the method's own settings
length = 16

[recipe]          # any field of Recipe
epochs = 20

[rates]           # learning rates of single parts, by their place or name
choice = 0.003

With tables `[tasks.NAME]` it describes one prompt that several tasks share (`promptuary.multitask`).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)

from promptuary.errors import SettingError, nearest
from promptuary.kinds import KINDS, Kind
from promptuary.methods import METHODS, method
from promptuary.tasks import TASKS, chosen
from promptuary.train.recipe import FIELDS, Recipe

ReadoutName = Literal["auto", "classifier", "verbalizer", "text"]
Pool = Literal["auto", "first", "mean", "last"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
EXACT = ConfigDict(strict=True, allow_inf_nan=False)


class Run(BaseModel):
    """One run: which backbone, which data, which method, and what to change of the method's own recipe.

    Arguments:
        backbone: a short name, a folder, or a name on the hub.
        task: `classification`, `text`, `tagging` or `answering` (see `promptuary.kinds`), or a named task and its
            wording, as `boolq` or `boolq/cloze` (see `promptuary.tasks`): it fills in rows, columns, template,
            read-out, label words and metric, and whatever is stated beside it wins.
        train, validation: files, data set names, or `sample:NAME/SPLIT`. Without validation rows, a tenth of the
            training rows is held out (`holdout`), stratified by label.
        text, text_pair, label: columns. The defaults are the kind's: tagging reads `tokens` and `tags`, answering
            `question`, `context` (the `text_pair`) and `answers`, text `text` and `target`.
        method: as `promptuary methods` lists them. settings: its own settings.
        init: `auto`, `random`, `uniform` (U(-0.5, 0.5)), `zeros`, `vocabulary`, `labels`, `words:SOME WORDS`,
            `file:PATH`, `prompt:FOLDER`, `peft:FOLDER` (an adapter of PEFT), `activations` (keys and values of real
            tokens; for prompts that enter as keys and values), `embeddings` (the backbone's whole table; for look-up
            tables at the input).
        preset: a published set-up of the method by name (`promptuary methods`): recipe, settings, and what else of
            this run it names. Whatever is stated beside it wins. recipe: single fields to change. rates: learning
            rates of parts of the prompt or the read-out by place or name (`promptuary.train.groups`), never scaled.
        readout: `classifier` (a trained head), `verbalizer` (label words), `text` (the label is written out), or
            `auto`: a classifier on encoders and where there is no prompt, a verbalizer on causal models, text on
            encoder-decoders.
        pool: which state the classifier reads. words: label words by label. template: see `data/wording.py`.
        z_loss: weight of the squared log of the normaliser where a text is learned; other read-outs have none.
        max_length: cut longer texts; without it a text that does not fit is an error.
        max_new_tokens: of the longest text that is written (task `text`).
        metric: what chooses the best checkpoint; the kind of task says which there are.
        seeds: one run each. out: where the prompt goes (with several seeds: a folder each, below it).
        dropout: keep the frozen model's own dropout while tuning. device: `auto` is the GPU where there is one.
        activations_gib: GiB of disk for states of the frozen model that training asks for again in every epoch (late
            prompts, prompts made from its reading of the input, the frozen control); 0 keeps none. activations_in:
            their folder, which runs may share (default: promptuary/activations in the user's cache).
        track: experiment trackers that are told of the run as it goes (`promptuary.train.tracking`).

    Raises:
        SettingError: naming the field, what was given and what is expected; unknown names with the nearest known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = "minilm"
    task: str = "classification"
    train: str
    validation: str | None = None
    holdout: float = Field(default=0.1, gt=0.0, lt=1.0)
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    method: str = "p-tuning-v2"
    settings: dict[str, Any] = {}
    init: str = "auto"
    preset: str | None = None
    recipe: dict[str, Any] = {}
    rates: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] = {}
    readout: ReadoutName = "auto"
    pool: Pool = "auto"
    words: dict[str, str | list[str]] = {}
    z_loss: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    template: str | None = None
    max_length: int | None = Field(default=None, gt=0)
    max_new_tokens: int = Field(default=32, gt=0)
    metric: str = "accuracy"
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    dropout: bool = False
    device: str = "auto"
    save_every: int = Field(default=50, gt=0)
    activations_gib: float = Field(default=4.0, ge=0.0, allow_inf_nan=False)
    activations_in: str | None = None
    track: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    out: str

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, values: Any, made: ModelWrapValidatorHandler[Self]) -> Self:
        for name in values:
            if name not in cls.model_fields:
                raise SettingError(f"A run has no setting {name!r}. {nearest(name, cls.model_fields)}")
        kind, named = _asked(values.get("task", "classification"), values)
        for name, field in cls.model_fields.items():
            if field.is_required() and name not in {**named, **values}:
                raise SettingError(
                    f'Setting {name!r} is missing. Write --{name} NAME on the command line, or {name} = "NAME" below '
                    "[run] in the run's file."
                )
        try:
            run = made(merged({**kind.defaults, **named, **cls._preset(values, kind)}, values))
        except ValidationError as error:
            raise SettingError(complaint(error, "Setting")) from error
        run._check_kind(kind)
        if len(set(run.seeds)) < len(run.seeds):
            raise SettingError(f"Setting 'seeds': {list(run.seeds)} names one twice. Expected different seeds.")
        return run

    @classmethod
    def _preset(cls, values: Mapping[str, Any], kind: type[Kind]) -> dict[str, Any]:
        """What the preset that `values` name sets of a run, but for what they state themselves."""
        if values.get("preset") is None:
            return {}
        chosen = method(str(values.get("method", cls.model_fields["method"].default)))
        preset = chosen.preset(str(values["preset"]))
        left = {*preset.run} - _foreign(kind) - ({*values} - {"rates"})  # of rates, single ones are stated
        own = {name: value for name, value in preset.run.items() if name in left}
        return {**own, "settings": dict(preset.settings)}

    def _check_kind(self, kind: type[Kind]) -> None:
        """Raise `SettingError` for settings and metrics that belong to other kinds of tasks."""
        for name in sorted(_foreign(kind)):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise SettingError(f"Setting {name!r}: task={kind.name!r} has none (given: {value!r}). Leave it out.")
        metrics = kind.metrics if self.named is None else (*kind.metrics, *chosen(self.task)[0].measured)
        if self.metric not in metrics:
            raise SettingError(
                f"Setting 'metric': task={self.task!r} does not measure {self.metric!r}. "
                f"{nearest(self.metric, metrics)}"
            )

    @property
    def kind(self) -> type[Kind]:
        """The kind of its task."""
        return KINDS[self.task] if self.named is None else KINDS[chosen(self.task)[1].kind]

    @property
    def named(self) -> str | None:
        """Its task where that is one with a name, not a kind of tasks."""
        return None if self.task in KINDS else self.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a named task in their order; of other tasks the training rows tell them."""
        return () if self.named is None else chosen(self.task)[1].classes

    @property
    def unit(self) -> str | None:
        """The column whose equal values make rows one question of a named task; rows of other tasks stand alone."""
        return None if self.named is None else chosen(self.task)[1].unit

    def check_settings(self) -> None:
        """Look at the method's settings before any long work.

        Raises:
            SettingError: for an unknown method or setting, with the nearest known; for a value of another type.
        """
        chosen = method(self.method)
        known = chosen.settings()
        for name in self.settings:
            if name not in known:
                raise SettingError(f"Method {chosen.name!r} has no setting {name!r}. {nearest(name, known)}")
        _typed(self.settings, chosen.types())

    def full_recipe(self) -> Recipe:
        """The method's recipe (or the preset's), with this run's changes.

        Raises:
            SettingError: for an unknown field, or a value out of range.
        """
        chosen = method(self.method)
        base = chosen.recipe if self.preset is None else chosen.preset(self.preset).recipe
        for name in self.recipe:
            if name not in FIELDS:
                raise SettingError(f"A recipe has no field {name!r}. {nearest(name, FIELDS)}")
        _typed(self.recipe, get_type_hints(Recipe))
        changes = dict(self.recipe)
        if "epochs" in changes and "steps" not in changes:
            changes["steps"] = 0  # a preset that counts steps gives way to epochs that were asked for
        return replace(base, **changes)


def _asked(name: object, values: Mapping[str, Any]) -> tuple[type[Kind], dict[str, Any]]:
    """The kind of a task, and what a named task sets of a run; its rows only where no training rows are stated."""
    if name in KINDS:
        return KINDS[str(name)], {}
    if str(name).partition("/")[0] not in TASKS:
        raise SettingError(
            f"Setting 'task': there is no kind {name!r}, and no task of that name. "
            f"{nearest(str(name), {*KINDS, *TASKS})}"
        )
    task, wording = chosen(str(name))
    rows = {part: f"task:{name}/{part}" for part in ("train", "validation")} if "train" not in values else {}
    return KINDS[wording.kind], {"metric": task.metric, **rows, **wording.settings}


def _foreign(kind: type[Kind]) -> set[str]:
    """The settings of a run that only other kinds of tasks have."""
    return {name for other in KINDS.values() for name in other.takes} - kind.takes


def complaint(error: ValidationError, what: str, depth: int | None = None) -> str:
    """The first thing that is wrong, as a sentence that names the field; `what` says what kind of field it is.

    Arguments:
        depth: how much of the field's place is told (a choice of types adds the type that was tried to it).
    """
    first = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"][:depth])
    given = "" if first["type"] == "missing" else f" (given: {repr(first['input'])[:200]})"
    return f"{what} {place!r}: {first['msg'].lower()}{given}."


def read_run(path: Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """A run from a TOML file, with overrides on top.

    Raises:
        SettingError: when the file is missing or is not TOML, and as `Run`.
    """
    found = document(path)
    if "tasks" in found:
        raise SettingError(f"{path} describes several tasks. Expected one run: leave out the tables [tasks.NAME].")
    return Run(**merged(stated(found), overrides or {}))


def document(path: Path) -> dict[str, Any]:
    """The tables of a TOML file that describes a run, or one prompt for several tasks (`promptuary.multitask`).

    Raises:
        SettingError: when the file is missing or is not TOML, and for a table that neither has.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}. Expected a TOML file that describes a run.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}.") from error
    tables = {"run", "method", "recipe", "rates", "tasks", "mixture"}
    for name, table in found.items():
        if name not in tables:
            raise SettingError(f"{path}: no table [{name}]. {nearest(name, tables)}")
        if not isinstance(table, dict):
            raise SettingError(f"{path}: {name} is {table!r}. Expected a table [{name}] with settings below it.")
    if "mixture" in found and "tasks" not in found:
        raise SettingError(f"{path}: [mixture] mixes the tasks of tables [tasks.NAME], and there is none.")
    return found


def stated(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `Run` that the tables state."""
    below = {"settings": document.get("method"), **{name: document.get(name) for name in ("recipe", "rates")}}
    return merged(document.get("run", {}), {name: table for name, table in below.items() if table})


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` on top of `values`; the dictionaries inside are merged key by key."""
    result = dict(values)
    for name, value in overrides.items():
        old = result.get(name)
        result[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def parse_settings(pairs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """`["length=5", "rate=0.1", "rates.choice=0.003"]` as settings of a method, fields of the recipe, rates of parts.

    Values are TOML, else text.

    Raises:
        SettingError: for a pair without `=`; for a name that no method and no recipe has, with the nearest.
    """
    own: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    known = {name for m in METHODS.values() for name in m.settings()}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise SettingError(f"{pair!r}: expected NAME=VALUE.")
        part = name.removeprefix("rates.")
        if part == name and name not in FIELDS and name not in known:
            raise SettingError(f"No method and no recipe has a setting {name!r}. {nearest(name, {*FIELDS, *known})}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        (rates if part != name else recipe if name in FIELDS else own)[part] = value
    return own, recipe, rates


def _typed(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise `SettingError` for a value of another type than its name has."""
    fields: dict[str, Any] = {name: (hints[name], ...) for name in values}
    try:
        create_model("Typed", __config__=EXACT, **fields)(**values)
    except ValidationError as error:
        raise SettingError(complaint(error, "Setting", 1)) from error
