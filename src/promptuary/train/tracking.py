"""A run's events on their way to an experiment tracker, as they happen; the trackers are accelerate's.

What holds is the record in the run's folder: a tracker is told the same, and of steps that are made again after an
interruption again.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptuary.errors import SettingError
from promptuary.train.record import Event

PROJECT = "promptuary"  # under which trackers that know projects keep runs


@dataclass(frozen=True)
class Kind:
    """A tracker: of which packages it needs one, and what accelerate makes it of for a run in a folder."""

    packages: tuple[str, ...]
    given: Callable[[Path], Mapping[str, Any]]


TRACKERS: Mapping[str, Kind] = MappingProxyType(
    {
        "tensorboard": Kind(
            ("tensorboard", "tensorboardX"), lambda folder: {"run_name": "tensorboard", "logging_dir": folder}
        ),
        "wandb": Kind(("wandb",), lambda folder: {"run_name": PROJECT, "name": str(folder)}),
        "trackio": Kind(("trackio",), lambda folder: {"run_name": PROJECT, "name": str(folder)}),
        "mlflow": Kind(("mlflow",), lambda folder: {"experiment_name": PROJECT, "run_name": str(folder)}),
    }
)


def check(names: Sequence[str]) -> None:
    """Refuse what would only fail when the run begins.

    Raises:
        SettingError: for a tracker whose package is not there.
    """
    for name in names:
        packages = TRACKERS[name].packages
        if not _there(packages) or not _there(["accelerate"]):
            raise SettingError(
                f"track={name!r} needs accelerate and {' or '.join(packages)}, which are not installed. Write: "
                f"pip install 'promptuary[track]' {packages[-1]}."
            )


def _there(packages: Sequence[str]) -> bool:
    return any(importlib.util.find_spec(package) for package in packages)


class Tracking:
    """The trackers of a run, which begin with its first step: one that had finished before is not told again.

    Arguments:
        names: of trackers. folder: the run's; TensorBoard's files lie below it, others know the run by its name.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = names, folder
        self._started: Event = {}
        self._trackers: list[Any] = []

    def hear(self, event: Event) -> None:
        """Tell an event of the record."""
        if event["event"] == "config":
            self._started = event
        if event["event"] not in VALUES:
            return
        self._trackers = self._trackers or [self._begun(name) for name in self.names]
        for tracker in self._trackers:
            tracker.log(VALUES[event["event"]](event), step=event["step"])

    def end(self) -> None:
        """The run is over, finished or not."""
        for tracker in self._trackers:
            tracker.finish()

    def _begun(self, name: str) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        tracker = LOGGER_TYPE_TO_CLASS[name](**TRACKERS[name].given(self.folder))
        tracker.start()
        tracker.store_init_configuration(dict(_leaves(self._started)))
        return tracker


# What a tracker draws of an event.
VALUES: Mapping[str, Callable[[Event], dict[str, float | str]]] = MappingProxyType(
    {
        "step": lambda e: {
            "train/loss": e["loss"], "train/norm": e["norm"],
            **{f"rate/{part}": rate for part, rate in e["rates"].items()},
        },
        "scores": lambda e: {f"validation/{k}": v for k, v in e.items() if k not in ("event", "step", "best")},
        "choices": lambda e: {f"undecided/{choice}": share for choice, share in e["share"].items()},
        "alarm": lambda e: {f"alarm/{e['name']}": e["sentence"]},
    }
)  # fmt: skip


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Settings by their whole names; what is neither number nor text as text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else str(value)
