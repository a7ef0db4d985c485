"""The precision of the frozen model's arithmetic: which one is the faster here, and what to say of the other.

Prompts stay in float32 under either. Processors with units for bfloat16 multiply in a third of the time of float32 or
less, others take several times as long; GPUs of the last years have such units.
"""

from typing import Literal

import torch

from promptuary.backbones.cpu_linear import bfloat16_cost

Precision = Literal["fp32", "bf16"]
Asked = Literal["auto", "fp32", "bf16"]  # auto: the faster one
CLEAR = 1.3  # times as long, from which a difference counts


def fastest(device: torch.device) -> Precision:
    """The precision in which a device is clearly the faster one; float32 where it makes no difference."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and CLEAR * bfloat16_cost() < 1 else "fp32"


def unwise(precision: Precision, device: torch.device) -> str:
    """What to say of a precision that makes a device slower; nothing, where it does not."""
    cost = bfloat16_cost() if precision == "bf16" and device.type == "cpu" else 0.0
    if cost < CLEAR:
        return ""
    return (
        f"This processor takes {cost:.1f} times as long for bfloat16 as for float32: precision fp32 is the faster one."
    )


def dtype_of(asked: Asked, device: torch.device) -> torch.dtype:
    """In which a model is loaded that is to run on a device in that precision."""
    return torch.bfloat16 if (fastest(device) if asked == "auto" else asked) == "bf16" else torch.float32
