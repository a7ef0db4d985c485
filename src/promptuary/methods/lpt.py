"""Late prompt tuning (LPT, Liu et al. 2022): the prompt joins in the middle of the model.

Nothing below that layer has a gradient, or changes from epoch to epoch. With `instance` a bottleneck of `middle`
numbers writes the soft tokens from the mean of the text's states at that layer (the paper's prompt generator; its
choices of pooling are `[CLS]`, maximum and mean); without, they are a table ("naive" in the paper).
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Control, Method, check_control, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Shape

PAPER = "Liu, Sun, Huang, Qiu 2022: Late Prompt Tuning (Findings of EMNLP 2022, arXiv 2210.11292)"


def lpt(
    shape: "Shape",
    *,
    length: int = 10,
    layer: int | None = None,
    instance: bool = True,
    middle: int = 128,
    control: Control = "none",
    seed: int = 0,
) -> "Built":
    """`length` soft tokens before layer number `layer` (from 0; by default the middle one).

    `control`: see `promptuary.controls`.
    """
    from functools import partial

    from torch import nn

    from promptuary.parts import (
        Free,
        Late,
        Mapped,
        Queried,
        Slotwise,
        Unfolded,
        asked,
        encoding_mean,
        held,
        normal,
        seeded,
    )  # fmt: skip

    some(length)
    check_control(control, reads=instance)
    at = max(1, shape.layers // 2) if layer is None else layer
    injection = Late(shape, at)
    if not instance:
        return Free(length, injection.width, normal(1.0), seed=seed), injection
    with seeded(seed):
        network = Slotwise(shape.hidden, middle, length * shape.hidden, activation=nn.ReLU)
    reading = Queried(asked(partial(encoding_mean, until=at), control), shape.hidden)
    return Mapped(reading, held(network, control), Unfolded(length)), injection


METHODS = (
    Method(
        "lpt",
        "soft tokens made from the text's own states, which join it in the middle of the model",
        PAPER,
        lpt,
        Recipe(rate=1e-3, scaled=False, head_rate=1e-2, epochs=20, patience=6),
    ),
)
