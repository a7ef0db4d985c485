"""The wire format under invented bodies: each is answered or refused in a sentence, and never the server's fault."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient

from promptuary.serve import wire
from promptuary.serve.app import application
from promptuary.store import Store
from tests.serving import Told

REQUESTS = {
    "/v1/completions": wire.CompletionRequest, "/v1/chat/completions": wire.ChatRequest,
    "/v1/embeddings": wire.EmbeddingRequest, "/predict": wire.PredictRequest,
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "mood", "prompt": "hi"},
    "/v1/chat/completions": {"model": "notes", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/embeddings": {"model": "base", "input": ["hi"]},
    "/predict": {"rows": [{"task": "mood", "text": "hi"}, {"task": "tags", "fields": {"tokens": ["hi"]}}]},
}
NAMES = sorted({name for request in REQUESTS.values() for name in request.model_fields} | set(wire.NEUTRAL))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["mood", "base"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner),
    max_leaves=8,
)


def changed(body: dict[str, Any], change: dict[str, Any]) -> Any:
    return {**body, **change}


def bodies(path: str) -> st.SearchStrategy[Any]:
    """Bodies that are nearly right, and others."""
    changes = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)
    return st.builds(changed, st.just(WHOLE[path]), changes) | VALUES


@pytest.fixture(scope="module")
def asking(store: Store) -> Iterator[TestClient]:
    gate = application(Told(), store)  # type: ignore[arg-type]
    with TestClient(gate, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", REQUESTS)
@settings(max_examples=30)
@given(data=st.data())
def test_an_invented_body_is_answered_or_refused_in_a_sentence(
    asking: TestClient, path: str, data: st.DataObject
) -> None:
    body = json.dumps(data.draw(bodies(path)), allow_nan=True)
    refused(asking, path, body.encode())


@pytest.mark.parametrize("path", REQUESTS)
@settings(max_examples=30)
@given(content=st.binary(max_size=60), cut=st.integers(0, 60), where=st.integers(0, 60))
def test_broken_bytes_are_refused_in_a_sentence(
    asking: TestClient, path: str, content: bytes, cut: int, where: int
) -> None:
    whole = json.dumps(WHOLE[path]).encode()
    refused(asking, path, whole[:where] + content + whole[where + cut :])


@pytest.mark.slow
def test_five_minutes_of_invention_find_nothing(asking: TestClient) -> None:
    ends, number = time.monotonic() + 300, 0
    while time.monotonic() < ends:

        @seed(number)
        @settings(max_examples=200, derandomize=False)
        @given(path=st.sampled_from(sorted(REQUESTS)), data=st.data(), content=st.binary(max_size=60))
        def run(path: str, data: st.DataObject, content: bytes) -> None:
            body = json.dumps(data.draw(bodies(path)), allow_nan=True).encode()
            where = data.draw(st.integers(0, len(body)))
            refused(asking, path, body)
            refused(asking, path, body[:where] + content + body[where + data.draw(st.integers(0, 20)) :])

        run()
        number += 1


def refused(asking: TestClient, path: str, content: bytes) -> None:
    answer = asking.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"].endswith((".", "?"))
        assert error["type"] == "invalid_request_error"
        assert error["code"] in ("invalid_json", "invalid_body", "model_not_found", "bad_request")


@pytest.mark.parametrize("path", REQUESTS)
def test_the_bodies_that_are_changed_are_right(path: str) -> None:
    REQUESTS[path].model_validate(WHOLE[path])


@pytest.mark.parametrize("name", sorted(wire.NEUTRAL))
def test_what_has_no_meaning_is_allowed_where_it_says_nothing(name: str) -> None:
    for value in wire.NEUTRAL[name]:
        wire.CompletionRequest.model_validate({**WHOLE["/v1/completions"], name: value})
    with pytest.raises(ValidationError, match=f"{name} is not supported here"):
        wire.CompletionRequest.model_validate({**WHOLE["/v1/completions"], name: "something"})


def test_nothing_is_neutral_that_is_heard() -> None:
    for request in REQUESTS.values():
        assert not set(request.model_fields) & (set(wire.NEUTRAL) | wire.UNHEARD)


def test_two_names_of_one_limit_may_not_differ() -> None:
    body = WHOLE["/v1/chat/completions"]
    same = wire.ChatRequest.model_validate({**body, "max_tokens": 3, "max_completion_tokens": 3})
    assert same.tokens == 3
    assert wire.ChatRequest.model_validate({**body, "max_tokens": 4}).tokens == 4
    with pytest.raises(ValidationError, match="differ"):
        wire.ChatRequest.model_validate({**body, "max_tokens": 3, "max_completion_tokens": 4})
