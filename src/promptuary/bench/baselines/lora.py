"""LoRA (Hu et al. 2022): a product of two thin matrices beside query and value projections, by PEFT.

PEFT makes the matrices and knows where they go in each family. Loop, read-out, precision and what is kept are ours: its
models for a kind of task read padding on causal models and train heads in half precision.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from promptuary.bench.baselines.adapted import Adapted
from promptuary.bench.baselines.injected import inject
from promptuary.train.recipe import Recipe


class LoRA(Adapted):
    """`rank` numbers in the middle, scaled by `alpha / rank`."""

    name = "lora"
    summary = "thin matrices beside query and value projections"
    source = "Hu et al. 2022: LoRA (arXiv 2106.09685); PEFT"
    recipe = Recipe(rate=1e-3, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=1.0)
    own = MappingProxyType({"rank": 8, "alpha": 16})
    needs = ("peft", "peers")

    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        from peft import LoraConfig

        inject(LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=0.0), model, self.name)
