"""MPT (Wang et al. 2023): tasks share a prompt; each multiplies it by a matrix of rank one of its own.

On a mixture (`promptuary tune` of several tasks) all tasks' rows teach the shared soft tokens, and each task its own
factors; what is kept for a task is the product, a plain prompt. A later task starts from it (`--init prompt:FOLDER`).
Differences from the paper: the factors start at 1, so that all tasks start from the shared prompt, and are drawn there
by weight decay; the shared prompt learns from the tasks' rows alone, where the paper also distils prompts that were
tuned on each task before.
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Method, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = "Wang, Panda, Karlinsky, Feris, Sun, Kim 2023: Multitask Prompt Tuning (ICLR 2023, arXiv 2303.02861)"


def multitask_prompt_tuning(
    shape: "Shape",
    *,
    length: int = 20,
    tasks: int | None = None,
    sees_input: bool = True,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """`length` soft tokens that `tasks` tasks share, times the factors of each; `sees_input` as in prompt tuning."""
    from promptuary.parts import Embeddings, Free, Multiplied, RankOne, matched

    some(length)
    free = Free(length, shape.dim, init or matched(shape.deviation), seed=seed)
    factors = RankOne(length, shape.dim, tasks=1 if tasks is None else tasks)
    return Multiplied(free, factors), Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "multitask-prompt-tuning",
        "soft tokens that tasks share, times factors of each task's own",
        PAPER,
        multitask_prompt_tuning,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        rates={"tokens": 1e-2, "dims": 1e-2},
    ),
)
