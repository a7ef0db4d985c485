"""What a method is: a function that builds its parts, the recipe that trains them, and its papers' set-ups."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from promptuary.errors import SettingError, nearest
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Shape

Build = Callable[..., "Built"]

# What a prompt that is made from the input is made from and learns, or a control of it (`promptuary.controls`).
Control = Literal["none", "shuffled", "frozen"]

# Settings that name what a prompt starts from: a saved prompt holds what became of it, and is opened without.
STARTS = frozenset({"pretrained", "sources"})


def some(length: int) -> None:
    """Raise `SettingError` where a prompt that is chosen or made from the input would have no soft tokens."""
    if length < 1:
        raise SettingError(
            f"length={length}: what is chosen or made from the input needs soft tokens. Expected 1 or more; for the "
            "control without a prompt write method='frozen'."
        )


def check_control(control: Control, *, reads: bool = True) -> None:
    """Raise `SettingError` for an unknown control, and for one of a prompt that is not made from the input."""
    if control not in ("none", "shuffled", "frozen"):
        raise SettingError(f"control={control!r}: expected 'none', 'shuffled' or 'frozen'.")
    if control != "none" and not reads:
        raise SettingError(f"control={control!r}: nothing of this prompt is made from the input. Leave it out.")


def embedded(sees_input: bool, what: str) -> None:
    """Raise `SettingError` where soft tokens are not to see the input, but are not embeddings because of a setting."""
    if not sees_input:
        raise SettingError(
            f"sees_input=False with {what}: only soft tokens that enter as embeddings can be kept from seeing it. "
            "Leave out one of the two."
        )


@dataclass(frozen=True)
class Preset:
    """A set-up that was published: the defaults of a run that names it. What the run states itself wins.

    Arguments:
        summary: one line: whose it is, and in what it departs from what was published.
        recipe: how the prompt is trained.
        settings: of the method. run: of the run, by the names that `promptuary.Run` has for them; a kind of task
            leaves out those it has not.
    """

    summary: str
    recipe: Recipe
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One method of a paper.

    Arguments:
        name: as on the command line.
        summary: one line.
        paper: authors, year, title, where to find it.
        build: `(shape, *, length, init, seed, ...) -> (generator, injection)`. Its keyword arguments are the
            method's settings: there is no second schema. Methods whose soft tokens a network makes have no `init`.
            It imports `promptuary.parts` inside, so that its settings can be read without torch.
        recipe: defaults that learn on small and middle-sized models.
        init: the start that `auto` names (see `promptuary.assembly.start`); `random` is the build function's own.
        given: settings whose defaults differ from the build function's.
        rates: learning rates of single parts (see `promptuary.train.groups`).
        presets: published set-ups by name.
    """

    name: str
    summary: str
    paper: str
    build: Build
    recipe: Recipe
    init: str = "random"
    given: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The method's settings with their defaults (without `init` and `seed`, which every run has)."""
        return {p.name: p.default for p in self._parameters()} | dict(self.given)

    def types(self) -> dict[str, Any]:
        """The types of the method's settings."""
        return {p.name: p.annotation for p in self._parameters()}

    def _parameters(self) -> list[inspect.Parameter]:
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        return [p for p in parameters if p.name not in ("init", "seed")]

    def preset(self, name: str) -> Preset:
        """The preset of that name.

        Raises:
            SettingError: for an unknown name, with the nearest known one.
        """
        if not self.presets:
            raise SettingError(f"Method {self.name!r} has no presets; leave it out.")
        if name not in self.presets:
            raise SettingError(f"Method {self.name!r} has no preset {name!r}. {nearest(name, self.presets)}")
        return self.presets[name]

    def parts(self, shape: "Shape", **settings: Any) -> "Built":
        """Build generator and injection for a backbone.

        Raises:
            SettingError: for a setting the method does not have, with the nearest one it has.
        """
        known = inspect.signature(self.build).parameters
        if "init" in settings and "init" not in known:
            raise SettingError(
                f"Method {self.name!r} makes its soft tokens by a network, which has no start to choose. "
                "Leave init at 'auto'."
            )
        for name in settings:
            if name not in known or name == "shape":
                raise SettingError(f"Method {self.name!r} has no setting {name!r}. {nearest(name, self.settings())}")
        return self.build(shape, **{**self.given, **settings})
