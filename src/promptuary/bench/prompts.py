"""promptuary's own methods as contenders: what `promptuary.tune` makes of a run, with the recipe of the method."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from promptuary.bench.contender import Answers, Contender, Learned, fitted
from promptuary.bench.grounds import Ground
from promptuary.bench.sections import Budget
from promptuary.bench.space import around
from promptuary.data.source import Row
from promptuary.errors import SettingError, nearest
from promptuary.kinds import KINDS
from promptuary.material import Material
from promptuary.methods.method import STARTS, Method
from promptuary.multitask.plan import OWN
from promptuary.specs import Run
from promptuary.train.progress import Progress
from promptuary.train.recipe import FIELDS, Recipe

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone
    from promptuary.tuning import Outcome

PART = "rates."  # of a setting that is a part's own rate
RUN = frozenset({"init", "preset"})  # settings of a run itself
BUDGET = frozenset({"epochs", "steps", "batch", "accumulation", "patience", "evaluations", "precision"})


class Prompted(Contender):
    """A method of `promptuary.methods`. A search changes its rate by a factor of three, unless a plan says otherwise.

    Settings are those of the method, fields of its recipe, rates of parts (`rates.choice`), `init`, where a prompt
    starts, and `preset`, a published set-up.
    """

    mixes = True

    def __init__(self, method: Method) -> None:
        self.method, self.name, self.summary, self.source = method, method.name, method.summary, method.paper
        # Without a prompt the read-out is all there is to train, and a text has none.
        bare = method.name == "frozen"
        self.kinds = frozenset(KINDS) - ({"text"} if bare else set())
        rate = "head_rate" if bare else "rate"
        self.space = around(rate, getattr(method.recipe, rate))
        rates = {PART + name: value for name, value in method.rates.items()}
        own = {"init": "auto", "preset": None, **method.settings()}
        self.default = MappingProxyType({**_searched(method.recipe), **rates, **own})

    def begun(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        if settings.get("preset") is None:
            return super().begun(settings)
        preset = self.method.preset(settings["preset"])
        own = {"init": preset.run.get("init", "auto"), **{PART + k: v for k, v in preset.run.get("rates", {}).items()}}
        return {**self.default, **_searched(preset.recipe), **preset.settings, **own, **settings}

    def check(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name in BUDGET:
                raise SettingError(f"{name!r} is what a run may spend, the same for all methods: see [budget].")
            if name not in self.default and not name.startswith(PART):
                raise SettingError(f"Method {self.name!r} has no setting {name!r}. {nearest(name, self.default)}")
        run = Run(train="-", out="-", method=self.name, **_parts(settings))
        run.check_settings()
        run.full_recipe()

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        from promptuary.tuning import tune

        run = ground.run(**self._stated(ground.backbone, ground.budget, settings, seed, folder))
        [outcome] = tune(run, backbone=ground.backbone, material=_material(ground), progress=progress, overwrite=True)
        return self._learned(outcome, run)

    def learn_together(
        self, grounds: Mapping[str, Ground], settings: Mapping[str, Any], *, temperature: float, budget: Budget,
        seed: int, folder: Path, progress: Progress | None = None,
    ) -> Learned:  # fmt: skip
        from promptuary.multitask.plan import Multitask
        from promptuary.multitask.tuning import tune_tasks

        first = next(iter(grounds.values()))
        shared = {k: v for k, v in first.asked.items() if k not in OWN}  # a plan has it equal for all of a mixture
        shared |= {"train": "-", **self._stated(first.backbone, budget, settings, seed, folder)}
        own = {name: {k: v for k, v in ground.asked.items() if k in OWN} for name, ground in grounds.items()}
        plan = Multitask(tasks=own, temperature=temperature, shared=shared)
        materials = {name: _material(ground) for name, ground in grounds.items()}
        [found] = tune_tasks(plan, backbone=first.backbone, materials=materials, progress=progress, overwrite=True)
        parts = {name: self._learned(found.tasks[name], plan.runs[name]) for name in grounds}
        stored = sum(part.cost.stored for part in parts.values())
        recipe = next(iter(parts.values())).recipe
        return replace(fitted(found.result, _nothing, stored=stored, recipe=recipe), parts=parts)

    def _stated(
        self, backbone: "Backbone", budget: Budget, settings: Mapping[str, Any], seed: int, folder: Path
    ) -> dict[str, Any]:
        """What a run of the method states beside its task."""
        parts = _parts(settings)
        recipe = {**parts["recipe"], **budget.recipe(), "accumulation": 1, "patience": 0}
        stated = {"backbone": backbone.name, "method": self.method.name, "seeds": (seed,), "out": str(folder)}
        return {**stated, **parts, "recipe": recipe}

    def _learned(self, outcome: "Outcome", run: Run) -> Learned:
        def answer(rows: Sequence[Row]) -> Answers:
            return list(outcome.tuned.predict(rows))

        stored: int = outcome.summary()["bytes"]
        settings = {k: v for k, v in {**self.method.settings(), **run.settings}.items() if k not in STARTS}
        recipe = {**asdict(run.full_recipe()), "settings": settings}
        return fitted(outcome.result, answer, stored=stored, recipe=recipe)


def _material(ground: Ground) -> Material:
    return Material(ground.task, ground.train, ground.selection)


def _nothing(rows: Sequence[Row]) -> Answers:
    raise AssertionError("what was learned together answers task by task")


def _searched(recipe: Recipe) -> dict[str, Any]:
    """What a search may change of a recipe."""
    return {name: value for name, value in asdict(recipe).items() if name not in BUDGET}


def _parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial as a run has them: its own, those of the method, of its recipe, and rates of parts."""
    return {
        **{k: v for k, v in settings.items() if k in RUN},
        "settings": {k: v for k, v in settings.items() if k not in RUN | set(FIELDS) and not k.startswith(PART)},
        "recipe": {k: v for k, v in settings.items() if k in FIELDS},
        "rates": {k.removeprefix(PART): v for k, v in settings.items() if k.startswith(PART)},
    }
