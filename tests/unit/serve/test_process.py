"""`promptuary serve` as a process of its own; and the server's OpenAPI under schemathesis."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from promptuary.serve.app import application
from promptuary.store import Store
from tests.saved import Shelf, refused
from tests.serving import Told, stocked


def test_what_cannot_work_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    base = ("serve", tmp_path / "store", "--backbone", "no-such-model")
    assert "--open" in refused(*base, "--host", "0.0.0.0")
    assert "keys.json" in refused(*base, "--keys", tmp_path / "keys.json")
    assert "could not be read" in refused(*base, "--admin-token-file", tmp_path / "token")
    assert "Did you mean 'warning'" in refused(*base, "--log-level", "warn")


@pytest.fixture
def process(shelf: Shelf, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`promptuary serve` on a free port, and where it listens."""
    folder = stocked(shelf, "gpt2", tmp_path / "store")
    command = [
        sys.executable, "-m", "promptuary", "serve", str(folder), "--backbone", str(shelf.model("gpt2")), "--port", "0",
        "--wait-ms", "300",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stderr is not None
        url = ""
        for line in running.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                url = event["url"]
                break
        yield running, url
        running.kill()


@pytest.mark.slow
def test_sigterm_lets_accepted_requests_finish_and_ends_with_success(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    running, url = process
    asked = {"rows": [{"task": "mood", "text": "I like it"}, {"task": "notes", "text": "note 1"}]}
    found: list[int] = []

    def ask() -> None:
        found.append(httpx.post(f"{url}/predict", json=asked, timeout=30).status_code)

    ask()
    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    time.sleep(0.15)  # they are accepted, and wait for company
    running.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert found == [200] * 9
    assert running.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(process: tuple[subprocess.Popen[str], str]) -> None:
    running, _ = process
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0


@pytest.mark.slow
def test_schemathesis_finds_no_fault_of_the_server(store: Store) -> None:
    import schemathesis
    from hypothesis import HealthCheck, settings
    from schemathesis.checks import not_a_server_error

    gate = application(Told(), store)  # type: ignore[arg-type]
    schema = schemathesis.openapi.from_asgi("/openapi.json", gate)
    asked = set()

    @schema.parametrize()
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def run(case: "schemathesis.Case") -> None:
        asked.add((case.method, case.path))
        case.call_and_validate(checks=[not_a_server_error])

    assert run is not None
