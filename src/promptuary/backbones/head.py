"""The head of a model: what is left when its towers are taken out, as a view that shares the weights."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _States(tuple[Any, ...]):
    """A tower's output of any kind: the states, and `None` for whatever else a model may ask of it."""

    @property
    def last_hidden_state(self) -> Any:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class Given(nn.Module):
    """Stands where a tower stood, and returns the states it is handed: what is left of the model is its head."""

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "replaced", replaced)

    def forward(
        self, *_: Any, inputs_embeds: Tensor | None = None, decoder_inputs_embeds: Tensor | None = None, **__: Any
    ) -> "_States":
        return _States((inputs_embeds if decoder_inputs_embeds is None else decoder_inputs_embeds,))

    def __getattr__(self, name: str) -> Any:
        if name == "decoder":  # OPT calls the tower inside its base model
            return self
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "replaced"), name)


def head_of(model: PreTrainedModel, stacks: Sequence[nn.Module]) -> nn.Module:
    """A view of `model` that shares its head but has `Given` for its towers, so that it maps states to scores."""
    head = copy.copy(model)
    head._modules = dict(model._modules)
    for name, child in model.named_children():
        if any(stack is inner for stack in stacks for inner in child.modules()):
            head._modules[name] = Given(child)
    return head


def reads_together(model: PreTrainedModel) -> None:
    """Let the head get states that lie together.

    transformers slices the last token's states out of those of all. Without gradients PyTorch 2.13 multiplies such a
    slice in bfloat16 on a CPU row by row, which takes thirty times as long for one text, and more for several
    (`benchmarks/speed/products.py`): with a large vocabulary more than all layers of the model.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, nn.Module):
        head.register_forward_pre_hook(_together)


def _together(head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    states, *more = given
    # A slice of one text counts as contiguous, and keeps the steps of all its tokens: they decide the way it goes.
    apart = states.stride(0) != states[0].numel()
    return (states.clone(memory_format=torch.contiguous_format) if apart else states, *more)
