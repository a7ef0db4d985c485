"""IA3 (Liu et al. 2022): keys, values and the feed-forward layer's inner states times trained numbers, by PEFT."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from promptuary.bench.baselines.adapted import Adapted
from promptuary.bench.baselines.injected import inject
from promptuary.train.recipe import Recipe


class IA3(Adapted):
    """Vectors that start at 1."""

    name = "ia3"
    summary = "keys, values and inner states times trained numbers"
    source = "Liu et al. 2022: Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper (arXiv 2205.05638); PEFT"
    recipe = Recipe(rate=1e-2, scaled=False, head_rate=1e-3, decay=0.0, schedule="linear", warmup=0.06, clip=1.0)
    needs = ("peft", "peers")

    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        from peft import IA3Config

        inject(IA3Config(), model, self.name)
