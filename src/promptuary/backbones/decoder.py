"""Causal backbones: GPT-2, Llama, Qwen3, Mistral, Gemma3, GPT-NeoX, OPT."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.generation import Generation, fits, generate
from promptuary.backbones.packing import Packed, Packing, continued
from promptuary.backbones.padding import at, fitting, flush_right, read
from promptuary.errors import BackboneError
from promptuary.values import Call, Layout, Output, Part, Targets


class Decoder(Backbone):
    """A causal language model."""

    def __init__(self, model: PreTrainedModel, name: str, *, head: bool) -> None:
        super().__init__(model, name, head=head)
        self.packs = self._tried()

    @staticmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        return [(model.get_decoder(), "decoder")]  # type: ignore[no-untyped-call]

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        if targets is None:
            call = fitting(call, self._limit(call))
            return Output(at(self._states(call, read(call)), call.layout.tokens), None, self.logits)
        choices, steps = targets.ids.shape[1:]
        if choices == 1 or steps == 1 or self.packs:
            return Output(*self._continued(call, targets), self.logits)
        each = [Targets(targets.ids[:, i : i + 1], targets.mask[:, i : i + 1]) for i in range(choices)]
        tokens, predicting = zip(*(self._continued(call, one) for one in each), strict=True)
        return Output(tokens[0], torch.cat(predicting, 1), self.logits)

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
        embeds, mask = layout.embeds.to(self.dtype), layout.mask.long()
        with self.attachment.carrying(replace(call, layout=layout)):
            return generate(self.model, how, start=0, inputs_embeds=embeds, attention_mask=mask, **options)

    def _limit(self, call: Call) -> int | None:
        return None if self.shape.positions is None else self.shape.positions - call.start

    def _continued(
        self, call: Call, targets: Targets
    ) -> tuple[Float[Tensor, "batch tokens output"], Float[Tensor, "batch choices steps output"]]:
        """States at the caller's tokens, and those that predict each target token."""
        texts = continued(call.layout, targets, self.embed)
        positions = None if texts.packing is None else texts.packing.position
        call = fitting(replace(call, layout=texts.layout), self._limit(call), positions)
        before = rearrange(texts.before, "b c s -> b (c s)")
        asked = read(call)
        states = self._states(call, None if asked is None else torch.cat([asked, before], 1), texts.packing)
        predicting = at(states, before)
        return at(states, call.layout.tokens), rearrange(predicting, "b (c s) h -> b c s h", s=targets.ids.shape[2])

    def _states(
        self, call: Call, columns: Int[Tensor, "batch read"] | None, packing: Packing | None = None
    ) -> Float[Tensor, "batch length output"]:
        positions = None if packing is None else packing.position
        if call.start:  # after keys and values of real tokens, the input goes on counting
            columns = torch.arange(call.layout.mask.shape[1], device=self.device)[None]
            positions = (columns if positions is None else positions) + call.start
        with self.attachment.carrying(call, columns), Packed(packing):
            return run_stack(self.towers(self.model)[0][0], call.layout, dtype=self.dtype, position_ids=positions)

    def _tried(self) -> bool:
        """Whether a text packed with another behind one row is read as by itself; else each text has its own pass.

        It is not where positions cannot be given, where attention has no hook, and where layers are recurrent.
        """
        ids = torch.arange(3, 13, device=self.device)[None]
        row, texts = ids[:, :4], rearrange(ids[:, 4:], "1 (c s) -> 1 c s", c=2)
        there, columns = torch.ones_like(ids, dtype=torch.bool), torch.arange(4, device=self.device)[None]
        layout = Layout(self.embed(row), there[:, :4], columns * 0, columns, columns[:, :0])
        with torch.no_grad():
            _, packed = self._continued(Call(layout), Targets(texts, torch.ones_like(texts, dtype=torch.bool)))
            alone = self._read(torch.cat([row, texts[:, 1, :-1]], 1))[:, 3:]
        gap = (packed[:, 1] - alone).abs().max() / alone.abs().max()
        return bool(gap < torch.finfo(self.dtype).eps ** 0.5)

    def _read(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        states: Tensor = call_with(
            self.towers(self.model)[0][0], input_ids=ids, use_cache=False, return_dict=True
        ).last_hidden_state
        return states
