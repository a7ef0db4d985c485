"""A frozen model as the rest of the library sees it: it embeds, it runs a call, it scores, it generates.

A `Backbone` is deliberately not an `nn.Module`: no optimizer, no checkpoint and no `.train()` of a parent can
reach its weights. Only the modules of this folder import transformers.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from promptuary.backbones import activation, cpu_linear, identity, int8, norm
from promptuary.backbones.attachment import Attachment, Reached
from promptuary.backbones.draft import Draft
from promptuary.backbones.generation import Generation
from promptuary.backbones.head import head_of, reads_together
from promptuary.errors import BackboneError, SettingError
from promptuary.values import Call, KeyValue, Layout, Output, Part, Shape, Targets


class Backbone(ABC):
    """A frozen model.

    Arguments:
        model: a model of transformers 5; its weights are frozen here and stay as they are.
        name: what the user called it, for messages and checkpoints.
        head: whether its scores over the vocabulary are trained (a bare encoder's are not).
    """

    shape: Shape
    int8: str | None = None  # how its linear layers were rounded, if at all
    _scale = 1.0  # of embeddings, where the model multiplies those that it looks up itself

    def __init__(self, model: PreTrainedModel, name: str, *, head: bool) -> None:
        from promptuary.backbones import trials  # which run backbones

        self.model, self.name, self.has_head = model, name, head
        self._tokenizer: Any = None
        self._fingerprints: dict[torch.dtype, str] = {}
        model.requires_grad_(False)
        model.train(False)
        cpu_linear.prepare(model)
        activation.fuse(model)
        norm.fuse(model)
        reads_together(model)
        self.attachment = Attachment(model, self.towers(self.model), self._trial)
        if not head:
            self._head: nn.Module | None = None
        else:
            self._head = head_of(model, [stack for stack, _ in self.towers(self.model)])
        self.shape = self._measure()
        if not trials.reads(self):
            self._scale = trials.scale(self)
            self.shape = self._measure()
        trials.alone(self)
        trials.heard(self)
        self.attachment.selects = self.attachment.selects and trials.selects(self)
        self.attachment.reads_apart = bool(self.shape.encodes and self.shape.attention) and trials.reads_apart(self)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, which `load` found beside it; only `data/` uses it.

        Raises:
            BackboneError: where there is none.
        """
        if self._tokenizer is None:
            raise BackboneError(
                f"{self.name!r} came without a tokenizer. Save one in its folder (tokenizer.save_pretrained), "
                "or set backbone.tokenizer."
            )
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @staticmethod
    @abstractmethod
    def towers(model: PreTrainedModel) -> Sequence[tuple[nn.Module, Part]]:
        """The model's towers, with the part that their self-attention plays."""

    @abstractmethod
    def run(self, call: Call, targets: Targets | None = None) -> Output:
        """Run the model on `call`; with `targets`, also score these continuations."""

    def generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        """Generate token ids for each row (without the input). `options` are those of transformers (`streamer`).

        Raises:
            SettingError: when the text could run past the model's last position.
            BackboneError: where the model does not generate, or not in this way.
        """
        if how.cache == "static" and not self._allots:
            raise BackboneError(f"{self.name!r} writes another text with a static cache. Write cache='dynamic'.")
        return self._generate(call, how, **options)

    @abstractmethod
    def _generate(self, call: Call, how: Generation, **options: Any) -> Int[Tensor, "rows steps"]:
        """`generate`, with any cache."""

    @cached_property
    def _allots(self) -> bool:
        from promptuary.backbones import trials

        return trials.allots(self, self._generate)

    @abstractmethod
    def begin(self, call: Call) -> Draft:
        """Read the rows of `call` and begin to write; `advance` goes on. Rows may come and go between.

        Raises:
            BackboneError: where the model does not generate.
        """

    @abstractmethod
    def advance(self, draft: Draft, ids: Sequence[int]) -> Draft:
        """The draft after each row's next token."""

    @property
    def evens(self) -> bool:
        """Whether rows that wrote different numbers of tokens can stand in one draft."""
        return True

    def _table(self) -> nn.Module:
        """The embedding of the tower that reads the input (a BART may have another one for its decoder)."""
        tower: Any = self.towers(self.model)[0][0]
        table: nn.Module = tower.get_input_embeddings()
        return table

    @property
    def _weight(self) -> Float[Tensor, "vocabulary dim"]:
        weight: Any = self._table().weight
        return cast("Tensor", weight)

    def embed(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Embeddings as the first layer expects them (scaled, where the family scales); zeros at negative ids."""
        embeds: Tensor = self._table()(ids.clamp(min=0)) * self._scale
        return embeds.masked_fill(rearrange(ids < 0, "b t -> b t 1"), 0.0)

    def embeddings(self, ids: Sequence[int]) -> Float[Tensor, "ids dim"]:
        """Embeddings of single token ids as the layers see them, in float32."""
        return self.embed(torch.tensor([list(ids)], dtype=torch.long, device=self.device))[0].float()

    @property
    def table(self) -> Float[Tensor, "vocabulary dim"]:
        """The embedding table as the layers see it, in float32."""
        ids = torch.arange(self._weight.shape[0], device=self.device)
        return self.embed(rearrange(ids, "v -> 1 v"))[0].float()

    def logits(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
        """Scores over the vocabulary for last hidden states, by the model's own head.

        Raises:
            BackboneError: where the model came without a trained head.
        """
        if self._head is None:
            raise BackboneError(
                f"{self.name!r} has no trained language-model head, so it cannot score words. "
                "Use a classifier read-out, or a backbone trained as a (masked) language model."
            )
        flat = hidden.reshape(1, -1, hidden.shape[-1]).to(self.dtype)
        scores: Tensor = self._head(inputs_embeds=flat, **self._head_arguments(flat)).logits
        return scores.reshape(*hidden.shape[:-1], scores.shape[-1])

    def _head_arguments(self, flat: Float[Tensor, "1 rows hidden"]) -> dict[str, Any]:
        return {}

    def train(self, mode: bool) -> None:
        """Dropout and gradient checkpointing of the frozen model on or off (dropout only if it was loaded with it)."""
        self.model.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout inside; afterwards the model is in the mode it was in."""
        mode = self.model.training
        if mode:  # setting it goes through all modules
            self.train(False)
        try:
            yield
        finally:
            if mode:
                self.train(True)

    def checkpoint_activations(self, on: bool) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations: less memory, more time.

        Raises:
            BackboneError: where the model's code does not offer it (ALBERT).
        """
        if not self.model.supports_gradient_checkpointing:
            raise BackboneError(f"{self.shape.family!r} does not support gradient checkpointing; leave it off.")
        if on:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]

    def to_int8(self, how: str) -> float:
        """Round the linear layers to eight bits, in place (`int8.py`).

        The fingerprint stays: a prompt that was tuned on the model is used on the rounded one, with what that costs in
        accuracy.

        Arguments:
            how: `weights`, or `dynamic`: what goes into the layers too.

        Returns:
            the gap of the last states on a trial text, as a share of their size (root mean squares).

        Raises:
            SettingError: for an unknown word, a model that is rounded already, and where torchao is missing.
            BackboneError: where nothing can be rounded, or the rounded model says no finite numbers.
        """
        if self.int8 is not None:
            raise SettingError(f"{self.name!r} is rounded already (int8={self.int8!r}). Load it again.")
        self.fingerprint()  # of the weights as they are
        with torch.no_grad():
            before = self._trial().float()
            int8.into([tower for tower, _ in self.towers(self.model)], how, self.name)
            self.int8, after = how, self._trial().float()
        gap = float((after - before).pow(2).mean().sqrt() / before.pow(2).mean().sqrt())
        if not gap < 1:
            raise BackboneError(f"{self.name!r} is another model in eight bits (a gap of {gap:.2g}). Leave int8 out.")
        return gap

    def digest(self) -> str:
        """A hash over every byte of every weight: equal before and after means nothing was touched."""
        return identity.digest(self.model)

    def fingerprint(self) -> str:
        """What the model is known by in any precision; `identity.same_model` compares two."""
        if self.dtype not in self._fingerprints:  # the weights are frozen: they are hashed once in each precision
            self._fingerprints[self.dtype] = identity.fingerprint(self.model, self.shape)
        return self._fingerprints[self.dtype]

    def keys_values(self, ids: Sequence[int], parts: frozenset[Part]) -> Float[Tensor, "prompt width"]:
        """The keys and values that real tokens leave in the attention layers of `parts`: a start for a prefix.

        The positions are 0, 1, ...: a decoder that sees them through `KeyValues(start=len(ids))` continues as if it
        had read the tokens (Li and Liang 2021, section 7.4; exact for causal models).

        Raises:
            BackboneError: where the backbone has no attention hook.
        """
        if not self.shape.attention:
            raise BackboneError(
                f"{self.name!r} ({self.shape.family}) shows no keys and values: it has no attention hook."
            )
        row = torch.tensor([list(ids)], device=self.device)
        with torch.no_grad(), self.attachment.recording() as notes:
            self.plain(row)
        width = []
        for (_, _, key, value), a in zip(notes, self.shape.attention, strict=True):
            if a.part in parts:
                width += [rearrange(key, "1 h p k -> p (h k)"), rearrange(value, "1 h p v -> p (h v)")]
        return torch.cat(width, 1).float()

    @property
    def caches(self) -> bool:
        """Whether the code of the tower that reads the input takes keys and values in a cache (ALBERT's takes none)."""
        return "past_key_values" in inspect.signature(self.towers(self.model)[0][0].forward).parameters

    def compiled(self, call: Call) -> dict[int, KeyValue] | None:
        """The keys and values that the rows of a call leave to whatever stands behind them.

        `None` where what stands behind bears on them (the rows of a model that reads both ways, unless they are blind),
        and where the model does not go on from keys and values alone (no attention hook, recurrent layers, positions
        that cannot be given).
        """
        return None

    @abstractmethod
    def plain(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens output"]:
        """The bare model's last states on real tokens (an encoder-decoder reads them with both towers)."""

    def _trial(self) -> Float[Tensor, "1 tokens output"]:
        return self.plain(torch.arange(5, device=self.device)[None] + 3)

    def _measure(self) -> Shape:
        config = self.model.config.get_text_config()
        with torch.no_grad():
            output = self._trial()
        weight = self._weight
        sample = torch.linspace(0, weight.shape[0] - 1, min(weight.shape[0], 4096), device=self.device).long()
        seen = self.embed(sample[None])[0].float()
        parts = [part for _, part in self.towers(self.model)]
        return Shape(
            family=config.model_type,
            dim=int(seen.shape[1]),
            hidden=int(config.hidden_size),
            output=output.shape[-1],
            layers=self.attachment.counts.get(parts[0], 0),
            vocabulary=int(weight.shape[0]),
            positions=_position_limit(self.model),
            deviation=float(seen[seen.abs().sum(1) > 0].std()),
            attention=tuple(self.attachment.attention),
            decodes="decoder" in parts,
            encodes="encoder" in parts,
        )


def call_with(module: nn.Module, **arguments: Any) -> Any:
    """Call `module` with those arguments that its forward names."""
    known = inspect.signature(module.forward).parameters
    return module(**{k: v for k, v in arguments.items() if k in known and v is not None})


def run_stack(
    stack: nn.Module, layout: Layout, *, dtype: torch.dtype, **more: Any
) -> Float[Tensor, "batch length output"]:
    """A tower's last hidden states on a layout, or those where the call stops it.

    Positions are the model's own rule: the row has no gaps.
    """
    try:
        out = call_with(
            stack,
            inputs_embeds=layout.embeds.to(dtype),
            attention_mask=layout.mask.long(),
            use_cache=False,
            return_dict=True,
            **more,
        )
    except Reached as reached:
        return reached.states
    states: Tensor = out.last_hidden_state
    return states


def first_position(model: PreTrainedModel) -> int:
    """The first token's position: 0, or one behind the padding id in families that number so (RoBERTa)."""
    counted = [m for m in model.modules() if hasattr(m, "create_position_ids_from_inputs_embeds")]
    return int(model.config.get_text_config().pad_token_id) + 1 if counted else 0


def _position_limit(model: PreTrainedModel) -> int | None:
    """How many tokens fit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit) - first_position(model)
