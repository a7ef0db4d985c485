import pytest
import torch

from promptuary.errors import SettingError
from promptuary.placements import Placement, Slots, Split, bare
from promptuary.values import Instance, Layout, Prompt


def instance(ids: list[list[int]], mask: list[list[int]]) -> Instance:
    made = torch.tensor(ids)
    return Instance(
        made,
        torch.tensor(mask, dtype=torch.bool),
        made[..., None].float(),
        torch.ones_like(made),
        torch.zeros(len(ids), dtype=torch.long),
    )


def laid(placement: Placement, x: Instance, *soft: float) -> list[list[float]]:
    """The present items of each row, from the front."""
    values = torch.tensor(soft).float()[None, :, None].expand(x.ids.shape[0], -1, -1)
    layout: Layout = placement(Prompt(values, torch.ones(values.shape[:2])), x)
    return [layout.embeds[b, layout.mask[b], 0].tolist() for b in range(x.ids.shape[0])]


X = instance([[0, 11, 12, 13], [0, 0, 0, 21]], [[0, 1, 1, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("placement", "first", "second"),
    [
        (Split(), [1, 2, 3, 11, 12, 13], [1, 2, 3, 21]),
        (Split(0), [11, 12, 13, 1, 2, 3], [21, 1, 2, 3]),
        (Split(1), [1, 11, 12, 13, 2, 3], [1, 21, 2, 3]),
        (Split(3), [1, 2, 3, 11, 12, 13], [1, 2, 3, 21]),
        (Split(head=1), [11, 1, 2, 3, 12, 13], [21, 1, 2, 3]),
        (Split(0, tail=1), [11, 12, 1, 2, 3, 13], [1, 2, 3, 21]),
        (Split(2, head=1, tail=1), [11, 1, 2, 12, 3, 13], [21, 1, 2, 3]),  # a row too short for both keeps its head
        (Split(2, head=9, tail=9), [11, 12, 13, 1, 2, 3], [21, 1, 2, 3]),
    ],
)
def test_split(placement: Split, first: list[float], second: list[float]) -> None:
    assert laid(placement, X, 1, 2, 3) == [first, second]


def test_slots_take_the_places_of_the_marks() -> None:
    x = instance([[-1, 11, -5, 12], [21, -1, 0, -1]], [[1, 1, 1, 1], [1, 1, 0, 1]])
    assert laid(Slots(), x, 1, 2) == [[1, 11, 2, 12], [21, 1, 2]]


def test_marks_at_padding_are_no_marks() -> None:
    x = instance([[-1, 11, -1]], [[0, 1, 1]])
    assert laid(Slots(), x, 1) == [[11, 1]]
    with pytest.raises(SettingError, match="marks 1 soft tokens, the generator makes 2"):
        laid(Slots(), x, 1, 2)


def test_the_output_at_a_mark_is_the_output_at_its_soft_token() -> None:
    x = instance([[11, -1, 12, -1]], [[1, 1, 1, 1]])
    values = torch.tensor([[[1.0], [2.0]]])
    layout = Slots()(Prompt(values, torch.ones(1, 2)), x)
    assert layout.tokens.tolist() == [[0, 1, 2, 3]]
    assert layout.prompts.tolist() == [[1, 3]]


def test_a_soft_token_has_segment_0_and_a_token_its_own() -> None:
    layout = Split(1)(Prompt(torch.zeros(2, 2, 1), torch.ones(2, 2)), X)
    assert layout.types.tolist() == [[0, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 1]]


def test_bare_is_the_input_flush_left() -> None:
    layout = bare(X)
    assert layout.embeds[0, :3, 0].tolist() == [11, 12, 13]
    assert layout.prompts.shape == (2, 0)


def test_a_prompt_enters_in_the_precision_of_the_embeddings() -> None:
    x = Instance(X.ids, X.mask, X.embeds.to(torch.bfloat16), X.types, X.task)
    layout = Split()(Prompt(torch.zeros(2, 2, 1), torch.ones(2, 2)), x)
    assert layout.embeds.dtype == torch.bfloat16


def test_the_gradient_reaches_the_prompt_and_only_its_present_slots() -> None:
    values = torch.zeros(2, 2, 1, requires_grad=True)
    layout = Split()(Prompt(values, torch.tensor([[1.0, 0.0], [1.0, 1.0]])), X)
    (layout.embeds[..., 0] * layout.mask).sum().backward()
    assert values.grad is not None
    assert values.grad[..., 0].tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_every_placement_accepts_what_fits() -> None:
    Slots().accepts(3)
    Split().accepts(0)
    Split(3).accepts(3)
    with pytest.raises(SettingError, match="before <= 2"):
        Split(3).accepts(2)
