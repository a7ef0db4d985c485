"""What is asked of a search on a user's own rows, and who competes in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from promptuary.bench.contenders import contender
from promptuary.bench.halving import Candidate
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.errors import SettingError, nearest
from promptuary.methods import METHODS
from promptuary.precision import Precision

# In the order of `benchmarks/results/learning.md`; where little time is, only the first ones run.
FIRST, LATER = ("p-tuning-v2", "prompt-tuning"), ("deep-prompt-tuning", "prefix-tuning")
CONTROL = "frozen"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Arguments:
        rows: all rows of the user. task: what they are, of any kind. asked: settings of a run that describe it.
        backbone: its name. budget_s: seconds for everything. out: the folder of the answer.
        methods: those that may compete; empty: those in `candidates`.
        precision: of the frozen model; `auto` is the faster one here.
    """

    rows: Sequence[Row]
    task: Task
    asked: Mapping[str, Any]
    backbone: str
    budget_s: float
    out: Path
    methods: tuple[str, ...] = ()
    batch: int = 32
    precision: Precision | Literal["auto"] = "auto"
    seed: int = 0


def candidates(methods: Sequence[str] = (), kind: str = "classification") -> list[Candidate]:
    """Who competes, the most promising first: the defaults, longer prompts, smaller rates.

    Arguments:
        kind: of the task, which the control must know.

    Raises:
        SettingError: for a method that makes no prompt, with the nearest that does.
    """
    for method in methods:
        if method not in METHODS:
            raise SettingError(f"--method {method}: no method of prompts is called so. {nearest(method, METHODS)}")
    names = tuple(name for name in methods if name != CONTROL) or FIRST
    longer = [(name, contender(name).default.get("length")) for name in names]
    found = [Candidate(name) for name in names]
    found += [Candidate(CONTROL, control=True)] if kind in contender(CONTROL).kinds else []
    found += [Candidate(name, (("length", 2 * length),)) for name, length in longer if length]
    found += [Candidate(name, (("rate", float(f"{contender(name).default['rate'] / 3:.3g}")),)) for name in names]
    return found if methods else found + [Candidate(name) for name in LATER]
