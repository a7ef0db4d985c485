"""How a prompt enters its model, seen on one made-up input: what exporters decide by, instead of asking for kinds."""

import torch

from promptuary.model import SoftPrompted
from promptuary.values import Call


@torch.no_grad()
def trial(model: SoftPrompted) -> Call:
    """The call for some input of eight tokens, with the marks that the prompt wants in front of it."""
    ids = torch.tensor([[-1] * model.marks + list(range(3, 11))], device=model.backbone.device)
    return model.call(model.instance(ids, torch.ones_like(ids, dtype=torch.bool)))
