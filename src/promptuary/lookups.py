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
from promptuary.initial import Initial, factors
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
    """A vector of `width` numbers for each of `size` token ids.

    A `lazy` table has sparse gradients: a step reads and moves the rows of its own tokens alone (`train/lazy.py`).
    """

    size: int
    width: int

    @abstractmethod
    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        """The vectors of token ids."""

    @abstractmethod
    def used(self, rows: int) -> int:
        """How many numbers of the table so many different ids depend on, at most."""

    @abstractmethod
    def reached(self, ids: Int[Tensor, " ids"]) -> int:
        """How many numbers of the table these different ids depend on."""


class Dense(Table):
    """A row of its own for each id: `size * width` numbers, started by `init`."""

    def __init__(self, size: int, width: int, init: Initial, *, lazy: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.size, self.width, self.lazy = size, width, lazy
        self.weight = nn.Parameter(init(size, width, torch.Generator().manual_seed(seed)).float())

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        return F.embedding(ids, self.weight, sparse=self.lazy)

    def used(self, rows: int) -> int:
        return min(rows, self.size) * self.width

    def reached(self, ids: Int[Tensor, " ids"]) -> int:
        return self.used(len(ids))


class LowRank(Table):
    """The product of `size * rank` and `rank * width` numbers; it starts at the deviation of `init`.

    Where `init` is a copy of a matrix, it starts at the nearest product of that rank (`initial.factors`).

    Raises:
        SettingError: for a rank below 1, or above that of the matrix it starts from.
    """

    def __init__(self, size: int, width: int, rank: int, init: Initial, *, lazy: bool = False, seed: int = 0) -> None:
        super().__init__()
        if rank < 1:
            raise SettingError(f"LowRank(rank={rank}): expected 1 or more.")
        self.size, self.width, self.rank, self.lazy = size, width, rank, lazy
        codes, basis = factors(init, size, width, rank, torch.Generator().manual_seed(seed))
        self.codes, self.basis = nn.Parameter(codes), nn.Parameter(basis)

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        return F.embedding(ids, self.codes, sparse=self.lazy) @ self.basis

    def used(self, rows: int) -> int:
        return min(rows, self.size) * self.rank + self.basis.numel() * (rows > 0)

    def reached(self, ids: Int[Tensor, " ids"]) -> int:
        return self.used(len(ids))


class Hashed(Table):
    """`buckets` rows for all ids: an id's vector is the mean of the rows that `hashes` hash functions name."""

    multipliers: Tensor

    def __init__(
        self, size: int, width: int, buckets: int, init: Initial, *, hashes: int = 2, lazy: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        if buckets < 1 or hashes < 1:
            raise SettingError(f"Hashed(buckets={buckets}, hashes={hashes}): expected 1 or more of both.")
        self.size, self.width, self.buckets, self.lazy = size, width, buckets, lazy
        source = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(init(buckets, width, source).float())
        # Odd multipliers below 2^31 and ids below 2^32 stay exact in 64 bits.
        self.register_buffer("multipliers", torch.randint(2**30, (hashes, 2), generator=source) * 2 + 1)

    def forward(self, ids: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        return F.embedding(self._rows(ids), self.weight, sparse=self.lazy).mean(2)

    def used(self, rows: int) -> int:
        return min(rows * len(self.multipliers), self.buckets) * self.width

    def reached(self, ids: Int[Tensor, " ids"]) -> int:
        return len(torch.unique(self._rows(rearrange(ids, "i -> 1 i")))) * self.width

    def _rows(self, ids: Int[Tensor, "batch slots"]) -> Int[Tensor, "batch slots hashes"]:
        hashed = rearrange(ids, "b s -> b s 1") * self.multipliers[:, 0] + self.multipliers[:, 1]
        return (hashed % 2_147_483_647) % self.buckets


class Lookup(Generator):
    """The vectors of a window of the row's own tokens.

    Arguments:
        pad: what stands in a slot that has no token: `mask` nothing (the slot is absent), `row` one learned vector for
            all, `task` a learned vector for each slot. The learned ones start as `init` says.

    Raises:
        SettingError: for an unknown `pad`; in `forward` on a CPU, for a token id that the table does not have
            (`SoftPrompted` compares the sizes of table and backbone on any device).
    """

    touched: Tensor  # [size]: the ids whose vectors ever got a gradient

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
        self.vocabulary = table.size
        start = torch.zeros(fills[pad], table.width)
        if fills[pad] and init is not None:
            start = init(fills[pad], table.width, torch.Generator().manual_seed(seed)).float()
        self.fill = nn.Parameter(start, requires_grad=fills[pad] > 0)
        self.register_buffer("touched", torch.zeros(table.size, dtype=torch.bool))

    def forward(self, x: Instance) -> Prompt:
        ids, real = self.window(x)
        if ids.device.type == "cpu":  # elsewhere reading a number back would wait for all that was asked before
            self._check(int(ids.max()))
        found: Tensor = self.table(ids)
        if self.training and found.requires_grad:
            found.register_hook(lambda gradient: self._touch(ids, gradient))  # type: ignore[no-untyped-call]
        values = present(found, real.float()).values
        if not len(self.fill):
            return Prompt(values, real.float())
        empty = rearrange(~real, "b p -> b p 1")
        return Prompt(values + self.fill * empty, torch.ones_like(values[..., 0]))

    def idle(self) -> int:
        return self._trained and self._trained - self.table.used(self.length)

    def untouched(self) -> int:
        return self._trained and self._trained - self.table.reached(self.touched.nonzero()[:, 0])

    @property
    def _trained(self) -> int:
        """How many numbers of the table are trained: all of them, or none (a control)."""
        return sum(p.numel() for p in self.table.parameters() if p.requires_grad)

    def _check(self, largest: int) -> None:
        if largest >= self.table.size:
            raise SettingError(
                f"Lookup: the input has token {largest}, the table has {self.table.size} rows. It was made for "
                "another tokenizer: use the one it was made with, or tune a new prompt."
            )

    def _touch(self, ids: Int[Tensor, "batch slots"], gradient: Float[Tensor, "batch slots width"]) -> None:
        # What got none is sent behind the end: a mask as an index would read numbers back.
        rows = ids.masked_fill(~gradient.any(2), self.table.size)
        touched = self.touched.new_zeros(self.table.size + 1)
        touched[rows] = True
        self.touched |= touched[:-1]
