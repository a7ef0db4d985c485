"""Prefix tuning (Li and Liang 2021) and P-tuning v2 (Liu et al. 2022): soft keys and values in every layer.

Both are the same injection. Prefix tuning trains through an MLP that is dropped afterwards, and on an
encoder-decoder has three prefixes (encoder, decoder, cross). P-tuning v2 trains the keys and values themselves at a
larger rate.
Differences: one MLP makes all three prefixes of an encoder-decoder, where the paper trains one for each. The
classifier of P-tuning v2 reads the state of the first token itself, where the published code has BERT's pooler and a
dropout between. The input keeps its own positions (that code shifts them by the prompt's length, which costs room and
gains nothing; `counted=true` does so too, for what goes to or comes from an engine that keeps the prefix in its cache).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptuary.methods.method import Method, Preset
from promptuary.towers import Part
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Initial, Shape

PREFIX = "Li, Liang 2021: Prefix-Tuning: Optimizing Continuous Prompts for Generation (ACL 2021)"
V2 = "Liu, Ji, Fu, Tam, Du, Yang, Tang 2022: P-Tuning v2 (ACL 2022)"


def prefix_tuning(
    shape: "Shape",
    *,
    length: int = 10,
    middle: int = 512,
    parts: Sequence[Part] | None = None,
    counted: bool = False,
    seed: int = 0,
) -> "Built":
    """Soft keys and values through an MLP `dim -> middle -> width` that is dropped after training (section 4.3).

    Arguments:
        counted: whether the prefix takes positions, so that the input counts on behind it.
    """
    from torch import nn

    from promptuary.parts import Free, KeyValues, Mapped, Slotwise, normal, seeded

    injection = KeyValues(shape, parts=parts, start=length if counted else 0)
    inner = Free(length, shape.dim, normal(1.0), seed=seed)
    with seeded(seed):
        mlp = Slotwise(shape.dim, middle, injection.width, activation=nn.Tanh)
    return Mapped(inner, mlp), injection


def p_tuning_v2(
    shape: "Shape",
    *,
    length: int = 16,
    parts: Sequence[Part] | None = None,
    counted: bool = False,
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """Soft keys and values as free parameters; `counted` as for `prefix_tuning`."""
    from promptuary.parts import Free, KeyValues, normal

    injection = KeyValues(shape, parts=parts, start=length if counted else 0)
    return Free(length, injection.width, init or normal(1.0), seed=seed), injection


def _bert(rate: float, *, epochs: int, length: int, task: str) -> Preset:
    """P-tuning v2's published script for BERT-large on a task of two classes."""
    return Preset(
        f"Liu et al. 2022, published script for {task} on BERT-large; no pooler before the classifier",
        Recipe(rate=rate, head_rate=rate, scaled=False, batch=32, epochs=epochs, decay=0.0, warmup=0.0, dropout=0.1),
        settings={"length": length},
        run={"init": "random", "readout": "classifier", "pool": "first", "max_length": 128, "dropout": True},
    )


METHODS = (
    Method(
        "prefix-tuning",
        "soft keys and values in every layer, trained through an MLP",
        PREFIX,
        prefix_tuning,
        Recipe(rate=1e-3, scaled=False, head_rate=1e-2, epochs=20, patience=6),
        presets={
            "paper-e2e": Preset(
                "Li and Liang 2021, tables to text with GPT-2 (task text)",
                Recipe(rate=5e-5, scaled=False, batch=5, epochs=5, decay=0.0, warmup=0.0),
                settings={"length": 5, "middle": 512},
            ),
            "paper-xsum": Preset(
                "Li and Liang 2021, summaries with BART (task text); one MLP for all three prefixes",
                Recipe(rate=5e-5, scaled=False, batch=16, accumulation=3, epochs=30, decay=0.0, warmup=0.0),
                settings={"length": 200, "middle": 800},
            ),
        },
    ),
    Method(
        "p-tuning-v2",
        "soft keys and values in every layer, trained directly",
        V2,
        p_tuning_v2,
        Recipe(rate=1e-2, scaled=False, head_rate=1e-2, epochs=20, patience=6),
        presets={
            "paper-boolq": _bert(5e-3, epochs=100, length=40, task="BoolQ"),
            "paper-rte": _bert(1e-2, epochs=60, length=20, task="RTE"),
        },
    ),
)
