"""A study in small: opinions in files, a tiny random model, a few steps."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptuary.bench.plan import Plan
from tests.saved import Shelf, lines, opinions

STEPS = 3


def plan(shelf: Shelf, folder: Path, *methods: str, family: str = "bert", **more: Any) -> Plan:
    """Opinions on things, good or bad, with rows that teach, select and report."""
    parts = {"train": opinions(24), "selection": opinions(8, start=40), "report": opinions(14, start=60)}
    files = {part: str(lines(folder / f"{part}.jsonl", rows)) for part, rows in parts.items()}
    given: dict[str, Any] = {
        "name": "toy", "backbones": (str(shelf.model(family)),), "methods": methods, "seeds": (0,),
        "tasks": {"opinions": files}, "budget": {"steps": STEPS, "batch": 8},
    }  # fmt: skip
    return Plan(**{**given, **more})


def forked(work: Callable[[], object]) -> Any:
    """A process of its own that does `work`; it has what this one has loaded, and nothing of what it opens."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process
