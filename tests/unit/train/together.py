"""Runs that several processes make together, each of them started by torchrun; and what they are told of them.

torchrun --nproc-per-node 2 tests/unit/train/together.py PLACE
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from promptuary import Multitask, Run, tune, tune_tasks
from promptuary.errors import CheckpointError
from promptuary.train import fit
from promptuary.train.stepper import Stepper
from promptuary.train.team import joined
from tests.saved import Shelf, lines, opinions, save

Case = Callable[[Shelf, Path], Run | Multitask]


def run(family: str = "bert", method: str = "prompt-tuning", **changes: Any) -> Case:
    """A run of nine steps over 21 rows, whose last batch is a smaller one."""

    def described(shelf: Shelf, out: Path) -> Run:
        told: dict[str, Any] = {
            "backbone": str(shelf.place / family), "train": str(shelf.train), "validation": str(shelf.dev),
            "recipe": {"epochs": 3, "batch": 8}, "method": method, "out": str(out), "save_every": 1,
        }  # fmt: skip
        return Run(**{**told, **changes})

    return described


def mixture(shelf: Shelf, out: Path) -> Multitask:
    """Two tasks, of which a process's share of a batch may hold rows of one alone."""
    shared = {"backbone": str(shelf.place / "bert"), "method": "p-tuning-v2", "out": str(out)}
    shared["recipe"] = {"epochs": 2, "batch": 3}
    rows = {"train": str(shelf.train), "validation": str(shelf.dev)}
    return Multitask(tasks={"mood": rows, "again": {**rows, "metric": "macro_f1"}}, shared=shared)


# Whatever is drawn at random is drawn otherwise by several processes: runs of the first kind draw nothing.
SAME: Mapping[str, Case] = {
    "classes": run(recipe={"epochs": 3, "batch": 8, "clip": 0.5}),
    "one row": run(recipe={"steps": 3, "batch": 1, "accumulation": 2}),
    "texts": run("gpt2", readout="text"),
    "written": run("gpt2", task="text", label="label", metric="token_f1", max_new_tokens=4),
    "lazy": run(method="ipt", settings={"lazy": True, "length": 3}),
    "kept": run(method="lpt"),
    "mixture": mixture,
}
DRAWN: Mapping[str, Case] = {
    "position": run(method="dp-position-instance"),
    "killed": run(method="dp-position-instance"),
}


def shelf_in(place: Path) -> Shelf:
    """The models and rows of all cases."""
    for family in ("bert", "gpt2"):
        save(family, place / family)
    lines(place / "train.jsonl", opinions(21))
    lines(place / "dev.jsonl", opinions(9, start=21))
    return Shelf(place)


def tuned(case: Case, shelf: Shelf, out: Path) -> list[Any]:
    """The outcomes of a run."""
    made = case(shelf, out)
    return tune_tasks(made) if isinstance(made, Multitask) else tune(made)


def told(outcomes: Sequence[Any]) -> dict[str, Any]:
    """What a process knows of a finished run: its record, and the sum of what it has learnt."""
    [outcome] = outcomes
    parts = outcome.tasks.values() if hasattr(outcome, "tasks") else [outcome]
    learnt = [[float(p.detach().double().sum()) for p in part.tuned.model.parameters()] for part in parts]
    return {"history": list(outcome.result.history), "learnt": learnt, "score": outcome.result.score}


def interrupted(case: Case, shelf: Shelf, out: Path) -> None:
    """The run, killed in all processes at its fifth step."""
    step = Stepper.step

    def stepped(self: Stepper, number: int, batches: Any) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, batches)

    Stepper.step, fit.SAVING = stepped, 1.0  # type: ignore[method-assign, misc]
    try:
        tuned(case, shelf, out)
    except KeyboardInterrupt:
        pass
    finally:
        Stepper.step = step  # type: ignore[method-assign]


def refused(shelf: Shelf, out: Path) -> str:
    """What is said of a folder that holds another run."""
    try:
        tuned(run(method="p-tuning-v2"), shelf, out)
    except CheckpointError as error:
        return str(error)
    return ""


def main(place: Path) -> None:
    torch.set_num_threads(1)
    shelf, out, team = Shelf(place), place / "two", joined()
    interrupted(DRAWN["killed"], shelf, out / "killed")
    found = {name: told(tuned(case, shelf, out / name)) for name, case in {**SAME, **DRAWN}.items()}
    found["refused"] = {"said": refused(shelf, out / "classes")}
    (place / f"{team.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
