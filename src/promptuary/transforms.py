"""Networks between a generator and the model: prompt in, prompt out; length and width may change.

They reparameterise a prompt while it trains and are dropped afterwards: `Slotwise` is the MLP of prefix tuning
(Li and Liang 2021, section 4.3), `BiLSTM` followed by `Slotwise` the prompt encoder of P-tuning v1 (Liu et al.
2021, section 3).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from promptuary.errors import SettingError
from promptuary.values import Prompt


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
        _expect(width, self.sizes[0], "Slotwise")
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
        _expect(width, self.width, "BiLSTM")
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Networks built inside draw their weights from `seed`; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU too
        yield


def _expect(width: int, wanted: int, who: str) -> None:
    if width != wanted:
        raise SettingError(f"{who}: expected soft tokens of {wanted} numbers, got {width}.")
