"""AdamW for tables of which a step reads few rows: the others are not moved, and cost nothing.

A table of a vocabulary has a gradient in a few hundred of its tens of thousands of rows. Dense Adam reads and writes
all of them in every step, goes on moving a row for many steps after its last gradient, and decays rows that were never
read. Here a row is an AdamW of its own (Loshchilov and Hutter 2019), which makes a step when the row has a gradient and
sleeps meanwhile: its moments, its weight decay and its count of steps stand still. The count matters: `SparseAdam` of
torch corrects a row's first step by the steps of the whole table, and makes it up to three times too long.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim import AdamW


class LazyAdamW(AdamW):
    """AdamW, with steps of single rows for those tensors whose gradient is sparse. Without any it is torch's own.

    The state of such a tensor `[rows, width]` has the names of AdamW's, its `step` is a count for each row.
    A row whose gradient is exactly 0 is one without a gradient (empty slots of a window are looked up and masked).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every tensor, and of every row, that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = [(p, group) for group in self.param_groups for p in group["params"] if _is_sparse(p)]
        waiting = {p: p.grad for p, _ in sparse}
        for p, group in sparse:
            assert p.grad is not None
            self._rows(p, p.grad.coalesce(), group)
            p.grad = None  # torch's step leaves it out
        super().step()
        for p, gradient in waiting.items():
            p.grad = gradient
        return loss

    def _rows(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        some = gradient.values().any(1)
        rows, g = gradient.indices()[0, some], gradient.values()[some]
        state = self.state[p]
        if not state:
            state["step"] = p.new_zeros(len(p), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        (slow, fast), rate = group["betas"], float(group["lr"])
        steps = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp(g, 1 - slow)
        square = state["exp_avg_sq"][rows].mul(fast).addcmul(g, g, value=1 - fast)
        state["step"][rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = steps, mean, square
        # Each row's bias correction, 1 - beta^steps; by expm1, since the difference has few digits at the first steps.
        small, large = (-torch.expm1(rearrange(steps, "r -> r 1") * math.log(beta)) for beta in (slow, fast))
        update = (mean / small) / ((square / large).sqrt() + group["eps"])
        p[rows] = p[rows] * (1 - rate * group["weight_decay"]) - rate * update


def gathered(named: Mapping[str, nn.Parameter]) -> Iterable[Tensor]:
    """What clips as the tensors with a gradient would: a sparse gradient's rows, each once, stand for its tensor."""
    found: list[Tensor] = []
    for p in named.values():
        if not _is_sparse(p):
            found.append(p)
            continue
        assert p.grad is not None
        p.grad = p.grad.coalesce()
        rows = p.grad.values()
        stand = torch.empty_like(rows)
        stand.grad = rows  # the same numbers in memory: what is clipped is the gradient itself
        found.append(stand)
    return found


def _is_sparse(p: Tensor) -> bool:
    return p.grad is not None and p.grad.is_sparse
