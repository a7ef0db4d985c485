"""A generator on the disk that was trained before any prompt (`pretraining`): its numbers, and what they are for.

A folder with `generator.json` and `generator.safetensors`. The table belongs to a tokenizer's ids and to a width; any
backbone with both can use it. The manifest is written last and carries the hash of the tensors.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from promptuary.checkpoint import pack, unpack
from promptuary.data.tokens import fingerprint
from promptuary.errors import CheckpointError
from promptuary.files import write
from promptuary.generators import Mapped
from promptuary.lookups import Lookup
from promptuary.manifests import GENERATOR
from promptuary.specs import complaint

FORMAT = 1
MANIFEST, TENSORS = GENERATOR, "generator.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """What a pre-trained generator says of itself.

    Arguments:
        method: the method that it is a generator of; settings: all of that method's, with those that were given.
        tokenizer: the fingerprint of the ids that its table has rows for (`data.tokens.fingerprint`).
        vocabulary: how many rows; width: numbers of a vector.
        backbone: the name of the one that tokenizer and sizes are of.
        run: how it was made: data, classes, recipe, scores, counts, seconds, alarms, versions, hardware.
        hashes: of the tensor file.
    """

    method: str
    settings: Mapping[str, Any]
    seed: int
    tokenizer: str
    vocabulary: int
    width: int
    backbone: str
    run: Mapping[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def save(folder: Path, manifest: Mapping[str, Any], generator: Mapped) -> Pretrained:
    """Write a generator; `manifest` holds the fields of `Pretrained` but `hashes`.

    Raises:
        TrainingError: when the disk is full; a mixture of old and new files is refused by their hashes.
    """
    data = pack(generator.state_dict())
    whole = Pretrained(**manifest, hashes={TENSORS: hashlib.sha256(data).hexdigest()})
    write(folder / TENSORS, data)
    write(folder / MANIFEST, json.dumps(vars(whole), indent=2, ensure_ascii=False, default=dict).encode())
    return whole


def read(folder: Path) -> Pretrained:
    """The manifest of a pre-trained generator.

    Raises:
        CheckpointError: when the folder holds none, or one that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: expected the folder that `promptuary pretrain --out` wrote."
        )
    again = f"Pre-train the generator again (promptuary pretrain --out {folder}), or restore the file."
    try:
        found = json.loads(path.read_bytes())
        if found.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {found.get('format')!r}; this version reads format {FORMAT}. {again}"
            )
        return TypeAdapter(Pretrained).validate_python(vars(Pretrained(**found)))
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged. {complaint(error, 'Field')} {again}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {again}") from error


def check_tokenizer(folder: Path, tokenizer: Any, backbone: str) -> None:
    """Refuse a backbone whose ids stand for other tokens than the rows of the table.

    Raises:
        CheckpointError: naming both.
    """
    found = read(folder)
    if fingerprint(tokenizer) != found.tokenizer:
        raise CheckpointError(
            f"pretrained={str(folder)!r}: its table has a row for each token of {found.backbone!r}; the tokenizer of "
            f"{backbone!r} has other tokens. Use a backbone with that tokenizer, or pre-train a generator for this one "
            f"(promptuary pretrain --backbone {backbone})."
        )


def begin(generator: Mapped, folder: Path, settings: Mapping[str, Any]) -> None:
    """Start a generator where a pre-trained one ended: table and networks.

    A plain look-up takes the table alone, whatever network stood behind it and however long its prompt was: the paper's
    "pretrained" strategy. What its vectors of empty slots learnt is taken over where there are as many.

    Arguments:
        generator: with a `Lookup` first.
        settings: `encoder`, `length`, `rank` and `buckets` of the method that asks.

    Raises:
        CheckpointError: for a generator of other settings or sizes; it says which, and what to write instead.
    """
    found, lookup = read(folder), generator.inner
    assert isinstance(lookup, Lookup)
    alone = settings["encoder"] == "lookup"
    for name in ("rank", "buckets") if alone else ("encoder", "length", "rank", "buckets"):
        theirs, ours = found.settings[name], settings[name]
        if theirs != ours:
            raise CheckpointError(
                f"pretrained={str(folder)!r}: that generator has {name}={theirs!r}, this prompt {name}={ours!r}. "
                f"Write {_named(name, theirs)}, or pre-train one with {_named(name, ours)}."
            )
    theirs, ours = (found.vocabulary, found.width), (lookup.table.size, lookup.width)
    if theirs != ours:
        raise CheckpointError(
            f"pretrained={str(folder)!r}: that generator has {theirs[0]} vectors of {theirs[1]} numbers, this prompt "
            f"needs {ours[0]} of {ours[1]}. Use a backbone of the sizes of {found.backbone!r}, with variant and layers "
            "as there, or pre-train a generator for this one."
        )
    tensors = unpack(folder / TENSORS, found.hashes.get(TENSORS), "pre-train the generator again")
    state = generator.state_dict()
    # Which rows were touched is of another run; vectors of empty slots fit where there are as many.
    wanted = [name for name in state if not name.endswith("touched")]
    if tensors["inner.fill"].shape != lookup.fill.shape:
        wanted.remove("inner.fill")
    if any(name not in tensors or tensors[name].shape != state[name].shape for name in wanted):
        raise CheckpointError(f"{folder}: its tensors do not fit its manifest. Pre-train the generator again.")
    with torch.no_grad():
        for name in wanted:
            state[name].copy_(tensors[name])


def describe(folder: Path) -> dict[str, Any]:
    """A pre-trained generator in plain values: how it was made, its sizes and scores, the scale of its tensors.

    Raises:
        CheckpointError: as `read`; when the tensors are damaged.
    """
    found = read(folder)
    tensors = unpack(folder / TENSORS, found.hashes.get(TENSORS), "pre-train the generator again")
    run = found.run
    return {
        "generator": found.method,
        "settings": dict(found.settings),
        "tokenizer of": found.backbone,
        "fingerprint": found.tokenizer,
        "vocabulary": found.vocabulary,
        "width": found.width,
        "seed": found.seed,
        "labels": run.get("labels"),
        "data": run.get("data"),
        "scores": run.get("scores"),
        "counts": run.get("counts"),
        "seconds": run.get("seconds"),
        "alarms": run.get("alarms"),
        "tensors": {
            name: {"shape": list(t.shape), "deviation": float(t.std())}
            for name, t in tensors.items()
            if t.is_floating_point() and t.numel() > 1
        },
    }


def _named(name: str, value: Any) -> str:
    """How a setting is written on the command line."""
    if name == "encoder":
        return f"--method {'ipt' if value == 'lookup' else f'ipt-{value}'}"
    return f"--set {name}={value}"
