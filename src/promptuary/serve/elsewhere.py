"""The application of `promptuary serve` before an engine that is elsewhere: a vLLM, or replicas on Ray."""

from pathlib import Path

from promptuary.backbones.backbone import Backbone
from promptuary.precision import Asked
from promptuary.serve.limits import Limits
from promptuary.serve.process import Front
from promptuary.store import Store


def gateway(
    backbone: Backbone, folder: Path, front: Front, upstream: str, *, prefixes: Path | None, key: str | None,
    at_once: int,
) -> None:  # fmt: skip
    """Answer for the prompts in a folder through the vLLM at `upstream`, until a signal ends it."""
    from promptuary.serve.upstream import Upstream

    store = Store(folder, backbone)
    front.run(Upstream(store, upstream, prefixes=prefixes, at_once=at_once, key=key), store, engine=upstream)


def replicated(
    backbone: Backbone, folder: Path, front: Front, count: int, *, device: str, precision: Asked, int8: str | None,
    cpus: float, gpus: float, limits: Limits, held_bytes: int,
) -> None:  # fmt: skip
    """Answer for the prompts in a folder by `count` replicas, until a signal ends it."""
    from promptuary.serve.ray import replicas

    store = Store(folder, backbone, held_bytes=held_bytes)
    with replicas(
        folder, backbone.name, count, device=device, precision=precision, int8=int8, cpus=cpus, gpus=gpus,
        limits=limits, held_bytes=held_bytes,
    ) as engine:  # fmt: skip
        front.run(engine, store, engine=f"{count} replicas", precision=precision)
