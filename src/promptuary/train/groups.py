"""Which learning rate every trained tensor has: groups of parameters, made from prefixes of their names.

A tensor is named `prompt.<name in the model>` or `readout.<name in the read-out>`. An entry in a table of rates names a
part by its place (`"prompt.generator.transforms": 1e-4`) or by its name alone (`"choice": 1e-2`), wherever it stands;
the entry that goes furthest into a tensor's name wins. So a part gets its own rate by an entry, and not by code.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from promptuary.errors import SettingError, nearest
from promptuary.model import SoftPrompted
from promptuary.train.adafactor import Adafactor
from promptuary.train.lazy import LazyAdamW
from promptuary.train.recipe import Recipe


def trained(model: SoftPrompted, readout: nn.Module) -> dict[str, nn.Parameter]:
    """Every trained tensor once, by name. A tensor that prompt and read-out share is the prompt's.

    Raises:
        SettingError: when there is none, when one is not in full precision, or when one belongs to the backbone.
    """
    named = {f"prompt.{n}": p for n, p in model.named_parameters() if p.requires_grad}
    known = {id(p) for p in named.values()}
    named |= {f"readout.{n}": p for n, p in readout.named_parameters() if p.requires_grad and id(p) not in known}
    frozen = {id(p) for p in model.backbone.model.parameters()}
    for name, p in named.items():
        if id(p) in frozen:
            raise SettingError(f"{name} is a weight of the frozen backbone. Give the read-out a copy of it.")
        if p.dtype not in (torch.float32, torch.float64):
            raise SettingError(
                f"{name} is {p.dtype}; trained tensors stay in float32, since small steps vanish in half precision. "
                "Write .float(), and set precision='bf16' for the frozen model's arithmetic."
            )
    if not named:
        raise SettingError(
            "There is nothing to train: neither the prompt nor the read-out has a trainable tensor. "
            "Use a prompt of length 1 or more, a trained read-out, or evaluate() for the model as it is."
        )
    return named


def rate_table(model: SoftPrompted, recipe: Recipe, rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rates by prefix: those of the recipe, with `rates` on top (absolute ones, never scaled)."""
    scale = model.backbone.shape.deviation if recipe.scaled else 1.0
    return {"prompt": recipe.rate * scale, "readout": recipe.head_rate, **rates}


def known(rates: Mapping[str, float], model: SoftPrompted, readout: nn.Module) -> dict[str, float]:
    """Those of a method's rates whose part is there: settings can leave a part out."""
    named = trained(model, readout)
    return {part: rate for part, rate in rates.items() if any(_under(part, name) for name in named)}


def groups(
    model: SoftPrompted, readout: nn.Module, recipe: Recipe, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: one for each prefix, two where some of its tensors are not decayed.

    Each has `name`, `params`, `names`, `rate` (the full rate), `lr` (the current one) and `weight_decay`. Biases and
    other vectors are never decayed, nor is what has a rate of 0: it stays as it is under any optimizer.

    Raises:
        SettingError: for a prefix that no trained tensor has, with the nearest name; and as `trained`.
    """
    named = trained(model, readout)
    table = rate_table(model, recipe, rates or {})
    for prefix in rates or {}:
        if not any(_under(prefix, name) for name in named):
            raise SettingError(f"rates: no trained tensor is under {prefix!r}. {nearest(prefix, named)}")
    made: dict[tuple[str, float], dict[str, Any]] = {}
    for name, p in named.items():
        prefix = max((part for part in table if _under(part, name)), key=lambda part: _reach(part, name))
        vector = p.dim() < 2 or name.rpartition(".")[2] == "bias"  # the biases of a choice: one vector a task
        decay = recipe.decay if table[prefix] and not vector else 0.0  # Adafactor's is not multiplied by the rate
        group = made.setdefault((prefix, decay), _group(prefix, table[prefix], decay))
        group["params"].append(p)
        group["names"].append(name)
    return list(made.values())


def optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> Optimizer:
    """The recipe's optimizer over these groups."""
    # The names stay with the caller: torch's optimizers have rules of their own for extra keys.
    plain = [{k: v for k, v in group.items() if k != "names"} for group in groups]
    if recipe.optimizer == "adafactor":
        return Adafactor(plain)
    # All of AdamW's arithmetic in one pass over each tensor: a fifth of its time on a CPU, which is much where a table
    # of a vocabulary or a whole model is trained.
    known = [p for group in plain for p in group["params"]]
    one_pass = all(p.device.type in ("cpu", "cuda") and p.is_contiguous() for p in known)  # it reads memory in a row
    return LazyAdamW(plain, fused=one_pass)


def _group(prefix: str, rate: float, decay: float) -> dict[str, Any]:
    name = prefix if decay else f"{prefix}, not decayed"
    return {"name": name, "params": [], "names": [], "rate": rate, "lr": rate, "weight_decay": decay}


def _under(prefix: str, name: str) -> bool:
    return _reach(prefix, name) > 0


def _reach(part: str, name: str) -> int:
    """How far into a tensor's name the last mention of a part goes, 0 where it has none: a part in it is nearer."""
    return f".{name}.".rfind(f".{part}.") + len(part) + 1 if f".{part}." in f".{name}." else 0
