"""The gateway before a stand-in for vLLM: the bare model behind vLLM's own way to speak, recorded from vLLM 0.32.

What is recorded are the form of events and errors (`benchmarks/interop/gateway.py` asks a real vLLM the same things).
"""

import asyncio
import base64
import io
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptuary.backbones.generation import Generation, Sampling
from promptuary.backbones.load import load
from promptuary.data.source import Row
from promptuary.errors import SettingError
from promptuary.serve.app import application
from promptuary.serve.faults import Fault
from promptuary.serve.gate import Bounds
from promptuary.serve.upstream import Upstream
from promptuary.store import Store
from tests.saved import Shelf
from tests.serving import head, live, tuned, until

NOTE = "note 1 says box"
DONE = b"data: [DONE]\n\n"


def event(text: str, ids: list[int], ended: str | None = None) -> bytes:
    """A part of a text as vLLM sends it."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": ended, "stop_reason": None, "token_ids": ids}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def failure(status: int, message: str) -> bytes:
    """What vLLM answers instead, and sends in the middle of a text."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return json.dumps({"error": error}).encode()


class Sent(httpx.AsyncByteStream):
    """The bytes of an answer; it remembers whether it was closed."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self.parts, self.closed = parts, False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.parts

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class StandIn(httpx.AsyncBaseTransport):
    """A vLLM; `instead` answers requests for texts in another way."""

    folder: Path
    instead: Callable[[], httpx.Response] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    streams: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        body = json.loads(await request.aread())
        self.asked.append(body)
        if self.instead is not None:
            return self.instead()
        data = base64.b64decode(body["prompt_embeds"], validate=True)
        return self.streamed(self.written(torch.load(io.BytesIO(data), weights_only=True), body))

    def streamed(self, parts: AsyncIterator[bytes]) -> httpx.Response:
        self.streams.append(Sent(parts))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=self.streams[-1])

    @torch.no_grad()
    async def written(self, row: torch.Tensor, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """Greedily, one token after the other, without a cache."""
        for step in range(body["max_tokens"]):
            token = int(self.model(inputs_embeds=row[None]).logits[0, -1].argmax())
            ends = token in body["stop_token_ids"]
            last = "stop" if ends else "length" if step + 1 == body["max_tokens"] else None
            yield event("" if ends else self.tokenizer.decode([token]), [token], last)
            if last:
                break
            row = torch.cat([row, self.model.get_input_embeddings()(torch.tensor([token]))])
        yield DONE


@pytest.fixture(scope="module")
def store(shelf: Shelf) -> Store:
    """One task that writes, under a prompt in the row; one under a deep prefix; one that reads states."""
    place = shelf.place / "upstream"
    rows = [{"text": f"note {i} says box", "target": ("glass", "box of money")[i % 2]} for i in range(8)]
    deep = ["--method", "p-tuning-v2", "--set", "counted=true", "--max-new-tokens", "2"]
    prompts = {
        "notes": tuned(shelf, "gpt2", "text", rows, "--method", "prompt-tuning", "--max-new-tokens", "6", name="row"),
        "deep": tuned(shelf, "gpt2", "text", rows, *deep, name="deep"),
        "mood": shelf.prompt("gpt2", "prompt-tuning"),
    }
    for name, folder in prompts.items():
        shutil.copytree(folder, place / name)
    return Store(place, load(str(shelf.model("gpt2"))))


@pytest.fixture
def vllm(shelf: Shelf) -> StandIn:
    return StandIn(shelf.model("gpt2"))


@pytest.fixture
def client(store: Store, vllm: StandIn) -> Iterator[TestClient]:
    gate = application(Upstream(store, "http://vllm", transport=vllm), store, bounds=Bounds(timeout_s=20))
    with TestClient(gate, raise_server_exceptions=False) as asking:
        yield asking


def expected(store: Store) -> str:
    [answer] = store.get("notes").predict([Row({"text": NOTE}, "here")])
    return str(answer.prediction)


def test_a_completion_through_a_vllm_is_what_the_prompt_writes(client: TestClient, store: Store) -> None:
    body = client.post("/v1/completions", json={"model": "notes", "prompt": [NOTE, NOTE], "n": 2}).json()
    assert [choice["text"].strip() for choice in body["choices"]] == [expected(store)] * 4
    assert 4 <= body["usage"]["completion_tokens"] <= 4 * 6
    chat = {"model": "notes", "messages": [{"role": "user", "content": NOTE}]}
    said = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    assert said.strip() == expected(store)
    [row] = client.post("/predict", json={"task": "notes", "rows": [{"text": NOTE}]}).json()["answers"]
    assert row == {"task": "notes", "prediction": expected(store)}


def test_a_stream_comes_in_pieces_and_ends(client: TestClient, store: Store) -> None:
    asked = {"model": "notes", "prompt": NOTE, "stream": True}
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(choice["text"] for choice in choices).strip() == expected(store)
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] in ("stop", "length")


def test_the_bare_model_goes_through_too(client: TestClient, vllm: StandIn) -> None:
    body = client.post("/v1/completions", json={"model": "base", "prompt": "the glass", "max_tokens": 3}).json()
    ids = torch.tensor([vllm.tokenizer("the glass")["input_ids"]])
    made = vllm.model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    assert body["choices"][0]["text"] == "".join(vllm.tokenizer.decode([i]) for i in made)
    assert client.get("/v1/models").json()["data"][-1]["id"] == "base"


def test_what_is_asked_of_the_vllm_says_everything_itself(client: TestClient, vllm: StandIn) -> None:
    wish = {"max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["."]}
    client.post("/v1/completions", json={"model": "notes", "prompt": NOTE, **wish})
    client.post("/v1/completions", json={"model": "notes", "prompt": NOTE})
    drawn, greedy = vllm.asked
    assert {name: drawn[name] for name in wish} == wish
    assert (greedy["temperature"], greedy["stop"], greedy["seed"]) == (0.0, [], None)
    for body in (drawn, greedy):
        assert (body["model"], body["stream"], body["return_token_ids"], body["top_k"]) == ("tiny", True, True, 0)
        assert (body["min_p"], body["repetition_penalty"]) == (0.0, 1.0)
        assert "prompt" not in body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "mood", "prompt": NOTE}),
        ("/predict", {"task": "mood", "rows": [{"text": NOTE}]}),
        ("/v1/embeddings", {"model": "notes", "input": NOTE}),
    ],
)
def test_what_reads_states_is_refused_in_a_sentence(client: TestClient, vllm: StandIn, path: str, body: Any) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert "`promptuary serve`" in answer.json()["error"]["message"]
    assert not vllm.asked


def refusing(status: int, content: bytes) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(status, content=content)


def raising(error: Exception) -> Callable[[], httpx.Response]:
    def answer() -> httpx.Response:
        raise error

    return answer


async def cut() -> AsyncIterator[bytes]:
    yield event("half", [5])
    raise httpx.ReadError("reset")


async def ended() -> AsyncIterator[bytes]:
    yield event("half", [5])


async def failed() -> AsyncIterator[bytes]:
    yield event("", [], "error")


async def told() -> AsyncIterator[bytes]:
    yield b"data: " + failure(500, "EngineCore died") + b"\n\n"


async def prose() -> AsyncIterator[bytes]:
    yield b"data: It was a dark night.\n\n"


async def listed() -> AsyncIterator[bytes]:
    yield b"data: [1, 2]\n\n"


def sending(parts: Callable[[], AsyncIterator[bytes]]) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(200, stream=Sent(parts()))


WRONG: dict[str, tuple[Callable[[], httpx.Response], int, str, str]] = {
    "too long": (refusing(400, failure(400, "maximum context length")), 400, "refused_upstream", "context length"),
    "overloaded": (refusing(503, b""), 503, "upstream_busy", "Ask again"),
    "no such model": (refusing(404, failure(404, "no model")), 502, "upstream_failed", "no model"),
    "an error of its own": (refusing(500, b"<html>"), 502, "upstream_failed", "500"),
    "not there": (raising(httpx.ConnectError("refused")), 503, "upstream_lost", "Ask again"),
    "no room on the way": (raising(httpx.PoolTimeout("full")), 429, "busy", "Ask again"),
    "breaks off": (sending(cut), 503, "upstream_lost", "Ask again"),
    "ends too early": (sending(ended), 503, "upstream_lost", "Ask again"),
    "a prefix it cannot load": (sending(failed), 502, "upstream_failed", "'error'"),
    "tells no event": (sending(prose), 502, "upstream_failed", "not the form"),
    "tells a list": (sending(listed), 502, "upstream_failed", "not the form"),
    "dies while it writes": (sending(told), 502, "upstream_failed", "EngineCore died"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_goes_wrong_there_has_a_status_and_a_sentence_here(client: TestClient, vllm: StandIn, which: str) -> None:
    vllm.instead, status, code, said = WRONG[which]
    answer = client.post("/v1/completions", json={"model": "notes", "prompt": NOTE})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert said in answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) is (status in (429, 503))


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(client: TestClient, vllm: StandIn) -> None:
    vllm.instead = sending(cut)
    with client.stream("POST", "/v1/completions", json={"model": "notes", "prompt": NOTE, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert json.loads(lines[0])["choices"][0]["text"] == "half"
    assert json.loads(lines[-1])["error"]["code"] == "upstream_lost"


def test_a_text_may_hold_whatever_ends_a_line_elsewhere(client: TestClient, vllm: StandIn) -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x1cf é"

    async def parts() -> AsyncIterator[bytes]:
        told = json.dumps(json.loads(event(text, [5], "stop").removeprefix(b"data: ")), ensure_ascii=False)
        data = f"data: {told}\r\n\r\n".encode() + DONE
        for at in range(0, len(data), 7):  # as a network may cut it, inside of characters too
            yield data[at : at + 7]

    vllm.instead = sending(parts)
    answer = client.post("/v1/completions", json={"model": "notes", "prompt": NOTE})
    assert answer.json()["choices"][0]["text"] == text


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"data": []}', b"null"])
def test_a_server_that_is_no_vllm_is_told(
    client: TestClient, vllm: StandIn, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    async def answers(self: StandIn, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content)

    monkeypatch.setattr(StandIn, "handle_async_request", answers)
    answer = client.post("/v1/completions", json={"model": "notes", "prompt": NOTE})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield event("more ", [5])
        await asyncio.sleep(0)


async def stuck() -> AsyncIterator[bytes]:
    await asyncio.sleep(60)
    yield DONE


def test_who_stops_listening_closes_the_stream_there(store: Store, vllm: StandIn) -> None:
    vllm.instead = lambda: vllm.streamed(endless())

    async def leave() -> list[str]:
        async with Upstream(store, "http://vllm", transport=vllm) as engine:
            async with aclosing(engine.write("notes", NOTE, Generation())) as pieces:  # type: ignore[type-var]
                heard = [(await anext(pieces)).text for _ in range(3)]
                assert engine.load.running == 1
            async with asyncio.timeout(5):
                while engine.load.running:
                    await asyncio.sleep(0.01)
            assert vllm.streams[0].closed
            return heard

    assert asyncio.run(leave()) == ["more "] * 3


def test_an_answer_that_takes_too_long_is_given_up_there_too(store: Store, vllm: StandIn) -> None:
    vllm.instead = lambda: vllm.streamed(stuck())
    gate = application(Upstream(store, "http://vllm", transport=vllm), store, bounds=Bounds(timeout_s=0.2))
    with TestClient(gate) as asking:
        answer = asking.post("/v1/completions", json={"model": "notes", "prompt": NOTE})
        assert answer.status_code == 504
        assert until(lambda: vllm.streams[0].closed)


def test_a_vllm_that_was_started_anew_is_asked_for_its_model_again(store: Store, vllm: StandIn) -> None:
    async def ask() -> str:
        async with Upstream(store, "http://vllm", transport=vllm) as engine:
            engine._name = "old"
            vllm.instead = refusing(404, failure(404, "no model"))
            with pytest.raises(Fault):
                [p async for p in engine.write("notes", NOTE, Generation())]
            vllm.instead = None
            [p async for p in engine.write("notes", NOTE, Generation(max_new_tokens=1))]
            return vllm.asked[-1]["model"]

    assert asyncio.run(ask()) == "tiny"


@pytest.mark.parametrize("how", [Generation(beams=2), Generation(sequences=2, sampling=Sampling())])
def test_what_a_vllm_does_not_do_is_told(store: Store, vllm: StandIn, how: Generation) -> None:
    async def ask() -> None:
        async with Upstream(store, "http://vllm", transport=vllm) as engine:
            await anext(engine.write("notes", NOTE, how))

    with pytest.raises(SettingError, match="no beams"):
        asyncio.run(ask())


def test_a_deep_prefix_goes_by_its_name_and_its_file_is_there(store: Store, vllm: StandIn, tmp_path: Path) -> None:
    async def ask(prefixes: Path | None) -> dict[str, Any]:
        vllm.instead = lambda: vllm.streamed(once())
        async with Upstream(store, "http://vllm", transport=vllm, prefixes=prefixes) as engine:
            [p async for p in engine.write("deep", NOTE, Generation(max_new_tokens=1))]
        return vllm.asked[-1]

    body = asyncio.run(ask(tmp_path))
    [file] = tmp_path.iterdir()
    assert body["cache_salt"] == f"promptuary:3:{file.stem}"
    assert body["prompt"] == [0] * 3 + vllm.tokenizer(NOTE)["input_ids"]
    with pytest.raises(SettingError, match="--prefixes"):
        asyncio.run(ask(None))


async def once() -> AsyncIterator[bytes]:
    yield event("a", [5], "length")
    yield DONE


@dataclass
class Socket:
    """A vLLM on a real socket that writes for ten seconds, unless its reader leaves."""

    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/models":
            await _json(send, {"data": [{"id": "tiny"}]})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(receive())
        for _ in range(500):
            await send({"type": "http.response.body", "body": event("more ", [5]), "more_body": True})
            if (await asyncio.wait({gone}, timeout=0.02))[0]:
                self.left.set()
                return


async def _json(send: Any, body: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def test_a_client_that_leaves_a_stream_is_missed_by_the_vllm_at_once(store: Store) -> None:
    """Through both connections: frameworks between them cancel again and again, also what is closing a connection."""
    vllm = Socket()
    engine = uvicorn.Server(uvicorn.Config(vllm, port=0, lifespan="off", log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    assert until(lambda: engine.started)
    port = engine.servers[0].sockets[0].getsockname()[1]
    try:
        with live(application(Upstream(store, f"http://127.0.0.1:{port}"), store)) as server:
            body = json.dumps({"model": "notes", "prompt": NOTE, "stream": True}).encode()
            with server.wire() as own:
                own.sendall(head("/v1/completions", len(body)) + body)
                assert until(lambda: b"more" in own.recv(4096))
            assert vllm.left.wait(3)
    finally:
        engine.should_exit = True
        thread.join(20)
