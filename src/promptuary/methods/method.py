"""What a method is: a function that builds its parts, and the recipe that trains them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from promptuary.errors import SettingError, nearest
from promptuary.generators import Generator
from promptuary.injections import Injection
from promptuary.train.recipe import Recipe
from promptuary.values import Shape

Build = Callable[..., tuple[Generator, Injection]]


@dataclass(frozen=True)
class Method:
    """One method of a paper.

    Arguments:
        name: as on the command line.
        summary: one line.
        paper: authors, year, title, where to find it.
        build: `(shape, *, length, init, seed, ...) -> (generator, injection)`. Its keyword arguments are the
            method's settings: there is no second schema. Methods whose soft tokens a network makes have no `init`.
        recipe: defaults that learn on small and middle-sized models.
        init: the start that `auto` names (see `promptuary.assembly.start`); `random` is the build function's own.
        given: settings whose defaults differ from the build function's.
        rates: learning rates of single parts (see `promptuary.train.groups`).
        presets: the paper's own recipe(s) by name.
    """

    name: str
    summary: str
    paper: str
    build: Build
    recipe: Recipe
    init: str = "random"
    given: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    presets: Mapping[str, Recipe] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The method's settings with their defaults (without `init` and `seed`, which every run has)."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in ("init", "seed")} | dict(self.given)

    def parts(self, shape: Shape, **settings: Any) -> tuple[Generator, Injection]:
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
