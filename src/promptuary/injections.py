"""How a prompt enters the model: as embeddings in the row, as keys and values of every layer, or as hidden states.

Prompt tuning and P-tuning v1 are `Embeddings`; prefix tuning and P-tuning v2 are `KeyValues`; the "per layer"
prompts of the code published with Lester et al. 2021 are `HiddenStates`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor, nn

from promptuary.choices import encoding
from promptuary.errors import BackboneError, SettingError
from promptuary.placements import Placement, Split, bare
from promptuary.values import Call, Entry, Instance, KeyValue, Part, Prompt, Shape


class Injection(nn.Module, ABC):
    """How soft tokens of `width` numbers enter a backbone of a given shape."""

    width: int

    @abstractmethod
    def forward(self, p: Prompt, x: Instance) -> Call:
        """Turn a prompt and an input into what the backbone is called with."""

    @abstractmethod
    def occupies(self, length: int) -> int:
        """How many positions of the input a prompt of `length` soft tokens takes up."""

    def accepts(self, length: int) -> None:
        """Raise `SettingError` where a prompt of `length` soft tokens cannot enter."""

    def marks(self, length: int) -> int:
        """How many places for soft tokens the text must mark for a prompt of `length` soft tokens."""
        return 0

    def leads(self, length: int) -> bool:
        """Whether all of `length` soft tokens stand before any input whatever, or in no row at all."""
        return False

    def tensors(self) -> list[Tensor]:
        """All numbers that it holds."""
        return [*self.parameters(), *self.buffers()]


class Placed(Injection, ABC):
    """Soft tokens that stand in the row, where a placement puts them (`None`: before the input)."""

    def __init__(self, placement: Placement | None) -> None:
        super().__init__()
        self.placement = Split() if placement is None else placement

    def occupies(self, length: int) -> int:
        return length

    def accepts(self, length: int) -> None:
        self.placement.accepts(length)

    def marks(self, length: int) -> int:
        return self.placement.marks(length)

    def leads(self, length: int) -> bool:
        return self.placement.leads(length)


class Embeddings(Placed):
    """Soft tokens enter as rows of embeddings (Lester et al. 2021, section 2).

    Arguments:
        sees_input: whether soft tokens attend to the input too, where the model reads in both directions. If not, they
            are the same for every input: before it, they are read once for a whole batch.

    Raises:
        SettingError: for `sees_input=False` on a causal model, whose soft tokens see what stands before them only.
        BackboneError: for it on a model whose code has no hook for attention (DeBERTa).
    """

    def __init__(self, shape: Shape, placement: Placement | None = None, *, sees_input: bool = True) -> None:
        super().__init__(placement)
        if not sees_input and not shape.encodes:
            raise SettingError(
                f"sees_input=False on {shape.family!r}: soft tokens before a causal model's input never see it. "
                "Leave it out."
            )
        if not sees_input and not shape.attention:
            raise BackboneError(
                f"sees_input=False on {shape.family!r}: its attention is not written against the attention interface "
                "of transformers, so nothing tells it what soft tokens see. Leave it out."
            )
        self.width, self.sees_input = shape.dim, sees_input

    def forward(self, p: Prompt, x: Instance) -> Call:
        return Call(self.placement(p, x), blind=None if self.sees_input else p)


class HiddenStates(Placed):
    """Soft tokens enter at the input and are overwritten before every layer by that layer's own rows.

    The source is the "replace" form of per-layer prompts in the code published with Lester et al. 2021, which
    notes that this is *not* prefix tuning: hidden states still pass through the layer's projections. It works on
    every backbone, also on those without an attention hook.
    """

    def __init__(self, shape: Shape, placement: Placement | None = None) -> None:
        super().__init__(placement)
        self.layers, self.dim = shape.layers, shape.dim
        self.width = shape.layers * shape.hidden

    def forward(self, p: Prompt, x: Instance) -> Call:
        # What stands at the embedding level is overwritten before the first layer; zeros hold the place.
        room = Prompt(p.values.new_zeros(*p.keep.shape, self.dim), p.keep)
        states = rearrange(p.values, "b p (layers hidden) -> layers b p hidden", layers=self.layers)
        return Call(self.placement(room, x), states={n: Prompt(own, p.keep) for n, own in enumerate(states)})


class Late(Placed):
    """Soft tokens join the row before layer `layer`; below, the text is by itself and needs no gradient.

    Late prompt tuning (Liu et al. 2022, section 4). The layers below run once for the text alone, and whoever makes
    the soft tokens of its states there (`choices.encoding_mean` with the same layer) shares that pass. The row has no
    position for them where positions are added to embeddings; where they belong to the attention, the layers above
    count the row as it then is.

    Raises:
        SettingError: for a layer that is not between two others.
        BackboneError: on a causal model, whose continuations would have to pass the layers below too.
    """

    def __init__(self, shape: Shape, layer: int, placement: Placement | None = None) -> None:
        super().__init__(placement)
        if not shape.encodes:
            raise BackboneError(
                f"{shape.family!r} is causal: soft tokens that join at a later layer are for models with an encoder. "
                "Use 'prompt-tuning' or 'p-tuning-v2'."
            )
        if not 0 < layer < shape.layers:
            raise SettingError(f"Late(layer={layer}) on {shape.layers} layers: expected 1 to {shape.layers - 1}.")
        self.layer, self.dim, self.width = layer, shape.dim, shape.hidden

    def forward(self, p: Prompt, x: Instance) -> Call:
        room = Prompt(p.values.new_zeros(*p.keep.shape, self.dim), p.keep)
        entry = Entry(self.layer, x.once(encoding, self.layer), x.mask)
        return Call(self.placement(room, x), states={self.layer: p}, entry=entry)


class KeyValues(Injection):
    """Soft tokens enter as keys and values of every attention layer (Li and Liang 2021; Liu et al. 2022).

    They go through the attention function, not through a cache, so that encoders, encoder-decoders, gradient
    checkpointing and generation with any cache all see them; the input keeps its own positions. Every query of
    a layer sees learned ones, in sliding windows too. A soft token of an absent slot (`keep` 0) is masked.

    Arguments:
        parts: which attention of the model: `{"encoder"}`, `{"decoder"}`, `{"cross"}` or several; `None` is all
            that the backbone has and that is heard (Li and Liang's three prefixes on an encoder-decoder that writes).
        start: the position of the first input token. 0 for learned prefixes, which have no positions; the
            number of soft tokens where these are the keys and values of real tokens, and where the prefix was tuned
            as a model's cache holds one (PEFT, the published code of P-tuning v2). A sliding window then leaves them
            behind as it does tokens.

    Raises:
        SettingError: for a part that is unknown, that the backbone lacks or that nothing reads; for a `start` on a
            model of two towers; in `accepts`, for one that is less than there are soft tokens.
        BackboneError: when the backbone's code has no hook for attention (DeBERTa).
    """

    def __init__(self, shape: Shape, *, parts: Iterable[Part] | None = None, start: int = 0) -> None:
        super().__init__()
        if not shape.attention:
            raise BackboneError(
                f"{shape.family!r} does not let keys and values in: its attention is not written against the "
                "attention interface of transformers. Use a method at the input ('prompt-tuning', 'p-tuning') or "
                "'deep-prompt-tuning', which overwrites hidden states."
            )
        chosen = shape.parts if parts is None else frozenset(parts)
        if not chosen or not chosen <= shape.parts:
            raise SettingError(
                f"KeyValues(parts={sorted(chosen)}) on {shape.family!r}: expected some of {sorted(shape.parts)}, "
                "which the model has and the read-out reads."
            )
        both = shape.encodes and shape.decodes
        if start < 0 or (start and both):
            raise SettingError(
                f"KeyValues(start={start}) on {shape.family!r}: expected 0"
                + (", for each of its towers counts by itself." if both else " or more.")
            )
        self.parts, self.start = chosen, start
        self.attention = [(i, a) for i, a in enumerate(shape.attention) if a.part in chosen]
        self.width = shape.key_value_width(chosen)

    def forward(self, p: Prompt, x: Instance) -> Call:
        values = torch.split(p.values, [a.width for _, a in self.attention], dim=2)
        keys_values, keep = {}, p.keep > 0
        for (index, a), flat in zip(self.attention, values, strict=True):
            key, value = flat[..., : a.heads * a.key], flat[..., a.heads * a.key :]
            keys_values[index] = KeyValue(
                rearrange(key, "b p (heads k) -> b heads p k", heads=a.heads),
                rearrange(value, "b p (heads v) -> b heads p v", heads=a.heads),
                keep,
            )
        return Call(bare(x), keys_values, start=_starts(self.start, x))

    def occupies(self, length: int) -> int:
        return self.start

    def accepts(self, length: int) -> None:
        if 0 < self.start < length:
            raise SettingError(
                f"KeyValues(start={self.start}) with a prompt of {length} soft tokens: they stand in the positions "
                f"before the input, and there are {self.start}. Expected start=0, which is nowhere, or start={length}."
            )

    def leads(self, length: int) -> bool:
        return True


class Compiled(Injection):
    """Keys and values that say once and for all what soft tokens say of every input (`SoftPrompted.compiled`).

    All rows share one copy. There is nothing to generate: the prompt has length 0 and width 0.

    Arguments:
        keys_values: of one row, by index into `Shape.attention`.
        start: the position of the first input token: how many soft tokens stand in positions before it.
        dtype: of the model's own keys and values.
    """

    width = 0

    def __init__(self, keys_values: Mapping[int, KeyValue], start: int, dtype: torch.dtype) -> None:
        super().__init__()

        def own(given: Tensor) -> Tensor:
            return given.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)

        self.start = start
        self.keys_values = {i: KeyValue(own(kv.key), own(kv.value), kv.keep) for i, kv in keys_values.items()}

    def forward(self, p: Prompt, x: Instance) -> Call:
        return Call(bare(x), self.keys_values, start=_starts(self.start, x))

    def occupies(self, length: int) -> int:
        return self.start

    def tensors(self) -> list[Tensor]:
        return [tensor for kv in self.keys_values.values() for tensor in (kv.key, kv.value)]


def _starts(start: int, x: Instance) -> Int[Tensor, " batch"] | None:
    return x.ids.new_full(x.ids.shape[:1], start) if start else None
