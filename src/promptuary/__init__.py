"""Soft prompts for frozen language models: tune, compare, explain, serve.

The names below are the public ones; importing one of them imports what it needs, and nothing else does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from promptuary.backbones.load import available, load, wrap
    from promptuary.bank import Bank, open_bank
    from promptuary.ensembles import Ensemble
    from promptuary.methods import METHODS
    from promptuary.model import SoftPrompted
    from promptuary.multitask.plan import Multitask
    from promptuary.multitask.tuning import MultitaskOutcome, tune_tasks
    from promptuary.pretraining import Pretraining, pretrain
    from promptuary.publishing import fetch, publish
    from promptuary.serve.engine import Engine, Limits
    from promptuary.specs import Run
    from promptuary.store import Store
    from promptuary.tuned import Answer, Tuned, open_prompt
    from promptuary.tuning import Outcome, tune

_HOMES = {
    "METHODS": "promptuary.methods",
    "Answer": "promptuary.tuned",
    "Bank": "promptuary.bank",
    "Engine": "promptuary.serve.engine",
    "Ensemble": "promptuary.ensembles",
    "Limits": "promptuary.serve.engine",
    "Multitask": "promptuary.multitask.plan",
    "MultitaskOutcome": "promptuary.multitask.tuning",
    "Outcome": "promptuary.tuning",
    "Pretraining": "promptuary.pretraining",
    "Run": "promptuary.specs",
    "SoftPrompted": "promptuary.model",
    "Store": "promptuary.store",
    "Tuned": "promptuary.tuned",
    "available": "promptuary.backbones.load",
    "fetch": "promptuary.publishing",
    "load": "promptuary.backbones.load",
    "open_bank": "promptuary.bank",
    "open_prompt": "promptuary.tuned",
    "pretrain": "promptuary.pretraining",
    "publish": "promptuary.publishing",
    "tune": "promptuary.tuning",
    "tune_tasks": "promptuary.multitask.tuning",
    "wrap": "promptuary.backbones.load",
}

__all__ = [
    "METHODS",
    "Answer",
    "Bank",
    "Engine",
    "Ensemble",
    "Limits",
    "Multitask",
    "MultitaskOutcome",
    "Outcome",
    "Pretraining",
    "Run",
    "SoftPrompted",
    "Store",
    "Tuned",
    "available",
    "fetch",
    "load",
    "open_bank",
    "open_prompt",
    "pretrain",
    "publish",
    "tune",
    "tune_tasks",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'promptuary' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
