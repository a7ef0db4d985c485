"""Prompt tuning (Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning").

A table of soft tokens before the input's embeddings, and nothing else. `before` splits the table around the input;
`head` and `tail` keep special tokens outside. The paper prepends to everything (`head=0`), as its default here. With
`sees_input=False` soft tokens of a model that reads in both directions do not attend to the input: before it, they cost
what one row more costs, not what they cost in every row.
`deep_prompt_tuning` is the per-layer variant of the code published with the paper: it overwrites the soft tokens'
hidden states before every layer, which is not prefix tuning (states pass through the layer's projections).
"""

from typing import TYPE_CHECKING

from promptuary.methods.method import Method, Preset
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PAPER = "Lester, Al-Rfou, Constant 2021: The Power of Scale for Parameter-Efficient Prompt Tuning (arXiv 2104.08691)"

LESTER = Preset(
    "Lester et al. 2021, section 3 and published configuration, for T5; scored each epoch and not every 1,000 steps",
    Recipe(
        optimizer="adafactor",
        rate=0.3,
        scaled=False,
        decay=1e-5,
        schedule="constant",
        warmup=0.0,
        batch=32,
        steps=30_000,
        clip=0.0,
        precision="bf16",
    ),
    settings={"length": 100},
    run={"init": "labels", "readout": "text", "z_loss": 1e-4, "dropout": True},
)


def prompt_tuning(
    shape: "Shape",
    *,
    length: int = 20,
    before: int | None = None,
    head: int = 0,
    tail: int = 0,
    sees_input: bool = True,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """`length` soft tokens in the row: `Free` through `Embeddings(Split)`.

    Arguments:
        before: how many of them stand before the input; by default all. The others stand behind it.
        head, tail: how many of the input's tokens stay outside the prompt at either end (`[CLS]`, `[SEP]`, `</s>`).
        sees_input: whether soft tokens attend to the input. Where they do not (a model that reads both ways), each
            layer's are the same for every input, and are computed once.
    """
    from promptuary.parts import Embeddings, Free, Split, matched

    injection = Embeddings(shape, Split(before, head=head, tail=tail), sees_input=sees_input)
    return Free(length, injection.width, init or matched(shape.deviation), seed=seed), injection


def deep_prompt_tuning(
    shape: "Shape", *, length: int = 20, head: int = 0, init: "Initial | None" = None, seed: int = 0
) -> "Built":
    """`length` soft tokens in the row, overwritten before every layer: `Free` through `HiddenStates(Split)`.

    `head` of the input's tokens stay before the prompt.
    """
    from promptuary.parts import Free, HiddenStates, Split, normal

    injection = HiddenStates(shape, Split(head=head))
    return Free(length, injection.width, init or normal(1.0), seed=seed), injection


def frozen(shape: "Shape", *, init: "Initial | None" = None, seed: int = 0) -> "Built":
    """No prompt at all: the control in which only the read-out is trained."""
    from promptuary.parts import Embeddings, Free, matched

    injection = Embeddings(shape)
    return Free(0, injection.width, init or matched(shape.deviation), seed=seed), injection


METHODS = (
    Method(
        "prompt-tuning",
        "soft tokens before the input",
        PAPER,
        prompt_tuning,
        Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6),
        init="vocabulary",
        presets={"paper": LESTER},
    ),
    Method(
        "deep-prompt-tuning",
        "soft tokens whose hidden states are overwritten before every layer",
        PAPER + ", published code",
        deep_prompt_tuning,
        Recipe(rate=0.01, scaled=False, head_rate=1e-2, epochs=20, patience=6),
    ),
    Method(
        "frozen",
        "no prompt: only the read-out is trained (a control)",
        "-",
        frozen,
        Recipe(head_rate=1e-2, epochs=20, patience=6),
    ),
)
