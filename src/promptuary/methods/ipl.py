"""IPL (Jin et al. 2022): how relevant each soft token of a prompt is to the input.

The paper scores a soft token against the input's tokens; here a linear layer over the mean of the input's embeddings
scores all of them. Equal scores are plain prompt tuning, where training starts.
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Control, Method, check_control, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = "Jin, Lu, Zhang, Zong 2022: Instance-aware Prompt Learning (arXiv 2201.07126)"


def ipl(
    shape: "Shape", *, length: int = 20, control: Control = "none", sees_input: bool = True,
    init: "Initial | None" = None, seed: int = 0,
) -> "Built":  # fmt: skip
    """`length` soft tokens, each times its relevance to the input.

    `control`: see `promptuary.controls`; `sees_input` as in prompt tuning.
    """
    from promptuary.parts import Choice, Embeddings, Free, Weighted, asked, embedding_mean, held, matched, spread

    some(length)
    check_control(control)
    table = Free(length, shape.dim, init or matched(shape.deviation), seed=seed)
    query, apart = asked(embedding_mean, control), spread(control, shape.dim)
    choice = Choice(length, dim=shape.dim, query=query, mode="soft", spread=apart, seed=seed)
    return Weighted(table, held(choice, control)), Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "ipl",
        "soft tokens weighted by their relevance to the input",
        PAPER,
        ipl,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        rates={"choice": 1e-2},
    ),
)
