"""Causal backbones: GPT-2, Llama, Qwen3, Mistral, Gemma3, GPT-NeoX, OPT."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.draft import Draft, Layer, cache_of, layers_of, riding
from promptuary.backbones.generation import Generation, fits, generate
from promptuary.backbones.packing import Packed, Packing, continued
from promptuary.backbones.padding import at, fitting, flush_right
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
            return Output(at(self._states(call), call.layout.tokens), None, self.logits)
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

    def begin(self, call: Call) -> Draft:
        layout = flush_right(call.layout)
        columns = (layout.mask.cumsum(1) - 1).clamp(min=0)
        with self.attachment.carrying(replace(call, layout=layout)):
            return self._written(riding(call), layout.embeds, layout.mask, columns + call.start, ())

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

    def _limit(self, call: Call) -> int | None:
        return None if self.shape.positions is None else self.shape.positions - call.start

    def _continued(
        self, call: Call, targets: Targets
    ) -> tuple[Float[Tensor, "batch tokens output"], Float[Tensor, "batch choices steps output"]]:
        """States at the caller's tokens, and those that predict each target token."""
        texts = continued(call.layout, targets, self.embed)
        positions = None if texts.packing is None else texts.packing.position
        call = fitting(replace(call, layout=texts.layout), self._limit(call), positions)
        states = self._states(call, texts.packing)
        predicting = at(states, rearrange(texts.before, "b c s -> b (c s)"))
        return at(states, call.layout.tokens), rearrange(predicting, "b (c s) h -> b c s h", s=targets.ids.shape[2])

    def _states(self, call: Call, packing: Packing | None = None) -> Float[Tensor, "batch length output"]:
        positions = None if packing is None else packing.position
        if call.start:  # after keys and values of real tokens, the input goes on counting
            columns = torch.arange(call.layout.mask.shape[1], device=self.device)[None]
            positions = (columns if positions is None else positions) + call.start
        with self.attachment.carrying(call), Packed(packing):
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
