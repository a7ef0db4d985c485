"""ATTEMPT (Asai et al. 2022): a prompt of the task's own, plus a mixture of other tasks' prompts for each input.

The prompts of other tasks (`sources`, folders of tuned ones) stay as they are; a small network reads the largest of the
input's embeddings in each dimension and weighs them and the task's own. Without sources they are frozen random prompts:
the control. Differences from the paper: what a reading is compared with is learned for each prompt, where the paper
takes the largest of its soft tokens; the temperature is 1 and not the width times e.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptuary.errors import SettingError
from promptuary.methods.method import Control, Method, check_control, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = "Asai, Salehi, Peters, Hajishirzi 2022: ATTEMPT (EMNLP 2022, arXiv 2205.11961)"


def attempt(
    shape: "Shape",
    *,
    length: int = 20,
    prompts: int = 4,
    sources: Sequence[str] | None = None,
    middle: int = 100,
    control: Control = "none",
    sees_input: bool = True,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """`length` soft tokens: the task's own plus, for each input, a mixture of them and of other tasks' prompts.

    `sources` are the folders of those prompts, of equal length, or nothing for frozen random ones (the control);
    `prompts` is their number, `middle` the width of the network that weighs them; `control`: see `promptuary.controls`;
    `sees_input` as in prompt tuning.
    """
    from torch import nn

    from promptuary import parts

    some(length)
    check_control(control)
    if sources is not None and len(sources) != prompts:
        raise SettingError(f"prompts={prompts}, but {len(sources)} sources are named. Write prompts={len(sources)}.")
    start = init or parts.matched(shape.deviation)
    own = parts.Free(length, shape.dim, start, seed=seed)
    frozen = [
        parts.Free(length, shape.dim, parts.from_file(sources[i]) if sources else start, seed=seed + 1000 * (i + 1))
        for i in range(prompts)
    ]
    for source in frozen:
        source.requires_grad_(False)
    with parts.seeded(seed):
        network = nn.Sequential(nn.Linear(shape.dim, middle), nn.SiLU(), nn.Linear(middle, shape.dim))
        query = parts.Read(parts.asked(parts.embedding_max, control), network)
        choice = parts.Choice(prompts + 1, dim=shape.dim, query=query, mode="soft")
        if choice.weight is not None:
            nn.init.normal_(choice.weight, std=0.02)  # zeros would let nothing through to the network
    mixed = parts.Pool(parts.held(choice, control), *frozen, own)
    return parts.Summed(own, mixed), parts.Embeddings(shape, sees_input=sees_input)


METHODS = (
    Method(
        "attempt",
        "a prompt of its own plus a mixture, for each input, of other tasks' frozen prompts",
        PAPER,
        attempt,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        rates={"choice": 1e-3},
    ),
)
