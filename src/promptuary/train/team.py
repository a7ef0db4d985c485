"""Processes that tune one prompt together: each has its share of every step's rows, and all make the same step.

    torchrun --nproc-per-node 4 -m promptuary tune --backbone ... --train ... --out ...

Gradients are summed before they are clipped, and weighted as in one process, so that the number of processes bears on
the steps no more than the order of a sum does. What is drawn at random (dropout, choices) is drawn by each process for
its own rows, as for accumulated batches. The lead, the first of them, alone reads and writes the run's folder.
"""

import atexit
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from promptuary.errors import PromptuaryError, SettingError

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # for the lead, while it writes texts or keeps states; who ends is noticed at once


def processes() -> int:
    """How many processes this one was started among (torchrun, accelerate launch)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def alone(what: str) -> None:
    """Raise `SettingError` where this process was started among several, which only `tune` knows what to do with."""
    if processes() > 1:
        raise SettingError(
            f"{what} runs in one process and was started in {processes()}. Several processes make a prompt together by "
            "`promptuary tune` (promptuary.tune) alone; start others without torchrun."
        )


def joined() -> "Team":
    """The team of the processes that this one was started among; by itself, a team of one.

    Raises:
        SettingError: when they do not find each other.
    """
    if processes() == 1:
        return Team()
    if not distributed.is_initialized():
        try:
            distributed.init_process_group(timeout=PATIENCE)  # gloo between processors, nccl between GPUs
        except (ValueError, RuntimeError) as error:
            raise SettingError(
                f"This process was started among {processes()} (WORLD_SIZE) and cannot find the others ({error}). "
                "Start them with `torchrun --nproc-per-node N -m promptuary tune ...`."
            ) from error
        atexit.register(distributed.destroy_process_group)
    return Team(distributed.get_rank(), distributed.get_world_size())


@dataclass(frozen=True)
class Team:
    """The processes of a run, as one of them sees them. All call the same methods in the same order.

    Arguments:
        rank: its own number, 0 for the lead. size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def lead(self) -> bool:
        """Whether this is the process that reads and writes files, and talks."""
        return self.rank == 0

    def led(self, act: Callable[[], T]) -> T:
        """What `act` returns to the lead, which alone calls it, for all; an error of ours is raised in all."""
        if self.size == 1:
            return act()
        told: list[Any] = [None, None]
        if self.lead:
            try:
                told[0] = act()
            except PromptuaryError as error:
                told[1] = error
        distributed.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return cast(T, told[0])

    @contextmanager
    def lead_first(self) -> Iterator[None]:
        """The lead goes through the block before the others begin it: they find what it left on the disk."""
        if self.size > 1 and not self.lead:
            distributed.barrier()
        yield
        if self.size > 1 and self.lead:
            distributed.barrier()

    def all(self, value: T) -> list[T]:
        """Every process's value, in the order of their numbers."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of the processes' values."""
        if self.size == 1:
            return list(values)
        whole = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(whole)
        return cast(list[float], whole.tolist())

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum of the processes' gradients in place of each one's own; none where none has one."""
        if self.size == 1:
            return
        known = list(parameters)
        kinds = torch.tensor([0 if p.grad is None else 1 + p.grad.is_sparse for p in known])
        distributed.all_reduce(kinds, distributed.ReduceOp.MAX)
        some = [(p, kind) for p, kind in zip(known, kinds.tolist(), strict=True) if kind]
        whole = torch.cat([_dense(p).flatten() for p, _ in some])
        distributed.all_reduce(whole)
        for (p, kind), part in zip(some, torch.split(whole, [p.numel() for p, _ in some]), strict=True):
            summed = part.view_as(p).to(p.dtype)
            p.grad = summed.to_sparse(1) if kind == 2 else summed  # a row of zeros is one without a gradient

    def begin_alike(self, tensors: Iterable[Tensor]) -> None:
        """Put the lead's numbers into the tensors of all: other hardware may round a start otherwise."""
        if self.size == 1:
            return
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)

    def seed(self, run: int, step: int) -> int:
        """What this process draws a step's randomness from: a function of the run's seed, so that no state is kept."""
        told = hashlib.blake2b(f"{run}/{step}/{self.rank}".encode(), digest_size=7)
        return int.from_bytes(told.digest(), "little")


ALONE = Team()


def _dense(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
