"""What a search may change, and the settings that it tries.

A space is a table: for each setting its values, or a range. The settings to be tried are drawn before anything runs,
from a seed, so that they are the same for every process, after every restart, and for every seed of a method.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from promptuary.errors import SettingError

TRIES = 1000  # draws for one more settings, before a space is taken to have no other


class Range(BaseModel):
    """All numbers from `low` to `high`: whole ones where both are; with `log`, each factor of ten as likely."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            above = " above 0" if self.log else ""
            raise SettingError(f"A range from {self.low} to {self.high}: expected low{above} and below high.")
        return self


Space = Mapping[str, Sequence[Any] | Range]
Settings = dict[str, Any]


def around(name: str, value: float) -> Space:
    """A third, once and three times a default, to three digits."""
    return {name: tuple(float(f"{factor * value:.3g}") for factor in (1 / 3, 1, 3))}


def first(space: Space) -> Settings:
    """The first settings of a space."""
    return {name: values.low if isinstance(values, Range) else values[0] for name, values in space.items()}


def draws(space: Space, count: int, *, seed: int, without: Mapping[str, Any]) -> list[Settings]:
    """`count` different settings of a space, or as many as it has.

    Arguments:
        without: the default, which is not drawn again.
    """
    import optuna

    if not space or count < 1:
        return []
    ways = {name: distribution(values) for name, values in space.items()}
    sampler = optuna.samplers.RandomSampler(seed)
    with quietly():
        study = optuna.create_study(sampler=sampler)
    found: list[Settings] = []
    for _ in range(TRIES):
        drawn = study.ask(ways).params
        if drawn not in found and any(without.get(name) != value for name, value in drawn.items()):
            found.append(drawn)
        if len(found) == count:
            break
    return found


@contextmanager
def quietly() -> Iterator[None]:
    """Without optuna's notes on what it does."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def distribution(values: Sequence[Any] | Range) -> Any:
    """The values as optuna keeps them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(tuple(values))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
