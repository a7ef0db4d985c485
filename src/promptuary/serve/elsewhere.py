"""The application of `promptuary serve` before an engine that is elsewhere: a vLLM, or replicas on Ray."""

from pathlib import Path

from promptuary.backbones.backbone import Backbone
from promptuary.serve.answering import Answering
from promptuary.serve.app import application
from promptuary.serve.gate import Bounds
from promptuary.serve.keys import Guard
from promptuary.serve.limits import Limits
from promptuary.serve.logs import note
from promptuary.serve.process import Server
from promptuary.store import Store


def gateway(
    backbone: Backbone, folder: Path, upstream: str, *, prefixes: Path | None, key: str | None, at_once: int,
    host: str, port: int, bounds: Bounds, guard: Guard,
) -> None:  # fmt: skip
    """Answer for the prompts in a folder through the vLLM at `upstream`, until a signal ends it."""
    from promptuary.serve.upstream import Upstream

    store = Store(folder, backbone)
    engine = Upstream(store, upstream, prefixes=prefixes, at_once=at_once, key=key)
    _listen(engine, store, host=host, port=port, bounds=bounds, guard=guard, engine=upstream)


def replicated(
    backbone: Backbone, folder: Path, count: int, *, device: str, cpus: float, gpus: float, limits: Limits,
    host: str, port: int, bounds: Bounds, guard: Guard,
) -> None:  # fmt: skip
    """Answer for the prompts in a folder by `count` replicas, until a signal ends it."""
    from promptuary.serve.ray import replicas

    store = Store(folder, backbone)
    with replicas(folder, backbone.name, count, device=device, cpus=cpus, gpus=gpus, limits=limits) as engine:
        _listen(engine, store, host=host, port=port, bounds=bounds, guard=guard, engine=f"{count} replicas")


def _listen(
    answering: Answering, store: Store, *, host: str, port: int, bounds: Bounds, guard: Guard, engine: str
) -> None:
    gate = application(answering, store, guard=guard, bounds=bounds)
    note("starting", backbone=store.backbone.name, store=str(store.folder), tasks=len(store.names()), engine=engine)
    Server(gate, host, port, finish_s=bounds.timeout_s).run()
    note("closed")
