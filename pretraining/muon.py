"""Muon in the precision of the run: gradients of matrices, turned so that all their directions count alike.

`torch.optim.Muon` turns them in bfloat16 always, which is slow on a processor without units for it. Under autocast this
one does the same.
"""

import torch
from torch import Tensor, nn

A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5  # of Jordan et al. 2024


class Muon(torch.optim.Optimizer):
    """Momentum with a look ahead (Nesterov), orthogonalised; steps as large as AdamW's (`match_rms_adamw`).

    Arguments:
        params: groups of matrices, each with its `lr` and `weight_decay` (decoupled, in units of the rate).
    """

    def __init__(self, params: list[dict[str, object]], momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": 1e-3, "weight_decay": 0.1, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient.

        Arguments:
            closure: none; loops of accelerate say so.
        """
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                turned = orthogonal(p.grad.lerp(mean, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(turned, alpha=group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are alike (0.7 to 1.2), by five rounds of Newton-Schulz.

    Arguments:
        matrix: (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found = nn.functional.normalize(matrix.T if tall else matrix, dim=(0, 1))
    for _ in range(ROUNDS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=B, alpha=C), found, beta=A)
    return found.T if tall else found
