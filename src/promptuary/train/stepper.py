"""One optimizer step: gradients of one or more batches, clipping, rates, and an eye on what the step did."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from promptuary.data.batch import Batch
from promptuary.errors import DivergedError, MemoryShortError, SettingError
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train import groups, lazy, schedule
from promptuary.train.alarms import Watch
from promptuary.train.entropies import Entropies
from promptuary.train.evaluation import arithmetic, training
from promptuary.train.recipe import Recipe
from promptuary.train.team import ALONE, Team, alone


@dataclass(frozen=True)
class Step:
    """What a step did: the mean loss over its answers, the norm of all gradients before clipping, the rates."""

    loss: float
    norm: float
    rates: Mapping[str, float]


class Stepper:
    """Model, read-out and optimizer.

    Arguments:
        total: steps of the whole run, which the schedule of rates needs.
        rates: learning rates of single parts; see `train/groups.py`.
        team: the processes that make each step together.

    Raises:
        SettingError: as `groups`; when the model was built with another dropout than the recipe's; in a process
            that is one of several without their team.
    """

    def __init__(
        self,
        model: SoftPrompted,
        readout: Readout,
        recipe: Recipe,
        total: int,
        rates: Mapping[str, float] | None = None,
        team: Team | None = None,
    ) -> None:
        if model.dropout != recipe.dropout:
            raise SettingError(
                f"The recipe has dropout={recipe.dropout}, the model was built with dropout={model.dropout}. "
                "Write SoftPrompted(..., dropout=recipe.dropout)."
            )
        if team is None:
            alone("This")
        self.model, self.readout, self.recipe, self.total = model, readout, recipe, total
        self.team = team or ALONE
        self.device = model.backbone.device
        model.to(self.device)
        readout.to(self.device)
        self.named = groups.trained(model, readout)
        self.optimizer = groups.optimizer(recipe, groups.groups(model, readout, recipe, rates))
        self.watch = Watch.of(self.named, model.backbone.shape.deviation)
        self.team.begin_alike(p.data for p in self.named.values())
        self.entropies = Entropies(model.choices, self.team)
        self.number = 0

    def step(self, number: int, batches: Sequence[Batch]) -> Step:
        """Step number `number` (from 1) on the rows of `batches`, as if they were one batch.

        Raises:
            DivergedError: when loss or gradient are no finite numbers; no tensor has moved then.
            MemoryShortError: when memory is short; no tensor has moved then.
        """
        self.number = number
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * schedule.factor(self.recipe, number, self.total)
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        training(self.model, self.readout, True)
        self.optimizer.zero_grad()
        loss = self._gradients(batches)
        norm = float(nn.utils.clip_grad_norm_(list(lazy.gathered(self.named)), self.recipe.clip or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self._diverged(number, loss, norm, rates)
        self.watch.before(self.named, number)
        self.optimizer.step()
        self.watch.after(self.named)
        return Step(loss, norm, rates)

    def close(self) -> None:
        """Drop gradients and leave training mode."""
        self.optimizer.zero_grad()
        training(self.model, self.readout, False)

    def _gradients(self, batches: Sequence[Batch]) -> float:
        """Gradients of the mean loss over all answers of all batches; returns that loss.

        What choices add to it is a mean over rows.
        """
        answered, rows = sum(map(self.readout.count, batches)), sum(len(batch.ids) for batch in batches)
        total = 0.0
        for own in (batch.every(self.team.size, self.team.rank) for batch in batches):
            if own is None:
                continue
            try:
                answers, choices = self._losses(own.to(self.device))
                loss = answers * (self.readout.count(own) / max(1, answered)) + choices * (len(own.ids) / rows)
                loss.backward()  # type: ignore[no-untyped-call]
            except torch.OutOfMemoryError as error:
                raise MemoryShortError(
                    f"The device's memory is short for {len(own.ids)} rows of {own.ids.shape[1]} tokens. Halve "
                    f"batch (now {self.recipe.batch}) and double accumulation (now {self.recipe.accumulation}): the "
                    "steps stay the same. Or set checkpointing=True."
                ) from error
            total += float(loss.detach())
        self.team.sum_gradients(self.named.values())
        return self.team.sum([total])[0]

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The mean loss over a batch's answers, and what its rows' choices add."""
        with arithmetic(self.device, self.recipe.precision):
            x = self.model.instance_of(batch, step=self.number)
            out = self.model(x, self.readout.targets(batch), self.readout.columns(batch))
            loss = self.readout.loss(out, batch).float()
            self.entropies.note(x)
            return loss, sum(x.losses)

    def _diverged(self, number: int, loss: float, norm: float, rates: Mapping[str, float]) -> DivergedError:
        what = f"the gradient's norm is {norm} (loss {loss:.4g})" if math.isfinite(loss) else f"the loss is {loss}"
        given = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
        return DivergedError(
            f"Step {number}: {what}, at the learning rates {given}. Nothing of this step was kept. Try a rate ten "
            f"times smaller (rate={self.recipe.rate / 10:g}), clip=1.0, a longer warmup, or precision='fp32', in "
            "another folder."
        )
