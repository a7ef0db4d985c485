"""The activation of GPT-2 and its relatives as one operation: transformers writes it as eight, each a pass over memory.

It is the same function (GELU by a hyperbolic tangent), forward and backward. In half precision the eight round after
each, which the model's numbers are used to: there they stay.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation


class FusedGELU(NewGELUActivation):
    """`gelu_new` by PyTorch's own function."""

    def forward(self, input: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        if input.dtype in (torch.float32, torch.float64):
            return F.gelu(input, approximate="tanh")
        plain: Tensor = super().forward(input)
        return plain


def fuse(model: nn.Module) -> None:
    """Let a frozen model take the one operation; its modules keep their names."""
    for module in model.modules():
        if type(module) is NewGELUActivation:
            module.__class__ = FusedGELU
