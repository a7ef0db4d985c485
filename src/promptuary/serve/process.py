"""The server as a process: it listens, and on SIGTERM or SIGINT finishes what it accepted, within a bounded time."""

import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from promptuary.backbones.backbone import Backbone
from promptuary.errors import SettingError
from promptuary.serve.answering import Answering
from promptuary.serve.app import application
from promptuary.serve.engine import Engine, Limits
from promptuary.serve.gate import LOOPBACK, Bounds, Gate
from promptuary.serve.keys import Guard
from promptuary.serve.logs import note
from promptuary.store import Store

CONNECTIONS = 4096
CLOSE_S = 5  # for connections of clients that do not take their answers


class Server(uvicorn.Server):
    """uvicorn that goes on listening while it finishes, so that new requests are told with 503 to go elsewhere.

    Arguments:
        finish_s: how long accepted requests may take after the signal. A second SIGINT ends them at once.
    """

    def __init__(self, gate: Gate, host: str, port: int, *, finish_s: float) -> None:
        config = uvicorn.Config(
            gate, host=host, port=port, log_config=None, access_log=False, server_header=False, lifespan="on",
            http="h11", limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=CLOSE_S,
        )  # fmt: skip
        super().__init__(config)
        self.gate, self.finish_s, self.silent_s = gate, finish_s, gate.bounds.timeout_s
        self._signal, self._ends, self._silent = 0, float("inf"), dict[Any, float]()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (own for server in self.servers for own in server.sockets):
            host, port = listener.getsockname()[:2]
            note("listening", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signal and sig == signal.SIGINT:  # not SIGTERM: some tools send it twice
            self.should_exit = self.force_exit = True
        self._signal = sig

    async def on_tick(self, counter: int) -> bool:
        self._drop_silent()
        if self._signal and not self.gate.draining:
            note("closing", signal=signal.Signals(self._signal).name, under_way=self.gate.open)
            self._ends = time.monotonic() + self.finish_s
            self.gate.drain()
        if self.gate.draining and (self.gate.open == 0 or time.monotonic() > self._ends):
            self.should_exit = True
        return await super().on_tick(counter)

    def _drop_silent(self) -> None:
        """Close connections on which no request comes: uvicorn waits for the rest of a request's head for ever."""
        now, seen, self._silent = time.monotonic(), self._silent, {}
        for connection in cast("set[H11Protocol]", self.server_state.connections):
            if connection.cycle is None or connection.cycle.response_complete:
                kept = (connection, connection.cycle)  # the cycle is another one after each request
                since = self._silent.setdefault(kept, seen.get(kept, now))
                if now - since > self.silent_s:
                    connection.transport.close()


def check_open(host: str, guard: Guard, *, allowed: bool) -> None:
    """Refuse to let a whole network ask without keys, unless that was said.

    Raises:
        SettingError: naming what to write instead.
    """
    if guard.open and host not in LOOPBACK and not allowed:
        raise SettingError(
            f"--host {host}: whoever reaches this machine could ask. Write --keys FILE (`promptuary key` makes one), "
            "or --open if that is meant."
        )


@dataclass(frozen=True)
class Front:
    """Where and to whom the application answers, whatever engine is behind it.

    Arguments:
        imports: see `Service`.
        anyone: without keys, answer under any name (see `Gate`) and beyond this machine.
    """

    host: str
    port: int
    guard: Guard
    bounds: Bounds
    imports: Path | None = None
    anyone: bool = False

    def run(self, answering: Answering, store: Store, **about: Any) -> None:
        """Answer for the prompts of a store until a signal ends it; `about` is for the log."""
        hosts = LOOPBACK if self.guard.open and not self.anyone else None
        gate = application(answering, store, guard=self.guard, bounds=self.bounds, imports=self.imports, hosts=hosts)
        note(
            "starting", backbone=store.backbone.name, store=str(store.folder), tasks=len(store.names()),
            keys=not self.guard.open, **about,
        )  # fmt: skip
        Server(gate, self.host, self.port, finish_s=self.bounds.timeout_s).run()
        note("closed")


def serve(backbone: Backbone, folder: Path, front: Front, limits: Limits, *, held_bytes: int) -> None:
    """Serve the prompts in a folder until a signal ends it; `held_bytes` as of `Store`."""
    store = Store(folder, backbone, held_bytes=held_bytes)
    front.run(Engine(store, limits), store, precision=str(backbone.dtype).removeprefix("torch."))
