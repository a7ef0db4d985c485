"""Soft tokens that join at a later layer: against layers of the bare model called one after the other."""

import pytest
import torch
from torch import Tensor

from promptuary.backbones.attachment import PASSED
from promptuary.choices import Choice, encoding
from promptuary.errors import BackboneError, SettingError
from promptuary.generators import Free
from promptuary.initial import normal
from promptuary.injections import Late
from promptuary.model import SoftPrompted
from promptuary.placements import Adaptive, Placement, Split
from promptuary.placements import bare as bare_layout
from promptuary.values import Call, Instance
from tests.answers import EXACT
from tests.backbones import FAMILIES, backbone, bare
from tests.laws.checks import trainable

LENGTH, LAYER = 3, 1
ENCODERS = tuple(f for f, made in FAMILIES.items() if made.kind != "decoder")
NO_POSITIONS = ("bert", "roberta", "electra", "distilbert", "bart")  # positions are added below: rows are sets above
IDS = torch.tensor([[5, 17, 31, 8, 44], [9, 12, 60, 0, 0]])
MASK = IDS > 0


def late(family: str, placement: Placement | None = None, layer: int = LAYER) -> SoftPrompted:
    b = backbone(family)
    return SoftPrompted(b, Free(LENGTH, b.shape.hidden, normal(1.0), seed=3), Late(b.shape, layer, placement)).eval()


def read(model: SoftPrompted, ids: Tensor = IDS, mask: Tensor = MASK) -> Tensor:
    return model(model.instance(ids, mask)).hidden


def upper(family: str, soft: Tensor, ids: Tensor) -> Tensor:
    """The text's last states, by the bare model's own lower layers on it and upper layers on [soft; text]."""
    model = bare(family)
    if family == "bart":
        stack = model.get_encoder()
        embedded, layers = stack.layernorm_embedding(stack.embed_tokens(ids) + stack.embed_positions(ids)), stack.layers
    else:
        stack = model.base_model
        embedded = stack.embeddings(input_ids=ids)
        if hasattr(stack, "embeddings_project"):
            embedded = stack.embeddings_project(embedded)
        layers = stack.transformer.layer if family == "distilbert" else stack.encoder.layer
    for layer in layers[:LAYER]:
        embedded = layer(embedded, None)
    row = torch.cat([soft[None], embedded], 1)
    for layer in layers[LAYER:]:
        row = layer(row, None)
    return row[0, len(soft) :]


@pytest.mark.parametrize("family", NO_POSITIONS)
@torch.no_grad()
def test_it_is_the_lower_layers_on_the_text_and_the_upper_ones_on_both(family: str) -> None:
    model = late(family)
    found = read(model)
    for row, real in zip(range(2), MASK, strict=True):
        expected = upper(family, model.generator.table, IDS[row : row + 1, : int(real.sum())])
        assert (found[row, real] - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_without_soft_tokens_it_is_the_bare_model(family: str) -> None:
    b = backbone(family)
    model = SoftPrompted(b, Free(0, b.shape.hidden, normal(1.0)), Late(b.shape, LAYER)).eval()
    plain = b.run(Call(bare_layout(model.instance(IDS, MASK)))).hidden
    assert (read(model) - plain)[MASK].abs().max() <= EXACT * plain.abs().max()


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_the_layers_below_are_run_once_and_for_the_text_alone(family: str) -> None:
    model = late(family)
    worked: list[tuple[int, int]] = []  # the layer of an attention call, and the length of its row
    attachment = model.backbone.attachment
    hooks = [
        layer.register_forward_hook(
            lambda m, a, k, _: (
                worked.append((attachment.layers[m][0].layer, (a[0] if a else k["hidden_states"]).shape[1]))
                if PASSED not in k
                else None
            ),
            with_kwargs=True,
        )
        for layer, visits in attachment.layers.items()
        if visits[0].main and len(visits) == 1
    ]
    x = model.instance(IDS, MASK)
    first = x.once(encoding, LAYER)
    model(x)
    assert x.once(encoding, LAYER) is first
    for hook in hooks:
        hook.remove()
    tokens, whole = IDS.shape[1], IDS.shape[1] + LENGTH
    layers = model.backbone.shape.layers
    assert worked == ([(0, tokens), *((n, whole) for n in range(LAYER, layers))] if hooks else [])


@pytest.mark.parametrize("family", ENCODERS)
def test_no_gradient_reaches_the_layers_below(family: str) -> None:
    model = late(family).train()
    found = read(model)[MASK]
    (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
    for weight in trainable(model).values():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
        weight.grad = None
    x = model.instance(IDS, MASK)
    assert not encoding(x, LAYER).requires_grad


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
@torch.no_grad()
def test_a_place_that_is_chosen_is_that_place(family: str) -> None:
    for place in (0, 2, LENGTH):
        chosen = late(family, Adaptive(Choice(LENGTH + 1, prefer=place)))
        fixed = late(family, Split(place))
        assert torch.equal(read(chosen), read(fixed))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@torch.no_grad()
def test_padding_takes_no_place_from_a_row_as_long_as_the_model_allows(family: str) -> None:
    model, n = late(family), int(backbone(family).shape.positions or 0) - LENGTH
    ids = torch.arange(n)[None] % 90 + 3
    ids = torch.cat([ids, ids.flip(1)])
    mask = torch.arange(n + 5) < torch.tensor([[n], [n - 2]])
    found = read(model, torch.nn.functional.pad(ids, (0, 5)), mask)
    for row, real in enumerate(mask.sum(1).tolist()):
        alone = read(model, ids[row : row + 1, :real], mask[row : row + 1, :real])[0]
        assert (found[row, :real] - alone).abs().max() <= EXACT * alone.abs().max()


def test_a_layer_that_is_none_of_the_inner_ones_is_refused() -> None:
    shape = backbone("bert").shape
    for layer in (0, shape.layers, -1):
        with pytest.raises(SettingError, match=f"layer={layer}"):
            Late(shape, layer)
    with pytest.raises(BackboneError, match="causal"):
        Late(backbone("gpt2").shape, 1)


def test_states_before_a_layer_are_what_the_bare_model_reports() -> None:
    model = bare("bert")
    x: Instance = late("bert").instance(IDS, MASK)
    with torch.no_grad():
        reported = model.base_model(input_ids=IDS, attention_mask=MASK.long(), output_hidden_states=True).hidden_states
    assert (encoding(x, LAYER) - reported[LAYER])[MASK].abs().max() <= EXACT
