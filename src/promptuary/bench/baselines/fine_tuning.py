"""Full fine-tuning: every number of the model is trained, and every task keeps a model of its own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from promptuary.backbones import nf4
from promptuary.bench.baselines.adapted import Adapted
from promptuary.errors import BackboneError
from promptuary.train.recipe import Recipe


class FineTuning(Adapted):
    """All of it."""

    name = "fine-tuning"
    summary = "every number of the model is trained"
    source = "Devlin et al. 2019: BERT"
    # A new head on a model that moves: faster than the model, slower than the prompt methods' head on a frozen one.
    recipe = Recipe(rate=1e-4, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=1.0)

    def __init__(self) -> None:
        super().__init__()
        self.space = MappingProxyType({"rate": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)})

    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        if nf4.rounded(model):
            raise BackboneError(
                "fine-tuning: weights of four bits cannot be trained. Name the model without 'nf4:', or use lora."
            )
        model.requires_grad_(True)
