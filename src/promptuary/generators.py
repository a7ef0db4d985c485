"""Who makes the soft tokens. A generator turns an input into a `Prompt`; most of this file ignores the input.

`Free` is a plain table: prompt tuning (Lester et al. 2021). `Mapped(Free, ...)` puts a network behind it: prefix
tuning (Li and Liang 2021) and P-tuning (Liu et al. 2021) while they train. `Summed`, `Multiplied` and `Concatenated`
combine any generators; `RankOne` makes factors for each task (MPT, Wang et al. 2023). `Pool`, `Weighted` and
`Shortened` combine or cut them as a `Choice` says (dynamic prompting, Yang et al. 2023), `Queried` starts from a
reading of the input.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from promptuary.choices import Choice, Chooses, PerTask, Query
from promptuary.errors import SettingError
from promptuary.initial import Initial
from promptuary.transforms import Transform, present
from promptuary.values import Instance, Prompt


class Generator(nn.Module, ABC):
    """Makes `length` soft tokens of `width` numbers for each row of an input."""

    length: int
    width: int
    reads_fields: bool = False  # whether `Instance.fields` is asked for
    vocabulary: int | None = None  # how many token ids it knows, where it reads them

    @abstractmethod
    def forward(self, x: Instance) -> Prompt:
        """The soft tokens for each row of `x`."""

    def fixed(self) -> Prompt | None:
        """The soft tokens as one row, where they do not depend on the input; else `None`."""
        return None

    def idle(self) -> int:
        """How many of its own trained numbers (not of generators inside) one row's soft tokens never depend on."""
        return 0

    def untouched(self) -> int:
        """How many of its own trained numbers, in tensors that got a gradient, never got one themselves."""
        return 0


def alike(who: str, generators: Sequence[Generator]) -> tuple[int, int]:
    """The length and width that all of them have; `SettingError`, in the name of `who`, where they differ."""
    shapes = {(g.length, g.width) for g in generators}
    if len(shapes) != 1:
        raise SettingError(f"{who}: expected generators of one (length, width), got {sorted(shapes)}.")
    return shapes.pop()


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


class RankOne(PerTask, Generator):
    """A factor for each number of a prompt: one of its soft token times one of its dimension, for each task.

    `(1 + tokens) (1 + dims)` with tables `[tasks, length]` and `[tasks, width]` that start at 0: all factors are 1, and
    weight decay draws them there. This is what tasks add to a prompt that they share (MPT, Wang et al. 2023, section
    3.1); which task a row is of says `Instance.task`.

    Raises:
        SettingError: for fewer than one task.
    """

    def __init__(self, length: int, width: int, *, tasks: int = 1) -> None:
        super().__init__()
        if tasks < 1:
            raise SettingError(f"RankOne(tasks={tasks}): expected 1 or more.")
        self.length, self.width = length, width
        self.tokens, self.dims = (nn.Parameter(torch.zeros(tasks, size)) for size in (length, width))

    def forward(self, x: Instance) -> Prompt:
        one = self.fixed()
        return self._factors(self.tokens[x.task], self.dims[x.task]) if one is None else shared(one, x)

    def fixed(self) -> Prompt | None:
        return self._factors(self.tokens, self.dims) if len(self.tokens) == 1 else None

    def settle(self, task: int) -> None:
        if len(self.tokens) > 1:
            self.tokens, self.dims = (
                nn.Parameter(t[task : task + 1].detach().clone()) for t in (self.tokens, self.dims)
            )

    def idle(self) -> int:
        return (len(self.tokens) - 1) * (self.length + self.width)

    def _factors(self, tokens: Float[Tensor, "batch prompt"], dims: Float[Tensor, "batch width"]) -> Prompt:
        return Prompt(
            rearrange(1 + tokens, "b p -> b p 1") * rearrange(1 + dims, "b w -> b 1 w"), torch.ones_like(tokens)
        )


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
        self.length, self.width = alike("Summed", generators)

    def joined(self, prompts: list[Prompt]) -> Prompt:
        keep = torch.stack([p.keep for p in prompts]).amax(0)
        return Prompt(reduce(torch.add, (p.values for p in prompts)), keep)


class Multiplied(Joint):
    """The product of several prompts of one length and width; a slot is present where all of them have it.

    Raises:
        SettingError: when lengths or widths differ.
    """

    def __init__(self, *generators: Generator) -> None:
        super().__init__(*generators)
        self.length, self.width = alike("Multiplied", generators)

    def joined(self, prompts: list[Prompt]) -> Prompt:
        keep = torch.stack([p.keep for p in prompts]).amin(0)
        return Prompt(reduce(torch.mul, (p.values for p in prompts)), keep)


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


class Pool(Chooses, Generator):
    """The prompts of several generators, weighted by a choice (dynamic prompting's adaptive vectors, Yang et al. 2023).

    A slot's presence is that of the most present prompt that has any weight.

    Raises:
        SettingError: when lengths or widths differ, or the choice has another number of options.
    """

    decides = "the weights of the pool's prompts, by number"

    def __init__(self, choice: Choice, *generators: Generator) -> None:
        super().__init__()
        shapes = {(g.length, g.width) for g in generators}
        if len(shapes) != 1 or choice.options != len(generators):
            raise SettingError(
                f"Pool: expected {choice.options} generators of one (length, width), as many as the choice has "
                f"options, got {len(generators)} of {sorted(shapes)}."
            )
        self.choice, self.generators = choice, nn.ModuleList(generators)
        ((self.length, self.width),) = shapes

    def forward(self, x: Instance) -> Prompt:
        weights = self.choice(x)
        prompts = [g.fixed() or g(x) for g in self.generators if isinstance(g, Generator)]
        values = torch.stack([p.values.expand(len(weights), -1, -1) for p in prompts], 1)
        keep = torch.stack([p.keep.expand(len(weights), -1) for p in prompts], 1)
        used = rearrange(weights.detach() > 0, "b k -> b k 1")
        # A sum of products, not a matrix product: a row is the same to the last bit in any batch.
        mixed = (rearrange(weights, "b k -> b k 1 1") * values).sum(1)
        return present(mixed, (keep * used).amax(1))

    def idle(self) -> int:
        taken = {"hard": 1, "top": self.choice.top}.get(self.choice.mode, self.choice.options)
        sizes = sorted(sum(p.numel() for p in g.parameters() if p.requires_grad) for g in self.generators)
        return sum(sizes[: len(sizes) - taken])


class Weighted(Chooses, Generator):
    """Each soft token of a prompt times its weight by a choice, times the number of soft tokens.

    Equal weights leave the prompt as it is. With a soft choice by the input this is instance-dependent relevance
    (IPL, Jin et al. 2022).
    """

    decides = "the weights of the soft tokens, by number"

    def __init__(self, inner: Generator, choice: Choice) -> None:
        super().__init__()
        if choice.options != inner.length:
            raise SettingError(
                f"Weighted: the prompt has {inner.length} soft tokens, the choice {choice.options} options; "
                "expected as many."
            )
        self.inner, self.choice = inner, choice
        self.length, self.width = inner.length, inner.width

    def forward(self, x: Instance) -> Prompt:
        p = self.inner(x)
        weights = rearrange(self.choice(x) * self.length, "b p -> b p 1")
        return Prompt(p.values * weights, p.keep)


class Shortened(Chooses, Generator):
    """The first soft tokens of a prompt, as many as a choice says; the others are absent (dynamic prompting's length).

    Option i keeps `least + i` soft tokens. An absent slot is masked and stands in no row, so a prompt of k soft tokens
    is exactly a prompt of k (the published code leaves slots of -1e20 in, which are attended).

    Raises:
        SettingError: when the choice has another number of options than there are lengths.
    """

    decides = "the length, in soft tokens"

    def __init__(self, inner: Generator, choice: Choice, *, least: int = 1) -> None:
        super().__init__()
        if not 0 <= least <= inner.length or choice.options != inner.length - least + 1:
            raise SettingError(
                f"Shortened(least={least}) of {inner.length} soft tokens: expected a least length of 0 to "
                f"{inner.length} and a choice of {inner.length - least + 1} options, got {choice.options}."
            )
        self.inner, self.choice, self.least, self.first = inner, choice, least, least
        self.length, self.width = inner.length, inner.width

    def forward(self, x: Instance) -> Prompt:
        p = self.inner(x)
        # How likely slot least + i is kept: the weights of all options that are at least as long.
        gates = self.choice(x).flip(1).cumsum(1).flip(1)[:, 1:]
        gates = torch.cat([gates.new_ones(len(gates), self.least), gates], 1)
        return Prompt(p.values * rearrange(gates, "b p -> b p 1"), p.keep * (gates.detach() > 0.5))


class Queried(Generator):
    """One soft token that is a reading of the input (`choices.Query`): what a network makes a prompt from (IDPG)."""

    def __init__(self, query: Query, width: int) -> None:
        super().__init__()
        self.query, self.length, self.width = query, 1, width

    def forward(self, x: Instance) -> Prompt:
        values = rearrange(x.once(self.query), "b d -> b 1 d")
        return Prompt(values, values.new_ones(len(values), 1))
