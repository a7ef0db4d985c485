"""Which model it is: a hash of every byte of it, and a fingerprint by which it is known again in another precision."""

import hashlib
import json

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from promptuary.values import Shape


def digest(model: PreTrainedModel) -> str:
    """A hash over every byte of every weight."""
    made = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        made.update(name.encode())
        for part in parts_of(tensor.detach()):
            made.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The plain tensors of which one consists: itself; of a rounded one (`int8.py`) its integers and scales."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in parts_of(getattr(tensor, name))]


def fingerprint(model: PreTrainedModel, shape: Shape) -> str:
    """Hashes of names, shapes and sampled weights, one for each half precision the weights can be rounded to.

    A model has the hash of every precision that its own one holds exactly; `same_model` compares what two have in
    common, so that a prompt tuned in float32 is served in bfloat16 or float16.
    """
    precisions = [p for p in (torch.bfloat16, torch.float16) if model.dtype in (p, torch.float32, torch.float64)]
    return " ".join(f"{str(p).removeprefix('torch.')}:{_hashed(model, shape, p)}" for p in precisions)


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints are of one model, in whatever precision."""
    return not set(one.split()).isdisjoint(other.split())


def _hashed(model: PreTrainedModel, shape: Shape, precision: torch.dtype) -> str:
    made = hashlib.blake2b(digest_size=16)
    made.update(json.dumps([shape.family, shape.dim, shape.layers, shape.vocabulary]).encode())
    for name, tensor in sorted(model.named_parameters()):
        made.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in parts_of(tensor.detach()):
            flat = part.flatten()
            sample = flat[:: max(1, flat.numel() // 64)][:64].cpu().to(precision)
            made.update(sample.view(torch.int16).numpy().tobytes())
    return made.hexdigest()
