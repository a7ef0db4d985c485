"""Instance-wise prompt tuning (IPT, Jiang et al. 2022): the prompt is made from the input's own tokens.

A second table of the vocabulary gives each of the first tokens of a row a vector. `lookup` takes these as the prompt;
the encoders (`cnn`, `mlp`, `lstm`) read them and write a prompt of any length. The prompt stands before the input
(`prompt`), or is added to the keys and values of a few layers of a task's own prefix (`prefix`, which at `scale=0` is
P-tuning v2 without reparameterisation). The paper's "pretrained" strategies are the same with a generator that was
trained on other data before (`promptuary.pretraining`).

Differences from the published code, each of which it has as a defect or not at all: the read-out is trained; padding is
never read; sizes follow the backbone; the window can be any text of the row; encoders read any number of tokens; the
table starts at the scale of the backbone's (`init`, the paper: U(-0.5, 0.5)); `combine` says what became of the task's
own prompt (published: replaced). `docs/reproduce/ipt.md` lists all of them, with the switch back where there is one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from promptuary.errors import SettingError
from promptuary.methods.method import Control, Method, Preset, check_control, embedded, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import AtLayers, Built, Generator, Initial, Shape, Table, Transform

PAPER = (
    "Jiang, Xu, Xu, Ma, Yang, Zhao 2022: Instance-wise Prompt Tuning for Pretrained Language Models (arXiv 2206.01958)"
)

Encoder = Literal["lookup", "cnn", "mlp", "lstm"]


def ipt(
    shape: "Shape",
    *,
    length: int = 20,
    encoder: Encoder = "lookup",
    variant: Literal["prompt", "prefix"] = "prompt",
    combine: Literal["replace", "concatenate", "add"] | None = None,
    tokens: int | None = None,
    side: Literal["left", "right"] = "left",
    stride: int = 1,
    field: int | None = None,
    pad: Literal["mask", "row", "task"] = "mask",
    rank: int = 0,
    buckets: int = 0,
    lazy: bool = False,
    layers: Sequence[int] | None = None,
    scale: float | None = None,
    sees_input: bool = True,
    pretrained: str | None = None,
    control: Control = "none",
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """A prompt of `length` soft tokens, made from a window of `tokens` tokens (by default as many).

    `combine` says what becomes of a prompt of the task's own: there is none (`replace`, the default before the input),
    it stands before the instance's (`concatenate`), or they are added (`add`, the default of a prefix). Of a prefix the
    instance makes the keys and values of some attention `layers` (by default the first), times `scale` (0.05).

    `rank` or `buckets` above 0 make the table one of low rank, or hashed; `lazy` leaves the rows alone that a step does
    not read. `init` is the table's start; a task's own prompt starts at random beside it, learned vectors of empty
    slots (`pad`) at 0. `pretrained` is the folder of a generator that was trained before (`promptuary.pretraining`):
    table and encoder start as it ended. `control` makes it a control (`promptuary.controls`): each row gets what
    another row's text made, or table and encoder stay as they start. `sees_input` is as in prompt tuning, for soft
    tokens at the input.
    """
    from promptuary import parts

    some(length)
    size = length if tokens is None else tokens
    if encoder not in ("lookup", "cnn", "mlp", "lstm"):
        raise SettingError(f"encoder={encoder!r}: expected 'lookup', 'cnn', 'mlp' or 'lstm'.")
    if combine not in (None, "replace", "concatenate", "add"):
        raise SettingError(f"combine={combine!r}: expected 'replace', 'concatenate' or 'add'.")
    if variant not in ("prompt", "prefix"):
        raise SettingError(f"variant={variant!r}: expected 'prompt' or 'prefix'.")
    if variant == "prefix":
        embedded(sees_input, "variant='prefix'")
    check_control(control)
    if encoder == "lookup" and size != length:
        raise SettingError(f"tokens={tokens}: a look-up makes one soft token of each token. Leave it out, or {length}.")
    if pretrained is not None and init is not None:
        raise SettingError(
            f"pretrained={pretrained!r} says where the table starts, and so does init. Write --init auto."
        )
    injection = parts.KeyValues(shape) if variant == "prefix" else parts.Embeddings(shape, sees_input=sees_input)
    at = _at_layers(shape, variant, combine, layers, scale)
    width = injection.width if at is None else at.width
    start = init or parts.matched(shape.deviation)
    lookup = parts.Lookup(
        parts.Window(size, side=side, stride=stride, field=field),
        table(shape.vocabulary, width, rank, buckets, start, lazy, seed),
        pad=pad,
    )
    with parts.seeded(seed):
        reader = parts.Mapped(lookup, *encoders(encoder, width, length))
    if pretrained is not None:
        from promptuary.pretrained import begin

        begin(reader, Path(pretrained), {"encoder": encoder, "length": length, "rank": rank, "buckets": buckets})
    made: Generator = parts.read(reader, control)
    if at is not None:
        made = parts.Mapped(made, at)
    if combine == "replace" or (combine is None and at is None):
        return made, injection
    begun = parts.matched(shape.deviation) if at is None else parts.normal(1.0)
    own = parts.Free(length, injection.width, begun, seed=seed + 1000)  # not the table's first rows
    return (parts.Concatenated if combine == "concatenate" else parts.Summed)(own, made), injection


def _at_layers(
    shape: "Shape", variant: str, combine: str | None, layers: Sequence[int] | None, scale: float | None
) -> "AtLayers | None":
    """Which layers of a prefix the instance makes, and how much of them; `None` before the input.

    Raises:
        SettingError: for layers or a scale before the input, and where a prefix that the instance alone makes would
            have layers without keys.
    """
    from promptuary.parts import AtLayers

    if variant == "prompt":
        if layers is not None or scale is not None:
            raise SettingError(
                f"layers={layers}, scale={scale}: only a prefix has them. Leave them out, or write variant='prefix'."
            )
        return None
    widths = [a.width for a in shape.attention if a.part in shape.parts]
    at = AtLayers(widths, (0,) if layers is None else layers, scale=0.05 if scale is None else scale)
    if combine not in (None, "add") and len(at.layers) < len(widths):
        raise SettingError(
            f"combine={combine!r}, layers={sorted(at.layers)}: in the other layers the instance's soft tokens would be "
            f"zeros that are attended to. Expected all {len(widths)} layers (layers={[*range(len(widths))]}), or "
            "combine='add'."
        )
    return at


def table(size: int, width: int, rank: int, buckets: int, init: "Initial", lazy: bool, seed: int) -> "Table":
    """The table of a vocabulary: of low rank, hashed, or a row for each token."""
    from promptuary.parts import Dense, Hashed, LowRank

    if rank and buckets:
        raise SettingError(f"rank={rank}, buckets={buckets}: expected one of them, the other 0.")
    if rank:
        return LowRank(size, width, rank, init, lazy=lazy, seed=seed)
    if buckets:
        return Hashed(size, width, buckets, init, lazy=lazy, seed=seed)
    return Dense(size, width, init, lazy=lazy, seed=seed)


def encoders(encoder: Encoder, width: int, length: int) -> "tuple[Transform, ...]":
    """The networks from the looked-up vectors to a prompt, with the sizes of the published code."""
    from torch import nn

    from promptuary.parts import ConvMax, Elementwise, MaskedMean, Recurrent, Slotwise, Unfolded

    if encoder == "lookup":
        return ()
    if encoder == "cnn":
        return ConvMax(width), Slotwise(3, length * width), Unfolded(length)
    if encoder == "lstm":
        return Recurrent(width, hidden=64), Slotwise(128, length * width), Unfolded(length)
    written = (Elementwise(nn.ReLU()), Elementwise(nn.Dropout(0.5)))
    return MaskedMean(), Slotwise(width, length * width), *written, Unfolded(length)


RECIPE = Recipe(rate=1e-3, scaled=False, head_rate=1e-2, epochs=20, patience=6)
PUBLISHED = Preset(
    "Jiang et al. 2022, published configuration for RoBERTa-large as it ran on RTE: the rate rises over 2,000 of 3,900 "
    "steps and stays (it would fall until step 200,000); here the read-out is trained",
    Recipe(rate=0.03, scaled=False, head_rate=0.03, decay=0.0, schedule="constant", warmup=2000 / 3900, batch=32,
           accumulation=2, epochs=100, clip=1.0),
    settings={"length": 100},
    run={"init": "uniform", "readout": "classifier", "pool": "first", "dropout": True, "max_length": 384},
)  # fmt: skip

METHODS = (
    Method("ipt", "soft tokens looked up in a table of the vocabulary by the input's tokens", PAPER, ipt, RECIPE,
           presets={"paper": PUBLISHED}),
    Method("ipt-cnn", "soft tokens that a convolution makes of the input's tokens", PAPER,
           ipt, RECIPE, given={"encoder": "cnn"}, presets={"paper": PUBLISHED}),
    Method("ipt-mlp", "soft tokens that an MLP makes of the input's tokens", PAPER,
           ipt, RECIPE, given={"encoder": "mlp"}, presets={"paper": PUBLISHED}),
    Method("ipt-lstm", "soft tokens that an LSTM makes of the input's tokens", PAPER,
           ipt, RECIPE, given={"encoder": "lstm"}, presets={"paper": PUBLISHED}),
    Method("ipt-prefix", "a prefix in every layer, plus keys and values looked up by the input's tokens", PAPER,
           ipt, replace(RECIPE, rate=1e-2), given={"variant": "prefix", "length": 16}, rates={"generators.1": 1e-3},
           presets={"paper": replace(PUBLISHED, run={**PUBLISHED.run, "rates": {"generators.1": 0.03}})}),
)  # fmt: skip
