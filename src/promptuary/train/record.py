"""The record of a run: one JSON object a line, the first of them the configuration, the others what happened.

    {"event": "config", "seed": 0, "recipe": {...}, "settings": {...}, "versions": {...}, "hardware": {...}}
    {"event": "step", "step": 1, "loss": 0.69, "norm": 0.4, "rates": {"prompt": 0.01}}
    {"event": "scores", "step": 8, "accuracy": 0.75, "macro_f1": 0.74, "loss": 0.6, "best": true}
    {"event": "choices", "step": 8, "rows": 64, "entropy": {"generator.choice": 1.2}, "share": {...}}
    {"event": "alarm", "step": 80, "name": "still", "sentence": "..."}
    {"event": "end", "step": 80, "best_step": 64, "rows": 2560, "counts": {"nominal": 770, ...}, "seconds": 12.3}

`choices` stands beside the scores of prompts that choose: the mean entropy of each choice over the rows since the last
such line, in nats and as a share of log(options).

Lines are only ever added, except when a run goes on from a saved state: events after that state are dropped, since
they happen again.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from promptuary.errors import CheckpointError, TrainingError
from promptuary.files import write

NAME = "record.jsonl"
Event = Mapping[str, Any]


class Record:
    """The events of a run, in memory and, with a path, as lines of a file.

    Arguments:
        path: of the file; `None` keeps the events in memory only.
        hear: is told each event that is added, and what the run was started with.
    """

    def __init__(self, path: Path | None, hear: Callable[[Event], None] = lambda event: None) -> None:
        self.path, self.hear = path, hear
        self.events: list[Event] = []

    def begin(self, config: Event) -> None:
        """Start anew with a configuration; a record left by a run that saved no state is replaced.

        Raises:
            TrainingError: when the file cannot be written.
        """
        self.events = [{"event": "config", **config}]
        if self.path is not None:
            write(self.path, _line(self.events[0]))
        self.hear(self.events[0])

    def resume(self, step: int, count: int) -> list[Event]:
        """Go on after `step`, when the record had `count` events: later lines, and half a line, are dropped.

        Returns:
            The events that are kept.

        Raises:
            CheckpointError: when the file has not the events of that step.
            TrainingError: when it cannot be written.
        """
        assert self.path is not None
        lines = self.path.read_bytes().split(b"\n")[:count] if self.path.is_file() else []
        try:
            self.events = [json.loads(line) for line in lines]
        except ValueError:
            self.events = []
        if len(self.events) != count or self.events[-1].get("step", 0) > step:
            raise CheckpointError(
                f"{self.path} does not hold the {count} events that the saved state at step {step} knows of. Restore "
                f"the file, or delete the folder {self.path.parent} to start the run anew."
            )
        write(self.path, b"".join(_line(event) for event in self.events))
        self.hear(self.events[0])
        return self.events

    def add(self, event: str, **values: Any) -> None:
        """Add an event.

        Raises:
            TrainingError: when the disk is full; the lines before it stay whole.
        """
        self.events.append({"event": event, **values})
        self.hear(self.events[-1])
        if self.path is None:
            return
        length = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(_line(self.events[-1]))
        except OSError as error:
            os.truncate(self.path, length)
            raise TrainingError(
                f"{self.path}: could not be written ({error.strerror or error}). Make room and run the same command "
                "again: it goes on from the last saved state."
            ) from error

    def settle(self) -> None:
        """Make sure that the lines are on the disk: a state that counts them is saved next."""
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise TrainingError(
                f"{self.path}: could not be flushed to the disk ({error.strerror or error}). Make room and run the "
                "same command again: it goes on from the last saved state."
            ) from error


def read(path: Path) -> list[Event]:
    """The events of a record: its whole lines up to the first that is none; nothing where there is no file."""
    events: list[Event] = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            break
        events.append(event)
    return events


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample; 0 for one seed) of one score over seeds."""

    mean: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.deviation:.4f} ({self.seeds} seeds)"


def spread(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Mean ± deviation of each score that all runs have."""
    shared = [name for name in (scores[0] if scores else {}) if all(name in s for s in scores)]
    columns = {name: [s[name] for s in scores] for name in shared}
    return {n: Spread(mean(c), stdev(c) if len(c) > 1 else 0.0, len(c)) for n, c in columns.items()}


def surroundings() -> dict[str, Any]:
    """Versions, hardware, threads and (inside a repository) the commit: what a number's origin needs.

    `products` are the roads that a frozen model's products take on the processor (`cpu_linear.roads`).
    """
    from promptuary.backbones.cpu_linear import roads

    packages = ("torch", "transformers", "promptuary")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "processors": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "products": roads(),
        },
        "commit": _commit(),
    }


def origin(records: Iterable[Mapping[str, Any]]) -> str:
    """By what numbers were made, in words: commit, versions, hardware; all of them, where they differ.

    Arguments:
        records: each with what `surroundings` says.
    """
    known = list(records)

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(v) for v in values if v is not None})) or "unknown"

    names = sorted({name for r in known for name in r["versions"]})
    versions = "; ".join(f"{n} {all_of(r['versions'].get(n) for r in known)}" for n in names)
    hardware = all_of(
        f"{h['accelerator'] or h['machine']} with {h['processors']} processors and {h['threads']} threads"
        for h in (r["hardware"] for r in known)
    )
    commits = all_of(c and c[:12] + "+" * c.endswith("+") for c in (r["commit"] for r in known))
    return f"Commit {commits}; {versions}; {hardware}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _commit() -> str | None:
    """The commit of the code that runs, with `+` where files were changed since; `None` outside its repository."""
    here = Path(__file__)
    try:
        # An installed copy may lie inside somebody else's repository: ask first whether this file is part of it.
        _git("ls-files", "--error-unmatch", here.name)
        return _git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _line(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
