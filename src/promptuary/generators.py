"""Who makes the soft tokens. A generator turns an input into a `Prompt`; most of this file ignores the input.

`Free` is a plain table: prompt tuning (Lester et al. 2021). `Mapped(Free, ...)` puts a network behind it: prefix
tuning (Li and Liang 2021) and P-tuning (Liu et al. 2021) while they train. `Summed` and `Concatenated` combine
any generators.
"""

from abc import ABC, abstractmethod

import torch
from torch import nn

from promptuary.errors import SettingError
from promptuary.initial import Initial
from promptuary.transforms import Transform
from promptuary.values import Instance, Prompt


class Generator(nn.Module, ABC):
    """Makes `length` soft tokens of `width` numbers for each row of an input."""

    length: int
    width: int

    @abstractmethod
    def forward(self, x: Instance) -> Prompt:
        """The soft tokens for each row of `x`."""

    def fixed(self) -> Prompt | None:
        """The soft tokens as one row, where they do not depend on the input; else `None`."""
        return None


def shared(one: Prompt, x: Instance) -> Prompt:
    """The soft tokens of one row for every row of `x`; they are not copied."""
    batch = x.ids.shape[0]
    return Prompt(one.values.expand(batch, -1, -1), one.keep.expand(batch, -1))


class Free(Generator):
    """A table of free parameters `[length, width]`, in float32 whatever the backbone's precision.

    Arguments:
        length: soft tokens; 0 is allowed and means no prompt (the frozen backbone as it is).
        width: numbers per soft token: the injection's `width`.
        init: where they start.
        seed: of the start.

    Raises:
        SettingError: for a negative length.
    """

    def __init__(self, length: int, width: int, init: Initial, *, seed: int = 0) -> None:
        super().__init__()
        if length < 0:
            raise SettingError(f"length={length}: expected the number of soft tokens, 0 or more.")
        self.length, self.width = length, width
        source = torch.Generator().manual_seed(seed)
        start = init(length, width, source) if length else torch.zeros(0, width)
        self.table = nn.Parameter(start.float(), requires_grad=length > 0)

    def forward(self, x: Instance) -> Prompt:
        return shared(self.fixed(), x)

    def fixed(self) -> Prompt:
        return Prompt(self.table[None], self.table.new_ones(1, self.length))


class Mapped(Generator):
    """`inner`, then each transform in turn. Over a fixed generator the transforms run once for the whole batch.

    Raises:
        SettingError: when `inner` makes no soft tokens (networks without any would never learn), and as the
            transforms do.
    """

    def __init__(self, inner: Generator, *transforms: Transform) -> None:
        super().__init__()
        if inner.length == 0:
            raise SettingError(
                "length=0: a network that makes soft tokens needs some to make. Expected 1 or more; for the control "
                "without a prompt write method='frozen'."
            )
        self.inner, self.transforms = inner, nn.ModuleList(transforms)
        self.length, self.width = inner.length, inner.width
        for transform in transforms:
            self.length, self.width = transform.shape(self.length, self.width)

    def forward(self, x: Instance) -> Prompt:
        one = self.fixed()
        return self._through(self.inner(x)) if one is None else shared(one, x)

    def fixed(self) -> Prompt | None:
        one = self.inner.fixed()
        return None if one is None else self._through(one)

    def _through(self, p: Prompt) -> Prompt:
        for transform in self.transforms:
            p = transform(p)
        return p


class Joint(Generator, ABC):
    """Several prompts made into one."""

    def __init__(self, *generators: Generator) -> None:
        super().__init__()
        self.generators = nn.ModuleList(generators)

    @abstractmethod
    def joined(self, prompts: list[Prompt]) -> Prompt:
        """One prompt of those that the generators made."""

    def forward(self, x: Instance) -> Prompt:
        return self.joined([g(x) for g in self.generators])

    def fixed(self) -> Prompt | None:
        ones = [g.fixed() for g in self.generators if isinstance(g, Generator)]
        known = [one for one in ones if one is not None]
        return self.joined(known) if len(known) == len(ones) else None


class Summed(Joint):
    """The sum of several prompts of one length and width; a slot is present where any of them has it.

    Raises:
        SettingError: when lengths or widths differ.
    """

    def __init__(self, *generators: Generator) -> None:
        super().__init__(*generators)
        shapes = {(g.length, g.width) for g in generators}
        if len(shapes) != 1:
            raise SettingError(f"Summed: expected generators of one (length, width), got {sorted(shapes)}.")
        ((self.length, self.width),) = shapes

    def joined(self, prompts: list[Prompt]) -> Prompt:
        keep = torch.stack([p.keep for p in prompts]).amax(0)
        return Prompt(torch.stack([p.values for p in prompts]).sum(0), keep)


class Concatenated(Joint):
    """Several prompts of one width, one after the other.

    Raises:
        SettingError: when widths differ.
    """

    def __init__(self, *generators: Generator) -> None:
        super().__init__(*generators)
        widths = {g.width for g in generators}
        if len(widths) != 1:
            raise SettingError(f"Concatenated: expected generators of one width, got {sorted(widths)}.")
        self.length, self.width = sum(g.length for g in generators), widths.pop()

    def joined(self, prompts: list[Prompt]) -> Prompt:
        return Prompt(torch.cat([p.values for p in prompts], 1), torch.cat([p.keep for p in prompts], 1))
