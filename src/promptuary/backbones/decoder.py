"""Causal backbones: GPT-2, Llama, Qwen3, Mistral, Gemma3, GPT-NeoX, OPT."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.generation import Generation, fits, generate
from promptuary.backbones.padding import at, fitting, flush_right
from promptuary.errors import BackboneError
from promptuary.values import Call, KeyValue, Layout, Output, Part, Targets


class Decoder(Backbone):
    """A causal language model."""

    @staticmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        return [(model.get_decoder(), "decoder")]  # type: ignore[no-untyped-call]

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        limit = None if self.shape.positions is None else self.shape.positions - call.start
        call = fitting(call, limit, 0 if targets is None else targets.ids.shape[2])
        if targets is None:
            states = self._states(call, call.layout)
            return Output(at(states, call.layout.tokens), None, self.logits)
        choices = targets.ids.shape[1]
        each = _repeated(call, choices)
        layout, columns = _continued(each.layout, targets, self)
        layout = fitting(Call(layout), limit).layout
        states = self._states(each, layout)
        predicting = rearrange(at(states, columns.clamp(max=states.shape[1] - 1)), "(b c) s h -> b c s h", c=choices)
        first = rearrange(states, "(b c) l h -> b c l h", c=choices)[:, 0]
        return Output(at(first, call.layout.tokens), predicting, self.logits)

    def generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        if how.cache == "none":
            raise BackboneError(
                f"{self.name!r}: a causal model that starts from embeddings cannot generate without a cache. "
                "Write cache='dynamic' or cache='static'."
            )
        layout = flush_right(call.layout)
        fits(int(layout.mask.sum(1).max()) + call.start + how.max_new_tokens, self.shape.positions, self.name)
        if call.start:
            options["position_ids"] = (layout.mask.cumsum(1) - 1).clamp(min=0) + call.start
        turned = Call(layout, call.keys_values, call.keep, call.states, call.start)
        embeds, mask = layout.embeds.to(self.dtype), layout.mask.long()
        with self.attachment.carrying(turned):
            return generate(self.model, how, start=0, inputs_embeds=embeds, attention_mask=mask, **options)

    def _states(self, call: Call, layout: Layout) -> Float[Tensor, "batch length output"]:
        positions = None
        if call.start:  # after keys and values of real tokens, the input goes on counting
            positions = torch.arange(layout.mask.shape[1], device=self.device)[None] + call.start
        with self.attachment.carrying(call):
            return run_stack(self.towers(self.model)[0][0], layout, dtype=self.dtype, position_ids=positions)

    def _read(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        states: Tensor = call_with(
            self.towers(self.model)[0][0], input_ids=ids, use_cache=False, return_dict=True
        ).last_hidden_state
        return states


def _repeated(call: Call, times: int) -> Call:
    """Every row of the call `times` times, in place."""
    if times == 1:
        return call

    rows = partial(repeat, pattern="b ... -> (b c) ...", c=times)
    old = call.layout
    layout = Layout(rows(old.embeds), rows(old.mask), rows(old.types), rows(old.tokens), rows(old.prompts))
    keys_values = {i: KeyValue(rows(kv.key), rows(kv.value)) for i, kv in call.keys_values.items()}
    keep = None if call.keep is None else rows(call.keep)
    states = None if call.states is None else repeat(call.states, "l b ... -> l (b c) ...", c=times)
    return Call(layout, keys_values, keep, states, call.start)


def _continued(layout: Layout, targets: Targets, backbone: Backbone) -> tuple[Layout, Int[Tensor, "rows steps"]]:
    """Each row with its target text behind it, and the columns whose states predict the target tokens.

    Target token i is predicted by the item before it: the row's last item for i = 0, then target i - 1.
    """
    ids = rearrange(targets.ids, "b c s -> (b c) s")
    mask = rearrange(targets.mask, "b c s -> (b c) s")
    length, steps = layout.mask.shape[1], ids.shape[1]
    embeds = torch.cat([layout.embeds, backbone.embed(ids).to(layout.embeds.dtype)], 1)
    present = torch.cat([layout.mask, mask], 1)
    source = (~present).int().argsort(dim=1, stable=True)
    column = source.argsort(dim=1)
    types = torch.cat([layout.types, layout.types.new_zeros(ids.shape)], 1)
    grown = Layout(
        embeds=at(embeds, source),
        mask=present.gather(1, source),
        types=types.gather(1, source),
        tokens=column.gather(1, layout.tokens),
        prompts=column.gather(1, layout.prompts),
    )
    before = column[:, length : length + steps] - 1
    return grown, before.clamp(min=0)
