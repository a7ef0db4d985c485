"""Adapters of PEFT: prompt tuning, P-tuning (what its encoder puts out) and prefix tuning, read and written.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, whose tensor `prompt_embeddings` is
the table. PEFT itself is not needed, and nothing is unpickled. What PEFT does with the table on one unpadded row is
what the prompt does here:

- at the input the table stands before everything, [CLS] and BOS too: `Embeddings(Split())`. On text-to-text models
  PEFT keeps a second half that nothing reads; it is dropped;
- a prefix is the model's cache: the input's positions count on behind it (`KeyValues(start=P)`). A prefix that was
  tuned without positions becomes one with them where they are rotations (`backbones/turning.py`).

PEFT has no place for soft tokens inside or behind the text, for prompts made from the input, for hidden states of
deeper layers, and for heads that read the user's own tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from promptuary import checkpoint, places
from promptuary.assembly import make_wording, prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.turning import turned
from promptuary.data.task import text_to_text
from promptuary.errors import CheckpointError, SettingError
from promptuary.files import write
from promptuary.initial import from_prompt
from promptuary.interop.trial import trial
from promptuary.kinds.kind import check_writes
from promptuary.kinds.text import Text
from promptuary.specs import complaint
from promptuary.train.record import surroundings
from promptuary.tuned import Tuned

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TABLE = "prompt_embeddings"
WRITERS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")

Kind = Literal["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"]


class _Config(BaseModel):
    """What of an adapter's configuration its use depends on."""

    model_config = ConfigDict(extra="ignore")

    peft_type: Kind
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    num_virtual_tokens: int
    num_transformer_submodules: int | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """A prompt as PEFT keeps it.

    Arguments:
        kind: its `peft_type`. task: its `task_type`, or `None`.
        table: soft tokens at the input, or each token's keys and values layer by layer.
        backbone: the name of the model it was tuned on, where it says one.
        beside: weights of the model that the adapter replaces, by name: a head, an embedding table.
    """

    kind: Kind
    task: str | None
    table: Float[Tensor, "prompt width"]
    backbone: str | None
    beside: tuple[str, ...] = ()

    @property
    def deep(self) -> bool:
        """Whether it is a prefix: keys and values, not tokens."""
        return self.kind == "PREFIX_TUNING"

    def numbers(self, backbone: Backbone, *, counted: bool) -> Float[Tensor, "prompt width"]:
        """The table for a method of this library on this backbone.

        Arguments:
            counted: whether the prefix keeps the positions that PEFT gives it (`--set counted=true`).

        Raises:
            CheckpointError: when the table does not fit the backbone.
            BackboneError: for a prefix that is to lose positions that are no rotations.
        """
        shape = backbone.shape
        expected = shape.key_value_width(shape.parts) if self.deep else shape.dim
        if self.table.shape[1] != expected:
            raise CheckpointError(
                f"The adapter ({self.kind}) has {self.table.shape[1]} numbers for a soft token, {backbone.name!r} "
                f"takes {expected}: it was tuned on another model ({self.backbone or 'unnamed'}). Name that one."
            )
        if not self.deep or counted:
            return self.table
        return turned(backbone, self.table, -len(self.table))


def read_adapter(folder: Path | str) -> Adapter:
    """The adapter in a folder.

    Raises:
        CheckpointError: when there is none, it is pickled, damaged, or of a method that makes no prompt.
    """
    place = Path(folder)
    try:
        found = json.loads((place / CONFIG).read_bytes())
        config = _Config.model_validate(found)
        tensors = load_file(place / TENSORS)
    except FileNotFoundError as error:
        pickled = " Its numbers are pickled; save it again with safe_serialization=True." * (place / PICKLED).is_file()
        raise CheckpointError(f"{folder}: expected an adapter of PEFT with {CONFIG} and {TENSORS}.{pickled}") from error
    except ValidationError as error:
        raise CheckpointError(f"{place / CONFIG}: {complaint(error, 'Field')} Prompts alone can be read.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the adapter cannot be read ({error}).") from error
    table = tensors.get(TABLE)
    if table is None or table.dim() != 2 or len(table) < config.num_virtual_tokens:
        shown = {name: list(t.shape) for name, t in tensors.items()}
        raise CheckpointError(
            f"{place / TENSORS}: expected {TABLE!r} with {config.num_virtual_tokens} rows, found {shown}."
        )
    return Adapter(
        config.peft_type,
        config.task_type,
        table[: config.num_virtual_tokens].float(),  # the rest is the half that text-to-text models never read
        config.base_model_name_or_path,
        tuple(sorted(tensors.keys() - {TABLE})),
    )


def method_of(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    """The method, with its settings, that is this adapter."""
    length = {"length": len(adapter.table)}
    return ("p-tuning-v2", {**length, "counted": True}) if adapter.deep else ("prompt-tuning", length)


def write_adapter(tuned: Tuned, folder: Path) -> Adapter:
    """Write a tuned prompt as an adapter that PEFT loads (`PeftModel.from_pretrained`).

    What goes is the prompt: PEFT has no place for a template, label words or a read-out of this library.

    Raises:
        SettingError: where PEFT cannot represent the prompt, saying why.
        BackboneError: for a prefix without positions on a model where PEFT's positions would change what it says.
    """
    adapter = _adapter(tuned)
    config: dict[str, Any] = {
        "peft_type": adapter.kind,
        "task_type": adapter.task,
        "base_model_name_or_path": adapter.backbone,
        "inference_mode": True,
        "num_virtual_tokens": len(adapter.table),
        "num_transformer_submodules": 1,
        "token_dim": tuned.backbone.shape.dim,
        # Of a prompt at the input they mean nothing, and PEFT asks for them where a model calls them otherwise.
        "num_attention_heads": 1,
        "num_layers": tuned.backbone.shape.layers,
    }
    if adapter.deep:
        layers = tuned.backbone.shape.attention
        heads, key = layers[0].heads, layers[0].key
        config |= {"token_dim": heads * key, "num_attention_heads": heads, "num_layers": len(layers)}
    write(folder / TENSORS, checkpoint.pack({TABLE: adapter.table}))
    write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return adapter


def _adapter(tuned: Tuned) -> Adapter:
    model, backbone, shape = tuned.model, tuned.backbone, tuned.backbone.shape
    name = tuned.manifest.method
    table = checkpoint.flat(model.generator, model.injection)
    if table is None or model.marks:
        raise SettingError(
            f"A prompt of {name!r} is made or placed as the input says; PEFT knows one table before every input. "
            "What it can hold are prompt-tuning, p-tuning without a template, prefix-tuning and p-tuning-v2."
        )
    call = trial(model)
    task = ("SEQ_2_SEQ_LM" if shape.encodes else "CAUSAL_LM") if shape.decodes else "FEATURE_EXTRACTION"
    if call.keys_values:
        _check_cache(backbone)
        return Adapter(
            "PREFIX_TUNING",
            task,
            turned(backbone, table, len(table) - model.injection.occupies(len(table))),
            backbone.name,
        )
    if call.states or call.entry is not None:
        raise SettingError(
            f"A prompt of {name!r} overwrites hidden states, which PEFT does not. Tune 'p-tuning-v2' for a deep prompt."
        )
    if call.blind is not None:
        raise SettingError(
            f"The soft tokens of this prompt ({name!r}) do not see the input (sees_input=False); PEFT's always do. "
            "Tune it with sees_input=True."
        )
    if call.layout.prompts[0].tolist() != list(range(len(table))):
        raise SettingError(
            f"Not all soft tokens of this prompt ({name!r}) stand before the whole input; PEFT knows no other place. "
            "Tune it with head=0 and without before."
        )
    return Adapter("PROMPT_TUNING", task, table, backbone.name)


def import_adapter(
    adapter: Adapter,
    backbone: Backbone,
    out: Path,
    *,
    text: str = "text",
    label: str | None = "target",
    template: str | None = None,
    max_new_tokens: int = 32,
    overwrite: bool = False,
) -> None:
    """Keep an adapter that writes texts as a tuned prompt of kind `text` in the folder `out`.

    Without a template a row's text is written as the tokenizer writes it, which is how PEFT's users do it.

    Raises:
        SettingError: for an adapter with another task: its head stays with PEFT; for one that replaces weights of the
            model.
        CheckpointError: when it was tuned on another model; when `out` holds something, without `overwrite`.
    """
    if adapter.task not in WRITERS:
        raise SettingError(
            f"The adapter's task is {adapter.task}, whose head reads other states than a read-out here. Take its "
            "prompt as a start: promptuary tune --init peft:FOLDER. Whole prompts are those for CAUSAL_LM and "
            "SEQ_2_SEQ_LM."
        )
    if adapter.beside:
        raise SettingError(
            f"Beside its prompt the adapter replaces weights of the model ({', '.join(adapter.beside)}), and a prompt "
            "here changes none. Save those into a model of its own and import the rest (PEFT: save_pretrained(..., "
            "save_embedding_layers=False)), or take its prompt as a start: promptuary tune --init peft:FOLDER."
        )
    table = adapter.numbers(backbone, counted=True)
    if adapter.deep:
        _check_cache(backbone)
    task = text_to_text(name=out.name, text=text, label=label)
    check_writes(backbone, f"an adapter for {adapter.task}", instead="the model that it was tuned on")
    reading = Text(max_length=None, template=template, columns=(text,), max_new_tokens=max_new_tokens)
    name, settings = method_of(adapter)
    model = prompted(backbone, name, settings, init=from_prompt(table), seed=0)
    wording = make_wording(backbone, task, model, reading)
    precision = "bf16" if backbone.dtype == torch.bfloat16 else "fp32"
    told = {
        "method": name, "settings": settings, "seed": 0, "backbone": backbone.name,
        "fingerprint": backbone.fingerprint(), "family": backbone.shape.family, "dim": backbone.shape.dim,
        "run": {
            **reading.model_dump(mode="json"), "task": task.to_json(), "precision": precision,
            "init": f"an adapter of PEFT ({adapter.kind})", **surroundings(),
        },
    }  # fmt: skip
    places.emptied(out, overwrite)
    checkpoint.save_prompt(out, told, model.generator, model.injection, reading.reader(backbone, wording))


def _check_cache(backbone: Backbone) -> None:
    """Refuse a model in whose cache a prefix is not what it is here.

    Raises:
        SettingError: for models of two towers, without a cache, with windows, or with layers of different sizes.
    """
    shape = backbone.shape
    sizes = {(a.heads, a.key, a.value) for a in shape.attention}
    if shape.encodes and shape.decodes:
        why = "of PEFT's prefixes on text-to-text models only the decoder's exists, and it has positions"
    elif not backbone.caches:
        why = "its code takes no cache, so that PEFT's prefix does nothing"
    elif any(a.window is not None for a in shape.attention):
        why = "its layers attend in windows, out of which PEFT's prefix falls and ours does not"
    elif len(sizes) > 1 or any(a.key != a.value for a in shape.attention):
        why = "its layers have keys and values of different sizes"
    else:
        return
    raise SettingError(
        f"A prefix on {backbone.name!r} ({shape.family}) has no equal in PEFT: {why}. Use prompt-tuning there."
    )
