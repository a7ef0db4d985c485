"""Backbones that read in both directions: BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, ModernBERT, DeBERTa-v2."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.generation import Generation
from promptuary.backbones.padding import at, fitting, read
from promptuary.backbones.reading import states
from promptuary.errors import BackboneError
from promptuary.values import Call, Layout, Output, Part, Targets


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
        if call.start:
            raise BackboneError(f"{self.name!r} is an encoder: its input always starts at position 0.")
        call = fitting(call, self.shape.positions)
        return Output(at(states(self.attachment, self._stack, call, read(call)), call.layout.tokens), None, self.logits)

    def generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        raise BackboneError(
            f"{self.name!r} is an encoder and does not generate text; use a causal or text-to-text model."
        )

    def _stack(self, layout: Layout) -> Float[Tensor, "batch length output"]:
        segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        types = layout.types if segments else None
        return run_stack(self.model.base_model, layout, dtype=self.dtype, token_type_ids=types)

    def _read(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        found: Tensor = call_with(self.model.base_model, input_ids=ids, return_dict=True).last_hidden_state
        return found
