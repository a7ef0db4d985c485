"""Answers that a vLLM writes: the prompts of a store are laid around each text here, and the rest happens there.

Stands in for `Engine` before the same application, so that names, keys, limits, errors and streams are the same ones.
Each request becomes one of vLLM's `/v1/completions` with `prompt_embeds`, or with the tokens of a prefix
(`interop/vllm.py`), streamed. Who stops listening closes that stream, and vLLM gives the text up.

The frozen model is loaded here too: for its embeddings, for its fingerprint, and for prompts that are made from its
states. What reads the model's last states (classifiers, label words, vectors) has nothing to read in a vLLM.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import httpx
import torch

from promptuary.backbones.generation import Generation, Sampling, fits
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.decoding import Writing
from promptuary.errors import BackboneError, BusyError, SettingError
from promptuary.interop.vllm import Bridge, Embedded, Prefixed, bridge
from promptuary.serve.base import base
from promptuary.serve.faults import Fault
from promptuary.serve.jobs import Piece
from promptuary.serve.limits import Load
from promptuary.store import Store
from promptuary.train.evaluation import arithmetic
from promptuary.tuned import Tuned

T = TypeVar("T")


class Upstream:
    """Answers requests through a vLLM server.

    Its methods belong to the event loop on which it was entered, and raise what those of `Engine` do.

    Arguments:
        store: the prompts, on the model that the server runs.
        url: where the server listens (`http://127.0.0.1:8001`).
        prefixes: the folder of deep prefixes that the server's connector reads; without it such prompts are refused.
        at_once: requests on their way to the server; one more waits `wait_s` for its turn and is refused then.
        key: the server's API key, where it asks for one.
        transport: another way to the server than the network.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        *,
        prefixes: Path | None = None,
        at_once: int = 256,
        wait_s: float = 5.0,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.store, self.prefixes = store, prefixes
        self._base = base(store.backbone)
        self._bridges: WeakKeyDictionary[Tuned, Bridge] = WeakKeyDictionary()
        self._name: str | None = None
        self._running = 0
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=at_once),
            timeout=httpx.Timeout(None, connect=wait_s, pool=wait_s),  # whoever asks says how long an answer may take
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        self._reader = ThreadPoolExecutor(1, "promptuary-reader")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        self._reader.shutdown(wait=False)

    @property
    def load(self) -> Load:
        """How many requests are with the server; what it does with them is its own account."""
        return Load(running=self._running)

    @property
    def alive(self) -> bool:
        """Always: the server there may come back at any moment, and until then each request is told 503."""
        return True

    def admit(self, rows: int) -> None:
        """Let rows of any number in: each waits for its turn by itself."""

    async def predict(self, task: str, row: Row, *, version: Tuned | None = None) -> Any:
        """The answer of a task that writes to a row.

        Raises:
            BackboneError: for a task that reads the model's states.
        """
        tuned = await self._here(self._opened, task) if version is None else version
        writing = self._writing(tuned)
        example, request = await self._here(self._laid, tuned, row)
        async with aclosing(self._pieces(request, writing.how, ())) as pieces:
            ids = [token async for piece in pieces for token in piece.ids]
        said = writing.said(torch.tensor([ids], dtype=torch.long))
        return tuned.reading.answers(said, tuned.wording, [row], [example])[0]

    async def write(
        self,
        task: str | None,
        text: str | list[int],
        how: Generation,
        *,
        stop: Sequence[str] = (),
        version: Tuned | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """The text that the model goes on with under a task's prompt, piece by piece; `None` is no prompt."""
        if how.beams > 1 or how.sequences > 1 or how.allowed is not None:
            raise SettingError("A vLLM writes one text a request, greedily or drawn: no beams, no allowed tokens.")
        tuned = await self._here(self._opened, task) if version is None else version
        _, request = await self._here(self._laid, tuned, Row({tuned.task.text: text}, "the text"))
        async with aclosing(self._pieces(request, how, stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def embed(self, task: str | None, text: str, *, version: Tuned | None = None) -> list[float]:
        """Refused: a vLLM that writes tells no states."""
        raise BackboneError(
            "Vectors are means of the model's states, which a vLLM does not tell. Ask `promptuary serve`."
        )

    def _writing(self, tuned: Tuned) -> Writing:
        """How a task writes its answers.

        Raises:
            BackboneError: for one that reads the model's states.
        """
        writing = tuned.reading.writing(self.store.backbone)
        if writing is None:
            raise BackboneError(
                "This task reads its answer off the model's states, which a vLLM does not tell. Ask `promptuary serve` "
                "or tune a prompt that writes its answer (--readout text)."
            )
        return writing

    async def _here(self, work: Callable[..., T], *given: Any) -> T:
        """What takes milliseconds, in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, *given)

    def _opened(self, task: str | None) -> Tuned:
        return self._base if task is None else self.store.get(task)

    def _laid(self, tuned: Tuned, row: Row) -> tuple[Example, Embedded | Prefixed]:
        """A row with its prompt around it."""
        backbone = self.store.backbone
        [example] = tuned.wording.encode([row], labelled=False)
        with torch.no_grad(), arithmetic(backbone.device, tuned.precision):
            if tuned not in self._bridges:
                self._bridges[tuned] = bridge(tuned.model, prefixes=self.prefixes)
            x = tuned.model.instance_of(collate([example], range(1), tuned.pad).to(backbone.device))
            [request] = self._bridges[tuned](x)
        return example, request

    async def _pieces(
        self, request: Embedded | Prefixed, how: Generation, stop: Sequence[str]
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of a text as the server sends them.

        Raises:
            SettingError: where it might run past the last position (vLLM would cut it short).
        """
        fits(request.tokens + how.max_new_tokens, self.store.backbone.shape.positions, self.store.backbone.name)
        over, told = False, {"stream": True, "return_token_ids": True}
        with self._asking():
            body = {**request.body(), **_how(how, stop), **told, "model": await self._model()}
            async with self._client.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code == 404:  # it was started anew with another model's name
                    self._name = None
                await _checked(answer)
                async for line in _lines(answer):  # to the end, so that the connection serves the next one
                    for piece in _told(line):
                        over = over or piece.ended is not None
                        yield piece
        if not over:
            raise _lost()

    async def _model(self) -> str:
        """What the server calls its model; asked for once."""
        if self._name is None:
            answer = await self._client.get("/v1/models")
            await _checked(answer)
            with _known():
                self._name = str(answer.json()["data"][0]["id"])
        return self._name

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """While a request is with the server.

        Raises:
            BusyError: where too many are.
            Fault: 503 where the server cannot be reached.
        """
        self._running += 1
        try:
            yield
        except httpx.PoolTimeout as error:
            raise BusyError("Too many requests are on their way to the model. Ask again later.", 1.0) from error
        except httpx.TransportError as error:
            raise _lost() from error
        finally:
            self._running -= 1


def _how(how: Generation, stop: Sequence[str]) -> dict[str, Any]:
    """How a text is written, in vLLM's words. What the model's own files say of sampling does not apply."""
    drawn = how.sampling or Sampling(temperature=1.0)
    return {
        "max_tokens": how.max_new_tokens,
        "temperature": 0.0 if how.sampling is None else drawn.temperature,
        "top_k": drawn.top_k,
        "top_p": drawn.top_p,
        "seed": drawn.seed,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": list(stop),
        "stop_token_ids": list(how.end or ()),
        "ignore_eos": how.end is not None,
    }


async def _lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The lines of a stream of events. A text may hold other characters that end lines elsewhere (U+2028, U+0085)."""
    left = b""
    async for data in answer.aiter_bytes():
        *whole, left = (left + data).split(b"\n")
        for line in whole:
            yield line
    yield left


def _told(line: bytes) -> list[Piece]:
    """What a line of the stream says.

    Raises:
        Fault: 502 for an error that the server tells in the middle of a text, and for what is no event.
    """
    said = line.removeprefix(b"data:").strip()
    if said == line.strip() or said == b"[DONE]":  # between events, of another field, behind the last one
        return []
    with _known():
        event = json.loads(said)
        if "error" in event:
            raise _failed(str(event["error"].get("message", "")))
        choices = [(c["text"], tuple(c.get("token_ids") or ()), c.get("finish_reason")) for c in event["choices"]]
    for _, _, ended in choices:
        if ended not in (None, "stop", "length"):
            raise _failed(f"it ended a text with {ended!r}")
    return [Piece(*choice) for choice in choices]


@contextmanager
def _known() -> Iterator[None]:
    """While an answer of the server is read.

    Raises:
        Fault: 502 where it has another form than a vLLM's.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _failed(f"its answer has not the form of a vLLM's ({type(error).__name__})") from error


async def _checked(answer: httpx.Response) -> None:
    """Pass on what the server says against a request.

    Raises:
        Fault: 400 with the server's own sentence, 503 while it is overloaded or starting, 502 for anything else.
    """
    if answer.status_code < 400:
        return
    content = await answer.aread()
    try:
        said = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = ""
    if answer.status_code in (400, 413, 422):
        raise Fault(400, f"The model's server refuses this: {said}", code="refused_upstream")
    if answer.status_code in (429, 503):
        raise Fault(503, "The model's server has no room now. Ask again later.", code="upstream_busy", retry_after_s=2)
    raise _failed(said or f"its status was {answer.status_code}")


def _failed(said: str) -> Fault:
    return Fault(502, f"The model's server failed: {said}.", code="upstream_failed")


def _lost() -> Fault:
    sentence = "The model's server cannot be reached, or broke off. Ask again later."
    return Fault(503, sentence, code="upstream_lost", retry_after_s=2)
