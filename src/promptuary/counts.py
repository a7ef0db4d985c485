"""How many numbers a prompt has, in the three ways that papers mean without saying so.

A table of a vocabulary makes them differ by a factor of a thousand (instance-wise prompt tuning, Jiang et al. 2022,
says "0.5 % to 1.5 %", and its code trains 14 % to 118 % of RoBERTa-large's number), so they are always told together.
Of a prompt that does not depend on the input they are equal.
"""

from collections.abc import Container
from dataclasses import dataclass

from torch import nn

from promptuary.choices import PerTask
from promptuary.generators import Generator
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout


@dataclass(frozen=True)
class Counts:
    """Numbers of prompt and read-out, the frozen model's not counted.

    Arguments:
        nominal: all that are trained.
        touched: those that got a gradient at least once: of tables by rows, of other tensors all or none.
        active: those that the answer to one row depends on, at most; of several tasks, those of the row's own.
    """

    nominal: int
    touched: int
    active: int


def count(model: SoftPrompted, readout: nn.Module, silent: Container[str] = ()) -> Counts:
    """The counts of a prompt and its read-out after training.

    Arguments:
        silent: names (`train.groups.trained`) of the tensors that never got any gradient.
    """
    named = {f"prompt.{n}": p for n, p in model.named_parameters()}
    named |= {f"readout.{n}": p for n, p in readout.named_parameters()}
    own = {id(p): (name, p) for name, p in reversed(named.items()) if p.requires_grad}  # a shared one is the prompt's
    nominal = sum(p.numel() for _, p in own.values())
    made = [g for g in model.generator.modules() if isinstance(g, Generator)]
    unheard = sum(p.numel() for name, p in own.values() if name in silent)
    # A generator knows which of its numbers got none; one whose tensors are silent throughout is counted already.
    heard = [g for g in made if any(own[id(p)][0] not in silent for p in g.parameters() if id(p) in own)]
    idle = sum(m.idle() for m in (*model.modules(), *readout.modules()) if isinstance(m, Generator | PerTask | Readout))
    return Counts(nominal, nominal - unheard - sum(g.untouched() for g in heard), nominal - idle)
