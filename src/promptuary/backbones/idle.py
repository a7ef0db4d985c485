"""A backbone without a model, for what trains by itself: a generator (`pretraining`), a read-out with its own model.

Training asks a backbone for sizes, a device and states; here no states are computed but the mean of the soft tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.draft import Draft
from promptuary.backbones.generation import Generation
from promptuary.errors import BackboneError
from promptuary.values import Call, Output, Part, Shape, Targets


class Idle(Backbone):
    """Its state at every token is the mean of the row's present soft tokens; without any, 0.

    Soft tokens of `width` numbers enter as hidden states of one layer (`HiddenStates`); word embeddings have width 1
    and are zeros, so that long inputs cost nothing.

    Arguments:
        shape: of the backbone whose place it takes; what it says of vocabulary, deviation and reading stays.
        width: of the soft tokens, and of the states.
        device: where the prompt and the read-out train.
        tokenizer: of the backbone whose place it takes.
    """

    def __init__(self, shape: Shape, device: torch.device, *, width: int = 1, tokenizer: Any = None) -> None:
        # Not Backbone.__init__: there is no model to freeze, measure or probe.
        self.model: Any = nn.Linear(1, 1, device=device).requires_grad_(False)  # says where everything is
        self.name, self.has_head, self._tokenizer, self._head = "idle", False, tokenizer, None
        self.shape = replace(shape, dim=1, hidden=width, output=width, layers=1, positions=None, attention=())

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def digest(self) -> str:
        return self.name

    def fingerprint(self) -> str:
        return self.name

    @staticmethod
    def towers(model: object) -> Sequence[tuple[nn.Module, Part]]:
        return []

    def embed(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        return torch.zeros(*ids.shape, 1, device=ids.device)

    def run(self, call: Call, targets: Targets | None = None) -> Output:
        batch, tokens = call.layout.tokens.shape
        if not call.states:
            return Output(torch.zeros(batch, tokens, self.shape.output, device=self.device), None, self.logits)
        soft = call.states[0]
        count = rearrange(soft.keep.sum(1), "b -> b 1")  # absent soft tokens are zeros
        mean = soft.values.sum(1) / count.clamp(min=1)
        return Output(rearrange(mean, "b w -> b 1 w").expand(-1, tokens, -1), None, self.logits)

    def _generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        raise self._silent()

    def begin(self, call: Call) -> Draft:
        raise self._silent()

    def advance(self, draft: Draft, ids: Sequence[int]) -> Draft:
        raise self._silent()

    def _silent(self) -> BackboneError:
        return BackboneError("The idle backbone generates nothing.")

    def plain(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        return torch.zeros(*ids.shape, self.shape.output, device=ids.device)
