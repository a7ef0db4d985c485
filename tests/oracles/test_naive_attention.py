"""Soft keys and values against attention written out: on every family, part by part, and on a BERT layer by hand."""

import math

import pytest
import torch
from torch import Tensor

from promptuary.injections import KeyValues
from promptuary.model import SoftPrompted
from tests.answers import EXACT, Answer, Given, answers, bare_answer, distance, gap
from tests.backbones import HOOKED, backbone, bare
from tests.oracles.naive import begin, cut, seeing
from tests.strategies import SIDES, Side, Text, ragged, text

PROMPT = 3


def naive_answer(family: str, text: Text, row: Tensor, parts: frozenset[str], keep: Tensor) -> Answer:
    """The bare model's answer under attention written out."""
    model = bare(family, attention="naive")
    soft = cut(row, backbone(family).shape, parts, keep)
    with seeing(soft):
        handles = [model.register_forward_pre_hook(lambda *_: begin())]
        if model.config.is_encoder_decoder:  # `bare_answer` also asks the encoder alone
            handles.append(model.get_encoder().register_forward_pre_hook(lambda *_: begin()))
        try:
            return bare_answer(model, text)
        finally:
            for handle in handles:
                handle.remove()


def all_parts(family: str) -> list[frozenset[str]]:
    present = sorted({a.part for a in backbone(family).shape.attention})
    return [frozenset(present)] + ([frozenset([p]) for p in present] if len(present) > 1 else [])


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_the_oracle_without_soft_keys_is_the_bare_model(family: str) -> None:
    (text,) = ragged(6)
    assert distance(bare_answer(bare(family, attention="naive"), text), bare_answer(bare(family), text)) <= EXACT


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("family", "parts"), [(f, p) for f in HOOKED for p in all_parts(f)])
@torch.no_grad()
def test_soft_keys_and_values_are_seen_by_every_query_of_their_layer(
    family: str, parts: frozenset[str], side: Side
) -> None:
    b = backbone(family)
    injection = KeyValues(b.shape, parts=parts)
    row = torch.randn(PROMPT, injection.width)
    rows = ragged(6, 2, 9)
    keep = torch.tensor([[True, True, True], [False, True, True], [True, False, False]])
    model = SoftPrompted(b, Given(row.expand(3, -1, -1), keep), injection).eval()
    for i, (one, answer) in enumerate(zip(rows, answers(model, rows, side, extra=1), strict=True)):
        assert distance(answer, naive_answer(family, one, row, parts, keep[i])) <= EXACT


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_without_any_padding_too(family: str) -> None:
    """Models skip the mask here, and with it go the cues that say what is causal."""
    b = backbone(family)
    injection = KeyValues(b.shape)
    row = torch.randn(PROMPT, injection.width)
    rows = [text(4, seed=i, steps=(2, 2)) for i in range(2)]
    parts = all_parts(family)[0]
    for keep in (torch.tensor([True, True, True]), torch.tensor([True, False, True])):
        model = SoftPrompted(b, Given(row, keep), injection).eval()
        for one, answer in zip(rows, answers(model, rows, scored=False), strict=True):
            assert gap(answer.tokens, naive_answer(family, one, row, parts, keep).tokens) <= EXACT
        for one, answer in zip(rows, answers(model, rows), strict=True):
            assert distance(answer, naive_answer(family, one, row, parts, keep)) <= EXACT


@torch.no_grad()
def test_one_layer_of_bert_by_hand() -> None:
    """From the weights alone: embeddings, one attention with a prefix, feed-forward; nothing of transformers runs."""
    b = backbone("bert", num_hidden_layers=1)
    weights = bare("bert", num_hidden_layers=1).bert.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    (text,) = ragged(5)
    prompt, heads, size = 2, 4, 8
    row = torch.randn(prompt, 2 * heads * size)
    soft_keys, soft_values = row[:, : heads * size], row[:, heads * size :]

    x = norm(
        "embeddings.LayerNorm",
        weights["embeddings.word_embeddings.weight"][text.ids]
        + weights["embeddings.position_embeddings.weight"][: len(text.ids)]  # the prefix takes no positions
        + weights["embeddings.token_type_embeddings.weight"][text.types],
    )
    here = "encoder.layer.0"
    query = linear(f"{here}.attention.self.query", x)
    keys = torch.cat([soft_keys, linear(f"{here}.attention.self.key", x)])
    values = torch.cat([soft_values, linear(f"{here}.attention.self.value", x)])
    mixed = []
    for head in range(heads):
        of = slice(head * size, (head + 1) * size)
        scores = query[:, of] @ keys[:, of].T / math.sqrt(size)
        share = scores.exp() / scores.exp().sum(1, keepdim=True)
        mixed.append(share @ values[:, of])
    x = norm(f"{here}.attention.output.LayerNorm", x + linear(f"{here}.attention.output.dense", torch.cat(mixed, 1)))
    between = linear(f"{here}.intermediate.dense", x)
    between = between * 0.5 * (1 + torch.erf(between / math.sqrt(2)))
    x = norm(f"{here}.output.LayerNorm", x + linear(f"{here}.output.dense", between))

    model = SoftPrompted(b, Given(row), KeyValues(b.shape)).eval()
    ids = torch.tensor([text.ids])
    found = model(model.instance(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([text.types]))).hidden[0]
    assert gap(found, x) <= EXACT
