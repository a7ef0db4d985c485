"""Where the soft tokens stand in the row. A placement is the sole owner of mask, positions and index map.

Everything goes through `arrange`: each soft token is given a *gap* (gap g lies before the g-th real token), and
one sort lays prompt and tokens out. Famous cases: all soft tokens in gap 0 is prompt tuning (Lester et al. 2021,
section 2); some in the gap before the input and the rest in the gap after it is the split of dynamic prompting
(Yang et al. 2023, section 3); soft tokens at marked places of a template are P-tuning v1 (Liu et al. 2021).
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn

from promptuary.choices import Choice, Chooses
from promptuary.errors import SettingError
from promptuary.values import Instance, Layout, Prompt


def arrange(
    p: Prompt,
    x: Instance,
    gaps: Int[Tensor, "batch prompt"],
    tokens: Bool[Tensor, "batch tokens"] | None = None,
) -> Layout:
    """Lay soft token i of each row into gap `gaps[:, i]` of its real tokens; absent and padded items go last.

    Arguments:
        gaps: 0 is before the first real token, n (the row's real length) after the last. Soft tokens of one gap
            keep their order.
        tokens: which tokens are laid out, where these are not simply the real ones.
    """
    prompt = p.values.shape[1]
    present = torch.cat([p.keep > 0, x.mask if tokens is None else tokens], 1)  # [batch, prompt + tokens]
    source = _sources(gaps, x.mask.cumsum(1) - 1, present)
    column = source.argsort(dim=1)  # item -> column
    items = torch.cat([p.values.to(x.embeds.dtype), x.embeds], 1)
    types = torch.cat([x.types.new_zeros(p.keep.shape), x.types], 1)
    return Layout(
        embeds=items.gather(1, rearrange(source, "b l -> b l 1").expand(-1, -1, items.shape[2])),
        mask=present.gather(1, source),
        types=types.gather(1, source),
        tokens=column[:, prompt:],
        prompts=column[:, :prompt],
    )


def _sources(
    gaps: Int[Tensor, "batch prompt"], rank: Int[Tensor, "batch tokens"], present: Bool[Tensor, "batch items"]
) -> Int[Tensor, "batch items"]:
    """Which item, soft token or token, stands in each column. `rank`: how many real tokens stand before each token."""
    prompt = gaps.shape[1]
    order = torch.cat([gaps * (prompt + 1) + torch.arange(prompt, device=gaps.device), rank * (prompt + 1) + prompt], 1)
    return order.masked_fill(~present, torch.iinfo(order.dtype).max).argsort(dim=1, stable=True)


def bare(x: Instance) -> Layout:
    """The input alone, without any prompt: `arrange` with nothing to lay out but the tokens, in fewer operations."""
    source = (~x.mask).int().argsort(dim=1, stable=True)
    return Layout(
        embeds=x.embeds.gather(1, rearrange(source, "b l -> b l 1").expand(x.embeds.shape)),
        mask=x.mask.gather(1, source),
        types=x.types.gather(1, source),
        tokens=source.argsort(dim=1),
        prompts=source.new_zeros(len(source), 0),
    )


class Placement(nn.Module, ABC):
    """Where the soft tokens stand."""

    @abstractmethod
    def forward(self, p: Prompt, x: Instance) -> Layout:
        """Lay `p` and `x` out in one row."""

    def accepts(self, length: int) -> None:
        """Raise `SettingError` where a prompt of `length` soft tokens cannot be placed."""

    def marks(self, length: int) -> int:
        """How many places for soft tokens the text must mark for a prompt of `length` soft tokens."""
        return 0

    def leads(self, length: int) -> bool:
        """Whether all of `length` soft tokens stand before any input whatever."""
        return False


class Split(Placement):
    """The first `before` soft tokens before the input, the others after it.

    Arguments:
        before: how many stand before the input; `None` (the default) is all, 0 is none.
        head: how many leading tokens stay in front of the whole (1 keeps [CLS] or BOS first).
        tail: how many trailing tokens stay behind the whole (1 keeps [SEP] or EOS last).

    Raises:
        SettingError: for a negative number.
    """

    def __init__(self, before: int | None = None, *, head: int = 0, tail: int = 0) -> None:
        super().__init__()
        for name, value in (("before", before or 0), ("head", head), ("tail", tail)):
            if value < 0:
                raise SettingError(f"Split({name}={value}): expected 0 or more.")
        self.before, self.head, self.tail = before, head, tail

    def forward(self, p: Prompt, x: Instance) -> Layout:
        prompt = p.values.shape[1]
        start, end = _ends(x, self.head, self.tail)
        first = torch.arange(prompt, device=x.ids.device) < (prompt if self.before is None else self.before)
        return arrange(p, x, torch.where(first, start, end))

    def accepts(self, length: int) -> None:
        if self.before is not None and self.before > length:
            raise SettingError(
                f"Split(before={self.before}) with a prompt of {length} soft tokens: expected before <= {length}."
            )

    def leads(self, length: int) -> bool:
        return self.head == 0 and self.before in (None, length)


class Adaptive(Chooses, Placement):
    """Split by a choice: option a has a soft tokens before the input and the others behind it (dynamic prompting).

    Forward the row is exactly that of `Split(a)` for the option taken. While training the gradient of the choice flows
    through every option at once: the row is a product of a matrix that says which item stands where (0 and 1, with the
    gradient of the options' weights) with the soft tokens and the embeddings. At evaluation items are gathered only.

    Arguments:
        choice: over one option more than there are soft tokens.
        head, tail: as in `Split`.
        order: `split` puts the first a soft tokens before the input (Yang et al. 2023, section 3); `rotate` the last a,
            as the code published with it does.

    Raises:
        SettingError: for negative numbers or an unknown order.
    """

    decides = "the position, in soft tokens before the input"

    def __init__(
        self, choice: Choice, *, head: int = 0, tail: int = 0, order: Literal["split", "rotate"] = "split"
    ) -> None:
        super().__init__()
        if order not in ("split", "rotate"):
            raise SettingError(f"Adaptive(order={order!r}): expected 'split' or 'rotate'.")
        if head < 0 or tail < 0:
            raise SettingError(f"Adaptive(head={head}, tail={tail}): expected 0 or more.")
        self.choice, self.head, self.tail, self.order = choice, head, tail, order

    def forward(self, p: Prompt, x: Instance) -> Layout:
        prompt = p.values.shape[1]
        weights = self.choice(x)
        start, end = _ends(x, self.head, self.tail)
        options = torch.arange(prompt + 1, device=x.ids.device)
        if self.order == "split":
            first = rearrange(options[:prompt], "p -> 1 p") < rearrange(options, "a -> a 1")
        else:
            first = rearrange(options[:prompt], "p -> 1 p") >= prompt - rearrange(options, "a -> a 1")
        laid = arrange(p, x, torch.where(first[weights.argmax(1)], start, end))
        if not weights.requires_grad:
            return laid
        # Every option of every row, as if it were a row.
        gaps = torch.where(first, rearrange(start, "b 1 -> b 1 1"), rearrange(end, "b 1 -> b 1 1"))
        present = torch.cat([p.keep > 0, x.mask], 1)
        each = len(options)
        source = _sources(
            rearrange(gaps, "b a p -> (b a) p"),
            (x.mask.cumsum(1) - 1).repeat_interleave(each, 0),
            present.repeat_interleave(each, 0),
        )
        index = rearrange(source, "(b a) l -> b l a", a=each)
        items = torch.cat([p.values.to(x.embeds.dtype), x.embeds], 1)
        shares = rearrange(weights.to(items.dtype), "b a -> b 1 a").expand(index.shape)
        places = items.new_zeros(*index.shape[:2], index.shape[1]).scatter_add(2, index, shares)
        with torch.autocast(items.device.type, enabled=False):  # which would round the row
            return replace(laid, embeds=places @ items, placed=places[..., :prompt])

    def accepts(self, length: int) -> None:
        if self.choice.options != length + 1:
            raise SettingError(
                f"Adaptive: a prompt of {length} soft tokens can be split in {length + 1} ways, the choice has "
                f"{self.choice.options} options. Write Choice({length + 1}, ...)."
            )


def _ends(x: Instance, head: int, tail: int) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
    """The gaps before and behind the input, inside `head` leading and `tail` trailing tokens of each row."""
    real = rearrange(x.mask.sum(1), "b -> b 1")
    start = real.clamp(max=head)
    return start, (real - tail).maximum(start)


class Slots(Placement):
    """Soft tokens at the places a template marked: the i-th negative id of a row becomes soft token i.

    The template itself is text and belongs to the wording (`data/wording.py`); hard and soft tokens may stand
    anywhere in it. This is P-tuning v1's pseudo tokens with its anchor words (Liu et al. 2021, section 3).

    Raises:
        SettingError: in `forward`, when a row has another number of marks than there are soft tokens.
    """

    def marks(self, length: int) -> int:
        return length

    def forward(self, p: Prompt, x: Instance) -> Layout:
        prompt = p.values.shape[1]
        marks = (x.ids < 0) & x.mask
        counts = marks.sum(1)
        if bool((counts != prompt).any()):
            found = int(counts[counts != prompt][0])
            raise SettingError(
                f"Slots: the template marks {found} soft tokens, the generator makes {prompt}. "
                f"Write a template with {prompt} marks, or set length={found}."
            )
        gaps = marks.int().argsort(dim=1, descending=True, stable=True)[:, :prompt]  # columns of the marks, in order
        rank = x.mask.cumsum(1) - 1
        laid = arrange(p, x, rank.gather(1, gaps), tokens=x.mask & ~marks)
        # A caller who asks for the output at a mark gets the output at its soft token.
        which = (marks.cumsum(1) - 1).clamp(min=0)
        return Layout(
            laid.embeds,
            laid.mask,
            laid.types,
            torch.where(marks, laid.prompts.gather(1, which), laid.tokens),
            laid.prompts,
        )
