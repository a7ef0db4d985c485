"""Adafactor exactly as Lester et al. 2021 ran it (T5X, section 3.2 of the paper; Shazeer and Stern 2018).

For a gradient g at step t: `b = 1 - t^-0.8; v = b v + (1 - b)(g^2 + 1e-30); u = g / sqrt(v); u /= max(1, RMS(u));
p = (1 - decay) p - rate u`. No momentum, no scaling by the parameter. So a step moves a tensor by an RMS of at most
`rate`, whatever the gradient's size: the rate is a length, and must fit the scale of the embeddings.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from promptuary.errors import SettingError


class Adafactor(Optimizer):
    """T5X's Adafactor without parameter scaling and without momentum.

    It differs from the ones in torch and transformers in two ways that change results. Weight decay is not
    multiplied by the rate (the paper's 1e-5 is 1e-5 a step). A matrix is factored only if both its sides have
    `factored_from` numbers or more, so a prompt of 100 tokens keeps a full second moment and one of 150 does not.

    Arguments:
        params: tensors, or groups of them with an own `lr` and `weight_decay`.
        lr: the rate: the largest RMS of a step.
        weight_decay: share of each number that a step takes away.
        exponent: of the second moment's decay `1 - t^-exponent`.
        epsilon: added to squared gradients.
        clip: largest RMS of the normalised update.
        factored_from: smallest side of a factored matrix. Tensors of other ranks are never factored (T5X refuses
            ranks above 2).

    Raises:
        SettingError: for a rate that is not above 0 or a decay outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.3,
        *,
        weight_decay: float = 1e-5,
        exponent: float = 0.8,
        epsilon: float = 1e-30,
        clip: float = 1.0,
        factored_from: int = 128,
    ) -> None:
        if not lr > 0 or not 0 <= weight_decay < 1:
            raise SettingError(f"Adafactor(lr={lr}, weight_decay={weight_decay}): expected lr > 0 and 0 <= decay < 1.")
        self.exponent, self.epsilon, self.clip, self.factored_from = exponent, epsilon, clip, factored_from
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every tensor that has a gradient.

        Raises:
            SettingError: for a sparse gradient, of a lazy table: a step's size is that of the whole tensor's gradient.
        """
        if any(p.grad is not None and p.grad.is_sparse for group in self.param_groups for p in group["params"]):
            raise SettingError(
                "Adafactor clips a step by the gradient of the whole tensor, so no row of a table can be left out. "
                "Write lazy=False, or optimizer='adamw'."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    update = self._update(p, p.grad)
                    p.mul_(1.0 - group["weight_decay"]).sub_(update, alpha=group["lr"])
        return loss

    def _update(self, p: Tensor, gradient: Tensor) -> Tensor:
        """The normalised, clipped gradient; advances the second moment of `p`."""
        state = self.state[p]
        step = int(state["step"]) + 1 if state else 1
        # A tensor, as in torch's own optimizers, so that every optimizer's state is saved alike.
        state["step"] = torch.tensor(float(step))
        old = 1.0 - step**-self.exponent
        squares = gradient.square() + self.epsilon
        update = gradient * (self._factored if self._splits(p) else self._full)(state, squares, old)
        return update / (update.square().mean().sqrt() / self.clip).clamp(min=1.0)

    def _splits(self, p: Tensor) -> bool:
        return p.dim() == 2 and min(p.shape) >= self.factored_from

    def _full(self, state: dict[str, Tensor], squares: Tensor, old: float) -> Tensor:
        return _average(state, "square", squares, old).rsqrt()

    def _factored(self, state: dict[str, Tensor], squares: Tensor, old: float) -> Tensor:
        rows = _average(state, "rows", squares.mean(1, keepdim=True), old)  # [rows, 1]
        columns = _average(state, "columns", squares.mean(0, keepdim=True), old)  # [1, columns]
        return (rows / rows.mean()).rsqrt() * columns.rsqrt()


def _average(state: dict[str, Tensor], name: str, new: Tensor, old: float) -> Tensor:
    """The running average `name`, with weight `old` for what it was."""
    state[name] = new if name not in state else state[name] * old + new * (1.0 - old)
    return state[name]
