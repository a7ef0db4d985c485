"""The state of a run on the disk, from which it goes on as if it had never stopped.

One safetensors file holds the numbers, and in its header the rest as JSON: no pickle, nothing that runs code. It is
replaced in one step, so that a crash leaves the state before or the state after, and it carries a hash of itself.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn
from torch.optim import Optimizer

from promptuary.errors import CheckpointError, SettingError
from promptuary.files import write

FORMAT = 1
NAME = "state.safetensors"
Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class State:
    """Everything a run needs to go on.

    Arguments:
        settings: what the run was started with; a state goes on only under equal settings.
        notes: the loop's own small values (step, seconds, scores of the best step, ...).
        tensors: trained tensors, those of the best step, the optimizer's and the random generators', by
            `parameter/NAME`, `best/NAME`, `optimizer/NAME/KEY`, `buffer/NAME` and `random/DEVICE`.
    """

    settings: Mapping[str, Any]
    notes: Mapping[str, Any]
    tensors: Tensors

    def under(self, prefix: str) -> Tensors:
        """The tensors of one kind, without the prefix."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")}


def save(path: Path, state: State) -> None:
    """Write a state in one step.

    Raises:
        TrainingError: when it cannot be written; the state that stood there is untouched.
    """
    text = json.dumps({"format": FORMAT, "settings": state.settings, "notes": state.notes})
    header = {"state": text, "hash": _hash(text, state.tensors)}
    write(path, pack(state.tensors, metadata=header))


def load(path: Path, settings: Mapping[str, Any]) -> State | None:
    """The state at `path`, or `None` where there is none.

    Raises:
        CheckpointError: when the file is damaged, or belongs to a run with other settings (it says which).
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text = header["state"]
        if header["hash"] != _hash(text, tensors):
            raise ValueError("its hash does not fit its content")
        found = json.loads(text)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}), so this run cannot go on from it. Delete the folder {path.parent} to start "
            "the run anew, or restore the file from a copy."
        ) from error
    if found["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {found['format']!r}; this version goes on from format {FORMAT}. Finish the run with "
            f"the version that began it, or delete the folder {path.parent}."
        )
    _same(path, found["settings"], settings)
    return State(found["settings"], found["notes"], tensors)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as they come back from JSON, so that they compare equal to saved ones.

    Raises:
        SettingError: for a value that JSON cannot hold.
    """
    try:
        made: dict[str, Any] = json.loads(json.dumps(settings))
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"settings: {error}. Expected text, numbers, lists and dictionaries: they are written to the run's record."
        ) from error
    return made


def copied(named: Mapping[str, Tensor], prefix: str) -> Tensors:
    """Copies of tensors on the CPU, under a prefix."""
    return {f"{prefix}/{name}": t.detach().cpu().clone().contiguous() for name, t in named.items()}


def restore(named: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Put saved numbers into tensors, in place."""
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(saved[name])


def optimizer_tensors(optimizer: Optimizer, named: Mapping[str, nn.Parameter]) -> Tensors:
    """The optimizer's tensors as `NAME/KEY`."""
    return {f"{name}/{key}": t for name, p in named.items() for key, t in optimizer.state.get(p, {}).items()}


def restore_optimizer(optimizer: Optimizer, named: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    """Put an optimizer's saved tensors back."""
    for path, tensor in saved.items():
        name, _, key = path.rpartition("/")
        # Step counts stay on the CPU, where torch keeps them too; but for AdamW in one pass, which wants them beside.
        apart = tensor.dim() == 0 and not optimizer.defaults.get("fused")
        optimizer.state[named[name]][key] = tensor.clone() if apart else tensor.clone().to(named[name].device)


def seed_random(seed: int, device: torch.device) -> None:
    """Seed the generators that a run on `device` draws from; `torch.manual_seed` would reach every GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def random_tensors(device: torch.device) -> Tensors:
    """The states of torch's random generators."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(saved: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the random generators back."""
    torch.set_rng_state(saved["cpu"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)


def _hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _same(path: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    old, new = dict(_leaves(saved)), dict(_leaves(given))
    missing = "nothing"
    differences = [
        f"{name} is {new.get(name, missing)} and was {old.get(name, missing)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, missing) != new.get(name, missing)
    ]
    if differences:
        raise CheckpointError(
            f"{path} belongs to another run: {'; '.join(differences)}. Go on with the settings it began with, choose "
            f"another folder, or start anew (--overwrite)."
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)
