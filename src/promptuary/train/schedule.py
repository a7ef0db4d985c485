"""When things happen in a run, and how the rate moves: all of it a function of the step, so that nothing is stored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from promptuary.data.batch import Batch
from promptuary.errors import SettingError, TrainingError
from promptuary.train.batches import Batches
from promptuary.train.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Arguments:
        batches: batches an epoch; group: batches an optimizer step (the last one of an epoch may have fewer).
        total: optimizer steps of the whole run.
        scored: steps within an epoch (counted from 1) after which the validation rows are scored.
    """

    batches: int
    group: int
    total: int
    scored: frozenset[int]

    @property
    def per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return math.ceil(self.batches / self.group)

    def scores(self, step: int) -> bool:
        """Whether the validation rows are scored after step `step` (counted from 1): always after the last."""
        return step == self.total or (step - 1) % self.per_epoch + 1 in self.scored


def plan(recipe: Recipe, batches: int) -> Plan:
    """The steps of `recipe` over a training set of so many batches.

    Raises:
        SettingError: for a training set without batches.
    """
    if batches < 1:
        raise SettingError("The training set has no batches. Expected at least one row of data.")
    per_epoch = math.ceil(batches / recipe.accumulation)
    scored = {max(1, round(k * per_epoch / recipe.evaluations)) for k in range(1, recipe.evaluations + 1)}
    return Plan(batches, recipe.accumulation, recipe.steps or recipe.epochs * per_epoch, frozenset(scored))


def steps(plan: Plan, train: Batches, done: int) -> Iterator[tuple[int, list[Batch]]]:
    """Number (from 1) and batches of each optimizer step after the first `done` ones.

    Raises:
        TrainingError: when an epoch has another number of batches than `train` said.
    """
    step = done
    while step < plan.total:
        epoch, within = divmod(step, plan.per_epoch)
        stream = islice(train.epoch(epoch), within * plan.group, None)
        for last in range(within + 1, plan.per_epoch + 1):
            group = list(islice(stream, plan.group))
            expected = min(plan.group, plan.batches - (last - 1) * plan.group)
            if len(group) != expected:
                raise TrainingError(
                    f"Epoch {epoch} of the training data ended early: it announced {plan.batches} batches. "
                    "Every epoch must have as many batches as len() says."
                )
            step += 1
            yield step, group
            if step == plan.total:
                return


def factor(recipe: Recipe, step: int, total: int) -> float:
    """The share of the full rate at step `step` (from 1): up during warm-up, then as the schedule says.

    No step has rate 0: the first is one part of the way up, the last one part before the end of the way down.
    """
    rising = math.ceil(recipe.warmup * total)
    if step <= rising:
        return step / rising
    left = (total - step + 1) / (total - rising)
    shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return shapes[recipe.schedule]
