"""The description of one prompt that several tasks share: a TOML file on one side, a run for each task on the other.

[run]
method = "dp-vector"
out = "runs/shared"

[mixture]
temperature = 2

[tasks.topic]
train = "messages.jsonl"
label = "topic"

[tasks.mood]
task = "sst2/classifier"

Nothing in here imports torch.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from promptuary.errors import SettingError
from promptuary.material import Material, gather
from promptuary.methods import method
from promptuary.specs import Run, complaint, document, merged, stated

# What each task of a mixture has for itself; everything else is of the prompt that they share.
OWN = frozenset({
    "task", "train", "validation", "holdout", "text", "text_pair", "label", "readout", "pool", "words", "z_loss",
    "template", "max_length", "max_new_tokens", "metric",
})  # fmt: skip
TaskName = Annotated[str, Field(pattern=r"^[\w@-][\w.@-]*$")]


class Multitask(BaseModel):
    """One prompt that several tasks share, tuned on a mixture of their rows; each task has a read-out of its own.

    Arguments:
        tasks: by name, those settings of a `Run` that differ from task to task (`OWN`).
        temperature: tasks are mixed at rates in proportion to n^(1/temperature), n being their training rows: 1 mixes
            them as large as they are, more of it makes them more alike.
        shared: the other settings of a `Run`, and settings of tasks that are the same for all. `out` is the folder of
            the run; each task's prompt goes into a folder of its name below it.

    Raises:
        SettingError: naming the field, what was given and what is expected; as `Run` for each task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Annotated[dict[TaskName, dict[str, Any]], Field(min_length=2)]
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    shared: dict[str, Any] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, values: Any, made: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            plan = made(values)
        except ValidationError as error:
            raise SettingError(complaint(error, "Setting")) from error
        for name, own in plan.tasks.items():
            for setting in own:
                if setting in Run.model_fields and setting not in OWN:
                    raise SettingError(
                        f"Task {name!r}: {setting!r} is of the prompt that all tasks share, not of one task. "
                        "Write it below [run]."
                    )
        if plan.conditioned is None and "tasks" in plan.shared.get("settings", {}):
            raise SettingError(
                f"Method {plan.shared.get('method')!r} has nothing of its own for a task. Leave 'tasks' out."
            )
        plan.runs  # noqa: B018 - what is wrong with one of them is told now
        return plan

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The run of each task by itself, with the prompt's settings as they are once it is the task's own."""
        settings = {k: v for k, v in self.shared.get("settings", {}).items() if k != "tasks"}
        shared = {**self.shared, "settings": settings}
        out = Path(str(shared.get("out", "")))
        if "out" not in shared:
            raise SettingError("Setting 'out' is missing. Write --out FOLDER, or out = \"FOLDER\" below [run].")
        found = {}
        for name, own in self.tasks.items():
            try:
                found[name] = Run(**{**merged(shared, own), "out": str(out / name)})
            except SettingError as error:
                raise SettingError(f"Task {name!r}: {error}") from error
            if found[name].metric == "loss":
                better = [metric for metric in found[name].kind.metrics if metric != "loss"]
                raise SettingError(
                    f"Task {name!r}: metric='loss' has no mean with the scores of other tasks. Name one from 0 to 1: "
                    f"{', '.join(better)}."
                )
        return found

    @property
    def conditioned(self) -> int | None:
        """For how many tasks the prompt has something of their own: all of them unless `settings` say `tasks=1`; `None`
        where the method has nothing of a task's own.
        """
        chosen = method(str(self.shared.get("method", Run.model_fields["method"].default)))
        if "tasks" not in chosen.settings():
            return None
        given: int = self.shared.get("settings", {}).get("tasks", len(self.tasks))
        if given not in (1, len(self.tasks)):
            raise SettingError(
                f"Setting 'tasks': {given!r}. Expected 1 (all tasks share everything) or {len(self.tasks)}, the "
                "number of tasks, which is the default."
            )
        return given


def read_tasks(path: Path, overrides: Mapping[str, Any] | None = None) -> Multitask | None:
    """Several tasks from a TOML file, with overrides of what they share on top; `None` where it describes one run.

    Raises:
        SettingError: when the file is missing or is not TOML, and as `Multitask`.
    """
    found = document(path)
    if "tasks" not in found:
        return None
    shared = merged(stated(found), overrides or {})
    return Multitask(**{**found.get("mixture", {}), "tasks": found["tasks"], "shared": shared})


def gather_tasks(plan: Multitask) -> dict[str, Material]:
    """The rows of every task.

    Raises:
        PromptuaryError: as `gather`.
    """
    return {name: gather(run) for name, run in plan.runs.items()}
