"""The activation of GPT-2 and its relatives as one operation: transformers writes it as eight, each a pass over memory.

It is the same function (GELU by a hyperbolic tangent), forward and backward. In half precision the eight round after
each, and where the tangent is nearly -1 little is left of the number; one operation rounds once.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation


class FusedGELU(NewGELUActivation):
    """`gelu_new` by PyTorch's own function."""

    def forward(self, input: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        return F.gelu(input, approximate="tanh")


def fuse(model: nn.Module) -> None:
    """Let a frozen model take the one operation; its modules keep their names."""
    for module in model.modules():
        if type(module) is NewGELUActivation:
            module.__class__ = FusedGELU
