"""A frozen model's linear layers in eight bits, by torchao: a quarter of float32's memory, half of bfloat16's.

`weights` rounds the weights alone; products are those of the model's own precision. `dynamic` also rounds what goes
into each layer, token by token, and multiplies integers: on a CPU faster than float32, and without a gradient. Either
says something slightly else than the model does, so it is asked for by name, and the loss is told. Embeddings
and the vocabulary's head stay as they are.
"""

from collections.abc import Iterable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from promptuary.backbones import cpu_linear, nf4
from promptuary.errors import BackboneError, SettingError


def into(towers: Iterable[nn.Module], how: str, name: str) -> None:
    """Round the linear layers of a model's towers, in place.

    A layer of GPT-2, whose weight lies transposed, becomes one whose weight does not.

    Arguments:
        how: `weights` or `dynamic`.
        name: the model's, for messages.

    Raises:
        SettingError: for another word than `weights` or `dynamic`, and where torchao is not installed.
        BackboneError: where there is no such layer.
    """
    if how not in ("weights", "dynamic"):
        raise SettingError(f"int8={how!r}: expected 'weights' (only they are rounded) or 'dynamic' (activations too).")
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise SettingError("torchao is not installed. Write: pip install 'promptuary[int8]'.") from error
    found = 0
    for tower in towers:
        if nf4.rounded(tower):
            raise SettingError(f"{name!r} is rounded already. Leave int8 out, or load the model without it.")
        for path, module in list(tower.named_modules()):
            if isinstance(module, Conv1D):
                tower.set_submodule(path, _straight(module))
        for module in tower.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear if type(module) is cpu_linear.FrozenLinear else type(module)
                cpu_linear.forget(module)
                found += 1
        quantize_(tower, Int8WeightOnlyConfig() if how == "weights" else Int8DynamicActivationInt8WeightConfig())
    if not found:
        raise BackboneError(f"{name!r} has no linear layers that could be rounded to eight bits. Leave int8 out.")


def _straight(module: Conv1D) -> nn.Linear:
    """The same layer with its weight as `[outputs, inputs]`."""
    weight = module.weight.detach().t().contiguous()
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in (weight, module.bias))
    return made.train(module.training)
