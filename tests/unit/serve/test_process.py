"""`promptuary serve` as a process of its own; and the server's OpenAPI under schemathesis."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from promptuary.serve import logs
from promptuary.serve import process as processes
from promptuary.serve.app import application
from promptuary.serve.keys import Guard, hashed
from promptuary.store import Store
from tests.saved import Shelf, done, refused
from tests.serving import ADMIN, Told, stocked, until


def test_what_cannot_work_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    for command in (("serve",), ("gateway", "--upstream", "http://localhost:9"), ("replicas",)):
        said = refused(*command, tmp_path / "stroe", "--backbone", "no-such-model")
        assert "there is no such folder" in said
        assert not (tmp_path / "stroe").exists()
    (tmp_path / "store").mkdir()
    base = ("serve", tmp_path / "store", "--backbone", "no-such-model")
    assert "--open" in refused(*base, "--host", "0.0.0.0")
    assert "keys.json" in refused(*base, "--keys", tmp_path / "keys.json")
    assert "could not be read" in refused(*base, "--admin-token-file", tmp_path / "token")
    assert "Did you mean 'warning'" in refused(*base, "--log-level", "warn")


def test_how_much_memory_prompts_may_take_is_said_in_mebibytes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    made: list[Store] = []

    def noted(*given: Any, **more: Any) -> Store:
        made.append(Store(*given, **more))
        return made[-1]

    monkeypatch.setattr(processes, "Store", noted)
    monkeypatch.setattr(processes.Server, "run", lambda server: None)
    monkeypatch.setattr(logs, "start", lambda level: None)
    for options, bound in ((("--held-mib", 3), 3 << 20), ((), 2 << 30)):
        done("serve", tmp_path / "store", "--backbone", shelf.model("gpt2"), *options)
        assert made.pop().held_bytes == bound
    assert "--held-mib" in refused("serve", tmp_path / "store", "--backbone", "no-such-model", "--held-mib", 0)


@dataclass(frozen=True)
class Process:
    """`promptuary serve`, and where it listens."""

    running: subprocess.Popen[str]
    url: str


@pytest.fixture
def process(shelf: Shelf, tmp_path: Path) -> Iterator[Process]:
    folder = stocked(shelf, "gpt2", tmp_path / "store")
    command = [
        sys.executable, "-m", "promptuary", "serve", str(folder), "--backbone", str(shelf.model("gpt2")), "--port", "0",
        "--wait-ms", "2000",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        events = (json.loads(line) for line in running.stderr)
        yield Process(running, next(event["url"] for event in events if event["event"] == "listening"))
        running.kill()


@pytest.mark.slow
def test_sigterm_lets_accepted_requests_finish_and_ends_with_success(process: Process) -> None:
    asked = {"rows": [{"task": "mood", "text": "I like it"}, {"task": "tags", "text": "the glass"}]}
    found: list[int] = []

    def ask() -> None:
        found.append(httpx.post(f"{process.url}/predict", json=asked, timeout=30).status_code)

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    accepted = "promptuary_open_requests 9.0"  # with the one that asks
    assert until(lambda: accepted in httpx.get(f"{process.url}/metrics").text)
    assert found == []
    for _ in range(2):  # as some tools send it
        process.running.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert found == [200] * 8
    assert process.running.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/healthz")


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(process: Process) -> None:
    process.running.send_signal(signal.SIGINT)
    process.running.send_signal(signal.SIGINT)
    assert process.running.wait(20) == 0


@pytest.mark.slow
def test_schemathesis_finds_no_fault_of_the_server(store: Store) -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error

    guard = Guard(None, hashed(ADMIN))
    schema = schemathesis.openapi.from_asgi("/openapi.json", application(Told(), store, guard=guard))  # type: ignore[arg-type]
    answered: set[int] = set()
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode), admin=st.booleans())
            @settings(max_examples=30, suppress_health_check=list(HealthCheck))
            def run(case: Any, admin: bool) -> None:
                answer = case.call(headers={"Authorization": f"Bearer {ADMIN}"} if admin else None)
                answered.add(answer.status_code)
                case.validate_response(answer, checks=[not_a_server_error])

            with contextlib.suppress(Unsatisfiable):  # nothing to say wrongly where nothing is said
                run()
        tried += 1
    assert tried == 15
    assert answered >= {200, 400, 401, 404}
