"""Inside vLLM: a KV connector that lays soft keys and values into the paged cache, as if they had been computed.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "PrefixConnector", "kv_role": "kv_consumer",
        "kv_connector_module_path": "promptuary.interop.connector",
        "kv_connector_extra_config": {"prefixes": "FOLDER"}}'

It runs in vLLM's own environment and needs no more of this library than `pip install --no-deps promptuary` brings.

A request asks for a prefix by its `cache_salt` (`prefixes.py`), which keeps whatever vLLM caches behind one prefix from
every other; its first tokens stand for the prefix and are never computed. The scheduler's half says that so many tokens
are known elsewhere, and notes the slots they got. The worker's half writes the prefix there before the step that
attends to it, by the attention backend's own way to write, whatever layout that keeps. A file that is missing or does
not fit fails that request and no other. Written against vLLM 0.32, whose connectors may change with any release.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.logger import init_logger
from vllm.model_executor.models.utils import extract_layer_index

from promptuary.interop.prefixes import KEY, VALUE, named

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

HELD = 256  # prefixes in a worker's memory; the one that was used longest ago goes first

logger = init_logger(__name__)


@dataclass(frozen=True)
class Load:
    """Tokens `first` to `length` of a prefix, the blocks of their request, and each one's slot in the paged cache."""

    name: str
    first: int
    length: int
    blocks: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass
class Loads(KVConnectorMetadata):  # type: ignore[misc]
    """What the worker writes before a step."""

    loads: list[Load] = field(default_factory=list)


class PrefixConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Soft keys and values by the salt of a request.

    Raises:
        ValueError: without a folder of prefixes, and for a model that is spread over several processes.
    """

    def __init__(self, vllm_config: "VllmConfig", role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        folder = self._kv_transfer_config.get_from_extra_config("prefixes", None)
        if folder is None or vllm_config.parallel_config.world_size > 1:
            raise ValueError(
                "PrefixConnector: expected kv_connector_extra_config {'prefixes': 'FOLDER'} and a model in one process "
                f"(given: prefixes={folder!r}, {vllm_config.parallel_config.world_size} processes)."
            )
        self._folder, self._size = Path(folder), vllm_config.cache_config.block_size
        self._noted: list[Load] = []
        self._held: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._failed: set[int] = set()

    # --- in the scheduler ---------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int, bool]:
        prefix = named(request.cache_salt)
        if prefix is None or prefix[1] >= request.num_tokens:
            return 0, False
        return max(0, prefix[1] - num_computed_tokens), False

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        prefix = named(request.cache_salt)
        if prefix is None or num_external_tokens == 0:
            return
        (name, length), own = prefix, blocks.get_block_ids()[0]
        places = range(length - num_external_tokens, length)
        slots = tuple(own[i // self._size] * self._size + i % self._size for i in places)
        touched = tuple({own[i // self._size] for i in places})
        self._noted.append(Load(name, places.start, length, touched, slots))

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> Loads:
        noted, self._noted = self._noted, []
        return Loads(noted)

    # --- in the worker ------------------------------------------------------------------------------------------------

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Loads)
        known = forward_context.no_compile_layers.items()
        layers = {name: layer for name, layer in known if hasattr(layer, "kv_cache")}
        for load in metadata.loads:
            try:
                self._written(load, layers)
            except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
                logger.error("The prefix %s could not be loaded: %s", load.name, error)
                self._failed.update(load.blocks)

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._failed = self._failed, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a prefix is there when its step begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing to save: prefixes are tuned, not computed."""

    def wait_for_save(self) -> None:
        """Nothing to wait for."""

    def _written(self, load: Load, layers: dict[str, Any]) -> None:
        prefix = self._prefix(load.name)
        slots = torch.tensor(load.slots)
        for name, layer in layers.items():
            index = extract_layer_index(name)
            key, value = (prefix[f"{kind}.{index}"] for kind in (KEY, VALUE))
            if len(key) != load.length:
                raise ValueError(f"it has {len(key)} tokens, the request says {load.length}")
            cache = layer.kv_cache
            rows = [
                t[load.first :].to(cache.device, layer.kv_cache_torch_dtype).view(len(slots), layer.num_kv_heads, -1)
                for t in (key, value)
            ]
            layer.impl.do_kv_cache_update(layer, *rows, cache, slots.to(cache.device))

    def _prefix(self, name: str) -> dict[str, torch.Tensor]:
        if name not in self._held:
            self._held[name] = load_file(self._folder / f"{name}.safetensors")
        self._held.move_to_end(name)
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return self._held[name]
