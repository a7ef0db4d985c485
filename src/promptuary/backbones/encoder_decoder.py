"""Text-to-text backbones: T5 (1.0, 1.1), mT5, BART."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache, PreTrainedModel

from promptuary.backbones import reading, trials
from promptuary.backbones.backbone import Backbone, call_with, run_stack
from promptuary.backbones.draft import Draft, Source, cache_of, layers_of, riding
from promptuary.backbones.generation import Generation, fits, generate
from promptuary.backbones.padding import at, expanded, fitting, read
from promptuary.values import Call, KeyValue, Layout, Output, Part, Targets


class EncoderDecoder(Backbone):
    """A model that reads with one tower and writes with another. The prompt is the encoder's; prefixes are both's."""

    @staticmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        return [(model.get_encoder(), "encoder"), (model.get_decoder(), "decoder")]  # type: ignore[no-untyped-call]

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        decoder = self.towers(self.model)[1][0]
        call = fitting(call, self.shape.positions)
        columns = read(call) if targets is None else None  # the decoder looks at all
        states = reading.states(self.attachment, self._stack, call, columns)
        aligned = at(states, call.layout.tokens)
        if targets is None:
            return Output(aligned, None, self.logits)
        choices = targets.ids.shape[1]
        ids, mask = (rearrange(t, "b c s -> (b c) s") for t in (targets.ids, targets.mask))
        first = (~mask).int().argsort(dim=1, stable=True)  # real steps first, as everywhere
        begun = torch.cat([torch.full_like(ids[:, :1], self._start()), ids.gather(1, first)[:, :-1]], 1)
        # The encoder runs once; its states serve every continuation of the row.
        with self.attachment.carrying(_each(call, choices)):
            out = call_with(
                decoder,
                input_ids=begun,
                encoder_hidden_states=repeat(states, "b l h -> (b c) l h", c=choices),
                encoder_attention_mask=repeat(call.layout.mask.long(), "b l -> (b c) l", c=choices),
                use_cache=False,
                return_dict=True,
            )
        predicting = at(out.last_hidden_state, first.argsort(dim=1))
        return Output(aligned, rearrange(predicting, "(b c) s h -> b c s h", c=choices), self.logits)

    def _generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        fits(how.max_new_tokens, self.shape.positions, self.name)
        embeds, mask = call.layout.embeds.to(self.dtype), call.layout.mask.long()
        with self.attachment.carrying(call):
            return generate(self.model, how, start=1, inputs_embeds=embeds, attention_mask=mask, **options)

    def compiled(self, call: Call) -> dict[int, KeyValue] | None:
        return self._left(call.layout) if call.blind is not None and self._goes_on else None

    @torch.no_grad()
    def _left(self, layout: Layout) -> dict[int, KeyValue]:
        """What rows leave to those behind them in the encoder, and to the decoder, which hears their last states."""
        with self.attachment.recording() as notes:
            states = self._stack(layout)
            call_with(
                self.towers(self.model)[1][0],
                input_ids=torch.full((len(states), 1), self._start(), device=self.device),
                encoder_hidden_states=states,
                use_cache=False,
            )
        return {
            i: KeyValue(key, value, layout.mask)
            for i, (a, (_, _, key, value)) in enumerate(zip(self.shape.attention, notes, strict=True))
            if a.part != "decoder"
        }

    @cached_property
    def _goes_on(self) -> bool:
        """It cannot where what is before the row would leave a window: one mask function serves both towers."""
        windows = any(a.window is not None for a in self.shape.attention if a.part == "encoder")
        return not windows and trials.goes_on_blind(self, self._left)

    def begin(self, call: Call) -> Draft:
        call, rows = fitting(call, self.shape.positions), call.layout.mask.shape[0]
        states = reading.states(self.attachment, self._stack, call, None)
        mask = torch.ones(rows, 1, dtype=torch.bool, device=self.device)
        first = Draft(states[:, 0], (), mask[:, :0], mask.sum(1) - 1, self._heard(call), Source((), call.layout.mask))
        return self._written(first, [self._start()] * rows, states)

    def advance(self, draft: Draft, ids: Sequence[int]) -> Draft:
        assert draft.source is not None
        rows, length = draft.source.mask.shape  # the states are in the cache: only their shape is asked for
        return self._written(draft, ids, torch.zeros((), device=self.device).expand(rows, length, self.shape.hidden))

    @cached_property
    def evens(self) -> bool:
        return trials.evens(self)

    def _written(self, draft: Draft, ids: Sequence[int], states: Float[Tensor, "rows length hidden"]) -> Draft:
        """The draft after each row's next token."""
        assert draft.source is not None
        own, crossed = cache_of(draft.layers), cache_of(draft.source.layers)
        mask = F.pad(draft.mask, (0, 1), value=True)
        with self.attachment.carrying(draft.call):
            out = call_with(
                self.towers(self.model)[1][0],
                input_ids=torch.tensor(ids, device=self.device)[:, None],
                attention_mask=mask.long(),
                encoder_hidden_states=states,
                encoder_attention_mask=draft.source.mask.long(),
                past_key_values=EncoderDecoderCache(own, crossed),
                use_cache=True,
                return_dict=True,
            )
        scores = self.logits(out.last_hidden_state[:, -1])
        source = Source(layers_of(crossed), draft.source.mask)
        return Draft(scores, layers_of(own), mask, draft.next + 1, draft.call, source)

    def _heard(self, call: Call) -> Call:
        """The soft keys and values that the decoder hears."""
        attention = self.shape.attention
        own = {i: kv for i, kv in call.keys_values.items() if attention[i].part != "encoder"}
        return riding(replace(call, keys_values=own))

    def _stack(self, layout: Layout) -> Float[Tensor, "batch length output"]:
        return run_stack(self.towers(self.model)[0][0], layout, dtype=self.dtype)

    def _start(self) -> int:
        return int(self.model.config.decoder_start_token_id)

    def _head_arguments(self, flat: Float[Tensor, "1 rows hidden"]) -> dict[str, Any]:
        return {"encoder_outputs": (flat,), "decoder_inputs_embeds": flat}

    def plain(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        encoder, decoder = (stack for stack, _ in self.towers(self.model))
        states: Tensor = call_with(encoder, input_ids=ids, return_dict=True).last_hidden_state
        call_with(decoder, input_ids=ids, encoder_hidden_states=states, use_cache=False)
        return states


def _each(call: Call, times: int) -> Call:
    """The soft keys and values of a call for `times` continuations of each row."""
    rows = times * call.layout.mask.shape[0]
    keeps = {id(kv.keep): kv.keep for kv in call.keys_values.values()}
    each = {number: expanded(keep, rows) for number, keep in keeps.items()}
    keys_values = {
        i: KeyValue(expanded(kv.key, rows), expanded(kv.value, rows), each[id(kv.keep)])
        for i, kv in call.keys_values.items()
    }
    return Call(call.layout, keys_values)
