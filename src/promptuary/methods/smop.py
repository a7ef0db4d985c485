"""SMoP (Choi et al. 2023): a router picks one of several short prompts for each input.

The published router adds noise to its logits and scales the prompt it picks by its probability; here the pick is a
straight-through choice and the prompt enters as it is.
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Control, Method, check_control, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = "Choi, Kim, Kim, Jung, Song, Park, Cha 2023: SMoP (EMNLP 2023)"


def smop(
    shape: "Shape",
    *,
    length: int = 5,
    prompts: int = 4,
    control: Control = "none",
    sees_input: bool = True,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """One of `prompts` prompts of `length` soft tokens.

    `control`: see `promptuary.controls`; `sees_input` as in prompt tuning.
    """
    from promptuary.parts import Choice, Embeddings, Free, Pool, asked, embedding_mean, held, matched, spread

    some(length)
    check_control(control)
    pool = [Free(length, shape.dim, init or matched(shape.deviation), seed=seed + 1000 * i) for i in range(prompts)]
    query, apart = asked(embedding_mean, control), spread(control, shape.dim)
    choice = Choice(prompts, dim=shape.dim, query=query, spread=apart, seed=seed)
    return Pool(held(choice, control), *pool), Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "smop",
        "one of several short prompts, picked for each input",
        PAPER,
        smop,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        rates={"choice": 3e-3},
    ),
)
