"""What goes to vLLM, against the bare model: rows of embeddings, and prefixes as a cache whose positions count.

vLLM itself is not needed here: `benchmarks/interop/bridge.py` runs the real one. The connector meets the few classes
of vLLM that it is written against as stand-ins.
"""

import base64
import importlib
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from promptuary.assembly import prompted
from promptuary.errors import BackboneError, SettingError
from promptuary.interop.prefixes import named, salt
from promptuary.interop.vllm import Embedded, Prefixed, bridge
from promptuary.model import SoftPrompted
from promptuary.values import Instance
from tests.answers import EXACT, gap
from tests.backbones import backbone, bare

P = 5
TEXTS = [[7, 21, 63], [12, 90, 33, 8, 41]]


def model(family: str, method: str, **settings: Any) -> SoftPrompted:
    made = prompted(backbone(family), method, {"length": P, **settings}, init=None, seed=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.linspace(0, parameter.numel(), parameter.numel()).sin().view(parameter.shape))
    return made.eval()


def instance(m: SoftPrompted, *, left: bool = True) -> Instance:
    length = max(map(len, TEXTS))
    rows = [[0] * (length - len(t)) + t if left else t + [0] * (length - len(t)) for t in TEXTS]
    keep = [[bool(i) for i in row] for row in rows]
    return m.instance(torch.tensor(rows), torch.tensor(keep))


def alone(m: SoftPrompted, text: list[int]) -> Tensor:
    """Our scores of a text by itself."""
    ids = torch.tensor([text])
    out = m(m.instance(ids, torch.ones_like(ids, dtype=torch.bool)))
    return out.logits(out.hidden)[0, -1]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("prompt-tuning", {}),
        ("prompt-tuning", {"before": 2, "head": 1, "tail": 1}),
        ("ipt", {}),
        ("dp-position-instance", {}),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_the_bare_model_says_of_the_row_what_we_say(family: str, method: str, settings: Any, left: bool) -> None:
    m = model(family, method, **settings)
    requests = bridge(m)(instance(m, left=left))
    for request, text in zip(requests, TEXTS, strict=True):
        assert isinstance(request, Embedded)
        found = bare(family)(inputs_embeds=request.prompt()["prompt_embeds"][None]).logits[0, -1]
        assert gap(found, alone(m, text)) <= EXACT


def test_on_the_wire_a_row_is_its_own_tensor_and_no_more() -> None:
    m = model("llama", "prompt-tuning")
    [request, _] = bridge(m)(instance(m))
    assert isinstance(request, Embedded)
    data = base64.b64decode(request.body()["prompt_embeds"], validate=True)
    assert torch.equal(torch.load(io.BytesIO(data), weights_only=True), request.row)
    small = io.BytesIO()
    torch.save(torch.zeros_like(request.row), small)
    assert len(data) <= len(small.getvalue()) + 64


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("llama", {"counted": True}), ("qwen3", {}), ("neox", {}), ("gpt2", {"counted": True})],
)
@torch.no_grad()
def test_a_prefix_in_a_cache_with_positions_says_what_we_say(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    m = model(family, "p-tuning-v2", **settings)
    requests = bridge(m, prefixes=tmp_path)(instance(m))
    [file] = tmp_path.iterdir()
    held = load_file(file)
    for request, text in zip(requests, TEXTS, strict=True):
        assert isinstance(request, Prefixed)
        assert request.prompt() == {"prompt_token_ids": [0] * P + text, "cache_salt": salt(file.stem, P)}
        assert request.body() == {"prompt": [0] * P + text, "cache_salt": salt(file.stem, P)}
        cache = DynamicCache()
        for layer, a in enumerate(m.backbone.shape.attention):
            key, value = (held[f"{kind}.{layer}"].unflatten(1, (a.heads, -1)) for kind in ("key", "value"))
            cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
        found = bare(family)(input_ids=torch.tensor([text]), past_key_values=cache).logits[0, -1]
        assert gap(found, alone(m, text)) <= EXACT


def test_a_prefix_with_other_numbers_has_another_name(tmp_path: Path) -> None:
    one, other = model("llama", "p-tuning-v2"), model("llama", "p-tuning-v2")
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    for m in (one, one, other):
        bridge(m, prefixes=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


REFUSED: dict[str, tuple[str, str, type[Exception], str]] = {
    "an encoder": ("bert", "prompt-tuning", BackboneError, "promptuary serve"),
    "a text-to-text model": ("t5", "prompt-tuning", BackboneError, "promptuary serve"),
    "hidden states": ("llama", "deep-prompt-tuning", SettingError, "'p-tuning-v2' can"),
    "a prefix made from the input": ("llama", "ipt-prefix", SettingError, "'ipt'"),
    "a prefix in windows": ("mistral", "p-tuning-v2", SettingError, "in the row"),
    "a prefix without positions where they are added": ("gpt2", "p-tuning-v2", BackboneError, "counted=true"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_go_to_vllm_is_told_with_what_can(which: str, tmp_path: Path) -> None:
    family, method, kind, instead = REFUSED[which]
    with pytest.raises(kind, match=instead):
        bridge(model(family, method), prefixes=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_prefix_needs_a_folder() -> None:
    with pytest.raises(SettingError, match="--prefixes"):
        bridge(model("llama", "p-tuning-v2"))


def test_salts_of_others_name_no_prefix() -> None:
    assert named(salt("0" * 32, 7)) == ("0" * 32, 7)
    for other in (None, "", "secret", "promptuary:0:" + "0" * 32, "promptuary:7:../../etc/passwd", salt("0" * 31, 7)):
        assert named(other) is None


# --- the connector ----------------------------------------------------------------------------------------------------

SIZE = 4  # tokens of a block


class Base:
    """What `KVConnectorBase_V1` of vLLM 0.32 keeps for its heirs."""

    def __init__(self, config: Any, role: Any, cache: Any) -> None:
        self._kv_transfer_config, self._metadata = config.kv_transfer_config, None

    def _get_connector_metadata(self) -> Any:
        return self._metadata


class Layer:
    """An attention layer whose backend keeps `[slots, heads, numbers]`."""

    num_kv_heads, kv_cache_torch_dtype = 2, torch.float32

    def __init__(self, blocks: int) -> None:
        self.kv_cache, self.impl = torch.zeros(2, blocks * SIZE, 2, 8), self

    def do_kv_cache_update(self, layer: Any, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        cache[0, slots], cache[1, slots] = key[..., :8], value[..., :8]  # kernels trust their callers


@pytest.fixture
def connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    stand_ins = {
        "vllm.distributed.kv_transfer.kv_connector.v1.base": {
            "KVConnectorBase_V1": Base,
            "KVConnectorMetadata": object,
        },
        "vllm.logger": {"init_logger": lambda name: SimpleNamespace(error=lambda *told: None)},
        "vllm.model_executor.models.utils": {"extract_layer_index": lambda name: int(name.split(".")[1])},
    }
    for name in stand_ins:
        for i in range(name.count(".") + 1):
            monkeypatch.setitem(sys.modules, name.rsplit(".", i)[0], ModuleType(name.rsplit(".", i)[0]))
    for name, members in stand_ins.items():
        vars(sys.modules[name]).update(members)
    monkeypatch.delitem(sys.modules, "promptuary.interop.connector", raising=False)
    module = importlib.import_module("promptuary.interop.connector")
    monkeypatch.delitem(sys.modules, "promptuary.interop.connector")
    return lambda folder=tmp_path, processes=1: module.PrefixConnector(configured(folder, processes), None, None)


def configured(folder: Path | None, processes: int) -> Any:
    extra = {} if folder is None else {"prefixes": str(folder)}
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(get_from_extra_config=lambda name, default: extra.get(name, default)),
        parallel_config=SimpleNamespace(world_size=processes),
        cache_config=SimpleNamespace(block_size=SIZE),
    )


def step(made: Any, request: Any, known: int, blocks: list[int], layers: dict[str, Layer]) -> tuple[int, set[int]]:
    """One request through a step of the scheduler and one of the worker, in vLLM's order."""
    external, later = made.get_num_new_matched_tokens(request, known)
    assert later is False
    made.update_state_after_alloc(request, SimpleNamespace(get_block_ids=lambda: (blocks,)), external)
    made._metadata = made.build_connector_meta(None)
    made.start_load_kv(SimpleNamespace(no_compile_layers={**layers, "moe": SimpleNamespace()}))
    return external, made.get_block_ids_with_load_errors()


def test_the_connector_writes_a_prefix_into_the_slots_of_its_request(connector: Any, tmp_path: Path) -> None:
    m = model("llama", "p-tuning-v2")
    bridge(m, prefixes=tmp_path)
    [file] = tmp_path.iterdir()
    request = SimpleNamespace(cache_salt=salt(file.stem, P), num_tokens=P + 3)
    for known, first in ((0, 0), (SIZE, SIZE)):  # nothing cached; the first block cached
        layers = {f"layers.{i}.attn": Layer(9) for i in range(2)}
        external, failed = step(connector(), request, known, [6, 2], layers)
        assert (external, failed) == (P - known, set())
        slots = [24, 25, 26, 27, 8][first:]
        for i, layer in enumerate(layers.values()):
            for n, kind in enumerate(("key", "value")):
                expected = load_file(file)[f"{kind}.{i}"].view(P, 2, 8)[first:]
                assert torch.equal(layer.kv_cache[n, slots], expected)
                assert int((layer.kv_cache[n].abs().sum((1, 2)) > 0).sum()) == len(slots)


@pytest.mark.parametrize("text", ["secret", None])
def test_requests_without_a_prefix_are_left_alone(connector: Any, text: str | None) -> None:
    layers = {"layers.0.attn": Layer(9)}
    request = SimpleNamespace(cache_salt=text, num_tokens=9)
    assert step(connector(), request, 0, [6, 2, 3], layers) == (0, set())
    assert not layers["layers.0.attn"].kv_cache.any()


def test_a_prefix_that_is_cached_whole_or_leaves_no_text_is_not_loaded(connector: Any) -> None:
    made = connector()
    for tokens, known in ((20, 8), (P, 0)):
        request = SimpleNamespace(cache_salt=salt("0" * 32, P), num_tokens=tokens)
        assert step(made, request, known, [1, 2, 3, 4, 5], {}) == (0, set())


def test_a_prefix_that_is_missing_or_has_another_length_fails_its_own_blocks_only(
    connector: Any, tmp_path: Path
) -> None:
    made, layers = connector(), {"layers.0.attn": Layer(9)}
    absent = SimpleNamespace(cache_salt=salt("0" * 32, P), num_tokens=P + 3)
    assert step(made, absent, 0, [6, 2], layers) == (P, {6, 2})
    bridge(model("llama", "p-tuning-v2"), prefixes=tmp_path)
    [file] = tmp_path.iterdir()
    for length, touched in ((P + 1, {6, 2}), (P - 1, {6})):
        other = SimpleNamespace(cache_salt=salt(file.stem, length), num_tokens=P + 3)
        assert step(made, other, 0, [6, 2], layers) == (length, touched)
    right = SimpleNamespace(cache_salt=salt(file.stem, P), num_tokens=P + 3)
    assert step(made, right, 0, [6, 2], layers) == (P, set())


def test_the_connector_says_what_it_needs(connector: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'prefixes': 'FOLDER'"):
        connector(folder=None)
    with pytest.raises(ValueError, match="2 processes"):
        connector(processes=2)
