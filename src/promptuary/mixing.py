"""Rows under different prompts in one pass of one frozen model (Lester et al. 2021, section 1: mixed-task batches).

Every share of a batch is laid out by its own prompt, which knows nothing of the others; the calls are then stacked,
one below the other, and the backbone runs once. What a row's own call lacks (soft tokens of a longer prompt, keys and
values of a prefix, target texts) is there as an absent slot: masked, so that each row says what it says in a pass of
its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.draft import Draft, Layer, Source, aligned
from promptuary.backbones.generation import Generation
from promptuary.backbones.padding import expanded
from promptuary.errors import SettingError
from promptuary.model import SoftPrompted
from promptuary.stacking import columns, stack, targets
from promptuary.values import Call, Entry, Instance, KeyValue, Layout, Output, Prompt, Targets


@dataclass(frozen=True, eq=False)
class Share:
    """Those rows of a mixed batch that one prompt answers, with the texts to be scored behind them, if any.

    `columns` are the tokens of `x` whose states are read, where these are few (`Readout.columns`).
    """

    model: SoftPrompted
    x: Instance
    targets: Targets | None = None
    columns: Int[Tensor, "rows read"] | None = None

    @property
    def rows(self) -> int:
        return int(self.x.ids.shape[0])


def run(shares: Sequence[Share]) -> list[Output]:
    """What the backbone says of each share, as `share.model(share.x, share.targets, share.columns)` would; in one pass.

    Shares may differ in method, length, depth, read-out, and in the padding of their rows; some may be compiled. Rows
    that join the model at a later layer (`Late`) have one more pass, with those of their kind.

    Raises:
        SettingError: for shares of different backbones.
        BackboneError: as `Backbone.run`.
    """
    said: dict[int, Output] = {}
    for numbers, call, backbone in _passes(shares):
        own = [shares[n] for n in numbers]
        out = backbone.run(call, targets([share.targets for share in own], [share.rows for share in own]))
        first = 0
        for n, share in zip(numbers, own, strict=True):
            rows, first = slice(first, first + share.rows), first + share.rows
            said[n] = _part(out, rows, share)
    return [said[n] for n in range(len(shares))]


def generate(shares: Sequence[Share], how: Generation, **options: Any) -> list[Int[Tensor, "rows steps"]]:
    """The token ids that each share's rows go on with, as `Backbone.generate` of its own call would; in one pass.

    Arguments:
        options: those of transformers. A `streamer` gets the next token of all rows at once, share after share.

    Raises:
        SettingError: for shares of different backbones, or a streamer where one pass does not do (see `run`).
        BackboneError: as `Backbone.generate`.
    """
    passes = list(_passes(shares))
    if len(passes) > 1 and "streamer" in options:
        raise SettingError(
            "These prompts do not share a pass: some join the model at a later layer. "
            "A stream is of one pass: generate them one after the other."
        )
    said: dict[int, Tensor] = {}
    for numbers, call, backbone in passes:
        sizes = [shares[n].rows * how.sequences for n in numbers]
        said.update(zip(numbers, torch.split(backbone.generate(call, how, **options), sizes), strict=True))
    return [said[n] for n in range(len(shares))]


def begin(shares: Sequence[Share]) -> list[tuple[list[int], Draft]]:
    """The shares' rows, read and ready to be written: by number those that were read in one pass, and their draft.

    Raises:
        SettingError: for shares of different backbones.
        BackboneError: as `Backbone.begin`.
    """
    return [(numbers, backbone.begin(call)) for numbers, call, backbone in _passes(shares)]


def beside(drafts: Sequence[Draft]) -> Draft:
    """One draft of the rows of several, in their order; a row goes on in it as it would by itself.

    They are of one backbone, and have written as many tokens as one another where it does not even them (`evens`).
    """
    if len(drafts) == 1:
        return drafts[0]
    both = aligned(drafts)
    sources = [draft.source for draft in drafts if draft.source is not None]
    return Draft(
        torch.cat([draft.scores for draft in drafts]),
        _layers([layers for layers, _ in both]),
        torch.cat([mask for _, mask in both]),
        torch.cat([draft.next for draft in drafts]),
        stacked([draft.call for draft in drafts]),
        Source(_layers([s.layers for s in sources]), stack([s.mask for s in sources])) if sources else None,
    )


def stacked(calls: Sequence[Call]) -> Call:
    """One call of the rows of several, in their order. They must agree on `until` and the layer of `entry`.

    A row keeps its columns. Layouts, prefixes and rows of states are padded behind to the longest, with slots that are
    masked or absent.
    """
    first = calls[0]
    if len(calls) == 1:
        return first
    layers = sorted({layer for call in calls for layer in call.states})
    return Call(
        _layout([call.layout for call in calls]),
        _keys_values(calls),
        {layer: _prompts([c.states.get(layer) for c in calls], calls) for layer in layers},
        _starts(calls),
        _entry([call.entry for call in calls if call.entry is not None]),
        first.until,
        _prompts([call.blind for call in calls], calls) if any(call.blind is not None for call in calls) else None,
        columns([call.columns for call in calls]),
    )


def _passes(shares: Sequence[Share]) -> Iterator[tuple[list[int], Call, Backbone]]:
    """Which shares go through the backbone together, by number, and their call."""
    together: dict[tuple[int | None, int | None], list[tuple[int, Call]]] = {}
    for n, share in enumerate(shares):
        if share.model.backbone is not shares[0].model.backbone:
            raise SettingError(
                f"A batch has prompts on {shares[0].model.backbone.name!r} and on {share.model.backbone.name!r}. "
                "Expected one loaded backbone for all of them: open_prompt(folder, backbone=backbone)."
            )
        call = replace(share.model.call(share.x), columns=share.columns)
        layer = None if call.entry is None else call.entry.layer
        together.setdefault((call.until, layer), []).append((n, call))
    for pairs in together.values():
        yield [n for n, _ in pairs], stacked([call for _, call in pairs]), shares[0].model.backbone


def _part(out: Output, rows: slice, share: Share) -> Output:
    hidden = out.hidden[rows, : share.x.ids.shape[1]]
    if share.targets is None or out.targets is None:
        return Output(hidden, None, out.logits)
    choices, steps = share.targets.ids.shape[1:]
    return Output(hidden, out.targets[rows, :choices, :steps], out.logits)


def _layers(several: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """Keys and values of each layer, rows below one another."""
    pairs = (tuple(zip(*own, strict=True)) for own in zip(*several, strict=True))
    return tuple((stack(keys), stack(values)) for keys, values in pairs)


def _layout(layouts: Sequence[Layout]) -> Layout:
    length = max(layout.mask.shape[1] for layout in layouts)
    return Layout(
        embeds=stack([layout.embeds for layout in layouts]),
        mask=stack([layout.mask for layout in layouts]),
        types=stack([layout.types for layout in layouts]),
        tokens=stack([layout.tokens for layout in layouts]),
        prompts=stack([layout.prompts for layout in layouts]),
        placed=stack([_shares(layout, length) for layout in layouts])
        if any(layout.placed is not None for layout in layouts)
        else None,
    )


def _shares(layout: Layout, length: int) -> Float[Tensor, "batch length prompt"]:
    """`placed`, also where no gradient reaches the places: each soft token stands whole in its column."""
    if layout.placed is not None:
        return layout.placed
    return rearrange(F.one_hot(layout.prompts, length), "b p l -> b l p").to(layout.embeds.dtype)


def _starts(calls: Sequence[Call]) -> Int[Tensor, " rows"] | None:
    if all(call.start is None for call in calls):
        return None
    none = [call.layout.tokens.new_zeros(call.layout.tokens.shape[0]) for call in calls]
    return torch.cat([n if call.start is None else call.start for call, n in zip(calls, none, strict=True)])


def _keys_values(calls: Sequence[Call]) -> dict[int, KeyValue]:
    keeps: dict[tuple[int | None, ...], Tensor] = {}  # one for all layers with the same prefixes, as in a single call

    def layer(index: int) -> KeyValue:
        none = _none(next(call.keys_values[index] for call in calls if index in call.keys_values))
        own = [call.keys_values.get(index, none) for call in calls]
        known = tuple(id(kv.keep) if index in c.keys_values else None for kv, c in zip(own, calls, strict=True))
        if known not in keeps:
            keeps[known] = below([kv.keep for kv in own])
        return KeyValue(below([kv.key for kv in own]), below([kv.value for kv in own]), keeps[known])

    def below(parts: Sequence[Tensor]) -> Tensor:
        return stack([expanded(part, c.layout.mask.shape[0]) for part, c in zip(parts, calls, strict=True)])

    return {index: layer(index) for index in sorted({index for call in calls for index in call.keys_values})}


def _none(like: KeyValue) -> KeyValue:
    """A prefix of no soft tokens."""
    return KeyValue(like.key[:1, :, :0], like.value[:1, :, :0], like.keep[:1, :0])


def _prompts(each: Sequence[Prompt | None], calls: Sequence[Call]) -> Prompt:
    """What calls say of the soft tokens in their rows, if anything; the soft tokens of the others are absent in it."""
    some = next(p for p in each if p is not None)
    length = max(call.layout.prompts.shape[1] for call in calls)  # some may only stand in the row, and have no states

    def none(rows: int) -> Prompt:
        return Prompt(some.values.new_zeros(rows, length, some.values.shape[2]), some.keep.new_zeros(rows, length))

    own = [none(c.layout.mask.shape[0]) if p is None else p for p, c in zip(each, calls, strict=True)]
    return Prompt(stack([p.values for p in own]), stack([p.keep for p in own]))


def _entry(entries: Sequence[Entry]) -> Entry | None:
    if not entries:
        return None
    return Entry(entries[0].layer, stack([e.states for e in entries]), stack([e.mask for e in entries]))
