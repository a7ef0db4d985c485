"""Controls of prompts that are made or chosen from the input: another text is read, or what reads does not learn.

`shuffled`: each row is given what another row's text says, the row before it in its batch (of a batch of one row, what
no text says). `frozen`: what reads the text stays as it was drawn. A method that is no better than its controls has
gained nothing from reading the input. A shuffled row's answer depends on the batch: its scores say something, a single
answer does not.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptuary.choices import Query
from promptuary.generators import Generator
from promptuary.methods.method import Control
from promptuary.values import Instance, Prompt

Reader = TypeVar("Reader", bound=nn.Module)


@dataclass(frozen=True)
class Another:
    """A query of another row of the batch, the one before it; zeros, as of no text, where there is no other."""

    query: Query

    def __call__(self, x: Instance) -> Float[Tensor, "batch dim"]:
        read = x.once(self.query)
        return read.roll(1, 0) if len(read) > 1 else torch.zeros_like(read)


class Shuffled(Generator):
    """The prompt of another row of the batch, the one before it; that of no text where there is no other."""

    def __init__(self, inner: Generator) -> None:
        super().__init__()
        self.inner, self.length, self.width = inner, inner.length, inner.width

    def forward(self, x: Instance) -> Prompt:
        alone = len(x.ids) == 1
        p: Prompt = self.inner(replace(x, mask=torch.zeros_like(x.mask)) if alone else x)
        return Prompt(p.values.roll(1, 0), p.keep.roll(1, 0))


def asked(query: Query, control: Control) -> Query:
    """What is asked of the input, under a control."""
    return Another(query) if control == "shuffled" else query


def read(generator: Generator, control: Control) -> Generator:
    """A generator that reads the input by itself, under a control."""
    return Shuffled(generator) if control == "shuffled" else held(generator, control)


def held(reader: Reader, control: Control) -> Reader:
    """What reads the input, under a control: frozen, it does not learn."""
    return reader.requires_grad_(False) if control == "frozen" else reader


def spread(control: Control, dim: int) -> float:
    """How far the weights of a choice by a query of `dim` numbers start from 0: frozen at 0 they would read nothing."""
    return dim**-0.5 if control == "frozen" else 0.0
