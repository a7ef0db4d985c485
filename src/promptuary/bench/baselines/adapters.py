"""Adapters (Houlsby et al. 2019): a small bottleneck behind every sub-layer's last projection, before the residual sum.

    h + up(gelu(down(h)))

`up` starts near 0, so that the model starts as it was. In every family the places are the linear layers that write into
the residual stream: the output of attention and of the feed-forward layer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.bench.baselines.adapted import Adapted
from promptuary.errors import BackboneError
from promptuary.train.recipe import Recipe

# Ends of the names of linear layers that write into the residual stream, by family of names.
PLACES = (
    "attention.output.dense", "output.dense",  # BERT, RoBERTa, ELECTRA
    "attention.out_lin", "ffn.lin2",  # DistilBERT
    "attention.dense", "ffn_output",  # ALBERT
    "attn.c_proj", "mlp.c_proj",  # GPT-2
    "self_attn.o_proj", "mlp.down_proj",  # Llama, Mistral, Qwen, Gemma
    "SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo",  # T5
    "self_attn.out_proj", "encoder_attn.out_proj", "fc2",  # BART, OPT
    "attn.Wo", "mlp.Wo",  # ModernBERT
    "attention.dense", "dense_4h_to_h",  # GPT-NeoX
)  # fmt: skip


class Bottleneck(nn.Module):
    """`width` numbers through `inner` and back, added to what they were."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        moved: Tensor = self.up(F.gelu(self.down(states)))
        return states + moved


class Adapters(Adapted):
    """`inner` numbers in the middle of each bottleneck. Norms stay as they are (Houlsby et al. train them too)."""

    name = "adapters"
    summary = "a bottleneck behind attention and feed-forward layers"
    source = "Houlsby et al. 2019: Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751)"
    recipe = Recipe(rate=1e-3, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=1.0)
    own = MappingProxyType({"inner": 32})

    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        places = [module for name, module in model.named_modules() if name.endswith(PLACES)]
        if not places:
            raise BackboneError("No layer of this model has a name that adapters know. Leave 'adapters' out.")
        for place in places:
            place.add_module("bottleneck", Bottleneck(_width(place), settings["inner"]).requires_grad_(True))
            place.register_forward_hook(lambda module, _, states: module.bottleneck(states))


def _width(place: nn.Module) -> int:
    """How many numbers a linear layer gives; that of GPT-2 is called otherwise."""
    width: Any = place.out_features if isinstance(place, nn.Linear) else place.nf
    return int(width)
