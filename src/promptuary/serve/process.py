"""The server as a process: it listens, and on SIGTERM or SIGINT finishes what it accepted, within a bounded time."""

import signal
import socket
import time
from pathlib import Path
from types import FrameType

import uvicorn

from promptuary.backbones.backbone import Backbone
from promptuary.errors import SettingError
from promptuary.serve.app import application
from promptuary.serve.engine import Engine, Limits
from promptuary.serve.gate import Bounds, Gate
from promptuary.serve.keys import Guard
from promptuary.serve.logs import note
from promptuary.store import Store

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECTIONS = 4096


class Server(uvicorn.Server):
    """uvicorn that goes on listening while it finishes, so that new requests are told with 503 to go elsewhere.

    Arguments:
        finish_s: how long accepted requests may take after the signal. A second signal ends them at once.
    """

    def __init__(self, gate: Gate, host: str, port: int, *, finish_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                gate, host=host, port=port, log_config=None, access_log=False, server_header=False,
                limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=5, lifespan="on",
            )  # fmt: skip
        )
        self.gate, self.finish_s, self._signal, self._ends = gate, finish_s, 0, float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (own for server in self.servers for own in server.sockets):
            host, port = listener.getsockname()[:2]
            note("listening", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signal:
            self.should_exit = self.force_exit = True
        self._signal = sig

    async def on_tick(self, counter: int) -> bool:
        if self._signal and not self.gate.draining:
            note("closing", signal=signal.Signals(self._signal).name, under_way=self.gate.open)
            self._ends = time.monotonic() + self.finish_s
            self.gate.drain()
        if self.gate.draining and (self.gate.open == 0 or time.monotonic() > self._ends):
            self.should_exit = True
        return await super().on_tick(counter)


def check_open(host: str, guard: Guard, *, allowed: bool) -> None:
    """Refuse to let a whole network ask without keys, unless that was said.

    Raises:
        SettingError: naming what to write instead.
    """
    if guard.open and host not in LOOPBACK and not allowed:
        raise SettingError(
            f"--host {host}: whoever reaches this machine could ask. Write --keys FILE (`promptuary key` makes one), or "
            "--open if that is meant."
        )


def serve(
    backbone: Backbone,
    folder: Path,
    *,
    host: str,
    port: int,
    limits: Limits,
    bounds: Bounds,
    guard: Guard,
    imports: Path | None,
) -> None:
    """Serve the prompts in a folder until a signal ends it."""
    store = Store(folder, backbone)
    gate = application(Engine(store, limits), store, guard=guard, bounds=bounds, imports=imports)
    note("starting", backbone=backbone.name, store=str(folder), tasks=len(store.names()), keys=not guard.open)
    Server(gate, host, port, finish_s=bounds.timeout_s).run()
    note("closed")
