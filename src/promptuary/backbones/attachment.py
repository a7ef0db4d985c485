"""What hangs on a frozen model: before each layer runs, a hook hands it what that layer was promised.

Soft keys and values ride to the layer's attention as an argument of the layer, so gradient checkpointing replays them;
hidden states are written into the layer's input. Until then the promise sits in a thread's own place, so generation of
any kind (cached, static cache, beams) finds it and threads do not see one another's.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from types import MappingProxyType
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from promptuary.backbones import blind, last_layer
from promptuary.backbones.attention import Bias, Extended, Key, Mask, Prefix, Query, Value
from promptuary.backbones.padding import expanded, written
from promptuary.backbones.sight import NAME
from promptuary.values import Attention, Call, KeyValue, Part, Prompt

PASSED = "promptuary_passed"  # an argument of layers that only hand on: the first one's result, once it is there
ALONE: list[Any] = [None]  # where layers hand on nothing but their states


@dataclass(frozen=True, eq=False)
class Promise:
    """One call's soft keys, values and states, held in the thread's place while the model runs."""

    call: Call
    columns: Int[Tensor, "rows read"] | None = None  # those of the last layer whose states are read; `None` is all
    visits: dict[int, int] = field(default_factory=dict)  # for modules that serve several layers (ALBERT)
    ahead: Mapping[int, KeyValue] = field(default_factory=dict)  # of soft tokens that were read by themselves
    known: dict[int, bool] = field(default_factory=dict)  # of a `keep`, which the call holds, whether it is whole
    beside: list[Any] = field(default_factory=list)  # what the first layer hands on beside its states (T5: a bias)
    toward: list[Tensor] = field(default_factory=list)  # the bias toward soft keys in positions, once it was made

    def passes(self, visit: "Visit") -> bool:
        """Whether a layer lies below the one at which the row enters."""
        return visit.main and self.call.entry is not None and visit.layer < self.call.entry.layer

    def whole(self, keep: Bool[Tensor, "batch prompt"]) -> bool:
        """Whether no soft key is absent. It waits for the device, so it is asked once a call and not once a layer."""
        if id(keep) not in self.known:
            self.known[id(keep)] = bool(keep.all())
        return self.known[id(keep)]

    def visit(self, module: nn.Module, times: int) -> int:
        """How many times `module` was entered before, counted round `times`."""
        if times == 1:
            return 0
        seen = self.visits.get(id(module), 0)
        self.visits[id(module)] = seen + 1
        return seen % times


Notes = list[tuple[int, nn.Module, Tensor, Tensor]]


class Reached(Exception):  # noqa: N818, no error: how a model is left in the middle
    """The model came to the layer at which it was to stop."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _Place(threading.local):
    promise: Promise | None = None
    notes: Notes | None = None
    passed: int = 0  # layers entered while notes are taken

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Place":
        return _Place()  # a copy of a model has a place of its own, where nothing is promised


@dataclass(frozen=True, eq=False)
class _Recorder:
    """Notes the attention calls of a pass, in order, and changes nothing."""

    layer: int
    notes: Notes

    def __call__(
        self, module: nn.Module, query: Query, key: Key, value: Value, mask: Mask | None, bias: Bias | None
    ) -> Extended:
        self.notes.append((self.layer, module, key, value))
        return key, value, mask, bias


@dataclass(frozen=True, eq=False)
class Visit:
    """One passage through a layer: its number in its tower, and its attention calls' indices."""

    layer: int
    main: bool  # whether its tower is the one that reads the layout: the only one, or the encoder
    attention: dict[int, int]  # id of the attention module -> index into `Attachment.attention`


class Attachment:
    """The hooks on one model, and what they found there.

    Arguments:
        model: any model of transformers 5.
        stacks: its towers with the part their self-attention plays: `[(encoder, "encoder"), (decoder, "decoder")]`.
        trial: runs the model once on a tiny input; encoder and decoder inputs of different length.
    """

    def __init__(
        self, model: PreTrainedModel, stacks: Sequence[tuple[nn.Module, Part]], trial: Callable[[], object]
    ) -> None:
        self._place = _Place()
        self._hooked = model._can_set_attn_implementation()
        # Tried by the backbone: whether soft tokens that do not see the input can be read by themselves, and the input
        # behind them; whether the last layer can make some rows only.
        self.reads_apart = False
        self.selects = self._hooked
        if self._hooked:
            model.set_attn_implementation(NAME)
        self.layers: dict[nn.Module, list[Visit]] = {}
        self.attention: list[Attention] = []
        part_of = {layer: part for stack, part in stacks for layer in _layers_of(stack)}
        for layer in part_of:
            layer.register_forward_pre_hook(self._before, with_kwargs=True)
            layer.forward = _Passable(layer.forward)
        order: list[nn.Module] = []
        watchers = [layer.register_forward_pre_hook(lambda m, _: order.append(m)) for layer in part_of]
        self._several: set[nn.Module] = set()  # layers that hand on more than their states

        def watch(layer: nn.Module, _: object, out: object) -> None:
            if isinstance(out, tuple):
                self._several.add(layer)

        watchers += [layer.register_forward_hook(watch) for layer in part_of]
        with torch.no_grad(), self.recording() as notes:
            trial()
        for watcher in watchers:
            watcher.remove()
        self._keep_notes(notes, order, part_of)

    def _keep_notes(self, notes: Notes, order: list[nn.Module], part_of: dict[nn.Module, Part]) -> None:
        main = next(iter(part_of.values()), None)
        numbers = dict.fromkeys(part_of.values(), 0)
        for number, layer in enumerate(order):
            mine = [n for n in notes if n[0] == number]
            calls: dict[int, int] = {}
            for place, (_, module, key, value) in enumerate(mine):
                part: Part = part_of[layer] if place == 0 else "cross"
                calls[id(module)] = len(self.attention)
                window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
                self.attention.append(Attention(part, key.shape[1], key.shape[3], value.shape[3], window))
            self.layers.setdefault(layer, []).append(Visit(numbers[part_of[layer]], part_of[layer] == main, calls))
            numbers[part_of[layer]] += 1
        self.counts = numbers
        self.top = max((v.layer for visits in self.layers.values() for v in visits if v.main), default=0)

    def _before(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hand the layer what it was promised."""
        place = self._place
        if place.notes is not None:
            place.passed += 1
            if self._hooked:
                kwargs = {**kwargs, NAME: _Recorder(place.passed - 1, place.notes)}
        promise = place.promise
        if promise is None:
            return args, kwargs
        visits = self.layers[layer]
        visit = visits[promise.visit(layer, len(visits))]
        call = promise.call
        if promise.passes(visit):
            return args, {**kwargs, PASSED: promise.beside if layer in self._several else ALONE}
        if visit.main:
            args, kwargs = _entered(args, kwargs, call, visit.layer)
        promised = {m: call.keys_values[i] for m, i in visit.attention.items() if i in call.keys_values}
        if promised:
            start = call.start if visit.main else None
            kwargs = {**kwargs, NAME: Prefix(promised, promise.whole, start, promise.toward)}
        if call.blind is not None and visit.main:
            ahead = {m: promise.ahead[i] for m, i in visit.attention.items() if i in promise.ahead}
            if ahead:
                args, kwargs = blind.behind(args, kwargs, ahead, promise.beside, first=visit.layer == 0)
            else:
                kwargs = blind.masked(kwargs, call)
        if promise.columns is not None and visit.layer == self.top:  # the main tower is then the only one
            kwargs = {**kwargs, last_layer.READ: promise.columns}
        return args, kwargs

    def carrying(
        self,
        call: Call,
        columns: Int[Tensor, "rows read"] | None = None,
        ahead: Mapping[int, KeyValue] = MappingProxyType({}),
    ) -> "_Carrying":
        """A context in which the model's layers get the soft keys, values and states of `call`.

        Arguments:
            columns: those of the row whose last states are read; the last layer makes no others where that pays.
            ahead: keys and values of the row's first columns, which the layers then leave out (`blind.py`).
        """
        length = call.layout.mask.shape[1] - (next(iter(ahead.values())).key.shape[2] if ahead else 0)
        read = columns if columns is not None and self.selects and last_layer.pays(columns, length) else None
        idle = not (call.keys_values or call.states or call.entry or call.blind)
        bare = idle and call.until is None and read is None
        return _Carrying(self._place, None if bare else Promise(call, read, ahead=ahead))

    def recording(self) -> "_Recording":
        """A context in which every attention call notes its keys and values."""
        return _Recording(self._place)


class _Carrying:
    def __init__(self, place: _Place, promise: Promise | None) -> None:
        self._place, self._promise = place, promise

    def __enter__(self) -> None:
        self._place.promise = self._promise

    def __exit__(self, *_: object) -> None:
        self._place.promise = None


class _Recording:
    def __init__(self, place: _Place) -> None:
        self._place = place

    def __enter__(self) -> Notes:
        self._place.notes, self._place.passed = [], 0
        return self._place.notes

    def __exit__(self, *_: object) -> None:
        self._place.notes = None


def _layers_of(stack: nn.Module) -> list[nn.Module]:
    """The transformer layers of a tower, as transformers itself marks them."""
    layers: list[nn.Module] = [m for m in stack.modules() if isinstance(m, GradientCheckpointingLayer)]
    if layers:
        return layers
    recorded = getattr(stack, "_can_record_outputs", None) or {}
    kind = recorded.get("hidden_states")
    return [m for m in stack.modules() if kind is not None and isinstance(m, kind)]


class _Passable:
    """A layer's forward that hands its input on where the row enters the model further up, or makes some rows only.

    It is a value and no closure, so that a copy of the model has a copy of it, bound to the copy's layer.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        update_wrapper(self, forward)
        self.forward = forward

    def __call__(
        self,
        *args: Any,
        promptuary_passed: list[Any] | None = None,
        promptuary_read: Int[Tensor, "rows read"] | None = None,
        **kwargs: Any,
    ) -> Any:
        if promptuary_read is not None:
            return last_layer.only(self.forward, promptuary_read, args, kwargs)
        if promptuary_passed is None:
            return self.forward(*args, **kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        if not promptuary_passed:  # the first layer may make what all others need: it runs, and its states are dropped
            with torch.no_grad():
                promptuary_passed.append(self.forward(*args, **kwargs))
        made = promptuary_passed[0]
        return (hidden, *made[1:]) if isinstance(made, tuple) else hidden


def _entered(
    args: tuple[Any, ...], kwargs: dict[str, Any], call: Call, layer: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's hidden states with what the call says of them: the text's own at its entry, then the soft rows.

    Raises:
        Reached: before the layer at which the model is to stop.
    """
    given = args[0] if args else kwargs["hidden_states"]
    hidden = given
    if layer == call.until:
        raise Reached(given)
    if call.entry is not None and layer == call.entry.layer:
        columns = call.layout.tokens.where(call.entry.mask, given.shape[1])
        hidden = written(torch.zeros_like(given), columns, call.entry.states.to(given.dtype))
    if layer in call.states:
        hidden = _overwritten(hidden, call, call.states[layer])
    if hidden is given:
        return args, kwargs
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _overwritten(
    hidden: Float[Tensor, "rows length hidden"], call: Call, states: Prompt
) -> Float[Tensor, "rows length hidden"]:
    """Hidden states with soft rows at the columns that the layout gave them."""
    rows, length = hidden.shape[:2]
    if length < call.layout.mask.shape[1]:
        return hidden  # a cached step: its prompt rows are in the cache
    columns = expanded(call.layout.prompts.where(states.keep > 0, length), rows)
    soft = expanded(states.values, rows).to(hidden.dtype)
    if call.layout.placed is not None:  # at its column each soft token has the share 1: a choice hears its gradient
        prompts = repeat(call.layout.prompts, "b p -> b p q", q=call.layout.prompts.shape[1])
        soft = expanded(call.layout.placed.gather(1, prompts), rows).to(hidden.dtype) @ soft
    return written(hidden, columns, soft)
