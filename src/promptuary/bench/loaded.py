"""What the jobs of a plan share in one process: rows that were read and models that were loaded."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import check, load
from promptuary.bench.grounds import Ground, Rows, rows_of
from promptuary.bench.plan import Plan
from promptuary.bench.store import Job
from promptuary.errors import DataError
from promptuary.precision import unwise


@dataclass(eq=False)
class Loaded:
    """Rows and models of a plan, each read once, when a job first asks.

    `about` is what a job is about: its task or mixture, regime, backbone, method and seed.

    Arguments:
        says: is told what is worth a line.
    """

    plan: Plan
    says: Callable[[str], None] = lambda sentence: None
    _backbones: dict[tuple[Any, ...], Backbone] = field(default_factory=dict)
    _rows: dict[tuple[str, str, int], Rows] = field(default_factory=dict)

    def grounds(self, about: Mapping[str, Any]) -> dict[str, Ground]:
        """What a method gets of each task: rows that teach and select, in no way the others."""
        budget = self.plan.budget_of(about["task"], about["regime"], about["backbone"])
        published = self.plan.published(str(about["method"]))  # the frozen model's dropout, where the task leaves it
        found = {}
        for task in self.plan.members(str(about["task"])):
            run, rows = self.plan.run(task, **published), self.rows(about, task)
            key = (about["backbone"], budget.precision, run.dropout)
            if key not in self._backbones:
                dtype = torch.bfloat16 if budget.precision == "bf16" else torch.float32
                self._backbones[key] = load(str(about["backbone"]), dtype=dtype, dropout=run.dropout, device=run.device)
                if said := unwise(budget.precision, self._backbones[key].device):
                    self.says(said)
            asked = {**self.plan.tasks[task].asked(), "device": self.plan.device}
            found[task] = Ground(asked, budget, self._backbones[key], rows.task, rows.train, rows.selection)
        return found

    def read(self, jobs: Iterable[Job]) -> dict[tuple[str, str], Rows]:
        """The rows that jobs will ask for, by task and regime (those of the last seed): what is wrong with them, or
        with the names of backbones, is told now.

        Raises:
            BackboneError: for a backbone that is not to be had here.
            DataError: for files that are missing or broken, and for too few rows.
        """
        for backbone in self.plan.backbones:
            check(backbone)
        found = {}
        for job in jobs:
            for task in self.plan.members(str(job.about["task"])):
                found[task, str(job.about["regime"])] = self.rows(job.about, task)
        return found

    def rows(self, about: Mapping[str, Any], task: str) -> Rows:
        """The rows of a task; where a regime draws them, those of the job's seed."""
        drawn = self.plan.regimes[about["regime"]].drawn
        key = (task, about["regime"], about["seed"] if drawn else 0)
        if key not in self._rows:
            try:
                self._rows[key] = rows_of(self.plan, *key)
            except DataError as error:
                raise DataError(f"Task {task!r}, regime {about['regime']!r}: {error}") from error
        return self._rows[key]
