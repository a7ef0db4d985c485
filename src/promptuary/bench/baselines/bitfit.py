"""BitFit (Ben Zaken, Ravfogel and Goldberg 2022): the biases alone are trained."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from promptuary.bench.baselines.adapted import Adapted
from promptuary.errors import BackboneError
from promptuary.train.recipe import Recipe


class BitFit(Adapted):
    """The biases of linear layers and norms. Families without biases (T5, Llama) have nothing to train."""

    name = "bitfit"
    summary = "the biases of the model are trained"
    source = "Ben Zaken, Ravfogel, Goldberg 2022: BitFit (arXiv 2106.10199)"
    recipe = Recipe(rate=1e-3, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=1.0)

    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        biases = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise BackboneError("This model has no biases, so BitFit has nothing to train. Leave it out, or use 'ia3'.")
        for bias in biases:
            bias.requires_grad_(True)
