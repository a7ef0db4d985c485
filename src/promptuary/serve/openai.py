"""The routes under `/v1`: those of OpenAI's API that a frozen model with many tasks has an answer for.

A task is a model, by its name; `base` is the bare model. Tasks that label, tag or find answer with their label as text.
"""

import asyncio
import base64
import secrets
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from promptuary.serve import wire
from promptuary.serve.engine import Piece
from promptuary.serve.faults import fault_of
from promptuary.serve.metrics import Metrics
from promptuary.serve.service import Service, Wish

Pieces = AsyncGenerator[tuple[int, Piece], None]


def routes(
    service: Service, metrics: Metrics, route: type[APIRoute], failures: Mapping[int | str, dict[str, Any]]
) -> APIRouter:
    """The routes; `route` is the class they are made with, `failures` what they may answer instead, by status."""
    router = APIRouter(prefix="/v1", route_class=route, tags=["openai"], responses=dict(failures))
    began = int(time.time())

    @router.get("/models", response_model=wire.Models)
    async def models(request: Request) -> Response:
        """The tasks that the caller may ask, and the bare model where it writes."""
        caller = request.state.caller
        names = [*await asyncio.to_thread(service.names, caller), *service.bases(caller)]
        return sent(wire.Models(data=[wire.Model(id=name, created=began) for name in names]))

    @router.get("/models/{model}", response_model=wire.Model)
    async def model(request: Request, model: str) -> Response:
        """One of them."""
        await service.check(request.state.caller, model)
        return sent(wire.Model(id=model, created=began))

    @router.post("/completions", response_model=wire.Completion)
    async def completions(request: Request, body: wire.CompletionRequest) -> Response:
        """A text for each prompt; with `stream` as server-sent events."""
        form = _Completions.new(body.model, len(body.prompts) * (body.n or 1), partial(service.tokens, body.prompts))
        wish = _wish(body, body.max_tokens)
        pieces = service.write(request.state.caller, body.model, [(p,) for p in body.prompts], wish)
        return await _answer(request, metrics, body, form, pieces)

    @router.post("/chat/completions", response_model=wire.Chat)
    async def chat(request: Request, body: wire.ChatRequest) -> Response:
        """The answer to a chat; with `stream` as server-sent events."""
        messages = [{"role": m.role, "content": m.text} for m in body.messages]
        texts = await asyncio.to_thread(service.chat, body.model, messages)
        form = _Chats.new(body.model, body.n or 1, partial(service.tokens, texts))
        pieces = service.write(request.state.caller, body.model, [texts], _wish(body, body.tokens))
        return await _answer(request, metrics, body, form, pieces)

    @router.post("/embeddings", response_model=wire.Embeddings)
    async def embeddings(request: Request, body: wire.EmbeddingRequest) -> Response:
        """A vector for each text, where the backbone makes such."""
        vectors = await service.embed(request.state.caller, body.model, body.inputs)
        metrics.answered(request.state.told, {body.model: len(vectors)})
        write = _base64 if body.encoding_format == "base64" else list
        data = [wire.Embedding(index=i, embedding=write(vector)) for i, vector in enumerate(vectors)]
        tokens = await service.tokens(body.inputs)
        usage = wire.EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        return sent(wire.Embeddings(model=body.model, data=data, usage=usage))

    return router


def sent(body: BaseModel) -> Response:
    """A body as the answer; what is no finite number is null."""
    return Response(body.model_dump_json(), media_type="application/json")


class Events(StreamingResponse):
    """Server-sent events made from `source`, which is closed whenever the client is done with them."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], source: Pieces) -> None:
        super().__init__(events, headers={"X-Accel-Buffering": "no"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class _Form(ABC):
    """How one answer looks, whole and in parts.

    Arguments:
        texts: how many it has. given: counts the tokens of what was asked; it takes a moment.
    """

    id: str
    created: int
    model: str
    texts: int
    given: Callable[[], Awaitable[int]]

    @classmethod
    def new(cls, model: str, texts: int, given: Callable[[], Awaitable[int]]) -> "_Form":
        return cls(secrets.token_hex(12), int(time.time()), model, texts, given)

    @abstractmethod
    def whole(self, pieces: Sequence[Sequence[Piece]], usage: wire.Usage) -> BaseModel:
        """The answer, of the pieces of each of its texts."""

    @abstractmethod
    def opening(self) -> list[BaseModel]:
        """The parts before the first piece."""

    @abstractmethod
    def part(self, index: int, piece: Piece) -> BaseModel:
        """A piece of one text."""

    @abstractmethod
    def closing(self, usage: wire.Usage) -> BaseModel:
        """The part that tells what was used."""

    async def usage(self, written: int) -> wire.Usage:
        return wire.Usage.of(await self.given(), written)


class _Completions(_Form):
    def whole(self, pieces: Sequence[Sequence[Piece]], usage: wire.Usage) -> BaseModel:
        choices = [
            wire.CompletionChoice(index=i, text=_text(own), finish_reason=own[-1].ended) for i, own in enumerate(pieces)
        ]
        return self._body(choices, usage)

    def opening(self) -> list[BaseModel]:
        return []

    def part(self, index: int, piece: Piece) -> BaseModel:
        return self._body([wire.CompletionChoice(index=index, text=piece.text, finish_reason=piece.ended)])

    def closing(self, usage: wire.Usage) -> BaseModel:
        return self._body([], usage)

    def _body(self, choices: list[wire.CompletionChoice], usage: wire.Usage | None = None) -> BaseModel:
        return wire.Completion(
            id=f"cmpl-{self.id}", created=self.created, model=self.model, choices=choices, usage=usage
        )


class _Chats(_Form):
    def whole(self, pieces: Sequence[Sequence[Piece]], usage: wire.Usage) -> BaseModel:
        choices = [
            wire.ChatChoice(index=i, message=wire.Said(content=_text(own)), finish_reason=own[-1].ended)
            for i, own in enumerate(pieces)
        ]
        return wire.Chat(id=f"chatcmpl-{self.id}", created=self.created, model=self.model, choices=choices, usage=usage)

    def opening(self) -> list[BaseModel]:
        return [self._chunk([wire.ChatPart(index=i, delta={"role": "assistant"})]) for i in range(self.texts)]

    def part(self, index: int, piece: Piece) -> BaseModel:
        return self._chunk([wire.ChatPart(index=index, delta={"content": piece.text}, finish_reason=piece.ended)])

    def closing(self, usage: wire.Usage) -> BaseModel:
        return self._chunk([], usage)

    def _chunk(self, choices: list[wire.ChatPart], usage: wire.Usage | None = None) -> BaseModel:
        return wire.ChatChunk(
            id=f"chatcmpl-{self.id}", created=self.created, model=self.model, choices=choices, usage=usage
        )


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _wish(body: wire.Writes, tokens: int | None) -> Wish:
    return Wish(tokens, body.temperature, body.top_p, body.seed, body.stops, body.n or 1)


async def _answer(request: Request, metrics: Metrics, body: wire.Writes, form: _Form, pieces: Pieces) -> Response:
    """The pieces as one body, or as events. What goes wrong before the first piece has a status of its own."""
    told = request.state.told
    if body.stream:
        first = await anext(pieces)
        return Events(_events(first, pieces, form, body.counted, metrics, told), pieces)
    found: list[list[Piece]] = [[] for _ in range(form.texts)]
    async with aclosing(pieces):
        async for i, piece in pieces:
            found[i].append(piece)
    written = sum(len(piece.ids) for own in found for piece in own)
    metrics.answered(told, {form.model: form.texts}, written)
    return sent(form.whole(found, await form.usage(written)))


async def _events(
    first: tuple[int, Piece], rest: Pieces, form: _Form, counted: bool, metrics: Metrics, told: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The events of an answer; an error in the middle of it is an event too, and then there is no `[DONE]`."""
    for part in [*form.opening(), form.part(*first)]:
        yield _event(part)
    written = len(first[1].ids)
    try:
        async for i, piece in rest:
            written += len(piece.ids)
            yield _event(form.part(i, piece))
    except Exception as error:
        fault = fault_of(error)
        told["code"] = fault.code
        yield _event(fault.body)
        return
    metrics.answered(told, {form.model: form.texts}, written)
    if counted:
        yield _event(form.closing(await form.usage(written)))
    yield b"data: [DONE]\n\n"


def _event(body: BaseModel) -> bytes:
    return f"data: {body.model_dump_json()}\n\n".encode()


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
