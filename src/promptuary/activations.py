"""What a frozen model says of a text is always the same: kept on the disk, it is asked once and not in every epoch.

Late prompts ask for the text's states at the layer where they join, prompts made from the input for those their query
reads, the frozen control for the last ones at the tokens its read-out reads (`Instance.encode`). Over a fixed set of
rows these are constants, shared by epochs, validation passes, seeds and processes.

They lie in files, each with some of the rows, in an order and in batches that depend on the rows alone: whoever makes
a file makes the same numbers, so that a run is the same whether it found its files or made them. A file's name is a
hash of all that bears on its numbers: every byte of the weights, the model's settings, precision, versions of the
libraries, the layer, the rows' token ids. So nothing becomes invalid; what does not fit any more is not found, and is
the first to be removed when the folder is full.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from promptuary.backbones.padding import at
from promptuary.data.batch import Batch
from promptuary.data.collate import collate, within
from promptuary.data.example import Example
from promptuary.files import whole
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train.evaluation import arithmetic, evaluating, unmoved_randomness
from promptuary.values import Columns, Encode, Instance

FILE_TOKENS = 1 << 16  # of text in a file: 100 MB at a width of 384; a crash costs the file that is being made
BATCH_TOKENS = 1 << 12  # of text that go through the model together
SPARE = 0.1  # the share of the disk's free room that is left alone
SUFFIX = ".safetensors"
COUNT = 8  # bytes of a number


class Asked(NamedTuple):
    """What a model asks its backbone for: states before which layer (or the last), and whether at some tokens only."""

    until: int | None
    some: bool


class _Place(NamedTuple):
    """Where the states of a row lie."""

    states: Float[Tensor, "all hidden"]
    start: int
    end: int


def default_folder() -> Path:
    """Where activations are kept, unless a run says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "promptuary" / "activations"


class Activations:
    """States by the row they are of; rows that are not kept are asked of the backbone.

    Arguments:
        encode: how the backbone is asked.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._places: dict[bytes, _Place] = {}
        self._layers: set[int | None] = set()
        self._bytes = self._made = self._hits = self._misses = 0
        self.seconds = 0.0

    def encode(
        self, x: Instance, until: int | None, columns: Columns | None = None
    ) -> Float[Tensor, "batch tokens hidden"]:
        """As `Instance.encode`."""
        places = [self._places.get(key) for key in _keys(x, until, columns)]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            self._misses += len(places)
            return self._encode(x, until, columns)
        self._hits += len(places)
        states = torch.cat([place.states[place.start : place.end] for place in known])
        out = states.new_zeros(*x.ids.shape, states.shape[1])
        if columns is None:
            out[x.mask.cpu()] = states
        else:
            row = torch.arange(len(columns)).repeat_interleave(columns.shape[1])
            out[row, columns.cpu().flatten()] = states
        return out.to(x.ids.device)

    def told(self) -> dict[str, Any]:
        """For the record: before which layers (`null`: the last states), how many rows and bytes, how many of the rows
        were made anew and the seconds of that, and how many rows were found here when they were asked for.
        """
        asked = self._hits + self._misses
        return {
            "layers": sorted(self._layers, key=str), "rows": len(self._places), "bytes": self._bytes,
            "made": self._made, "seconds": self.seconds, "asked": asked, "hit_rate": self._hits / max(1, asked),
        }  # fmt: skip

    def add(self, until: int | None, keys: Sequence[bytes], states: Float[Tensor, "all hidden"], *, made: bool) -> None:
        """Know the states of some rows, which lie one after the other; a key ends with the number of its states."""
        self._layers.add(until)
        self._bytes += states.numel() * states.element_size()
        self._made += made * len(keys)
        start = 0
        for key in keys:
            end = start + int.from_bytes(key[-COUNT:], "little")
            self._places[key] = _Place(states, start, end)
            start = end


def keep(
    model: SoftPrompted,
    readout: Readout,
    sets: Sequence[Sequence[Example]],
    *,
    pad: int,
    precision: str,
    folder: Path,
    limit_bytes: int,
) -> Activations | None:
    """The states that `model` asks its backbone for, of every example of some sets; `None` where it asks for none.

    They are found in `folder` or made there, as far as they fit. The files that were not used for longest go first.

    Arguments:
        pad: the tokenizer's padding id. precision: of the frozen model's arithmetic, `fp32` or `bf16`.
        limit_bytes: of all files in the folder together; 0 keeps nothing.
    """
    if not limit_bytes:
        return None
    device = model.backbone.device
    with evaluating(model, readout), torch.no_grad(), unmoved_randomness(device), arithmetic(device, precision):
        wanted = _asked(model, readout, collate(sets[0][:1], [0], pad).to(device))
        if not wanted:
            return None
        began, kept, mine = time.perf_counter(), Activations(model.encode), set[Path]()
        origin = _origin(model, precision)
        for asked in sorted(wanted, key=str):
            for batches in _files(chain.from_iterable(sets), pad):
                given = [(b, readout.columns(b) if asked.some else None) for b in batches]
                keys = [key for b, columns in given for key in _keys(b, asked.until, columns)]
                path = folder / f"{_name(origin, keys)}{SUFFIX}"
                states = _opened(path)
                made = states is None
                if states is None:
                    states = _written(path, _states(model, asked.until, given), limit_bytes, mine)
                if states is None:  # the folder or the disk is full: the other rows are asked of the backbone
                    break
                mine.add(path)
                kept.add(asked.until, keys, states, made=made)
        kept.seconds = time.perf_counter() - began
    return kept


def _asked(model: SoftPrompted, readout: Readout, batch: Batch) -> set[Asked]:
    """What `model` asks its backbone for on the way to a loss: found out by a pass."""
    asked = set[Asked]()

    def noting(x: Instance, until: int | None, columns: Columns | None = None) -> Tensor:
        asked.add(Asked(until, columns is not None))
        return plain(x, until, columns)

    plain, model = model.encode, model.asking(noting)
    model(model.instance_of(batch), readout.targets(batch), readout.columns(batch))
    return asked


def _files(examples: Iterable[Example], pad: int) -> Iterator[list[Batch]]:
    """Every different row once, in an order of their own, as the batches of one file after the other."""
    rows = {(len(e.ids), tuple(e.ids), tuple(e.types), tuple(e.blanks or ())): e for e in examples}
    own, tokens = list[Example](), 0
    for key in sorted(rows):
        own.append(rows[key])
        tokens += key[0]
        if tokens >= FILE_TOKENS:
            yield _batches(own, pad)
            own, tokens = [], 0
    if own:
        yield _batches(own, pad)


def _batches(own: Sequence[Example], pad: int) -> list[Batch]:
    chosen = within([len(e.ids) for e in own], BATCH_TOKENS)
    return [collate([own[row] for row in rows], rows, pad) for rows in chosen]


def _states(
    model: SoftPrompted, until: int | None, given: Sequence[tuple[Batch, Columns | None]]
) -> Float[Tensor, "all hidden"]:
    """The states of all rows of some batches, one after the other."""
    found = []
    for batch, columns in given:
        asked = None if columns is None else columns.to(model.backbone.device)
        states = model.encode(model.instance_of(batch.to(model.backbone.device)), until, asked).cpu()
        found.append(states[batch.mask] if columns is None else at(states, columns).flatten(0, 1))
    return torch.cat(found)


def _keys(x: Instance | Batch, until: int | None, columns: Columns | None) -> list[bytes]:
    """What each row is known by: its own tokens, wherever padding stands, and what is asked of them."""
    ids, types, mask = x.ids.cpu(), x.types.cpu(), x.mask.cpu()
    ranks = None if columns is None else (mask.cumsum(1).gather(1, columns.cpu()) - 1).numpy()
    keys = []
    for row, real in enumerate(mask):
        what = [ids[row, real].numpy().tobytes(), types[row, real].numpy().tobytes()]
        what += [b"all" if ranks is None else ranks[row].tobytes(), repr(until).encode()]
        made = hashlib.blake2b(digest_size=16)
        for part in what:
            made.update(len(part).to_bytes(COUNT, "little") + part)
        count = int(real.sum()) if ranks is None else len(ranks[row])
        keys.append(made.digest() + count.to_bytes(COUNT, "little"))
    return keys


def _origin(model: SoftPrompted, precision: str) -> bytes:
    """What the states of any row depend on besides the row."""
    backbone = model.backbone
    settings = {name: value for name, value in backbone.model.config.to_dict().items() if name != "_name_or_path"}
    versions = [torch.__version__, transformers.__version__]
    told = [backbone.digest(), settings, str(backbone.dtype), precision, backbone.device.type, versions]
    return json.dumps(told, sort_keys=True, default=str).encode()


def _name(origin: bytes, keys: Sequence[bytes]) -> str:
    return hashlib.blake2b(origin + b"".join(keys), digest_size=20).hexdigest()


def _opened(path: Path) -> Float[Tensor, "all hidden"] | None:
    """A file's states, which stay on the disk until they are looked at; `None` where there is no whole file."""
    try:
        states = load_file(path)["states"]
        os.utime(path)  # it was used
    except (OSError, SafetensorError):
        return None
    return states


def _written(
    path: Path, states: Float[Tensor, "all hidden"], limit_bytes: int, mine: Set[Path]
) -> Float[Tensor, "all hidden"] | None:
    """The states as a file holds them; `None` where there is no room for it."""
    data = save({"states": states.contiguous()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _room(path.parent, len(data), limit_bytes, mine):
            return None
        with whole(path) as file:
            file.write(data)
    except OSError:
        return None
    return _opened(path)


def _room(folder: Path, needed: int, limit_bytes: int, mine: Set[Path]) -> bool:
    """Whether a file of `needed` bytes fits, after removing what was not used for longest (but none of `mine`)."""
    known = [(path, status) for path in folder.iterdir() if (status := _status(path)) is not None]
    total = sum(status.st_size for _, status in known)
    for path, status in sorted(known, key=lambda one: one[1].st_mtime):
        if total + needed <= limit_bytes:
            break
        if path not in mine:
            path.unlink(missing_ok=True)  # whoever reads it goes on: its states stay until they are let go
            total -= status.st_size
    free = shutil.disk_usage(folder).free
    return total + needed <= limit_bytes and needed <= (1 - SPARE) * free


def _status(path: Path) -> os.stat_result | None:
    """A file's size and age; `None` where another process has just removed it."""
    try:
        return path.stat() if path.suffix == SUFFIX or path.name.startswith(".") else None
    except FileNotFoundError:
        return None
