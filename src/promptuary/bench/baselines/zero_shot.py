"""Prompt design without training: the frozen model reads a row in a template and its label words are compared."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptuary.bench.baselines.asked import asked
from promptuary.bench.contender import Contender, Learned
from promptuary.bench.grounds import Ground
from promptuary.train.progress import Progress


class ZeroShot(Contender):
    """The task's template and label words, or what the model writes behind it.

    Masked language models need a template with a blank (a `cloze` wording).
    """

    name = "zero-shot"
    summary = "a template and label words, nothing trained"
    source = "Brown et al. 2020: Language Models are Few-Shot Learners; calibration: Zhao et al. 2021"
    space = MappingProxyType({"calibrated": (False, True)})
    default = MappingProxyType({"calibrated": False})
    kinds = frozenset({"classification", "text"})
    drawn = False
    small = True

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        answer = asked(ground, **{**self.default, **settings})
        return Learned(ground.scores(ground.selection, answer(ground.selection)), answer)
