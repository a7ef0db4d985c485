"""Networks between a generator and the model: prompt in, prompt out; length and width may change.

They reparameterise a prompt while it trains and are dropped afterwards: `Slotwise` is the MLP of prefix tuning
(Li and Liang 2021, section 4.3), `BiLSTM` followed by `Slotwise` the prompt encoder of P-tuning v1 (Liu et al.
2021, section 3).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from promptuary.errors import SettingError
from promptuary.values import Prompt

NETWORKS = 2**31  # between the seeds of tables and those of networks; CPUs draw by the lower 32 bits


class Transform(nn.Module, ABC):
    """A network from prompt to prompt."""

    @abstractmethod
    def forward(self, p: Prompt) -> Prompt:
        """The transformed soft tokens; absent slots stay absent and 0."""

    @abstractmethod
    def shape(self, length: int, width: int) -> tuple[int, int]:
        """Length and width after the transform, for a prompt of `length` soft tokens of `width` numbers.

        Raises:
            SettingError: when such a prompt cannot be transformed.
        """


def present(values: Float[Tensor, "batch prompt width"], keep: Float[Tensor, "batch prompt"]) -> Prompt:
    """A prompt whose absent slots are 0."""
    return Prompt(values * rearrange(keep, "b p -> b p 1"), keep)


class Slotwise(Transform):
    """A feed-forward network on each soft token by itself: sizes `(in, ..., out)`, an activation between layers.

    Raises:
        SettingError: for fewer than two sizes, or one below 1.
    """

    def __init__(self, *sizes: int, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise SettingError(f"Slotwise{sizes}: expected at least two sizes of 1 or more, (in, ..., out).")
        self.sizes = sizes
        layers: list[nn.Module] = []
        for into, out in pairwise(sizes):
            layers += [nn.Linear(into, out), activation()]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, p: Prompt) -> Prompt:
        return present(self.network(p.values), p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        expect_width(width, self.sizes[0], "Slotwise")
        return length, self.sizes[-1]


class BiLSTM(Transform):
    """A two-layer bidirectional LSTM along the prompt; each direction has half of `width`.

    Raises:
        SettingError: for an odd width.
    """

    def __init__(self, width: int, *, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        if width % 2:
            raise SettingError(f"BiLSTM({width}): expected an even width, half of it for each direction.")
        self.width = width
        self.network = nn.LSTM(
            width, width // 2, num_layers=layers, bidirectional=True, batch_first=True, dropout=dropout
        )

    def forward(self, p: Prompt) -> Prompt:
        return present(self.network(p.values)[0], p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        expect_width(width, self.width, "BiLSTM")
        return length, self.width


class Scaled(Transform):
    """Every number times a constant: brings a network's output to the scale of the embedding table.

    The constant is a buffer: it was measured on one random start and belongs to that start.
    """

    factor: Tensor

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, p: Prompt) -> Prompt:
        return Prompt(p.values * self.factor, p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        return length, width


class Elementwise(Transform):
    """A module that works on each soft token by itself and keeps its width: an activation, dropout, a norm."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, p: Prompt) -> Prompt:
        return present(self.module(p.values), p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        return length, width


class Residual(Transform):
    """A prompt plus what the transforms, in turn, make of it (residual prompt tuning, Razdaibiedina et al. 2023).

    Raises:
        SettingError: where they change the length or the width.
    """

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, p: Prompt) -> Prompt:
        added = p
        for transform in self.transforms:
            added = transform(added)
        return present(p.values + added.values, p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        made = length, width
        for transform in self.transforms:
            if isinstance(transform, Transform):
                made = transform.shape(*made)
        if made != (length, width):
            raise SettingError(
                f"Residual: its transforms make (length, width) {made} of {(length, width)}; expected the same."
            )
        return made


class AtLayers(Transform):
    """Keys and values of some attention layers only, times a factor; those of all other layers are 0.

    Added to a prompt for all layers, this is the prefix variant of instance-wise prompt tuning (Jiang et al. 2022,
    which has layer 0 and a factor of 0.05; at 0 it is plain prefix tuning).

    Arguments:
        widths: numbers of a soft token in each attention layer, in order (`Attention.width`).
        layers: which of them are made.
        scale: the factor. trained: whether it learns.

    Raises:
        SettingError: for no layer, or one that is not there.
    """

    scale: Tensor

    def __init__(
        self, widths: Sequence[int], layers: Iterable[int] = (0,), *, scale: float = 0.05, trained: bool = False
    ):
        super().__init__()
        self.layers, self.widths = frozenset(layers), tuple(widths)
        if not self.layers or not self.layers <= set(range(len(self.widths))):
            raise SettingError(f"AtLayers(layers={sorted(self.layers)}): expected some of 0 to {len(self.widths) - 1}.")
        if trained:
            self.scale = nn.Parameter(torch.tensor(scale))
        else:
            self.register_buffer("scale", torch.tensor(scale))

    @property
    def width(self) -> int:
        """Numbers of a soft token before: those of the chosen layers alone."""
        return sum(width for layer, width in enumerate(self.widths) if layer in self.layers)

    def forward(self, p: Prompt) -> Prompt:
        parts, at = [], 0
        for layer, width in enumerate(self.widths):
            if layer in self.layers:
                parts.append(p.values[..., at : at + width] * self.scale)
                at += width
            else:
                parts.append(p.values.new_zeros(*p.keep.shape, width))
        return Prompt(torch.cat(parts, 2), p.keep)

    def shape(self, length: int, width: int) -> tuple[int, int]:
        expect_width(width, self.width, "AtLayers")
        return length, sum(self.widths)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Networks built inside draw their weights from `seed`; the caller's random state is untouched.

    They draw other numbers than tables of that seed do: a network would start as a multiple of the rows that it reads.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + NETWORKS)  # torch.manual_seed would reach every GPU too
        yield


def expect_width(width: int, wanted: int, who: str) -> None:
    """Raise `SettingError` where soft tokens have another width than the transform `who` takes."""
    if width != wanted:
        raise SettingError(f"{who}: expected soft tokens of {wanted} numbers, got {width}.")
