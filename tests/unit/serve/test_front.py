"""What stands before each engine: `serve`, `gateway` and `replicas` as their commands start them."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from promptuary.backbones.load import load
from promptuary.cli import serving
from promptuary.serve import logs, process
from promptuary.serve.gate import Gate
from promptuary.serve.keys import new_key
from promptuary.serve.process import Server
from promptuary.store import Store
from promptuary.tuned import open_prompt
from tests.serving import ADMIN, Told, until

Start = Callable[..., Any]  # a command's options: the server that it starts


@contextmanager
def _replicas(*_: object, precision: str, int8: str | None, **__: object) -> Iterator[Told]:
    yield Told(pieces=[precision, str(int8)])


@pytest.fixture(params=["serve", "gateway", "replicas"])
def start(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the command in a thread; what it gives back asks its server."""
    begun: list[tuple[Server, threading.Thread]] = []

    class Seen(Server):
        def __init__(self, gate: Gate, *where: Any, **more: Any) -> None:
            super().__init__(gate, *where, **more)
            begun.append((self, threading.current_thread()))

    monkeypatch.setattr(process, "Server", Seen)
    monkeypatch.setattr(logs, "start", lambda level: None)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())  # it need not be here: the replicas are `Told`
    monkeypatch.setitem(sys.modules, "promptuary.serve.ray", SimpleNamespace(replicas=_replicas))
    more = {"upstream": "http://127.0.0.1:9"} if request.param == "gateway" else {}

    def started(**options: Any) -> httpx.Client:
        given = {"store": store.folder, "backbone": store.backbone.name, "port": 0, "device": "cpu", **more, **options}
        if request.param == "replicas":
            given.pop("device")
        count = len(begun) + 1
        threading.Thread(target=lambda: getattr(serving, request.param)(**given), daemon=True).start()
        assert until(lambda: len(begun) == count and begun[-1][0].started, 20)
        host, port = begun[-1][0].servers[0].sockets[0].getsockname()[:2]
        return httpx.Client(base_url=f"http://{host}:{port}")

    yield started
    for server, thread in begun:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_where_anyone_may_ask_no_page_from_elsewhere_may(start: Start) -> None:
    with start() as asking:
        assert asking.get("/tasks").status_code == 200
        found = asking.get("/tasks", headers={"Host": "elsewhere.example"})
        assert (found.status_code, found.json()["error"]["code"]) == (421, "wrong_host")


def test_whoever_opens_it_or_asks_for_keys_is_called_by_any_name(start: Start, tmp_path: Path) -> None:
    elsewhere = {"Host": "elsewhere.example"}
    with start(anyone=True) as asking:
        assert asking.get("/tasks", headers=elsewhere).status_code == 200
    key = new_key(tmp_path / "keys.json", "shop", [])
    with start(keys=tmp_path / "keys.json") as asking:
        assert asking.get("/tasks", headers=elsewhere).status_code == 401
        assert asking.get("/tasks", headers={**elsewhere, "Authorization": f"Bearer {key}"}).status_code == 200


def test_the_administrator_reads_the_metrics_and_imports_tasks(start: Start, store: Store, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ADMIN)
    (tmp_path / "imports").mkdir()
    (tmp_path / "imports" / "feelings").symlink_to(store.folder / "mood")
    (tmp_path / "store").mkdir()
    new_key(tmp_path / "keys.json", "shop", [])
    folders = {"store": tmp_path / "store", "imports": tmp_path / "imports"}
    own = {"keys": tmp_path / "keys.json", "admin": tmp_path / "token", "max_upload_bytes": 10_000}
    with start(**folders, **own) as asking:
        leader = {"Authorization": f"Bearer {ADMIN}"}
        assert asking.get("/metrics").status_code == 401
        assert "promptuary_requests_total" in asking.get("/metrics", headers=leader).text
        assert asking.put("/tasks/new", data={"folder": "feelings"}, headers=leader).status_code == 201
        large = asking.put("/tasks/new", files={"manifest": b"a" * 20_000}, headers=leader)
        assert large.status_code == 413
        assert "10,000 bytes" in large.json()["error"]["message"]
        assert asking.get("/tasks", headers=leader).json()["tasks"] == [{"name": "new"}]


@pytest.mark.parametrize("start", ["serve"], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_the_model_has_the_precision_that_is_asked_for(
    start: Start, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    monkeypatch.setattr("promptuary.precision.bfloat16_cost", lambda: 0.3)  # a processor that is fast in it
    given = {} if precision == "fp32" else {"precision": precision}  # it is the default: answers stay what they were
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    own = open_prompt(store.folder / "mood", backbone=load(store.backbone.name, device="cpu", dtype=dtype))
    [expected] = own.predict_texts(["I like this box"])
    with start(**given) as asking:
        body = {"rows": [{"task": "mood", "text": "I like this box"}]}
        [answer] = asking.post("/predict", json=body).json()["answers"]
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert ("In bfloat16, prompts" in capsys.readouterr().err) is (precision != "fp32")


@pytest.mark.parametrize("start", ["replicas"], indirect=True)
def test_replicas_are_told_precision_and_rounding(start: Start) -> None:
    for given, expected in (({}, "fp32None"), ({"precision": "bf16", "int8": "weights"}, "bf16weights")):
        with start(**given) as asking:
            body = asking.post("/v1/completions", json={"model": "base", "prompt": "hi"}).json()
            assert body["choices"][0]["text"] == expected
