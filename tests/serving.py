"""Servers to ask: a store of tiny prompts, an engine that does only what a test tells it, a real socket in a thread."""

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptuary.backbones.generation import Generation
from promptuary.data.source import Row
from promptuary.kinds.classification import Answer
from promptuary.serve.engine import Load, Piece
from promptuary.serve.gate import Gate
from promptuary.serve.process import Server
from promptuary.tuned import Tuned
from tests.saved import SHORT, Shelf, done, lines

ADMIN = "the administrator's own token"
NOTES = [{"text": f"note {i} says box", "target": ("glass", "box of money")[i % 2]} for i in range(8)]
TAGGED = [{"tokens": ["the", "glass", "box"][: 1 + i % 3], "tags": ["O", "B-x", "O"][: 1 + i % 3]} for i in range(8)]
ASKED = [
    {"question": "what broke", "context": "the glass lid broke", "answers": {"text": ["lid"], "answer_start": [10]}}
] * 4


def tuned(
    shelf: Shelf, family: str, task: str, rows: Sequence[dict[str, Any]], *more: Any, name: str | None = None
) -> Path:
    """A prompt of some kind of task; `name` tells apart prompts of one kind."""
    out = shelf.place / "served" / family / (name or task)
    if not out.is_dir():
        data = lines(shelf.place / f"served-{name or task}.jsonl", rows)
        options = ["--task", task, "--train", data, "--validation", data, "--length", "3", *SHORT, *more]
        done("tune", "--backbone", shelf.model(family), *options, "--out", out)
    return out


def stocked(shelf: Shelf, family: str, place: Path) -> Path:
    """A store with one prompt of each kind: `mood`, `tags`, `spans`, and `notes` where the family writes."""
    prompts = {
        "mood": shelf.prompt(family, "prompt-tuning"),
        "tags": tuned(shelf, family, "tagging", TAGGED),
        "spans": tuned(shelf, family, "answering", ASKED),
    }
    if family != "bert":
        prompts["notes"] = tuned(shelf, family, "text", NOTES, "--max-new-tokens", "6")
    for name, folder in prompts.items():
        for file in ("manifest.json", "prompt.safetensors"):
            (place / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, place / name / file)
    return place


@dataclass
class Told:
    """An engine that says what it is told, when it is told, and remembers what was asked of it.

    Arguments:
        stuck: it never answers. wrong: it raises this instead. pieces: the texts that a task writes; endless: again and
            again, without an end.
    """

    stuck: bool = False
    wrong: Callable[[], Exception] | None = None
    pieces: Sequence[str] = ("one ", "two")
    endless: bool = False
    asked: list[Any] = field(default_factory=list)
    freed: threading.Event = field(default_factory=threading.Event)  # whether work was given up
    load: Load = field(default_factory=Load)
    alive: bool = True

    async def __aenter__(self) -> "Told":
        return self

    async def __aexit__(self, *raised: object) -> None: ...

    def admit(self, rows: int) -> None: ...

    async def predict(self, task: str, row: Row, *, version: Tuned | None = None) -> Answer:
        self.asked.append((version, row.fields))
        await self._wait()
        return Answer("good", 0.75, {"bad": 0.25, "good": 0.75})

    async def write(
        self, task: str | None, text: str, how: Generation, *, stop: Sequence[str] = (), version: Tuned | None = None
    ) -> AsyncIterator[Piece]:
        self.asked.append((version, text, how, tuple(stop)))
        try:
            for i, piece in enumerate(self.pieces):
                await self._wait()
                yield Piece(piece, (i,), "stop" if i == len(self.pieces) - 1 and not self.endless else None)
            while self.endless:
                await asyncio.sleep(0)
                yield Piece("more " * 2000, (1,), None)
        finally:
            self.freed.set()

    async def embed(self, task: str | None, text: str, *, version: Tuned | None = None) -> list[float]:
        await self._wait()
        return [0.5, -1.0, float(len(text))]

    async def _wait(self) -> None:
        if self.wrong is not None:
            raise self.wrong()
        if self.stuck:
            try:
                await asyncio.sleep(60)
            finally:
                self.freed.set()


@dataclass(frozen=True)
class Live:
    """A server that listens."""

    server: Server
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def signalled(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), json.loads(answer.read())
        finally:
            connection.close()

    @contextmanager
    def wire(self) -> Iterator[socket.socket]:
        """A connection to say anything on."""
        with socket.create_connection((self.host, self.port), timeout=20) as own:
            yield own


def head(path: str, length: int | None, *more: str) -> bytes:
    """The head of a POST with a body of `length` bytes; `None`: in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", size, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def heard(own: socket.socket) -> bytes:
    """Everything until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := own.recv(65536):
            found += data
    return found


@contextmanager
def live(gate: Gate, *, finish_s: float = 10.0) -> Iterator[Live]:
    """The application behind a real socket, in a thread of its own."""
    server = Server(gate, "127.0.0.1", 0, finish_s=finish_s)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield Live(server, host, port)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)
    return true()
