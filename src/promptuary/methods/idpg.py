"""IDPG (Wu et al. 2022): a small network writes the prompt from the frozen model's own reading of the input.

One more pass of the frozen model makes the reading (`choices.encoding_mean`: a mean of the last states, where the
published code takes the first token's); a bottleneck of `middle` numbers writes `length` soft tokens from it. The
paper's other form of the bottleneck (PHM layers) is not here.
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Control, Method, check_control, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Shape

PAPER = "Wu, Wang, Gu, Hou, Dong, Vydiswaran, Ma 2022: IDPG (NAACL 2022, arXiv 2204.04497)"


def idpg(
    shape: "Shape", *, length: int = 5, middle: int = 256, control: Control = "none", sees_input: bool = True,
    seed: int = 0,
) -> "Built":  # fmt: skip
    """`length` soft tokens through `output -> middle -> length * dim`.

    `control`: see `promptuary.controls`; `sees_input` as in prompt tuning.
    """
    from torch import nn

    from promptuary.parts import Embeddings, Mapped, Queried, Slotwise, Unfolded, asked, encoding_mean, held, seeded

    some(length)
    check_control(control)
    with seeded(seed):
        network = Slotwise(shape.output, middle, length * shape.dim, activation=nn.ReLU)
    reading = Queried(asked(encoding_mean, control), shape.output)
    written = Mapped(reading, held(network, control), Unfolded(length))
    return written, Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "idpg",
        "soft tokens that a bottleneck makes of the frozen model's reading of the input",
        PAPER,
        idpg,
        Recipe(rate=1e-3, scaled=False, head_rate=1e-2, epochs=20, patience=6),
    ),
)
