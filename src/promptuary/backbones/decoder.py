"""Causal backbones: GPT-2, Llama, Qwen3, Mistral, Gemma3, GPT-NeoX, OPT."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from promptuary.backbones import trials
from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.draft import Draft, Layer, cache_of, layers_of, riding
from promptuary.backbones.generation import Generation, fits, generate
from promptuary.backbones.packing import Packing, continued
from promptuary.backbones.padding import at, ends, fitting, flush_right, read
from promptuary.backbones.sight import Before, Sight, before
from promptuary.errors import BackboneError
from promptuary.values import Call, KeyValue, Layout, Output, Part, Targets


class Decoder(Backbone):
    """A causal language model."""

    def __init__(self, model: PreTrainedModel, name: str, *, head: bool) -> None:
        super().__init__(model, name, head=head)
        self.packs = True
        self.packs = trials.packs(self)

    @staticmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        return [(model.get_decoder(), "decoder")]  # type: ignore[no-untyped-call]

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        if targets is None:
            call = fitting(call, self.shape.positions)
            return Output(at(self._states(call, read(call)), call.layout.tokens), None, self.logits)
        choices, steps = targets.ids.shape[1:]
        if choices == 1 or steps == 1 or self.packs:
            return Output(*self._continued(call, targets), self.logits)
        each = [Targets(targets.ids[:, i : i + 1], targets.mask[:, i : i + 1]) for i in range(choices)]
        tokens, predicting = zip(*(self._continued(call, one) for one in each), strict=True)
        return Output(tokens[0], torch.cat(predicting, 1), self.logits)

    def _generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        if how.cache == "none":
            raise BackboneError(
                f"{self.name!r}: a causal model that starts from embeddings cannot generate without a cache. "
                "Write cache='dynamic' or cache='static'."
            )
        if len(call.layout.mask) * how.beams * how.sequences > 1 and not self._writes_together:
            raise BackboneError(
                f"{self.name!r} ({self.shape.family}) writes another text where it writes several at once. Give one "
                "row at a time (batch=1), and leave out beams and sequences."
            )
        return self._texts(call, how, **options)

    def _texts(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        layout = flush_right(call.layout)
        fits(int(ends(call).max()) + how.max_new_tokens, self.shape.positions, self.name)
        if call.start is not None:
            options["position_ids"] = _counted(layout.mask, call.start)
        embeds, mask = layout.embeds.to(self.dtype), layout.mask.long()
        ahead = self._before(call, (~layout.mask).sum(1))
        with self.attachment.carrying(replace(call, layout=layout)), Sight(None, ahead):
            return generate(self.model, how, start=0, inputs_embeds=embeds, attention_mask=mask, **options)

    def compiled(self, call: Call) -> dict[int, KeyValue] | None:
        return self._left(call) if self._goes_on else None

    def _left(self, call: Call) -> dict[int, KeyValue]:
        with torch.no_grad(), self.attachment.recording() as notes:
            self._states(call)
        return {i: KeyValue(key, value, call.layout.mask) for i, (_, _, key, value) in enumerate(notes)}

    def begin(self, call: Call) -> Draft:
        if not (self._goes_on_writing and (call.layout.mask.all() or self._flushes)):
            raise BackboneError(
                f"{self.name!r} ({self.shape.family}) keeps more of a text than keys and values, or lets padding in: "
                "it cannot be written step by step beside others. Use generate."
            )
        return self._begun(call)

    def _begun(self, call: Call) -> Draft:
        layout = flush_right(call.layout)
        positions = _counted(layout.mask, call.start)
        with self.attachment.carrying(replace(call, layout=layout)):
            return self._written(riding(call), layout.embeds, layout.mask, positions, ())

    def advance(self, draft: Draft, ids: Sequence[int]) -> Draft:
        embeds = self.embed(torch.tensor(ids, device=self.device)[:, None])
        mask = F.pad(draft.mask, (0, 1), value=True)
        with self.attachment.carrying(draft.call):
            return self._written(draft.call, embeds, mask, rearrange(draft.next, "b -> b 1"), draft.layers)

    def _written(
        self,
        riding: Call,
        embeds: Float[Tensor, "rows new dim"],
        mask: Bool[Tensor, "rows columns"],
        positions: Int[Tensor, "rows new"],
        layers: Sequence[Layer],
    ) -> Draft:
        """The draft of rows whose columns are in `layers`, and behind them new ones."""
        cache = cache_of(layers)
        with Sight(None, self._before(riding, mask.int().argmax(1))):
            out = call_with(
                self.towers(self.model)[0][0],
                inputs_embeds=embeds.to(self.dtype),
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        scores = self.logits(out.last_hidden_state[:, -1])
        return Draft(scores, layers_of(cache), mask, positions[:, -1] + 1, riding)

    def _continued(
        self, call: Call, targets: Targets
    ) -> tuple[Float[Tensor, "batch tokens output"], Float[Tensor, "batch choices steps output"]]:
        """States at the caller's tokens, and those that predict each target token."""
        texts = continued(call.layout, targets, self.embed)
        positions = None if texts.packing is None else texts.packing.position
        call = fitting(replace(call, layout=texts.layout), self.shape.positions, positions)
        before = rearrange(texts.before, "b c s -> b (c s)")
        states = self._states(call, torch.cat([read(call), before], 1), texts.packing)
        predicting = at(states, before)
        return at(states, call.layout.tokens), rearrange(predicting, "b (c s) h -> b c s h", s=targets.ids.shape[2])

    def _states(
        self, call: Call, columns: Int[Tensor, "batch read"] | None = None, packing: Packing | None = None
    ) -> Float[Tensor, "batch length output"]:
        positions = None if packing is None else packing.position
        if call.start is not None:  # each row goes on counting behind what stands before it; padding is nowhere
            own = torch.arange(call.layout.mask.shape[1], device=self.device)[None]
            counted = (own if positions is None else positions) + rearrange(call.start, "b -> b 1")
            positions = counted.where(call.layout.mask, 0)
        ahead = self._before(call, call.layout.tokens.new_zeros(()))
        with self.attachment.carrying(call, columns), Sight(packing, ahead):
            return run_stack(self.towers(self.model)[0][0], call.layout, dtype=self.dtype, position_ids=positions)

    @cached_property
    def _goes_on(self) -> bool:
        return bool(self.shape.attention) and trials.goes_on(self, self._left)

    @cached_property
    def _goes_on_writing(self) -> bool:
        return trials.goes_on_writing(self, self._begun)

    @cached_property
    def _writes_together(self) -> bool:
        return self._flushes and (self._goes_on_writing or trials.writes_together(self, self._texts))

    @cached_property
    def _flushes(self) -> bool:
        def states(layout: Layout) -> Tensor:
            tower = self.towers(self.model)[0][0]
            return run_stack(tower, layout, dtype=self.dtype, position_ids=_counted(layout.mask, None))

        return trials.flushes(self, states)

    def _before(self, call: Call, padding: Int[Tensor, "*batch"]) -> Before | None:
        return before(call, padding, len(self.shape.attention), self.name)

    def plain(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        states: Tensor = call_with(
            self.towers(self.model)[0][0], input_ids=ids, use_cache=False, return_dict=True
        ).last_hidden_state
        return states


def _counted(mask: Bool[Tensor, "batch length"], start: Int[Tensor, " batch"] | None) -> Int[Tensor, "batch length"]:
    """The position of each column of rows that are padded in front."""
    columns = (mask.cumsum(1) - 1).clamp(min=0)
    return columns if start is None else columns + rearrange(start, "b -> b 1")
