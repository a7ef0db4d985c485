"""Residual prompt tuning (Razdaibiedina et al. 2023): soft tokens plus what a small network makes of them.

One network for all soft tokens: down to `middle` numbers, ReLU, up, a layer norm. After training it is dropped and a
plain table is kept. Differences from the published code: what the network adds starts at the scale of the backbone's
embedding table (`Scaled`), not at 1, and it learns at a rate of its own.
"""

from typing import TYPE_CHECKING

from promptuary.errors import SettingError
from promptuary.methods.method import Method, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = (
    "Razdaibiedina, Mao, Hou, Khabsa, Lewis, Ba, Almahairi 2023: Residual Prompt Tuning "
    "(Findings of ACL 2023, arXiv 2305.03937)"
)


def residual_prompt_tuning(
    shape: "Shape",
    *,
    length: int = 20,
    middle: int = 400,
    sees_input: bool = True,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """`length` soft tokens, each plus what the network makes of it, before the input.

    `middle` is the width of the network; `sees_input` as in prompt tuning.
    """
    from torch import nn

    from promptuary.parts import Elementwise, Embeddings, Free, Mapped, Residual, Scaled, Slotwise, matched, seeded

    some(length)
    if middle < 1:
        raise SettingError(f"middle={middle}: expected the width of the network between, 1 or more.")
    free = Free(length, shape.dim, init or matched(shape.deviation), seed=seed)
    with seeded(seed):
        network = Slotwise(shape.dim, middle, shape.dim, activation=nn.ReLU)
    normed = Elementwise(nn.LayerNorm(shape.dim))
    return Mapped(free, Residual(network, normed, Scaled(shape.deviation))), Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "residual-prompt-tuning",
        "soft tokens plus what a small network makes of each, before the input",
        PAPER,
        residual_prompt_tuning,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        rates={"transforms": 1e-3},
    ),
)
