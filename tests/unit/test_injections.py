import pytest
import torch

from promptuary.injections import Embeddings, HiddenStates, Injection, KeyValues
from promptuary.placements import Split
from promptuary.values import Attention, Call, Instance, Prompt, Shape

SHAPE = Shape(
    "toy",
    dim=3,
    hidden=4,
    output=4,
    layers=2,
    vocabulary=9,
    positions=16,
    deviation=1.0,
    attention=(
        Attention("encoder", heads=2, key=1, value=2),
        Attention("decoder", heads=1, key=2, value=2),
        Attention("cross", heads=1, key=1, value=1),
    ),
)
CAUSAL = Shape("toy", 3, 4, 4, 1, 9, 16, 1.0, (Attention("decoder", 2, 2, 2),), decodes=True, encodes=False)


def instance(tokens: int = 2) -> Instance:
    ids = torch.arange(tokens)[None] + 1
    return Instance(ids, ids > 0, torch.zeros(1, tokens, 3), torch.zeros_like(ids), torch.zeros(1, dtype=torch.long))


def test_embeddings_take_the_width_of_the_embedding_table_and_room_in_the_row() -> None:
    made = Embeddings(SHAPE)
    assert (made.width, made.occupies(5)) == (3, 5)
    call: Call = made(Prompt(torch.ones(1, 2, 3), torch.ones(1, 2)), instance())
    assert call.layout.embeds[0, :, 0].tolist() == [1, 1, 0, 0]
    assert (dict(call.keys_values), call.states, call.start) == ({}, {}, None)


def test_hidden_states_take_all_layers_and_room_in_the_row() -> None:
    made = HiddenStates(SHAPE, Split(0))
    assert (made.width, made.occupies(5)) == (8, 5)
    values = torch.arange(16.0).reshape(1, 2, 8)
    call: Call = made(Prompt(values, torch.ones(1, 2)), instance())
    assert call.states[0].values.tolist() == [[[0, 1, 2, 3], [8, 9, 10, 11]]]
    assert call.states[1].values.tolist() == [[[4, 5, 6, 7], [12, 13, 14, 15]]]
    assert call.layout.prompts.tolist() == [[2, 3]]


def test_keys_and_values_lie_layer_by_layer_all_heads_keys_first_and_take_no_room() -> None:
    made = KeyValues(SHAPE)
    assert (made.width, made.occupies(5), made.start) == (12, 0, 0)
    call: Call = made(Prompt(torch.arange(12.0)[None, None], torch.ones(1, 1)), instance())
    found = {i: (kv.key[0, :, 0].tolist(), kv.value[0, :, 0].tolist()) for i, kv in call.keys_values.items()}
    assert found == {
        0: ([[0], [1]], [[2, 3], [4, 5]]),
        1: ([[6, 7]], [[8, 9]]),
        2: ([[10]], [[11]]),
    }
    assert call.layout.embeds.shape == (1, 2, 3)


@pytest.mark.parametrize(("parts", "width", "layers"), [({"cross"}, 2, {2}), ({"decoder", "encoder"}, 10, {0, 1})])
def test_parts_choose_layers(parts: set[str], width: int, layers: set[int]) -> None:
    made = KeyValues(SHAPE, parts=parts)
    assert made.width == width
    call: Call = made(Prompt(torch.zeros(1, 1, width), torch.ones(1, 1)), instance())
    assert set(call.keys_values) == layers


def test_absent_slots_are_absent_in_the_call() -> None:
    call: Call = KeyValues(SHAPE)(Prompt(torch.zeros(1, 3, 12), torch.tensor([[1.0, 0.0, 1.0]])), instance())
    assert {tuple(map(tuple, kv.keep.tolist())) for kv in call.keys_values.values()} == {((True, False, True),)}


def test_a_start_takes_positions() -> None:
    made = KeyValues(CAUSAL, start=3)
    assert made.occupies(9) == 3
    assert made(Prompt(torch.zeros(1, 1, 8), torch.ones(1, 1)), instance()).start.tolist() == [3]


@pytest.mark.parametrize("made", [Embeddings(SHAPE), HiddenStates(SHAPE), KeyValues(SHAPE)])
def test_an_injection_has_no_parameters(made: Injection) -> None:
    assert not list(made.parameters())
    made.accepts(3)
