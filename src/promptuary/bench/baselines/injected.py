"""What PEFT hangs into a model in place, without a model class of PEFT around it."""

import warnings
from typing import Any

from torch import nn

from promptuary.errors import BackboneError


def inject(config: Any, model: nn.Module, name: str) -> None:
    """Hang PEFT's layers into `model`; they alone are free, in float32.

    Raises:
        BackboneError: for a family that PEFT has no places for.
    """
    from peft import inject_adapter_in_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on classes that PEFT has not seen: ours are subclasses of torch's
            inject_adapter_in_model(config, model)
    except ValueError as error:
        family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise BackboneError(
            f"PEFT knows no place for {name!r} in models of type {family!r} ({str(error).split('.')[0]}). Leave it out."
        ) from error
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
