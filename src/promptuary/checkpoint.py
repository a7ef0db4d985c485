"""A tuned prompt on the disk: trained numbers, how they were made, and the backbone they belong to.

A folder with `manifest.json` and `prompt.safetensors`. The tensors hold trained parts only. A prompt that does not
depend on the input is kept flat, as the few kilobytes that inference needs; when a network made it (prefix tuning,
P-tuning v1), `training.safetensors` keeps that network beside it, so that training can go on. The manifest is
written last and carries the other files' hashes: a folder without it, or with other hashes, is incomplete.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.identity import same_model
from promptuary.errors import CheckpointError
from promptuary.files import write
from promptuary.generators import Free, Generator
from promptuary.initial import from_prompt
from promptuary.manifests import MANIFEST, manifest_in
from promptuary.specs import complaint

FORMAT = 1
PROMPT, TRAINING = "prompt.safetensors", "training.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What a saved prompt says of itself.

    Arguments:
        method: its name; settings: the method's settings.
        backbone: the name it was tuned on; fingerprint: of that model's weights; family, dim: for messages.
        form: `flat` (a table `[length, width]`) or `parts` (the generator's own tensors).
        run: everything else that is needed to use it: task, wording, read-out, and what training recorded.
        hashes: of the tensor files.
    """

    method: str
    settings: Mapping[str, Any]
    seed: int
    backbone: str
    fingerprint: str
    family: str
    dim: int
    form: str
    run: Mapping[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """What tells this version of a prompt from others: a hash of all that is said here, the files' hashes too."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True, default=dict).encode()).hexdigest()


_MANIFEST = TypeAdapter(Manifest)  # made once: it costs more than reading a manifest


def flat(generator: Generator, injection: nn.Module) -> Tensor | None:
    """The prompt as a table `[length, width]`, where that and nothing else is what inference needs."""
    with torch.no_grad():
        one = generator.fixed()
    if one is None or bool((one.keep == 0).any()) or list(injection.parameters()):
        return None
    return one.values[0].detach().float()


def save_prompt(
    folder: Path, manifest: Mapping[str, Any], generator: Generator, injection: nn.Module, readout: nn.Module
) -> Manifest:
    """Write a prompt; `manifest` holds the fields of `Manifest` but `form` and `hashes`.

    Raises:
        TrainingError: when the disk is full; each file is then the old or the new one, and the hashes in the manifest
            tell a mixture of both, which is refused.
    """
    table = flat(generator, injection)
    made = {f"readout.{k}": v for k, v in readout.state_dict().items()}
    parts = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    parts |= {f"injection.{k}": v for k, v in injection.state_dict().items()}
    if table is not None:
        tensors = {"prompt": table, **made}
        training = parts if not isinstance(generator, Free) else {}
    else:
        tensors, training = {**parts, **made}, {}
    files = {PROMPT: pack(tensors)} | ({TRAINING: pack(training)} if training else {})
    whole = Manifest(
        **manifest,
        form="flat" if table is not None else "parts",
        hashes={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    for name, data in files.items():
        write(folder / name, data)
    write(folder / MANIFEST, json.dumps(vars(whole), indent=2, ensure_ascii=False, default=dict).encode())
    return whole


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a saved prompt.

    Raises:
        CheckpointError: when the folder holds none, or one that cannot be read.
    """
    path = manifest_in(folder)
    try:
        found = json.loads(path.read_bytes())
        if found.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {found.get('format')!r}; this version reads format {FORMAT}. Tune the prompt again, "
                "or install the version that wrote it."
            )
        return _MANIFEST.validate_python(vars(Manifest(**found)))
    except ValidationError as error:
        raise CheckpointError(
            f"{path} is damaged. {complaint(error, 'Field')} Tune the prompt again, or restore the file."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Tune the prompt again, or restore the file.") from error


def read_tensors(folder: Path, manifest: Manifest, name: str = PROMPT) -> dict[str, Tensor]:
    """The tensors of a saved prompt, after their hash was checked.

    Raises:
        CheckpointError: when the file is missing, cut short or changed.
    """
    return unpack(folder / name, manifest.hashes.get(name), "tune the prompt again")


def check_backbone(manifest: Manifest, backbone: Backbone, folder: Path) -> None:
    """Refuse a backbone other than the one a prompt was tuned on.

    Raises:
        CheckpointError: naming both.
    """
    if not same_model(backbone.fingerprint(), manifest.fingerprint):
        raise CheckpointError(
            f"{folder} was tuned on {manifest.backbone!r} ({manifest.family}, width {manifest.dim}); {backbone.name!r} "
            f"({backbone.shape.family}, width {backbone.shape.dim}) has other weights. "
            f"Load it with --backbone {manifest.backbone}, or tune a prompt for {backbone.name!r}."
        )


def restore(
    folder: Path, manifest: Manifest, generator: Generator, injection: nn.Module, readout: nn.Module, *, trainable: bool
) -> Generator:
    """Fill freshly built parts with the saved numbers; returns the generator to use.

    Arguments:
        trainable: give back the generator as it trained (with its network), instead of the flat table.

    Raises:
        CheckpointError: when the tensors do not fit the parts.
    """
    tensors = read_tensors(folder, manifest)
    try:
        readout.load_state_dict(_under("readout.", tensors))
        if manifest.form == "flat" and (not trainable or TRAINING not in manifest.hashes):
            table, expected = tensors["prompt"], [generator.length, generator.width]
            if list(table.shape) != expected:
                raise RuntimeError(f"a prompt of {list(table.shape)}, expected {expected}")
            return Free(table.shape[0], table.shape[1], from_prompt(table))
        parts = tensors if manifest.form == "parts" else read_tensors(folder, manifest, TRAINING)
        generator.load_state_dict(_under("generator.", parts))
        injection.load_state_dict(_under("injection.", parts))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: its tensors do not fit its manifest ({' '.join(str(error).split())}). Tune the prompt again."
        ) from error
    return generator


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    packed: bytes = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    return packed


def unpack(path: Path, expected: str | None, again: str) -> dict[str, Tensor]:
    """The tensors that `pack` wrote to a file whose hash is `expected`; `again` is what to do where it is not.

    Raises:
        CheckpointError: when the file is missing, cut short or changed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Copy the whole folder, or {again}.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise CheckpointError(
            f"{path} is cut short or was changed: its {len(data)} bytes do not have the hash that the manifest states. "
            f"Copy it again, or {again}."
        )
    tensors: dict[str, Tensor] = load(data)
    return tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
