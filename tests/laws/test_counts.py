"""Nominal, touched and active numbers, against loops that look at every gradient."""

from typing import Any

import pytest
import torch
from torch import nn

from promptuary.counts import count
from promptuary.lookups import Table
from promptuary.model import SoftPrompted
from promptuary.readouts import ByTask, Classifier, Readout
from promptuary.train.fit import fit
from promptuary.train.progress import Silent
from tests.answers import prompted
from tests.backbones import backbone
from tests.laws.checks import STATIC
from tests.unit.train.toy import Toy, parts, recipe

TABLES: list[dict[str, Any]] = [
    {}, {"rank": 3}, {"buckets": 50}, {"lazy": True}, {"lazy": True, "buckets": 50}, {"pad": "task"},
    {"combine": "add"}, {"combine": "concatenate"}, {"variant": "prefix"}, {"encoder": "cnn", "tokens": 6},
    {"encoder": "lstm", "tokens": 2}, {"init": "zeros", "combine": "add"},
]  # fmt: skip


class Looking(Silent):
    """Remembers which numbers ever had a gradient: rows of tables, other tensors as a whole."""

    def __init__(self, model: SoftPrompted, readout: Readout) -> None:
        self.tables = {id(p) for t in model.modules() if isinstance(t, Table) for p in t.parameters()}
        self.seen: dict[nn.Parameter, torch.Tensor] = {
            p: torch.zeros(p.shape, dtype=torch.bool)
            for m in (model, readout)
            for p in m.parameters()
            if p.requires_grad
        }

    def stepped(self, step: int, *_: Any) -> None:
        for p, seen in self.seen.items():
            if p.grad is not None:
                g = p.grad.to_dense() if p.grad.is_sparse else p.grad
                seen |= (g != 0).any(1, keepdim=True) if id(p) in self.tables else (g != 0).any()


@pytest.mark.parametrize("settings", TABLES, ids=str)
def test_what_is_touched_is_what_ever_had_a_gradient(settings: dict[str, Any]) -> None:
    from promptuary.initial import zeros

    given = {**settings, **({"init": zeros()} if "init" in settings else {})}
    model, readout = parts("bert", "ipt", **given)
    looking = Looking(model, readout)
    counts = fit(model, readout, Toy(3), None, recipe(rate=1e-3, scaled=False), progress=looking).counts
    assert counts.touched == sum(int(seen.sum()) for seen in looking.seen.values())
    assert counts.nominal == sum(seen.numel() for seen in looking.seen)
    assert counts.active < counts.touched < counts.nominal


@pytest.mark.parametrize("settings", [s for s in TABLES if "encoder" not in s and "init" not in s], ids=str)
def test_what_is_active_is_what_one_row_of_different_tokens_depends_on(settings: dict[str, Any]) -> None:
    model, _ = parts("bert", "ipt", **settings)
    found = []
    for row in range(20):  # two ids may share a hashed row, not in every text
        model.zero_grad()
        ids = torch.randperm(99, generator=torch.Generator().manual_seed(row))[None, :6]
        p = model.generator(model.instance(ids, ids >= 0))
        (p.values * torch.linspace(1, 2, p.values.numel()).view(p.values.shape)).sum().backward()
        own = [q.grad for q in model.parameters() if q.requires_grad and q.grad is not None]
        found.append(sum(int((g.to_dense() if g.is_sparse else g).ne(0).sum()) for g in own))
    fill = 4 * 32 if settings.get("pad") else 0  # a full window reads no vector of an empty slot; another row may
    assert count(model, nn.Identity()).active == max(found) + fill


@pytest.mark.parametrize("name", STATIC)
def test_of_a_static_prompt_all_three_are_equal(name: str) -> None:
    counts = fit(*parts("bert", name), Toy(3), None, recipe(steps=2)).counts
    assert counts.nominal == counts.touched == counts.active > 0


@pytest.mark.parametrize("settings", [{}, {"rank": 3}, {"encoder": "cnn"}, {"combine": "add", "pad": "row"}], ids=str)
def test_a_table_that_does_not_learn_is_not_counted(settings: dict[str, Any]) -> None:
    counts = fit(*parts("bert", "ipt", control="frozen", **settings), Toy(3), None, recipe(steps=2)).counts
    own = 4 * 32 if "combine" in settings else 0  # the task's own prompt
    assert counts.nominal == counts.touched == counts.active == own + 2 * 32 + 2


def test_one_prompt_of_a_pool_is_active() -> None:
    model, readout = parts("bert", "smop", prompts=3)
    generator = model.generator
    one = 4 * 32
    choice = sum(p.numel() for p in generator.choice.parameters())
    assert count(model, nn.Identity()) == type(count(model, readout))(3 * one + choice, 3 * one + choice, one + choice)
    generator.choice.mode = "soft"
    assert count(model, nn.Identity()).active == 3 * one + choice


PROMPT = 3 * 32
MIXTURES = {  # of three tasks: numbers that they share, those of each task's own, and those of prompts not taken
    "prompt-tuning": (PROMPT, 0, 0),
    "dp-position": (PROMPT, 4, 0),
    "dp-length": (PROMPT, 3, 0),
    "dp-bank": (PROMPT, 4, 3 * PROMPT),
    "dp-position-vector": (4 * PROMPT + 4 * 32 + 4, 4, 0),
    "multitask-prompt-tuning": (PROMPT, 3 + 32, 0),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_an_answer_depends_on_what_is_its_own_tasks(name: str) -> None:
    shared, own, left = MIXTURES[name]
    model = prompted("bert", name, **({"tasks": 3} if own else {}))
    classes = (2, 5, 3)
    heads = [c * 32 + c for c in classes]
    counts = count(model, ByTask([Classifier(c, 32) for c in classes]))
    assert counts.nominal == shared + left + 3 * own + sum(heads)
    assert counts.active == shared + own + max(heads)


def test_a_tensor_that_never_heard_anything_is_not_touched() -> None:
    model, readout = parts("bert", "ipt", length=4)
    table = 99 * backbone("bert").shape.dim
    silent = {"prompt.generator.inner.table.weight"}
    found = count(model, readout, silent)
    assert found.nominal - found.touched == table
    assert count(model, readout, {"readout.head.bias"}).touched == found.touched - 2
