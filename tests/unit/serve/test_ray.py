"""Two replicas on this machine: the same answers, tasks with a home, and what the death of one costs."""

import asyncio
import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from promptuary.backbones.generation import Generation
from promptuary.data.source import Row
from promptuary.errors import StoppedError
from promptuary.serve.app import application
from promptuary.serve.faults import Fault
from promptuary.serve.limits import Limits
from promptuary.store import Store
from tests.saved import Shelf
from tests.serving import Live, live

ray = pytest.importorskip("ray", reason="replicas need Ray (pip install 'ray[serve]')")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what Ray and its parts warn of is not ours
TASKS = [f"mood-{i}" for i in range(6)]
TEXTS = ["I like this box", "the glass lid broke", "the best flat I had", "I want my money back"]
AT_ONCE = 24


@pytest.fixture(scope="module")
def shared(store: Store, shelf: Shelf) -> Store:
    """The store, with six tasks more."""
    place = shelf.place / "replicated"
    shutil.copytree(store.folder, place)
    for name in TASKS:
        shutil.copytree(store.folder / "mood", place / name)
    return Store(place, store.backbone)


@pytest.fixture(scope="module")
def replicated(shared: Store) -> Iterator[tuple[Live, Any]]:
    from promptuary.serve.ray import replicas

    limits = Limits(rows=16, queue=256)
    folder = str(shared.backbone.name)
    with (
        replicas(shared.folder, folder, 2, device="cpu", cpus=0.5, limits=limits) as engine,
        live(application(engine, shared)) as server,
    ):
        yield server, engine


def asked(server: Live, task: str, text: str) -> tuple[int, dict[str, str], Any]:
    return server.post("/predict", {"task": task, "rows": [{"text": text}]})


def states(engine: Any) -> dict[int, set[str]]:
    """What each replica has warm, by its process; asked until both have answered."""
    found: dict[int, set[str]] = {}
    ends = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < ends:
        pid, names = engine._handle.state.remote().result()
        found[pid] = set(names)
    return found


def test_every_way_to_ask_is_answered_as_by_the_prompt(replicated: tuple[Live, Any], shared: Store) -> None:
    server, _ = replicated
    _, _, body = asked(server, "mood", TEXTS[0])
    [expected] = shared.get("mood").predict([Row({"text": TEXTS[0]}, "here")])
    assert body["answers"][0]["label"] == expected.label
    assert body["answers"][0]["probability"] == pytest.approx(expected.probability, abs=1e-5)
    _, _, body = server.post("/v1/completions", {"model": "notes", "prompt": "note 1 says box"})
    [note] = shared.get("notes").predict([Row({"text": "note 1 says box"}, "here")])
    assert body["choices"][0]["text"].strip() == note.prediction
    _, _, body = server.post("/v1/embeddings", {"model": "base", "input": "box"})
    assert len(body["data"][0]["embedding"]) == 32


def test_errors_of_a_replica_are_what_they_are_without_one(replicated: tuple[Live, Any]) -> None:
    server, _ = replicated
    status, _, body = server.post("/predict", {"task": "spans", "rows": [{"text": "one text where it has two"}]})
    assert (status, body["error"]["code"]) == (400, "bad_request")
    status, _, body = server.post("/v1/completions", {"model": "notes", "prompt": "box " * 200})
    assert (status, body["error"]["code"]) == (400, "bad_request")
    assert "tokens long" in body["error"]["message"]


def test_a_version_that_no_replica_has_is_told_to_whoever_asks(replicated: tuple[Live, Any], shared: Store) -> None:
    _, engine = replicated
    row, other = Row({"text": TEXTS[0]}, "row"), shared.get("notes")  # no version of "mood"

    async def work() -> list[Exception]:
        async def text() -> None:
            async for _ in engine.write("mood", TEXTS[0], Generation(3), version=other):
                pass

        asked = engine.predict("mood", row, version=other), text(), engine.embed("mood", TEXTS[0], version=other)
        return await asyncio.gather(*asked, return_exceptions=True)  # type: ignore[return-value]

    for fault in asyncio.run(work()):
        assert isinstance(fault, Fault)
        assert (fault.status_code, fault.code) == (503, "version_changed")
        assert fault.headers == {"Retry-After": "1"}


def test_a_task_has_a_home(replicated: tuple[Live, Any]) -> None:
    server, engine = replicated
    for _ in range(5):
        for task in TASKS:
            assert asked(server, task, TEXTS[0])[0] == 200
            time.sleep(0.15)  # Ray tells its routers ten times a second what is warm where
    homes = [names & set(TASKS) for names in states(engine).values()]
    assert len(homes) == 2
    assert homes[0] | homes[1] == set(TASKS)
    assert not homes[0] & homes[1]
    assert min(map(len, homes)) >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replica_has_the_precision_it_is_told_and_calls_itself_ill_when_its_engine_has_stopped(
    shared: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptuary.serve.ray import Replica

    def broken(*_: object, **__: object) -> Any:
        raise ArithmeticError("spoiled")

    async def work() -> None:
        replica = Replica(str(shared.folder), shared.backbone.name, "cpu", Limits(), "bf16", None)
        assert replica.store.backbone.dtype == torch.bfloat16
        replica.check_health()  # nobody asked it yet
        assert len(await replica.embed(None, "box")) == 32
        replica.check_health()
        monkeypatch.setattr("promptuary.serve.queues.chosen", broken)
        with pytest.raises(StoppedError):
            await replica.embed(None, "box")
        while replica.engine.alive:
            await asyncio.sleep(0.01)
        with pytest.raises(StoppedError):
            replica.check_health()

    asyncio.run(work())


def test_the_death_of_a_replica_costs_what_was_in_its_hands_and_that_can_be_asked_again(
    replicated: tuple[Live, Any], shared: Store
) -> None:
    server, engine = replicated
    expected = {text: next(shared.get("mood").predict([Row({"text": text}, "here")])).label for text in TEXTS}
    victim = next(iter(states(engine)))
    work = [(TASKS[i % len(TASKS)], TEXTS[i % len(TEXTS)]) for i in range(40 * AT_ONCE)]
    lost: list[str] = []

    def answered(own: tuple[str, str]) -> bool:
        for _ in range(60):
            status, headers, body = asked(server, *own)
            if status == 200:
                return bool(body["answers"][0]["label"] == expected[own[1]])
            assert (status, body["error"]["code"]) == (503, "replica_lost"), body
            lost.append(own[0])
            time.sleep(int(headers["retry-after"]) * 0.1)
        return False

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(answered, own) for own in work]
        while sum(f.done() for f in futures) < len(work) // 4:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        assert all(f.result() for f in futures)
    print(f"{len(lost)} of {len(work)} requests were told to ask again")
    assert len(lost) <= 16  # Limits(rows): no more were in its hands
    ends = time.monotonic() + 90
    while victim in (pids := states(engine)) or len(pids) < 2:
        assert time.monotonic() < ends
        time.sleep(1)


def test_a_text_whose_replica_dies_ends_with_an_event_that_says_so(replicated: tuple[Live, Any]) -> None:
    server, engine = replicated
    before = set(states(engine))
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    body = {"model": "base", "prompt": "box", "max_tokens": 55, "stream": True, "temperature": 1.0, "seed": 1}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.readline()
    for pid in before:  # both: nobody knows which one writes
        os.kill(pid, signal.SIGKILL)
    lines = [line.removeprefix(b"data: ") for line in answer.read().split(b"\n") if line]
    assert json.loads(lines[-1])["error"]["code"] == "replica_lost"
    ends = time.monotonic() + 120
    while set(states(engine)) & before:  # Ray starts others instead
        assert time.monotonic() < ends
    assert asked(server, "mood", TEXTS[0])[0] == 200
