"""Backbones that read in both directions: BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, ModernBERT, DeBERTa-v2."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from promptuary.backbones import trials
from promptuary.backbones.backbone import Backbone, call_with, first_position, run_stack
from promptuary.backbones.draft import Draft
from promptuary.backbones.generation import Generation
from promptuary.backbones.padding import at, fitting, read
from promptuary.backbones.reading import states
from promptuary.backbones.sight import Sight, before
from promptuary.errors import BackboneError
from promptuary.values import Call, KeyValue, Layout, Output, Part, Targets


class Encoder(Backbone):
    """A bidirectional model, with or without a masked-language-model head."""

    @staticmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        return [(model.base_model, "encoder")]

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        if targets is not None:
            raise BackboneError(
                f"{self.name!r} is an encoder: it cannot continue a text. Use a verbalizer at the mask or a classifier."
            )
        call = fitting(call, self.shape.positions)
        positions = None if call.start is None else self._positions(call, call.start)
        ahead = before(call, call.layout.tokens.new_zeros(()), len(self.shape.attention), self.name)
        with Sight(None, ahead):
            found = states(self.attachment, partial(self._stack, positions=positions), call, read(call))
        return Output(at(found, call.layout.tokens), None, self.logits)

    def _positions(self, call: Call, start: Int[Tensor, " batch"]) -> Int[Tensor, "batch length"]:
        """Where rows stand behind a prefix that takes positions; families that number from the padding id do so."""
        columns = torch.arange(call.layout.mask.shape[1], device=self.device)[None]
        return (columns + rearrange(start, "b -> b 1")).where(call.layout.mask, 0) + first_position(self.model)

    def compiled(self, call: Call) -> dict[int, KeyValue] | None:
        return self._left(call.layout) if call.blind is not None and self._goes_on else None

    @torch.no_grad()
    def _left(self, layout: Layout) -> dict[int, KeyValue]:
        with self.attachment.recording() as notes:
            self._stack(layout, None)
        return {i: KeyValue(key, value, layout.mask) for i, (_, _, key, value) in enumerate(notes)}

    @cached_property
    def _goes_on(self) -> bool:
        return trials.goes_on_blind(self, self._left)

    def _generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        raise self._silent()

    def begin(self, call: Call) -> Draft:
        raise self._silent()

    def advance(self, draft: Draft, ids: Sequence[int]) -> Draft:
        raise self._silent()

    def _silent(self) -> BackboneError:
        return BackboneError(
            f"{self.name!r} is an encoder and does not generate text; use a causal or text-to-text model."
        )

    def _stack(
        self, layout: Layout, positions: Int[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length output"]:
        segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        types = layout.types if segments else None
        return run_stack(self.model.base_model, layout, dtype=self.dtype, token_type_ids=types, position_ids=positions)

    def plain(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        found: Tensor = call_with(self.model.base_model, input_ids=ids, return_dict=True).last_hidden_state
        return found
