"""`promptuary gateway`: the application of `promptuary serve` in front of a vLLM that does the writing."""

from pathlib import Path

from promptuary.backbones.backbone import Backbone
from promptuary.serve.app import application
from promptuary.serve.gate import Bounds
from promptuary.serve.keys import Guard
from promptuary.serve.logs import note
from promptuary.serve.process import Server
from promptuary.serve.upstream import Upstream
from promptuary.store import Store


def gateway(
    backbone: Backbone,
    folder: Path,
    upstream: str,
    *,
    prefixes: Path | None,
    key: str | None,
    at_once: int,
    host: str,
    port: int,
    bounds: Bounds,
    guard: Guard,
) -> None:
    """Answer for the prompts in a folder through the vLLM at `upstream`, until a signal ends it."""
    store = Store(folder, backbone)
    engine = Upstream(store, upstream, prefixes=prefixes, at_once=at_once, key=key)
    gate = application(engine, store, guard=guard, bounds=bounds)
    note("starting", backbone=backbone.name, store=str(folder), tasks=len(store.names()), upstream=upstream)
    Server(gate, host, port, finish_s=bounds.timeout_s).run()
    note("closed")
