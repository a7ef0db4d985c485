"""Soft tokens read off the input's own tokens: a second table of the vocabulary (IPT, Jiang et al. 2022).

`Lookup` takes a window of a row's token ids and looks each of them up in a table of its own: dense, of low rank, or
hashed. It is the "random" strategy of instance-wise prompt tuning; with a network behind it (`pooling`), the encoder
strategies. Differences from the published code: padding is never read; every row has the same number of slots, those
without a token are absent, or filled by a learned vector (`pad`); the window can start at either end and stride.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.errors import SettingError
from promptuary.generators import Generator
from promptuary.initial import Initial
from promptuary.transforms import present
from promptuary.values import Instance, Prompt


@dataclass(frozen=True)
class Window:
    """Which tokens of a row are read.

    Arguments:
        size: how many slots there are; a shorter row leaves the last ones empty.
        side: whether the first or the last tokens are read (in their order either way).
        stride: every so many tokens one is read.
        field: read the tokens of this text alone: 1 is the first text of a row, 2 the second, `None` all tokens
            (templates and special ones too, as published).

    Raises:
        SettingError: for a size or stride below 1, or an unknown side.
    """

    size: int
    side: Literal["left", "right"] = "left"
    stride: int = 1
    field: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise SettingError(f"Window(size={self.size}, stride={self.stride}): expected 1 or more of both.")
        if self.side not in ("left", "right"):
            raise SettingError(f"Window(side={self.side!r}): expected 'left' or 'right'.")

    def __call__(self, x: Instance) -> tuple[Int[Tensor, "batch {self.size}"], Bool[Tensor, "batch {self.size}"]]:
        """Token ids and which of them are real, the real ones first; ids of empty slots are 0."""
        read = x.mask & (x.ids >= 0)
        if self.field is not None:
            if x.fields is None:
                raise SettingError(f"Window(field={self.field}): this input does not say which text a token is of.")
            read = read & (x.fields == self.field)
        place = read.cumsum(1) - 1 if self.side == "left" else read.flip(1).cumsum(1).flip(1) - 1
        read = read & (place % self.stride == 0) & (place < self.size * self.stride)
        columns = read.int().argsort(dim=1, descending=True, stable=True)[:, : self.size]
        ids, real = x.ids.gather(1, columns), read.gather(1, columns)
        missing = (0, self.size - ids.shape[1])
        return F.pad(ids.masked_fill(~real, 0), missing), F.pad(real, missing)


class Table(nn.Module, ABC):
    """A vector of `width` numbers for each of `size` token ids."""

    size: int
    width: int

    @abstractmethod
    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        """The vectors of token ids."""

    @abstractmethod
    def used(self, rows: int) -> int:
        """How many numbers of the table so many different ids depend on."""


class Dense(Table):
    """A row of its own for each id: `size * width` numbers, started by `init`."""

    def __init__(self, size: int, width: int, init: Initial, *, seed: int = 0) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.weight = nn.Parameter(init(size, width, torch.Generator().manual_seed(seed)).float())

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        return F.embedding(ids, self.weight)

    def used(self, rows: int) -> int:
        return min(rows, self.size) * self.width


class LowRank(Table):
    """The product of `size * rank` and `rank * width` numbers; the product starts at the deviation of `init`."""

    def __init__(self, size: int, width: int, rank: int, init: Initial, *, seed: int = 0) -> None:
        super().__init__()
        if rank < 1:
            raise SettingError(f"LowRank(rank={rank}): expected 1 or more.")
        self.size, self.width, self.rank = size, width, rank
        source = torch.Generator().manual_seed(seed)
        self.codes = nn.Parameter(torch.randn(size, rank, generator=source))
        self.basis = nn.Parameter(init(rank, width, source).float() / rank**0.5)

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        return F.embedding(ids, self.codes) @ self.basis

    def used(self, rows: int) -> int:
        return min(rows, self.size) * self.rank + self.basis.numel()


class Hashed(Table):
    """`buckets` rows for all ids: an id's vector is the mean of the rows that `hashes` hash functions name."""

    multipliers: Tensor

    def __init__(self, size: int, width: int, buckets: int, init: Initial, *, hashes: int = 2, seed: int = 0) -> None:
        super().__init__()
        if buckets < 1 or hashes < 1:
            raise SettingError(f"Hashed(buckets={buckets}, hashes={hashes}): expected 1 or more of both.")
        self.size, self.width, self.buckets = size, width, buckets
        source = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(init(buckets, width, source).float())
        # Odd multipliers below 2^31 and ids below 2^32 stay exact in 64 bits.
        self.register_buffer("multipliers", torch.randint(2**30, (hashes, 2), generator=source) * 2 + 1)

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        hashed = rearrange(ids, "b s -> b s 1") * self.multipliers[:, 0] + self.multipliers[:, 1]
        rows = (hashed % 2_147_483_647) % self.buckets
        return F.embedding(rows, self.weight).mean(2)

    def used(self, rows: int) -> int:
        return min(rows * len(self.multipliers), self.buckets) * self.width


class Lookup(Generator):
    """The vectors of a window of the row's own tokens.

    Arguments:
        pad: what stands in a slot that has no token: `mask` nothing (the slot is absent), `row` one learned vector for
            all, `task` a learned vector for each slot. The learned ones start as `init` says.

    Raises:
        SettingError: for an unknown `pad`; in `forward`, for a token id that the table does not have.
    """

    touched: Tensor

    def __init__(
        self,
        window: Window,
        table: Table,
        *,
        pad: Literal["mask", "row", "task"] = "mask",
        init: Initial | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        fills = {"mask": 0, "row": 1, "task": window.size}
        if pad not in fills:
            raise SettingError(f"Lookup(pad={pad!r}): expected 'mask', 'row' or 'task'.")
        self.window, self.table = window, table
        self.length, self.width, self.reads_fields = window.size, table.width, window.field is not None
        start = torch.zeros(fills[pad], table.width)
        if fills[pad] and init is not None:
            start = init(fills[pad], table.width, torch.Generator().manual_seed(seed)).float()
        self.fill = nn.Parameter(start, requires_grad=fills[pad] > 0)
        self.register_buffer("touched", torch.zeros(table.size, dtype=torch.bool))

    def forward(self, x: Instance) -> Prompt:
        ids, real = self.window(x)
        if int(ids.max()) >= self.table.size:
            raise SettingError(
                f"Lookup: the input has token {int(ids.max())}, the table has {self.table.size} rows. It was made for "
                "another tokenizer: use the one it was made with, or tune a new prompt."
            )
        if self.training:
            self.touched[ids[real]] = True
        values = present(self.table(ids), real.float()).values
        if not len(self.fill):
            return Prompt(values, real.float())
        empty = rearrange(~real, "b p -> b p 1")
        return Prompt(values + self.fill * empty, torch.ones_like(values[..., 0]))

    def idle(self) -> int:
        """How many of the table's numbers one input cannot reach: all but those of its own tokens."""
        return sum(p.numel() for p in self.table.parameters()) - self.table.used(self.length)

    def untouched(self) -> int:
        """How many of the table's numbers no training input reached."""
        return sum(p.numel() for p in self.table.parameters()) - self.table.used(int(self.touched.sum()))
