"""A frozen model whose linear layers have four bits a weight: NF4 (Dettmers et al. 2023, QLoRA), by bitsandbytes.

A quarter of bfloat16's memory: prompts of a model of seven billion weights are tuned on a GPU of eight GiB. Gradients
pass through the layers to the prompt. Embeddings, norms and the vocabulary's head keep their precision. Weights are
rounded from bfloat16, whatever precision the model then computes in, so that a prompt knows its model in each.
"""

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from promptuary.errors import BackboneError

BLOCK = 64  # weights of a row that share a scale
PREFIX = "nf4:"  # before a name: the same model in four bits


def options(name: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told, to load a model in four bits.

    Raises:
        BackboneError: where bitsandbytes or accelerate, which transformers needs beside it, is not installed.
    """
    absent = [package for package in ("bitsandbytes", "accelerate") if importlib.util.find_spec(package) is None]
    if absent:
        raise BackboneError(
            f"{name!r}: {' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} not installed. Write: "
            f"pip install 'promptuary[nf4]', or leave {PREFIX!r} out."
        )
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # type: ignore[no-untyped-call]
    return {"quantization_config": how, "device_map": {"": device}, "dtype": torch.bfloat16}


def check(model: PreTrainedModel, name: str) -> None:
    """Refuse rows that bitsandbytes (0.50) rounds to other numbers on a CPU: those that are no whole blocks of 64.

    Raises:
        BackboneError: naming such a layer.
    """
    for path, module in model.named_modules():
        if hasattr(module, "compute_dtype") and module.weight.device.type == "cpu" and module.in_features % BLOCK:
            raise BackboneError(
                f"{name!r}: rows of {module.in_features} numbers ({path}) are no multiple of {BLOCK}, and bitsandbytes "
                f"rounds such rows wrongly on a CPU. Leave {PREFIX!r} out."
            )


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let the model compute in `dtype`, and keep what is not rounded in it."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype  # type: ignore[assignment]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def rounded(module: nn.Module) -> bool:
    """Whether some weights of a model are no floating-point numbers: they can neither be trained nor rounded again."""
    return not all(parameter.is_floating_point() for parameter in module.parameters())
