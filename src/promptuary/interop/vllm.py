"""A tuned prompt of a causal model in front of an unmodified vLLM: what each request carries.

Prompts in the row (soft tokens before, around or inside the text, made from the input or not) travel with the request:
the row as `prompt_embeds`, `[tokens, dim]`, the soft tokens laid around the text's embeddings by the prompt's own
placement. vLLM wants `--enable-prompt-embeds` for it.

A deep prefix cannot travel so. Its keys and values lie in a file that a KV connector inside vLLM reads
(`interop/connector.py`); the request then has P tokens that stand for the prefix before its own, and a `cache_salt`
that names the file and keeps what vLLM caches under one prefix from every other. The prefix stands at positions 0 to
P - 1 there: one that was tuned without positions is turned (`backbones/turning.py`) or refused.

On the wire vLLM 0.32 reads the bytes of `torch.save` in base64 (it unpickles tensors only); here they are only written.
"""

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from promptuary import checkpoint
from promptuary.backbones.turning import turned
from promptuary.errors import BackboneError, SettingError
from promptuary.files import write
from promptuary.interop.prefixes import KEY, VALUE, salt
from promptuary.interop.trial import trial
from promptuary.model import SoftPrompted
from promptuary.values import Instance


@dataclass(frozen=True, eq=False)
class Embedded:
    """A request as the embeddings of its row, soft tokens among them."""

    row: Float[Tensor, "tokens dim"]

    @property
    def tokens(self) -> int:
        """How many positions it takes."""
        return len(self.row)

    def prompt(self) -> dict[str, Any]:
        """For `LLM.generate`: vLLM's `EmbedsPrompt`."""
        return {"prompt_embeds": self.row}

    def body(self) -> dict[str, Any]:
        """For `/v1/completions`: the fields that stand for the prompt."""
        file = io.BytesIO()
        torch.save(self.row, file)
        return {"prompt_embeds": base64.b64encode(file.getvalue()).decode()}


@dataclass(frozen=True, eq=False)
class Prefixed:
    """A request as token ids behind those that stand for a prefix."""

    ids: tuple[int, ...]
    salt: str

    @property
    def tokens(self) -> int:
        """How many positions it takes."""
        return len(self.ids)

    def prompt(self) -> dict[str, Any]:
        """For `LLM.generate`: vLLM's `TokensPrompt`."""
        return {"prompt_token_ids": list(self.ids), "cache_salt": self.salt}

    def body(self) -> dict[str, Any]:
        """For `/v1/completions`: the fields that stand for the prompt."""
        return {"prompt": list(self.ids), "cache_salt": self.salt}


Bridge = Callable[[Instance], "list[Embedded] | list[Prefixed]"]


def bridge(model: SoftPrompted, *, prefixes: Path | None = None) -> Bridge:
    """What turns a batch of inputs, as the prompt sees them, into requests: one for each row.

    Arguments:
        prefixes: where the files of deep prefixes lie, for a vLLM that runs the connector over the same folder. The
            prompt's file is written there now, under a name made of its numbers.

    Raises:
        BackboneError: for a model that is not causal; for a prefix without positions on a model where these are more
            than rotations.
        SettingError: for a prompt that cannot go this way, naming what can.
    """
    backbone, shape = model.backbone, model.backbone.shape
    if shape.encodes or not shape.decodes:
        raise BackboneError(
            f"{backbone.name!r} ({shape.family}) is not causal, and vLLM takes such requests for causal models "
            "only. Serve it with `promptuary serve`."
        )
    call = trial(model)
    if call.states or call.entry is not None:
        raise SettingError(
            "This prompt overwrites hidden states, which no request to vLLM can carry. Prompts in the row "
            "('prompt-tuning', 'ipt', 'dp-position', ...) and 'p-tuning-v2' can; `promptuary serve` serves all."
        )
    if not call.keys_values:
        return lambda x: _embedded(model, x)
    if prefixes is None:
        raise SettingError(
            "A deep prefix goes to vLLM through a folder that both read. Name it with --prefixes, and start vLLM with "
            "the connector (docs/engines.md)."
        )
    name, length = write_prefix(model, prefixes)
    return lambda x: _prefixed(x, salt(name, length), length)


def write_prefix(model: SoftPrompted, folder: Path) -> tuple[str, int]:
    """Write a deep prefix for the connector; the name of its file, without suffix, and its length.

    Raises:
        SettingError, BackboneError: as `bridge`.
    """
    backbone, attention = model.backbone, model.backbone.shape.attention
    table = checkpoint.flat(model.generator, model.injection)
    if table is None:
        raise SettingError(
            "This prefix is made from the input; vLLM's cache holds prefixes that are the same for all requests. "
            "Use 'p-tuning-v2', or an instance-wise prompt in the row ('ipt')."
        )
    if any(a.window is not None for a in attention):
        raise SettingError(
            f"{backbone.name!r} ({backbone.shape.family}) attends in windows: in vLLM a prefix falls out of them, here "
            "it never does. Use a prompt in the row."
        )
    with torch.no_grad():
        table = turned(backbone, table, len(table) - model.injection.occupies(len(table))).to(backbone.dtype)
    names = [f"{kind}.{layer}" for layer in range(len(attention)) for kind in (KEY, VALUE)]
    sizes = [n for a in attention for n in (a.heads * a.key, a.heads * a.value)]
    tensors = dict(zip(names, torch.split(table, sizes, dim=1), strict=True))
    data = checkpoint.pack(tensors)
    name = hashlib.sha256(data).hexdigest()[:32]
    write(folder / f"{name}.safetensors", data)
    return name, len(table)


@torch.no_grad()
def _embedded(model: SoftPrompted, x: Instance) -> list[Embedded]:
    layout = model.call(x).layout
    # Taken by a mask a row is a copy; a slice would bring its whole batch onto the wire.
    return [Embedded(row[there].cpu()) for row, there in zip(layout.embeds, layout.mask, strict=True)]


def _prefixed(x: Instance, salt: str, length: int) -> list[Prefixed]:
    return [Prefixed((*([0] * length), *row[there].tolist()), salt) for row, there in zip(x.ids, x.mask, strict=True)]
