"""Networks that read a prompt of many soft tokens into one: the encoders of instance-wise prompt tuning (IPT).

Behind `Lookup` and before a feed-forward network that makes the new soft tokens (`Slotwise`, then `Unfolded`), these
are the CNN, MLP and LSTM strategies (Jiang et al. 2022; the sizes are those of the published code). Absent slots are
never read; a prompt without any present slot gives zeros, so that the network's biases decide.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from promptuary.errors import SettingError
from promptuary.transforms import Transform, expect_width
from promptuary.values import Prompt


class MaskedMean(Transform):
    """The mean of the present soft tokens."""

    def forward(self, p: Prompt) -> Prompt:
        weights = rearrange(p.keep, "b p -> b p 1")
        return _single((p.values * weights).sum(1) / weights.sum(1).clamp(min=1))

    def shape(self, length: int, width: int) -> tuple[int, int]:
        return 1, width


class ConvMax(Transform):
    """Convolutions along the prompt, ReLU, and the maximum over all places (Kim 2014).

    A convolution is read where its whole window lies on present soft tokens; a prompt that is too short for a kernel
    is read as if zeros followed it.

    Arguments:
        kernels: widths of the convolutions. filters: how many of each.
    """

    def __init__(self, width: int, *, kernels: Sequence[int] = (3, 4, 5), filters: int = 1) -> None:
        super().__init__()
        if not kernels or min(kernels) < 1 or filters < 1:
            raise SettingError(f"ConvMax(kernels={tuple(kernels)}, filters={filters}): expected 1 or more each.")
        self.width, self.filters = width, filters
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, kernel) for kernel in kernels)

    def forward(self, p: Prompt) -> Prompt:
        values = rearrange(p.values * rearrange(p.keep, "b p -> b p 1"), "b p w -> b w p")
        count = (p.keep > 0).sum(1)
        found = []
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            kernel = convolution.kernel_size[0]
            read = convolution(F.pad(values, (0, kernel - 1))).relu()
            places = torch.arange(read.shape[2], device=read.device)
            last = rearrange((count - kernel).clamp(min=0), "b -> b 1 1")
            found.append(read.masked_fill(places > last, 0.0).amax(2))
        pooled = torch.cat(found, 1)
        return _single(pooled * rearrange(count > 0, "b -> b 1"))

    def shape(self, length: int, width: int) -> tuple[int, int]:
        expect_width(width, self.width, "ConvMax")
        return 1, self.filters * len(self.convolutions)


class Recurrent(Transform):
    """The last states of a bidirectional LSTM along the prompt, forward and backward, of its last layer."""

    def __init__(self, width: int, *, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.network = nn.LSTM(width, hidden, num_layers=layers, bidirectional=True, batch_first=True)

    def forward(self, p: Prompt) -> Prompt:
        count = (p.keep > 0).sum(1)
        packed = pack_padded_sequence(p.values, count.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, (states, _) = self.network(packed)
        return _single(torch.cat([states[-2], states[-1]], 1) * rearrange(count > 0, "b -> b 1"))

    def shape(self, length: int, width: int) -> tuple[int, int]:
        expect_width(width, self.width, "Recurrent")
        return 1, 2 * self.hidden


class Unfolded(Transform):
    """One soft token of `length * width` numbers becomes `length` soft tokens.

    Raises:
        SettingError: for a width that does not divide into `length` parts.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, p: Prompt) -> Prompt:
        values = rearrange(p.values, "b 1 (p w) -> b p w", p=self.length)
        return Prompt(values, p.keep.expand(-1, self.length))

    def shape(self, length: int, width: int) -> tuple[int, int]:
        if length != 1 or width % self.length:
            raise SettingError(
                f"Unfolded({self.length}): expected one soft token whose width is a multiple of {self.length}, "
                f"got {length} of {width} numbers."
            )
        return self.length, width // self.length


def _single(values: torch.Tensor) -> Prompt:
    return Prompt(rearrange(values, "b w -> b 1 w"), values.new_ones(len(values), 1))
