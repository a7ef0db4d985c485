"""The server on a real socket: clients that are slow, that leave, that send too much, and a server that closes."""

import http.client
import json
import threading
import time
from collections.abc import Iterator

import pytest

from promptuary.serve.app import application
from promptuary.serve.gate import LOOPBACK, Bounds
from promptuary.store import Store
from tests.serving import Live, Told, head, heard, live, until

BODY = json.dumps({"rows": [{"task": "mood", "text": "hi"}]}).encode()
STREAM = json.dumps({"model": "base", "prompt": "hi", "stream": True}).encode()


@pytest.fixture
def engine() -> Told:
    return Told()


@pytest.fixture
def serving(store: Store, engine: Told) -> Iterator[Live]:
    gate = application(engine, store, bounds=Bounds(body_bytes=10_000))  # type: ignore[arg-type]
    with live(gate) as running:
        yield running


@pytest.fixture
def hasty(store: Store, engine: Told) -> Iterator[Live]:
    """A server that does not wait."""
    with live(application(engine, store, bounds=Bounds(timeout_s=0.3))) as running:  # type: ignore[arg-type]
        yield running


def test_a_body_in_chunks_is_counted_while_it_is_read(serving: Live) -> None:
    chunk = b"%x\r\n%s\r\n" % (8_000, b"a" * 8_000)
    with serving.wire() as own:
        own.sendall(head("/predict", None) + chunk + chunk)  # and there is no end
        answer = heard(own)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
    assert b"connection: close" in answer.lower()


def test_whoever_sends_too_much_at_once_still_hears_why(serving: Live) -> None:
    status, headers, body = serving.post("/predict", {"rows": [{"task": "mood", "text": "a" * 1_000_000}]})
    assert status == 413
    assert body["error"]["code"] == "too_large"
    assert {name.lower() for name in headers} >= {"connection", "x-request-id"}


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(serving: Live) -> None:
    with serving.wire() as own:
        own.sendall(head("/predict", 1 << 40) + b"{")
        assert heard(own).startswith(b"HTTP/1.1 413 ")


def test_a_body_in_chunks_is_answered(serving: Live) -> None:
    with serving.wire() as own:
        own.sendall(head("/predict", None, "Connection: close") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert b'"label":"good"' in heard(own)


def test_a_body_that_does_not_arrive_is_408(hasty: Live, engine: Told) -> None:
    with hasty.wire() as own:
        own.sendall(head("/predict", len(BODY)) + BODY[:-1])
        answer = heard(own)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert engine.asked == []


@pytest.mark.parametrize(("path", "body"), [("/predict", BODY), ("/v1/completions", STREAM)])
def test_work_is_given_up_when_its_client_leaves(store: Store, path: str, body: bytes) -> None:
    engine = Told(stuck=True)
    with live(application(engine, store)) as serving:  # type: ignore[arg-type]
        with serving.wire() as own:
            own.sendall(head(path, len(body)) + body)
            assert until(lambda: bool(engine.asked))
            assert not engine.freed.is_set()
        assert engine.freed.wait(5)
        assert until(lambda: serving.server.gate.open == 0)


def test_a_text_is_given_up_when_its_client_leaves_in_the_middle(store: Store) -> None:
    engine = Told(endless=True)
    with live(application(engine, store)) as serving:  # type: ignore[arg-type]
        with serving.wire() as own:
            own.sendall(head("/v1/completions", len(STREAM)) + STREAM)
            assert own.recv(100_000).startswith(b"HTTP/1.1 200 ")
            assert not engine.freed.is_set()
        assert engine.freed.wait(5)
        assert until(lambda: serving.server.gate.open == 0)


def test_a_text_is_given_up_when_its_client_does_not_read_on(store: Store) -> None:
    engine = Told(endless=True)
    gate = application(engine, store, bounds=Bounds(timeout_s=0.3))  # type: ignore[arg-type]
    with live(gate) as serving, serving.wire() as own:
        own.sendall(head("/v1/completions", len(STREAM)) + STREAM)
        assert own.recv(1000)
        assert engine.freed.wait(10)
        assert until(lambda: gate.open == 0)


def test_slow_clients_do_not_hold_up_others(serving: Live) -> None:
    with serving.wire() as slow, serving.wire() as slower:
        slow.sendall(head("/predict", len(BODY)) + BODY[:5])
        slower.sendall(head("/v1/completions", len(STREAM)) + STREAM[:5])
        assert serving.post("/predict", json.loads(BODY))[0] == 200
        for own in (slow, slower):  # they are still being waited for
            own.setblocking(False)
            with pytest.raises(BlockingIOError):
                own.recv(1)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /predict HTTP/1.1\r\nHost: here\r\nX-Slow: "], ids=["nothing", "half a head"]
)
def test_a_connection_on_which_no_request_comes_is_closed(hasty: Live, sent: bytes) -> None:
    with hasty.wire() as own:
        own.sendall(sent)
        assert heard(own) == b""
    with hasty.wire() as own:  # nor one on which no other comes
        own.sendall(head("/predict", len(BODY)) + BODY + sent)
        assert heard(own).startswith(b"HTTP/1.1 ")


def test_a_connection_on_which_requests_come_is_kept(hasty: Live) -> None:
    connection = http.client.HTTPConnection(hasty.host, hasty.port, timeout=20)
    connection.auto_open = 0  # type: ignore[assignment]
    connection.connect()
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:  # between requests at nearly every moment
        connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        time.sleep(0.03)
    connection.close()


def test_where_anyone_may_ask_a_page_from_elsewhere_may_not(store: Store, engine: Told) -> None:
    gate = application(engine, store, hosts=LOOPBACK)  # type: ignore[arg-type]
    with live(gate) as serving:
        for host in ("localhost", f"127.0.0.1:{serving.port}", f"[::1]:{serving.port}"):
            assert serving.post("/predict", json.loads(BODY), Host=host)[0] == 200
        for host in ("elsewhere.example", "127.0.0.1.elsewhere.example:80", "localhost.example", "[::2]", ""):
            status, _, body = serving.post("/predict", json.loads(BODY), Host=host)
            assert (status, body["error"]["code"]) == (421, "wrong_host")


def test_what_is_no_http_is_400_and_the_server_lives(serving: Live) -> None:
    with serving.wire() as own:
        own.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert heard(own).startswith(b"HTTP/1.1 400 ")
    assert serving.post("/predict", json.loads(BODY))[0] == 200


def test_a_signal_lets_accepted_requests_finish_and_nobody_else_in(store: Store) -> None:
    engine = Told(stuck=True)
    gate = application(engine, store, bounds=Bounds(timeout_s=1.5))  # type: ignore[arg-type]
    found: list[int] = []
    with live(gate) as serving:
        early = threading.Thread(target=lambda: found.append(serving.post("/predict", json.loads(BODY))[0]))
        early.start()
        assert until(lambda: bool(engine.asked))
        serving.signalled()
        assert until(lambda: gate.draining)
        status, headers, body = serving.post("/predict", json.loads(BODY))
        assert (status, body["error"]["code"]) == (503, "closing")
        assert int(headers["retry-after"]) > 0
        early.join(10)
        assert found == [504]  # its own answer, not the server's end
        assert until(lambda: serving.server.should_exit)


def test_a_server_that_cannot_finish_closes_all_the_same(store: Store) -> None:
    engine = Told(endless=True)
    gate = application(engine, store)  # type: ignore[arg-type]
    with live(gate, finish_s=0.3) as serving, serving.wire() as own:
        own.sendall(head("/v1/completions", len(STREAM)) + STREAM)
        own.recv(10)
        serving.signalled()
        assert until(lambda: serving.server.should_exit)
        own.close()
