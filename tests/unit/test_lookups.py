import pytest
import torch

from promptuary.errors import SettingError
from promptuary.initial import normal
from promptuary.injections import Embeddings
from promptuary.lookups import Dense, Hashed, Lookup, LowRank, Table, Window
from promptuary.model import SoftPrompted
from promptuary.pooling import ConvMax, MaskedMean, Recurrent, Unfolded
from promptuary.transforms import AtLayers, Transform
from promptuary.values import Instance, Prompt
from tests.backbones import backbone

IDS = torch.tensor([[7, 8, 9, 10, 0, 0], [0, 0, 0, 11, 12, 13], [0, 0, 0, 0, 0, 0], [14, -1, 15, 16, 17, 18]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
FIELDS = torch.tensor([[0, 1, 1, 2, 0, 0], [0, 0, 0, 1, 2, 2], [0] * 6, [1, 0, 2, 2, 2, 2]])


def instance(rows: slice = slice(None)) -> Instance:
    ids, mask = IDS[rows], MASK[rows]
    return Instance(ids, mask, torch.zeros(*ids.shape, 3), ids.clamp(max=0), ids[:, 0], FIELDS[rows])


def read(window: Window) -> list[list[int]]:
    ids, real = window(instance())
    assert ids.shape == real.shape == (4, window.size)
    assert (ids[~real] == 0).all()
    assert (real.int().diff(dim=1) <= 0).all()  # real ones first
    return [row[kept].tolist() for row, kept in zip(ids, real, strict=True)]


@pytest.mark.parametrize(
    ("window", "found"),
    [
        (Window(3), [[7, 8, 9], [11, 12, 13], [], [14, 15, 16]]),
        (Window(3, side="right"), [[8, 9, 10], [11, 12, 13], [], [16, 17, 18]]),
        (Window(2, stride=2), [[7, 9], [11, 13], [], [14, 16]]),
        (Window(2, side="right", stride=2), [[8, 10], [11, 13], [], [16, 18]]),
        (Window(9), [[7, 8, 9, 10], [11, 12, 13], [], [14, 15, 16, 17, 18]]),
        (Window(2, field=1), [[8, 9], [11], [], [14]]),
        (Window(2, side="right", field=2), [[10], [12, 13], [], [17, 18]]),
    ],
)
def test_a_window_reads_real_tokens_of_the_side_the_stride_and_the_field(
    window: Window, found: list[list[int]]
) -> None:
    assert read(window) == found


def test_a_window_of_a_field_needs_to_know_fields() -> None:
    ids = IDS[:1]
    with pytest.raises(SettingError, match="field"):
        Window(2, field=1)(Instance(ids, ids > 0, torch.zeros(1, 6, 3), ids, ids[:, 0]))


def tables() -> list[Table]:
    return [Dense(30, 6, normal(1.0)), LowRank(30, 6, 2, normal(1.0)), Hashed(30, 6, 5, normal(1.0))]


@pytest.mark.parametrize("table", tables(), ids=lambda t: type(t).__name__)
def test_a_table_has_one_vector_for_an_id(table: Table) -> None:
    ids = torch.tensor([[3, 4, 3], [4, 29, 0]])
    found = table(ids)
    assert found.shape == (2, 3, 6)
    assert torch.equal(found[0, 0], found[0, 2])
    assert torch.equal(found[0, 1], found[1, 0])
    assert not torch.equal(found[0, 0], found[0, 1])


def test_tables_count_what_ids_depend_on() -> None:
    dense, low, hashed = tables()
    assert (dense.used(4), low.used(4), hashed.used(1), hashed.used(4)) == (24, 8 + 12, 12, 30)
    assert (dense.used(99), low.used(0), hashed.used(0)) == (180, 0, 0)
    assert torch.linalg.matrix_rank(low(torch.arange(30)[None])[0]) == 2


@pytest.mark.parametrize("table", tables(), ids=lambda t: type(t).__name__)
def test_what_ids_reach_is_what_gets_a_gradient(table: Table) -> None:
    for ids in ([], [3], [3, 4, 11, 29]):
        table.zero_grad()
        table(torch.tensor([ids], dtype=torch.long)).sum().backward()
        graded = sum(int((p.grad != 0).sum()) for p in table.parameters() if p.grad is not None)
        assert table.reached(torch.tensor(ids, dtype=torch.long)) == graded
        assert table.used(len(ids)) >= graded


@pytest.mark.parametrize("pad", ["mask", "row", "task"])
def test_empty_slots_are_absent_or_learned(pad: str) -> None:
    lookup = Lookup(Window(4), Dense(30, 6, normal(1.0)), pad=pad, init=normal(1.0))  # type: ignore[arg-type]
    p = lookup(instance())
    assert p.keep.tolist() == ([[1] * 4, [1, 1, 1, 0], [0] * 4, [1] * 4] if pad == "mask" else [[1] * 4] * 4)
    torch.testing.assert_close(p.values[1, 0], lookup.table.weight[11])
    expected = {"mask": torch.zeros(6), "row": lookup.fill[:1].sum(0), "task": lookup.fill[3:].sum(0)}[pad]
    torch.testing.assert_close(p.values[1, 3], expected)
    p.values.square().sum().backward()
    assert (lookup.fill.grad is not None) == (pad != "mask")


def test_a_row_is_looked_up_alike_alone_and_in_a_batch() -> None:
    lookup = Lookup(Window(4), Dense(30, 6, normal(1.0)), pad="task", init=normal(1.0))
    whole = lookup(instance())
    for row in range(4):
        alone = lookup(instance(slice(row, row + 1)))
        assert torch.equal(alone.values[0], whole.values[row])
        assert torch.equal(alone.keep[0], whole.keep[row])


def test_an_id_the_table_does_not_have_is_refused() -> None:
    with pytest.raises(SettingError, match="another tokenizer"):
        Lookup(Window(4), Dense(17, 6, normal(1.0)))(instance())


def test_a_table_for_fewer_tokens_than_the_backbone_has_is_refused_at_construction() -> None:
    b = backbone("bert")
    with pytest.raises(SettingError, match="knows 98 token ids, 'bert' has 99"):
        SoftPrompted(b, Lookup(Window(2), Dense(98, 32, normal(1.0))), Embeddings(b.shape))


@pytest.mark.parametrize("pad", ["mask", "row"])
def test_no_number_is_read_back_from_an_accelerator(pad: str) -> None:
    """Reading one would wait for all that was asked of it. The device `meta` has no numbers to read."""
    lookup = Lookup(Window(3, stride=2), Dense(30, 6, normal(1.0)), pad=pad).to("meta").train()  # type: ignore[arg-type]
    given = {name: value.to("meta") for name, value in vars(instance()).items() if isinstance(value, torch.Tensor)}
    lookup(Instance(**given)).values.sum().backward()
    assert lookup.table.weight.grad is not None


def test_a_vector_that_got_no_gradient_is_not_remembered() -> None:
    lookup = Lookup(Window(3), Dense(30, 6, normal(1.0))).train()
    lookup(instance()).values[0].sum().backward()
    assert set(lookup.touched.nonzero()[:, 0].tolist()) == {7, 8, 9}
    with torch.no_grad():
        lookup(instance())
    lookup.eval()(instance()).values.sum().backward()
    assert set(lookup.touched.nonzero()[:, 0].tolist()) == {7, 8, 9}


def test_only_rows_of_the_input_get_a_gradient_and_are_remembered() -> None:
    lookup = Lookup(Window(3), Dense(30, 6, normal(1.0))).train()
    lookup(instance()).values.sum().backward()
    touched = {7, 8, 9, 11, 12, 13, 14, 15, 16}
    assert set(lookup.table.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()) == touched
    assert set(lookup.touched.nonzero()[:, 0].tolist()) == touched
    assert lookup.untouched() == (30 - 9) * 6
    assert lookup.idle() == (30 - 3) * 6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Window(0),
        lambda: Window(2, stride=0),
        lambda: Window(2, side="middle"),  # type: ignore[arg-type]
        lambda: Lookup(Window(2), Dense(3, 2, normal(1.0)), pad="zero"),  # type: ignore[arg-type]
        lambda: LowRank(3, 2, 0, normal(1.0)),
        lambda: Hashed(3, 2, 0, normal(1.0)),
        lambda: ConvMax(4, kernels=()),
        lambda: Unfolded(3).shape(1, 7),
        lambda: AtLayers([4, 4], [2]),
    ],
)
def test_wrong_settings_say_what_was_expected(wrong: object) -> None:
    with pytest.raises(SettingError, match="expected"):
        wrong()  # type: ignore[operator]


WIDTH = 5


def prompt(length: int, present: int, seed: int = 0) -> Prompt:
    values = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    keep = (torch.arange(length)[None] < present).float()
    return Prompt(values * keep[..., None], keep)


@pytest.mark.parametrize("make", [MaskedMean, lambda: ConvMax(WIDTH, filters=2), lambda: Recurrent(WIDTH, hidden=3)])
@torch.no_grad()
def test_a_reading_does_not_depend_on_absent_slots_or_on_the_batch(make: object) -> None:
    torch.manual_seed(0)
    reader: Transform = make()  # type: ignore[operator]
    short, long = prompt(4, 4), prompt(4, 4)
    long = Prompt(torch.cat([long.values, torch.randn(1, 6, WIDTH)], 1), torch.cat([long.keep, torch.zeros(1, 6)], 1))
    one, other = reader(short), reader(long)
    assert one.values.shape == (1, *reader.shape(4, WIDTH))
    torch.testing.assert_close(one.values, other.values)
    both = reader(Prompt(long.values.repeat(2, 1, 1), torch.cat([long.keep, torch.ones(1, 10)], 0)))
    torch.testing.assert_close(both.values[:1], one.values)
    nothing = reader(Prompt(torch.zeros(1, 4, WIDTH), torch.zeros(1, 4)))
    assert torch.equal(nothing.values, torch.zeros_like(nothing.values))
    assert nothing.keep.tolist() == [[1.0]]


@torch.no_grad()
def test_convolutions_are_read_by_hand() -> None:
    torch.manual_seed(0)
    reader = ConvMax(WIDTH, kernels=(3,))
    p = prompt(6, 5)
    weight, bias = reader.convolutions[0].weight[0], reader.convolutions[0].bias[0]
    windows = [(p.values[0, i : i + 3].T * weight).sum() + bias for i in range(3)]
    torch.testing.assert_close(reader(p).values[0, 0, 0], torch.stack(windows).relu().max())


@torch.no_grad()
def test_a_convolution_is_read_nowhere_but_on_present_slots() -> None:
    """Behind the prompt it would see zeros, and its bias would win."""
    reader = ConvMax(WIDTH, kernels=(3,))
    reader.convolutions[0].weight.fill_(-1.0)
    reader.convolutions[0].bias.fill_(1.0)
    values, keep = torch.ones(1, 8, WIDTH), (torch.arange(8)[None] < 4).float()
    assert reader(Prompt(values * keep[..., None], keep)).values.item() == 0.0


@torch.no_grad()
def test_the_last_states_of_the_lstm_are_those_of_the_plain_network() -> None:
    torch.manual_seed(0)
    reader = Recurrent(WIDTH, hidden=3)
    p = prompt(4, 4)
    out = reader.network(p.values)[0]
    padded = Prompt(torch.cat([p.values, torch.zeros(1, 3, WIDTH)], 1), torch.cat([p.keep, torch.zeros(1, 3)], 1))
    torch.testing.assert_close(reader(padded).values[0, 0], torch.cat([out[0, -1, :3], out[0, 0, 3:]]))


@torch.no_grad()
def test_layers_get_their_own_part_and_the_others_zeros() -> None:
    at = AtLayers([2, 3, 4], [0, 2], scale=0.5)
    values = torch.arange(6.0).reshape(1, 1, 6)
    assert at(Prompt(values, torch.ones(1, 1))).values[0, 0].tolist() == [0, 0.5, 0, 0, 0, 1, 1.5, 2, 2.5]
    assert at.shape(1, 6) == (1, 9)
