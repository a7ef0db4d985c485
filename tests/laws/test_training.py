"""What trains is the prompt, all of it, and nothing else; saving memory changes no number."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import wrap
from promptuary.errors import BackboneError
from promptuary.model import SoftPrompted
from promptuary.values import Part, Shape
from tests.answers import LENGTH, answers, gap, parts, prompted
from tests.backbones import FAMILIES, backbone, fresh
from tests.laws.checks import PAIRS, PROMPTED, STATIC, TEXTS, loss_of, taught, trainable


@pytest.mark.parametrize(("family", "method"), PROMPTED)
def test_every_trainable_tensor_gets_a_gradient_and_the_backbone_none(family: str, method: str) -> None:
    taught(prompted(family, method))


@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PROMPTED if m in STATIC])
def test_every_soft_token_gets_a_gradient_in_every_layer(family: str, method: str) -> None:
    generator, injection = parts(family, method)
    model = SoftPrompted(backbone(family), generator, injection).train()
    seen: list[torch.Tensor] = []
    injection.register_forward_pre_hook(
        lambda _, given: (given[0].values.retain_grad(), seen.append(given[0].values))[0]
    )
    loss_of(answers(model, TEXTS)).backward()
    (values,) = seen
    assert values.grad is not None
    assert bool((values.grad.abs().sum(2) > 0).all())  # every soft token
    assert bool((values.grad.abs().sum((0, 1)) > 0).all())  # every number of it: every layer, head, key and value


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_leaves_every_byte_of_the_backbone(family: str) -> None:
    b = wrap(fresh(family), family)
    before = b.digest()
    for method in (m for f, m in PROMPTED if f == family):
        model = SoftPrompted(b, *parts(family, method)).train()
        b.train(True)
        start = {name: p.detach().clone() for name, p in trainable(model).items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        loss_of(answers(model, TEXTS)).backward()
        optimizer.step()
        b.train(False)
        assert all(not torch.equal(p, start[name]) for name, p in trainable(model).items())
    assert b.digest() == before


def test_the_digest_sees_one_changed_bit() -> None:
    b = wrap(fresh("bert"), "bert")
    before = b.digest()
    weight = next(b.model.parameters())
    weight.data.view(torch.int32)[0, 0] ^= 1
    assert b.digest() != before


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_nothing_of_the_backbone_can_be_reached_through_the_model(family: str, method: str) -> None:
    model = prompted(family, method)
    frozen = {p.data_ptr() for p in (*model.backbone.model.parameters(), *model.backbone.model.buffers())}
    own = {id(m) for m in model.backbone.model.modules()}
    assert not any(p.data_ptr() in frozen for p in model.parameters() if p.numel())
    assert not any(t.data_ptr() in frozen for t in model.state_dict().values() if t.numel())
    assert not any(id(m) in own for m in model.modules())
    assert {id(p) for p in model.parameters()} == {
        id(p) for part in (model.generator, model.injection) for p in part.parameters()
    }


def _lstm(dim: int) -> int:
    half = dim // 2
    into = (dim, dim)  # two layers; each direction: four gates of input, state and two biases
    return sum(2 * 4 * half * (i + half + 2) for i in into)


def _attention(s: Shape, *parts: Part) -> int:
    return sum(a.heads * (a.key + a.value) for a in s.attention if not parts or a.part in parts)


# What a paper counts, by method: prompt length P, embedding width d, layers L, key width e.
COUNTS: dict[str, Callable[[Shape, int], int]] = {
    "frozen": lambda s, p: 0,
    "prompt-tuning": lambda s, p: p * s.dim,
    "deep-prompt-tuning": lambda s, p: p * s.layers * s.hidden,
    "p-tuning-v2": lambda s, p: p * _attention(s),
    "prefix-tuning": lambda s, p: p * s.dim + (s.dim + 1) * 16 + 17 * _attention(s),
    "p-tuning": lambda s, p: p * s.dim + _lstm(s.dim) + 2 * s.dim * (s.dim + 1),
}


@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PAIRS if m in COUNTS])
def test_the_optimizer_sees_exactly_what_the_paper_counts(family: str, method: str) -> None:
    model = prompted(family, method)
    found = sum(p.numel() for p in trainable(model).values())
    assert found == COUNTS[method](model.backbone.shape, LENGTH)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "method", "count"),
    [
        ("bert", "p-tuning-v2", 2 * 2 * 3 * 32),  # 2 P L e
        ("llama", "p-tuning-v2", 2 * 2 * 3 * 16),  # two key-value heads of 8
        ("qwen3", "p-tuning-v2", 2 * 2 * 3 * 32),  # two key-value heads of 16
        ("t5", "p-tuning-v2", 2 * 3 * 24 * (2 + 2 * 2)),  # 2 P e (L_encoder + 2 L_decoder), e = 4 heads of 6, not 32
        ("albert", "prompt-tuning", 3 * 16),  # the embedding table's width, not the layers'
        ("opt", "prompt-tuning", 3 * 16),
        ("albert", "deep-prompt-tuning", 3 * 2 * 32),
    ],
)
def test_counts_in_plain_numbers(family: str, method: str, count: int) -> None:
    assert sum(p.numel() for p in prompted(family, method).parameters()) == count


def gradients(b: Backbone, method: str, side: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = SoftPrompted(b, *parts(b.name, method)).train()
    b.train(True)
    loss = loss_of(answers(model, TEXTS, side))
    loss.backward()
    b.train(False)
    return loss.detach(), {name: p.grad for name, p in trainable(model).items() if p.grad is not None}


def noting(function: Callable[..., Any], runs: list[None]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        runs.append(None)
        return function(*args, **kwargs)

    return noted


UNCHECKPOINTED = tuple(f for f in FAMILIES if not backbone(f).model.supports_gradient_checkpointing)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in UNCHECKPOINTED])
def test_recomputing_activations_changes_neither_loss_nor_gradient(family: str) -> None:
    kept, recomputed = wrap(fresh(family), family), wrap(fresh(family), family)
    recomputed.checkpoint_activations(True)
    runs: list[None] = []
    for layer in recomputed.attachment.layers:
        layer._gradient_checkpointing_func = noting(layer._gradient_checkpointing_func, runs)
    for method in (m for f, m in PROMPTED if f == family and m in (*STATIC, "dp-deep")):
        runs.clear()
        for side in ("left", "right"):
            torch.manual_seed(0)  # choices draw
            loss, wanted = gradients(kept, method, side)
            torch.manual_seed(0)
            again, found = gradients(recomputed, method, side)
            assert gap(again, loss) <= 1e-6
            assert found.keys() == wanted.keys()
            for name in wanted:
                assert gap(found[name], wanted[name]) <= 1e-5
                assert wanted[name].abs().max() > 0 or method not in STATIC  # not every option was drawn
        assert len(runs) >= len(recomputed.attachment.layers)  # the layers did go through recomputation


@pytest.mark.parametrize("family", UNCHECKPOINTED)
def test_a_family_that_cannot_recompute_says_so(family: str) -> None:
    with pytest.raises(BackboneError, match="gradient checkpointing"):
        wrap(fresh(family), family).checkpoint_activations(True)


def test_dropout_of_the_prompt_is_for_training_only() -> None:
    model = SoftPrompted(backbone("bert"), *parts("bert", "p-tuning-v2"), dropout=0.5)
    with torch.no_grad():
        one, other = (answers(model.train(), TEXTS)[0].tokens for _ in range(2))
        assert not torch.equal(one, other)
        one, other = (answers(model.eval(), TEXTS)[0].tokens for _ in range(2))
        assert torch.equal(one, other)
