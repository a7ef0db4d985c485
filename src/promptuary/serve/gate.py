"""What every request passes, whatever it asks for: who is it, is there room, how large is it, is it still there.

Plain ASGI around the application. A request is refused before its body is read where that can be known; the body is
counted while it is read, whatever its headers say; and when the client leaves, the work is cancelled, which frees its
rows in the engine. A client that reads or writes too slowly holds a connection, never the engine, and not for long.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptuary.serve.faults import Fault, fault_of
from promptuary.serve.keys import Guard
from promptuary.serve.logs import note
from promptuary.serve.metrics import Metrics
from promptuary.serve.streams import ended

LINGER_S = 1.0  # how long too large a body is thrown away before it is refused: whoever is writing does not listen
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")  # labels of a metric are few
GONE = 499  # for logs and metrics: the client left
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BODY, UPLOAD = "--max-body-bytes", "--max-upload-bytes"  # the options that say how large a body may be
OPEN = ("/healthz", "/readyz", "/openapi.json", "/favicon.ico", "/", "/page/")  # nothing of the store is told there
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Bounds:
    """What a request may take.

    Arguments:
        body_bytes: of a body; upload_bytes: of the administrator's.
        timeout_s: for an answer, for a body to arrive, and for a client to take what it is sent.
    """

    body_bytes: int = 1 << 20
    upload_bytes: int = 64 << 20
    timeout_s: float = 60.0


class GoneError(Exception):
    """The client left, or stopped reading."""


class Gate:
    """Around `app`; `open` counts the requests under way.

    Arguments:
        hosts: the names by which the server may be called; `None`: any. Where no keys are asked for, a page from
            elsewhere could otherwise reach a server on its reader's machine under a name of its own (DNS rebinding).
    """

    def __init__(
        self, app: ASGIApp, *, guard: Guard, metrics: Metrics, bounds: Bounds, hosts: Sequence[str] | None = None
    ) -> None:
        self.app, self.guard, self.metrics, self.bounds, self.hosts = app, guard, metrics, bounds, hosts
        self.open, self.draining = 0, False

    def drain(self) -> None:
        """From now on let nobody in; who is in may finish."""
        self.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reply = _Reply(send, self.bounds.timeout_s, closes=self.draining)
        scope["state"] = {**scope.get("state", {}), "told": {}}
        began = time.perf_counter()
        self.open += 1
        self.metrics.open.inc()
        try:
            await self._answered(scope, receive, reply)
        except GoneError:
            reply.status = GONE
        except asyncio.CancelledError:
            reply.status = GONE
            raise
        finally:
            self.open -= 1
            self.metrics.open.dec()
            self._noted(scope, reply, time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        try:
            await self._passed(scope, receive, reply)
        except GoneError:
            raise
        except Exception as error:
            fault = fault_of(error)
            if fault.status_code == 500:
                note("failed", logging.ERROR, trace=True, id=reply.id, path=scope["path"])
            if reply.done:  # the application answered, and wants to be heard as well
                return
            if reply.started:
                raise GoneError from error
            scope["state"]["told"]["code"] = fault.code
            await fault.response()(scope, receive, reply)

    async def _passed(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        path = scope["path"]
        if self.draining and path not in ("/healthz", "/readyz", "/metrics"):
            raise Fault(503, "The server is closing. Ask another one, or again later.", code="closing", retry_after_s=5)
        headers = dict(scope["headers"])
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        if path in OPEN or path.startswith("/page/"):
            await self.app(scope, receive, reply)
            return
        caller = self.guard.caller(headers.get(b"authorization", b"").decode("latin-1") or None)
        scope["state"]["caller"] = caller
        scope["state"]["told"]["caller"] = caller.name
        own = self.bounds
        most, option = (own.upload_bytes, UPLOAD) if caller.admin else (own.body_bytes, BODY)
        body = await _body(headers, receive, most, option, own.timeout_s)
        await _while_there(self.app, scope, body, receive, reply)

    def _check_host(self, called: str) -> None:
        name = called.rpartition("]")[0].lstrip("[") if called.startswith("[") else called.partition(":")[0]
        if self.hosts is not None and name not in self.hosts:
            sentence = (
                f"This server is not called {name!r}. Call it {self.hosts[0]!r}, or start it with --keys or --open."
            )
            raise Fault(421, sentence, code="wrong_host")

    def _noted(self, scope: Scope, reply: "_Reply", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        status = str(reply.status)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        quiet = route in ("/healthz", "/readyz", "/metrics")
        note(
            "request", logging.DEBUG if quiet else logging.INFO, id=reply.id, method=scope["method"], route=route,
            status=reply.status, ms=round(1000 * seconds, 1), **scope["state"]["told"],
        )  # fmt: skip


class _Reply:
    """The way out: adds the headers that every answer has, knows what was sent, and gives up on who does not read."""

    def __init__(self, send: Send, stall_s: float, *, closes: bool) -> None:
        self._send, self._stall_s, self._closes = send, stall_s, closes
        self.id = secrets.token_hex(8)
        self.status = 0
        self.started = self.done = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message = {**message, "headers": self._headers(message["headers"])}
        elif message["type"] == "http.response.body":
            self.done = not message.get("more_body", False)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError as error:
            raise GoneError from error

    def _headers(self, own: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        given = {name.lower() for name, _ in own}
        more = {**HEADERS, "X-Request-Id": self.id} | ({"Connection": "close"} if self._closes else {})
        lacking = [(n.lower().encode(), v.encode()) for n, v in more.items() if n.lower().encode() not in given]
        return [*own, *lacking]


async def _body(headers: Mapping[bytes, bytes], receive: Receive, most: int, option: str, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        Fault: 413 when it is larger than `most` bytes, which `option` can change; 408 when it does not arrive.
        GoneError: when the client leaves.
    """
    told = headers.get(b"content-length", b"0")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await _next(receive)
                body += message.get("body", b"")
                if len(body) > most or (told.isdigit() and int(told) > most):
                    break
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        sentence = f"The body did not arrive within {timeout_s:g} s."
        raise Fault(408, sentence, code="slow_body", closes=True) from error
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while message.get("more_body", False):
                message = await _next(receive)
    sentence = f"The body is larger than {most:,} bytes. Send less at once (or start the server with {option})."
    raise Fault(413, sentence, code="too_large", closes=True)


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise GoneError
    return message


async def _while_there(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, reply: _Reply) -> None:
    """Run `app` on a body that was read, until it is done or the client has gone.

    Raises:
        GoneError: when the client left before it had its answer.
    """
    left = asyncio.Event()
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        if whole:
            return whole.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, watching = asyncio.create_task(_run(app, scope, read, reply)), asyncio.create_task(watch())
    try:
        await asyncio.wait((work, watching), return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not reply.done:
            raise GoneError
        left.set()
        await work
    finally:
        await ended((work, watching))


async def _run(app: ASGIApp, *call: Any) -> None:
    await app(*call)
