"""P-tuning v1 (Liu et al. 2021, "GPT Understands, Too"): pseudo tokens in a template, made by a small network.

A table goes through a two-layer BiLSTM and an MLP (or the MLP alone); the result stands at the marked places of a
template that may hold real anchor words. After training the network is dropped and a plain table is kept.
The published code leaves the network's output at its own scale; here it starts at the standard deviation of the
backbone's embedding table (`Scaled`), without which small models do not move. In the paper's few-shot experiments the
language model is tuned too, at a tenth of the prompt's rate; here it is frozen, and `rte-few-shot-frozen` takes
nothing from them but the template, the words and the schedule.
"""

from typing import TYPE_CHECKING, Literal

from promptuary.errors import SettingError
from promptuary.methods.method import Method, Preset
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Shape, Transform

PAPER = "Liu, Zheng, Du, Ding, Qian, Yang, Tang 2021: GPT Understands, Too (arXiv 2103.10385)"


def p_tuning(
    shape: "Shape",
    *,
    length: int = 9,
    encoder: Literal["lstm", "mlp"] = "lstm",
    template: bool = False,
    sees_input: bool = True,
    seed: int = 0,
) -> "Built":
    """Soft tokens through BiLSTM and MLP, before the input or (`template`) at the marks of a template.

    `sees_input` as in prompt tuning.
    """
    import torch
    from torch import nn

    from promptuary.parts import BiLSTM, Embeddings, Free, Mapped, Scaled, Slots, Slotwise, Split, normal, seeded

    if encoder not in ("lstm", "mlp"):
        raise SettingError(f"encoder={encoder!r}: expected 'lstm' or 'mlp'.")
    with seeded(seed):
        mlp = Slotwise(shape.dim, shape.dim, shape.dim, activation=nn.ReLU)
        networks: tuple[Transform, ...] = (BiLSTM(shape.dim), mlp) if encoder == "lstm" else (mlp,)
    inner = Free(length, shape.dim, normal(1.0), seed=seed)
    with torch.no_grad():
        raw = Mapped(inner, *networks).fixed()
    spread = float(raw.values.std()) if raw is not None and raw.values.numel() > 1 else 0.0
    injection = Embeddings(shape, Slots() if template else Split(), sees_input=sees_input)
    return Mapped(inner, *networks, Scaled(shape.deviation / spread if spread else 1.0)), injection


LAMA = Preset(
    "Liu et al. 2021, facts as a cloze on BERT; a constant rate, where the code takes off 2 % each epoch",
    Recipe(rate=1e-5, scaled=False, decay=5e-4, batch=8, epochs=100, patience=20, schedule="constant", warmup=0.0),
    run={"template": "<soft:3> <mask> <soft:3> {text} <soft:3>", "readout": "verbalizer", "dropout": True},
)
RTE = Preset(
    "no result of the paper: its few-shot template, words and schedule for RTE, on a frozen model",
    Recipe(rate=1e-4, scaled=False, batch=2, steps=3500, warmup=150 / 3500),
    run={
        "template": "{text} Question: {pair} ? <soft> Answer: <mask> .",
        "readout": "verbalizer",
        "words": {"entailment": "Yes", "not_entailment": "No"},
        "max_length": 256,
    },
)

METHODS = (
    Method(
        "p-tuning",
        "soft tokens made by a BiLSTM and an MLP, before the input or at the marks of a template",
        PAPER,
        p_tuning,
        Recipe(rate=1e-3, scaled=False, head_rate=1e-2, epochs=20, patience=6),
        presets={"paper-lama": LAMA, "rte-few-shot-frozen": RTE},
    ),
)
