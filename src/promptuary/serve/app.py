"""The application: routes, the page, and the gate around them; thin, since `service` does the work."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from promptuary import __version__
from promptuary.errors import PromptuaryError
from promptuary.serve import openai, wire
from promptuary.serve.answering import Answering
from promptuary.serve.faults import Fault, fault_of
from promptuary.serve.gate import Bounds, Gate
from promptuary.serve.keys import Guard
from promptuary.serve.metrics import MEDIA, Metrics
from promptuary.serve.openai import sent
from promptuary.serve.service import Service
from promptuary.store import Store

PAGE = {"": "text/html", "style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.Failure, "description": told}
    for status, told in {
        400: "the request is wrong", 401: "no key, or none that is known", 403: "a key that is not for this",
        404: "no such task", 413: "too large", 429: "too much at once; see Retry-After", 500: "an error of the server",
        503: "the server is closing, or its engine has stopped", 504: "no answer in time",
        507: "the store cannot be changed",
    }.items()
}  # fmt: skip


def application(
    engine: Answering,
    store: Store,
    *,
    guard: Guard | None = None,
    bounds: Bounds | None = None,
    imports: Path | None = None,
    hosts: Sequence[str] | None = None,
) -> Gate:
    """The server as an ASGI application; it runs the engine while it lives.

    Arguments:
        guard: who may ask; by default anyone, and nobody may change tasks. imports: see `Service`. hosts: see `Gate`.
    """
    guard, bounds = guard or Guard(), bounds or Bounds()
    metrics = Metrics(lambda: engine.load)
    service = Service(engine, store, timeout_s=bounds.timeout_s, imports=imports)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    app = FastAPI(
        title="promptuary", version=__version__, summary="Many tasks from one frozen model.",
        docs_url=None, redoc_url=None, lifespan=running, redirect_slashes=False,
    )  # fmt: skip
    gate = Gate(app, guard=guard, metrics=metrics, bounds=bounds, hosts=hosts)
    app.include_router(openai.routes(service, metrics, StrictRoute, FAILURES))
    app.include_router(_rows(service, metrics))
    app.include_router(_tasks(service, guard))
    app.include_router(_state(gate, engine, metrics))
    for kind in (HTTPException, RequestValidationError, PromptuaryError, TimeoutError, Exception):
        app.add_exception_handler(kind, _failed)
    return gate


class StrictRequest(Request):
    """A request whose body is read as JSON strictly: no NaN, no half surrogate pairs, nothing but UTF-8."""

    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class StrictRoute(APIRoute):
    """A route whose requests are strict."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _rows(service: Service, metrics: Metrics) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["rows"], responses=FAILURES)

    @router.post("/predict", response_model=wire.Answers)
    async def predict(request: Request, body: wire.PredictRequest) -> Response:
        """The answer to each row, of one task or of many."""
        asked = [(name, ask.fields if ask.text is None else ask.text) for name, ask in body.asked]
        answers = await service.predict(request.state.caller, asked)  # type: ignore[arg-type]
        names = [name for name, _ in asked]
        metrics.answered(request.state.told, {name: names.count(name) for name in dict.fromkeys(names)})
        return sent(wire.Answers(answers=answers))

    return router


def _tasks(service: Service, guard: Guard) -> APIRouter:
    router = APIRouter(prefix="/tasks", route_class=StrictRoute, tags=["tasks"], responses=FAILURES)

    @router.get("", response_model=wire.Tasks)
    async def tasks(request: Request) -> Response:
        """The tasks that the caller may ask; none of them is read."""
        caller = request.state.caller
        names = [wire.TaskName(name=name) for name in await asyncio.to_thread(service.names, caller)]
        base = bool(service.bases(caller))
        return sent(wire.Tasks(backbone=service.store.backbone.name, base=base, tasks=names))

    @router.get("/{name}", response_model=wire.TaskShown)
    async def shown(request: Request, name: str) -> Response:
        """How a task's rows look, and how its prompt was made and looks."""
        tuned, described = await service.describe(request.state.caller, name)
        columns = [c for c in (tuned.task.text, tuned.task.text_pair) if c is not None]
        writes = tuned.reading.writing(tuned.backbone) is not None
        labels = list(tuned.task.labels)
        kind = tuned.task.kind
        return sent(
            wire.TaskShown(name=name, kind=kind, columns=columns, labels=labels, writes=writes, prompt=described)
        )

    @router.put("/{name}", response_model=wire.State, status_code=201)
    async def add(
        request: Request,
        name: str,
        manifest: Annotated[UploadFile | None, File(description="manifest.json")] = None,
        prompt: Annotated[UploadFile | None, File(description="prompt.safetensors")] = None,
        folder: Annotated[str | None, Form(description="A folder of the server's --imports, instead.")] = None,
    ) -> Response:
        """Put a task in, or in the place of one of this name. Requests under way keep the version they began with."""
        guard.check_admin(request.state.caller)
        given = {"manifest.json": manifest, "prompt.safetensors": prompt}
        files = {file: await upload.read() for file, upload in given.items() if upload is not None}
        if (folder is None) == (not files):
            sentence = "Send the files manifest and prompt that `promptuary tune` wrote, or the name of a folder."
            raise Fault(400, sentence, code="invalid_body")
        await service.add(name, files, folder)
        return _done("added", 201)

    @router.delete("/{name}", response_model=wire.State)
    async def remove(request: Request, name: str) -> Response:
        """Take a task out."""
        guard.check_admin(request.state.caller)
        await service.change(service.store.remove, name)
        return _done("removed")

    @router.post("/{name}/reload", response_model=wire.State)
    async def reload(request: Request, name: str) -> Response:
        """Read a task's files again."""
        guard.check_admin(request.state.caller)
        await service.change(service.store.reload, name)
        return _done("reloaded")

    @router.post("/reload", response_model=wire.State)
    async def reload_all(request: Request) -> Response:
        """Read the files of all tasks again, each when it is next asked for."""
        guard.check_admin(request.state.caller)
        await service.change(service.store.reload)
        return _done("reloaded")

    return router


def _state(gate: Gate, engine: Answering, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/healthz", response_model=wire.State)
    async def health() -> Response:
        """Whether the process answers."""
        return _done("alive")

    @router.get("/readyz", response_model=wire.State, responses={503: {"model": wire.State}})
    async def ready() -> Response:
        """Whether new requests are taken."""
        if gate.draining:
            return _done("closing", 503)
        return _done("ready") if engine.alive else _done("stopped", 503)

    @router.get("/metrics", response_class=Response, responses={401: FAILURES[401]})
    async def counted(request: Request) -> Response:
        """What the server counts, for Prometheus; where keys are asked for, it takes the administrator's token."""
        if not (gate.guard.open or request.state.caller.admin):
            raise Fault(401, "This needs the administrator's token as the key.", code="admin_only")
        return Response(metrics.text(), media_type=MEDIA)

    @router.get("/", include_in_schema=False)
    @router.get("/page/{file}", include_in_schema=False)
    async def page(file: str = "") -> Response:
        if file not in PAGE:
            raise HTTPException(404)
        content = (files("promptuary.serve") / "page" / (file or "index.html")).read_bytes()
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(content, media_type=PAGE[file], headers=headers)

    return router


def _done(status: str, code: int = 200) -> Response:
    response = sent(wire.State(status=status))
    response.status_code = code
    return response


async def _failed(request: Request, error: Exception) -> Response:
    fault = fault_of(error)
    request.state.told["code"] = fault.code
    if fault.status_code == 500:
        request.state.told["error"] = str(error)
    return fault.response()
