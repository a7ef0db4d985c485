"""Linear layers of a frozen model on a CPU are linear layers: against einsum in float64, and the layer as it was."""

import copy
import gc
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from promptuary.backbones import cpu_linear
from promptuary.backbones.cpu_linear import FrozenConv1D, FrozenLinear, prepare, product
from promptuary.backbones.measured import FOLDER, measured
from promptuary.errors import SettingError
from tests.backbones import FAMILIES, fresh

CLOSE = 1e-5


def parts(*rows: int, bias: bool = True, transposed: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(*rows, 24, generator=source)
    weight = torch.randn(24, 40, generator=source).t() if transposed else torch.randn(40, 24, generator=source)
    return x, weight, torch.randn(40, generator=source) if bias else None, torch.randn(*rows, 40, generator=source)


@pytest.mark.parametrize("rows", [(7,), (1, 1), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_results_and_gradients_are_those_of_float64(rows: tuple[int, ...], bias: bool, transposed: bool) -> None:
    x, weight, offset, back = parts(*rows, bias=bias, transposed=transposed)
    exact = x.double().requires_grad_()
    expected = torch.einsum("...i,oi->...o", exact, weight.double()) + (0 if offset is None else offset.double())
    expected.backward(back.double())
    ours = x.clone().requires_grad_()
    found = product(ours, weight, offset)
    found.backward(back)
    assert exact.grad is not None
    assert ours.grad is not None
    assert (expected - found.double()).abs().max() < CLOSE * expected.abs().max()
    assert (exact.grad - ours.grad.double()).abs().max() < CLOSE * exact.grad.abs().max()
    with torch.no_grad():
        assert torch.equal(product(x, weight, offset), found)


def test_rows_that_lie_apart_in_memory_are_read_where_they_lie() -> None:
    x, weight, offset, _ = parts(5, 6)
    assert torch.allclose(product(x.transpose(0, 1), weight, offset).transpose(0, 1), product(x, weight, offset))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prepared_model_is_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, weights and answers stay, for every family; a copy is prepared too."""
    monkeypatch.setattr(cpu_linear, "pays", lambda: True)
    model = fresh(family).requires_grad_(False).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    weights, plain = {n: p.clone() for n, p in model.named_parameters()}, model(input_ids=ids, **more).logits
    prepare(model)
    kinds = {type(m) for m in model.modules()}
    assert not kinds & {nn.Linear, Conv1D}
    assert kinds & {FrozenLinear, FrozenConv1D}
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    found = model(input_ids=ids, **more).logits
    assert (found - plain).abs().max() <= CLOSE * plain.abs().max()


def layer(transposed: bool, bias: bool = True, *, inputs: int = 64, outputs: int = 96) -> nn.Module:
    """A frozen layer in bfloat16."""
    source = torch.Generator().manual_seed(3)
    made: nn.Module = FrozenConv1D(outputs, inputs) if transposed else FrozenLinear(inputs, outputs, bias=bias)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=source).bfloat16()
    return made.requires_grad_(False)


@pytest.fixture
def laying(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where it is faster."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor's oneDNN has no products of bfloat16")
    monkeypatch.setattr(cpu_linear, "lays", lambda: True)


@pytest.mark.usefixtures("laying")
@pytest.mark.parametrize("tokens", [1, 7, 2 * cpu_linear.FEW])
@pytest.mark.parametrize(("transposed", "bias"), [(False, True), (False, False), (True, True)])
def test_laid_out_weights_say_what_float64_says_to_the_last_place(tokens: int, transposed: bool, bias: bool) -> None:
    frozen = layer(transposed, bias)
    source = torch.Generator().manual_seed(4)
    x, back = (torch.randn(2, tokens, n, generator=source).bfloat16() for n in (64, 96))
    weight = frozen.weight.double().t() if transposed else frozen.weight.double()
    exact = x.double().requires_grad_()
    offset = frozen.bias.double() if frozen.bias is not None else 0.0
    expected = torch.einsum("...i,oi->...o", exact, weight) + offset
    expected.backward(back.double())
    assert exact.grad is not None
    for casting in (False, True):
        ours = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=casting):
            found = frozen(ours)
        found.backward(back)
        assert ours.grad is not None
        for got, true in ((found, expected), (ours.grad, exact.grad)):
            assert got.dtype == torch.bfloat16
            assert (got.double() - true).abs().max() <= 2**-8 * true.abs().max()
        with torch.no_grad():
            assert torch.equal(frozen(x), found)
    known = cpu_linear._LAYOUTS[frozen].by_pass
    assert set(known) == ({False} if 2 * tokens > cpu_linear.FEW else {False, True})


@pytest.mark.usefixtures("laying")
def test_a_weight_that_changed_is_laid_out_anew() -> None:
    frozen, x = layer(False), torch.ones(3, 64).bfloat16()
    before = frozen(x)
    with torch.no_grad():
        frozen.weight.mul_(2.0)
        assert torch.allclose(frozen(x) - frozen.bias, 2 * (before - frozen.bias), atol=0.5)
        frozen.weight = nn.Parameter(torch.zeros(96, 64, dtype=torch.bfloat16), requires_grad=False)
    assert torch.equal(frozen(x), frozen.bias.expand(3, -1))
    assert cpu_linear._LAYOUTS[frozen].bytes == 2 * 64 * 96  # what was laid out before is no more
    twin = copy.deepcopy(frozen)
    with torch.no_grad():
        twin.weight.fill_(1.0)
    assert not torch.equal(twin(x), frozen(x))


@pytest.mark.usefixtures("laying")
def test_what_is_laid_out_has_room_and_goes_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    others, x = sum(own.bytes for own in cpu_linear._LAYOUTS.values()), torch.ones(3, 64).bfloat16()
    first, second = layer(False), layer(False)
    monkeypatch.setattr(cpu_linear, "ROOM", others + 2 * 64 * 96)
    assert torch.equal(first(x), second(x))
    assert (cpu_linear._LAYOUTS[first].bytes, cpu_linear._LAYOUTS[second].bytes) == (2 * 64 * 96, 0)
    del first
    gc.collect()
    assert sum(own.bytes for own in cpu_linear._LAYOUTS.values()) == others


@pytest.mark.usefixtures("laying")
def test_what_is_multiplied_otherwise_gives_its_room_back_and_weights_of_inference_take_none() -> None:
    frozen, x = layer(False), torch.ones(3, 64).bfloat16()
    frozen(x)
    cpu_linear.forget(frozen)
    assert frozen not in cpu_linear._LAYOUTS
    with torch.inference_mode():
        own = layer(False)
        assert torch.equal(own(x), frozen(x))
    assert own not in cpu_linear._LAYOUTS


@pytest.mark.usefixtures("laying")
def test_layers_are_laid_out_by_several_threads_at_once() -> None:
    layers, x = [layer(False) for _ in range(24)], torch.ones(2, 64).bfloat16()
    with ThreadPoolExecutor(8) as pool, torch.inference_mode():
        found = list(pool.map(lambda frozen: frozen(x), layers * 4))
    assert all(torch.equal(one, found[0]) for one in found)
    layers[0](x.requires_grad_()).sum().backward()  # what inference laid out may be trained through
    assert x.grad is not None


def test_what_does_not_suit_takes_the_plain_road(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FrozenLinear(24, 40)
    x, _, _, back = parts(3)
    monkeypatch.setattr(cpu_linear, "pays", lambda: True)
    with monkeypatch.context() as no:
        no.setattr(cpu_linear, "product", lambda *_: pytest.fail("took oneDNN's"))
        layer(x).backward(back)  # its weight is trained
        assert layer.weight.grad is not None
        layer.requires_grad_(False)
        layer.double()(x.double())
        layer.float()(x[:0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_where_it_does_not_pay_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in ("pays", "lays"):
        monkeypatch.setattr(cpu_linear, way, lambda: False)
    model = nn.Sequential(nn.Linear(2, 3), Conv1D(3, 2))
    prepare(model)
    assert [type(m) for m in model] == [nn.Linear, Conv1D]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of which nothing is known: where it is kept, once it is."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.delenv(cpu_linear.PRODUCTS, raising=False)
    return tmp_path / FOLDER


@pytest.mark.parametrize("decided", [cpu_linear.pays, cpu_linear.lays])
def test_a_process_under_another_load_decides_as_the_first_one_did(
    decided: Any, unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decided is cpu_linear.lays and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor's oneDNN has no products of bfloat16")
    for faster, shown, more in ((True, True, 1), (False, True, 1)):
        monkeypatch.setattr(cpu_linear, "_faster", lambda *_, faster=faster: faster)
        assert decided.__wrapped__() is shown
        assert len(list(unmeasured.iterdir())) == more
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert decided.__wrapped__() is False


@pytest.mark.parametrize("word", ["onednn", "plain", "measured"])
def test_the_environment_says_which_road_products_take(
    word: str, unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cpu_linear.PRODUCTS, word)
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for faster in (True, False):
        monkeypatch.setattr(cpu_linear, "_faster", lambda *_, faster=faster: faster)
        wanted = word != "plain"  # the first measurement holds
        assert (cpu_linear.pays.__wrapped__(), cpu_linear.lays.__wrapped__()) == (wanted, wanted and bf16)
    assert unmeasured.exists() == (word == "measured")
    monkeypatch.setenv(cpu_linear.PRODUCTS, "fast")
    with pytest.raises(SettingError, match=r"PROMPTUARY_PRODUCTS='fast'.*expected 'onednn', 'plain'"):
        cpu_linear.pays.__wrapped__()


def test_the_first_process_to_finish_says_what_holds(unmeasured: Path) -> None:
    def meanwhile() -> float:
        assert measured("a race", lambda: 1.0) == 1.0
        return 2.0

    assert measured("a race", meanwhile) == 1.0
    assert measured("another", lambda: 2.0) == 2.0
    assert [path.suffix for path in unmeasured.iterdir()] == [".json"] * 2  # nothing half done is left


def test_what_cannot_be_read_or_written_is_measured_each_time(unmeasured: Path) -> None:
    assert measured("a time", lambda: 1.0) == 1.0
    [path] = unmeasured.iterdir()
    for damage in (b"", b"[]", b'{"value": "1.0"}', b"\xff"):
        path.write_bytes(damage)
        assert measured("a time", lambda: 3.0) == 3.0
    path.unlink()
    unmeasured.rmdir()
    unmeasured.write_text("no folder")
    assert measured("a time", lambda: 4.0) == 4.0


def test_the_cost_of_bfloat16_is_a_ratio_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "_seconds", lambda way: 3.0 if way().dtype == torch.bfloat16 else 1.5)
    assert cpu_linear._bfloat16_cost() == 2.0


def test_what_else_the_machine_does_for_a_while_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def costing(seconds: float) -> Callable[[], Any]:
        return lambda: seconds

    for begins, (plain, faster) in itertools.product(range(24), ((1.5, True), (1.0, False), (0.5, False))):
        slow = (3 if begins <= call < begins + 8 else 1 for call in itertools.count())
        monkeypatch.setattr(cpu_linear, "_seconds", lambda way, slow=slow: way() * next(slow))
        assert cpu_linear._faster(costing(plain), costing(1.0)) is faster
