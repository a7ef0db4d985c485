"""The values that flow from text to loss: one direction, frozen, with the axes in their types.

`Instance` (one batch as a method sees it) -> `Prompt` (soft tokens) -> `Layout` (prompt and input in one row)
-> `Call` (what enters the backbone) -> `Output` (what comes out, aligned with the user's own tokens).

Axes: `batch tokens prompt width dim length hidden`. `width` is `dim` for prompts that enter as embeddings, and
the sum of all key and value widths for prompts that enter as keys and values; generators do not care which.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from promptuary.towers import PARTS as PARTS
from promptuary.towers import Part as Part

T = TypeVar("T")


@dataclass(frozen=True)
class Attention:
    """The geometry of one attention layer, read off its real keys and values (grouped queries, odd head sizes).

    `heads` is the number of key-value heads; `key` and `value` are widths per head. `window` is the number of
    positions a query of this layer reaches back to, or `None` where it reaches all.
    """

    part: Part
    heads: int
    key: int
    value: int
    window: int | None = None

    @property
    def width(self) -> int:
        """Numbers per soft token: all keys and values of this layer."""
        return self.heads * (self.key + self.value)


@dataclass(frozen=True)
class Shape:
    """What a method must know of a backbone to build itself: sizes, and the scale of the embedding table.

    `dim` is the width of the embedding table, `hidden` the width of the layers (they differ in ALBERT, ELECTRA and
    some OPT models), `output` the width of the last states that read-outs see. `positions` is the number of tokens
    that fit, or `None` where nothing limits them. `attention` lists every attention layer that accepts keys and
    values, in the order of the calls; it is empty where the model's code offers no hook. `deviation` is the standard
    deviation of the embedding table as the layers see it (scaled embeddings are measured scaled): initialisation and
    learning rates are multiples of it. `heard` are the parts of the model that bear on what is read off it: all,
    unless a read-out says that they are fewer (`Readout.reads`).
    """

    family: str
    dim: int
    hidden: int
    output: int
    layers: int
    vocabulary: int
    positions: int | None
    deviation: float
    attention: tuple[Attention, ...] = ()
    decodes: bool = False
    encodes: bool = True
    heard: frozenset[Part] = PARTS

    @property
    def parts(self) -> frozenset[Part]:
        """The parts in which soft keys and values can enter and are heard."""
        return self.heard & {a.part for a in self.attention}

    def key_value_width(self, parts: frozenset[Part]) -> int:
        """Width of a soft token that carries keys and values for every attention layer of `parts`."""
        return sum(a.width for a in self.attention if a.part in parts)


Columns = Int[Tensor, "batch read"]  # of the caller's tokens
Encode = Callable[["Instance", int | None, Columns | None], Tensor]


def _no_encoder(x: "Instance", until: int | None, columns: Columns | None) -> Tensor:
    raise AssertionError("an Instance of SoftPrompted.instance knows its backbone; this one was made by hand")


@dataclass(frozen=True, eq=False)
class Once:
    """A value that remembers what was made of it."""

    _known: dict[Hashable, Any] = field(init=False, default_factory=dict, repr=False)

    def once(self, f: Callable[..., T], *given: Hashable) -> T:
        """`f(self, *given)`, computed at most once (with a gradient and without are two)."""
        key = (f, given, torch.is_grad_enabled())
        if key not in self._known:
            self._known[key] = f(self, *given)
        known: T = self._known[key]
        return known


@dataclass(frozen=True, eq=False)
class Instance(Once):
    """One batch of inputs as a method sees it. `once` ties choices together and shares queries between parts.

    Arguments:
        ids: token ids; a negative id marks a place that `Slots` fills with a soft token. Padding may stand
            anywhere: only `mask` says what is real.
        mask: true where a token is real.
        embeds: the backbone's embeddings of `ids` (zeros at negative ids).
        types: segment ids for backbones that have them, else zeros.
        task: the index of each row's task.
        fields: which text of the row a token belongs to: 1 the first, 2 the second, 0 none (templates, special
            tokens); `None` where nobody said.
        step: the number of the optimizer's step, from 1, while training; else 0.
        encode: the frozen backbone's states of an input alone, `[batch, tokens, hidden]`, without gradient: the last
            ones, or those before the layer of that number; at all tokens, or at least at some columns.
        losses: what parts add to the loss of this pass while training (an entropy bonus).
    """

    ids: Int[Tensor, "batch tokens"]
    mask: Bool[Tensor, "batch tokens"]
    embeds: Float[Tensor, "batch tokens dim"]
    types: Int[Tensor, "batch tokens"]
    task: Int[Tensor, " batch"]
    fields: Int[Tensor, "batch tokens"] | None = None
    step: int = 0
    encode: Encode = field(default=_no_encoder, repr=False)
    losses: list[Tensor] = field(default_factory=list, repr=False)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Soft tokens for each row. `keep` is presence: where it is 0 the slot is absent and its values are 0."""

    values: Float[Tensor, "batch prompt width"]
    keep: Float[Tensor, "batch prompt"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Prompt and input in one row: the present items first, without gaps, padding after them.

    This order is why left padding, right padding and any batch composition give the same numbers: wherever the
    caller's padding stood, the backbone sees each row as if it were alone.

    Arguments:
        tokens: for each token of the caller its column in `embeds` (for padding: some masked column).
        prompts: for each soft token its column in `embeds` (for absent ones: some masked column).
        placed: how much of each soft token stands in each column, as 0 and 1 with the gradient of a choice of places;
            `None` where no gradient reaches the places.
    """

    embeds: Float[Tensor, "batch length dim"]
    mask: Bool[Tensor, "batch length"]
    types: Int[Tensor, "batch length"]
    tokens: Int[Tensor, "batch tokens"]
    prompts: Int[Tensor, "batch prompt"]
    placed: Float[Tensor, "batch length prompt"] | None = None


@dataclass(frozen=True, eq=False)
class KeyValue:
    """Soft keys and values of one attention layer, visible to every query of it where `keep` says they are present.

    `heads` are key-value heads. `batch` is 1 where all rows of a batch share them.
    """

    key: Float[Tensor, "batch heads prompt key"]
    value: Float[Tensor, "batch heads prompt value"]
    keep: Bool[Tensor, "batch prompt"]


@dataclass(frozen=True, eq=False)
class Entry:
    """Where a row enters the model: its own tokens' states before `layer`. The layers below are not run.

    `mask` is true where a token is real: what stands in a column of padding may belong to another item.
    """

    layer: int
    states: Float[Tensor, "batch tokens hidden"]
    mask: Bool[Tensor, "batch tokens"]


@dataclass(frozen=True, eq=False)
class Call:
    """What enters the backbone.

    Arguments:
        layout: the row of embeddings.
        keys_values: soft keys and values by index into `Shape.attention`.
        states: soft tokens by layer, as hidden states that overwrite the columns `layout.prompts` before it.
        start: the position of each row's first column; `None` is 0 for all. Where it is not 0, the soft keys and
            values stand in the positions before it, 0, 1, ..., and a sliding window leaves them behind as it does
            tokens; where it is 0, they stand nowhere and every query sees them.
        entry: where the row enters, if not as embeddings at the first layer. until: the layer before which the model
            stops, whose input is the result; `None` runs it all. Both are about the tower that reads the layout.
        blind: the soft tokens of the row, where they see one another and not the input, which sees them.
        columns: the caller's tokens whose last states are read, beside those that predict targets; `None` is all of
            them. Soft tokens' are never read.
            The states of others are undefined then: where it saves work they are not made.
    """

    layout: Layout
    keys_values: Mapping[int, KeyValue] = field(default_factory=dict)
    states: Mapping[int, Prompt] = field(default_factory=dict)
    start: Int[Tensor, " batch"] | None = None
    entry: Entry | None = None
    until: int | None = None
    blind: Prompt | None = None
    columns: Columns | None = None

    @property
    def bare(self) -> bool:
        """Whether it is an input by itself, without any soft token."""
        return not (self.layout.prompts.shape[1] or self.keys_values or self.states or self.entry)


@dataclass(frozen=True, eq=False)
class Targets:
    """Text to be scored: `choices` continuations (decoder texts) for each row, padded anywhere.

    `fed` is how many tokens the texts of one row have at most, each without its last, where that is known to be less
    than the axes have room for.
    """

    ids: Int[Tensor, "batch choices steps"]
    mask: Bool[Tensor, "batch choices steps"]
    fed: int | None = None


@dataclass(frozen=True, eq=False)
class Output(Once):
    """What the backbone says, aligned with the caller's tokens: never longer than the input by a prompt.

    By `once` the loss and the prediction of a batch share its scores over the vocabulary.

    Arguments:
        hidden: last states at the caller's tokens (undefined at padding, and where the call did not ask for them). For
            an encoder-decoder: the encoder's.
        targets: states that predict each target token, or `None` without targets.
        logits: turns states of any leading shape into scores over the vocabulary, rows as needed.
    """

    hidden: Float[Tensor, "batch tokens hidden"]
    targets: Float[Tensor, "batch choices steps hidden"] | None
    logits: Callable[[Float[Tensor, "*rows hidden"]], Float[Tensor, "*rows vocabulary"]]
