"""What the server answers: every kind of task in every way of asking, and every way to ask wrongly."""

import base64
import copy
import errno
import json
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from tokenizers import AddedToken

from promptuary.data.source import Row
from promptuary.errors import BackboneError, BusyError, MissingError
from promptuary.serve.app import application
from promptuary.serve.engine import Engine, Limits
from promptuary.serve.gate import Bounds
from promptuary.serve.keys import Guard, Key, hashed
from promptuary.store import Store
from promptuary.tuned import Tuned
from tests.serving import ADMIN, Told, until

JSON = {"Content-Type": "application/json"}
LEADER = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="module")
def client(store: Store) -> Iterator[TestClient]:
    gate = application(Engine(store, Limits()), store, guard=Guard(None, hashed(ADMIN)))
    with TestClient(gate) as asking:
        yield asking


def told(store: Store, engine: Told, **options: Any) -> TestClient:
    return TestClient(application(engine, store, **options), raise_server_exceptions=False)  # type: ignore[arg-type]


def fault(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer that must have this status; it is written as OpenAI writes errors, wherever it occurs."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"].endswith((".", "?"))
    return dict(body["error"])


# --- answers ----------------------------------------------------------------------------------------------------------


def test_rows_of_many_tasks_in_one_body_are_answered_as_by_each_prompt(client: TestClient, store: Store) -> None:
    asked = [
        {"task": "mood", "text": "I like this box"},
        {"task": "tags", "text": ["the", "glass"]},
        {"task": "spans", "fields": {"question": "what broke", "context": "the glass lid broke"}},
        {"task": "notes", "fields": {"text": "note 1 says box"}},
        {"task": "mood", "fields": {"text": "I want my money back"}},
    ]
    answers = client.post("/predict", json={"rows": asked}).json()["answers"]
    assert [answer["task"] for answer in answers] == [row["task"] for row in asked]
    for row, answer in zip(asked, answers, strict=True):
        own = store.get(row["task"])
        fields = row.get("fields", {own.task.text: row.get("text")})
        [expected] = own.predict([Row(fields, "here")])
        for name, value in vars(expected).items():
            exact = isinstance(value, str | list)
            assert answer[name] == (value if exact else pytest.approx(value, abs=1e-5)), name


def test_a_task_named_once_is_for_all_rows_that_name_none(client: TestClient) -> None:
    rows = [{"text": "good box"}, {"task": "tags", "text": "the box"}]
    answers = client.post("/predict", json={"task": "mood", "rows": rows}).json()["answers"]
    assert [answer["task"] for answer in answers] == ["mood", "tags"]
    assert set(answers[0]["probabilities"]) == {"bad", "good"}
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    assert answers[0]["probability"] == max(answers[0]["probabilities"].values())


@pytest.mark.parametrize(
    ("task", "content"),
    [("mood", ["I like this box"]), ("tags", ["the glass box"]), ("spans", ["what broke", "the glass lid broke"])],
)
def test_tasks_that_do_not_write_answer_chats_with_what_they_say(
    client: TestClient, store: Store, task: str, content: list[str]
) -> None:
    messages = [{"role": "user", "content": text} for text in content]
    body = client.post("/v1/chat/completions", json={"model": task, "messages": messages}).json()
    own = store.get(task)
    [expected] = own.predict([own.reading.row(own.task, content, "here")])
    said = next(iter(own.reading.output(expected).values()))
    assert body["choices"][0]["message"]["content"] == (" ".join(said) if isinstance(said, list) else said)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 0
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0


def test_a_text_is_the_same_whole_streamed_and_predicted(client: TestClient, store: Store) -> None:
    asked = {"model": "notes", "prompt": "note 1 says box"}
    whole = client.post("/v1/completions", json=asked).json()
    [expected] = store.get("notes").predict([Row({"text": "note 1 says box"}, "here")])
    assert whole["choices"][0]["text"].strip() == expected.prediction
    parts = events(client, "/v1/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert "".join(part["choices"][0]["text"] for part in parts[:-1]) == whole["choices"][0]["text"]
    assert [part["choices"][0]["finish_reason"] for part in parts[:-2]] == [None] * (len(parts) - 2)
    assert parts[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == whole["usage"]
    assert len({part["id"] for part in parts}) == 1


def events(client: TestClient, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream, which ends as OpenAI's do."""
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_streamed_chat_names_its_role_once_for_each_text(client: TestClient) -> None:
    body = {"model": "notes", "messages": [{"role": "user", "content": "note"}], "n": 2, "stream": True}
    parts = events(client, "/v1/chat/completions", {**body, "max_completion_tokens": 3})
    deltas = [(choice["index"], choice["delta"]) for part in parts for choice in part["choices"]]
    assert [(i, d) for i, d in deltas if "role" in d] == [(0, {"role": "assistant"}), (1, {"role": "assistant"})]
    texts = ["".join(d.get("content", "") for i, d in deltas if i == index) for index in (0, 1)]
    assert texts[0] == texts[1] != ""


def test_several_prompts_have_several_texts_each_in_their_order(client: TestClient) -> None:
    asked = {"model": "notes", "prompt": ["note 1", "the glass lid"], "n": 2, "max_tokens": 2}
    choices = client.post("/v1/completions", json=asked).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    alone = [client.post("/v1/completions", json={**asked, "prompt": p, "n": 1}).json() for p in asked["prompt"]]
    assert [choice["text"] for choice in choices] == [a["choices"][0]["text"] for a in alone for _ in range(2)]


def test_the_bare_model_is_a_model_called_base(client: TestClient) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
        "mood",
        "notes",
        "spans",
        "tags",
        "base",
    ]
    assert client.get("/v1/models/base").json()["id"] == "base"
    body = client.post("/v1/completions", json={"model": "base", "prompt": "I like", "max_tokens": 4}).json()
    assert body["usage"]["completion_tokens"] <= 4
    assert body["choices"][0]["finish_reason"] in ("stop", "length")


def test_how_a_text_is_asked_for_reaches_the_engine(store: Store) -> None:
    engine = Told()
    asked = {"model": "base", "prompt": "a", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["x", "y"]}
    answer = told(store, engine).post("/v1/completions", json=asked)
    assert answer.json()["choices"][0]["text"] == "one two"
    [(task, text, how, stop)] = engine.asked
    assert (task, text, how.max_new_tokens, stop) == (None, "a", 7, ("x", "y"))
    assert (how.sampling.temperature, how.sampling.top_p) == (0.5, 0.9)


def test_without_a_temperature_texts_are_greedy_and_as_long_as_the_task_says(store: Store) -> None:
    engine = Told()
    told(store, engine).post("/v1/completions", json={"model": "notes", "prompt": "a"})
    [(_, _, how, _)] = engine.asked
    assert how.sampling is None
    assert how.max_new_tokens == 6


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-9, 5e-324, None])
def test_no_temperature_and_next_to_none_are_greedy(store: Store, temperature: float | None) -> None:
    engine = Told()
    asked = {"model": "base", "prompt": "a", "temperature": temperature, "seed": 3}
    assert told(store, engine).post("/v1/completions", json=asked).status_code == 200
    assert engine.asked[0][2].sampling is None


def test_each_of_several_texts_is_drawn_with_a_seed_of_its_own(store: Store) -> None:
    for seed, expected in ((7, [7, 8, 9]), (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63)]), (None, [None] * 3)):
        engine = Told()
        asked = {"model": "base", "prompt": "a", "temperature": 1, "seed": seed, "n": 3}
        told(store, engine).post("/v1/completions", json=asked)
        assert [how.sampling.seed for _, _, how, _ in engine.asked] == expected


def test_the_bare_model_hears_a_chat_as_lines_where_its_tokenizer_has_no_template(store: Store) -> None:
    engine = Told()
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    told(store, engine).post("/v1/chat/completions", json={"model": "base", "messages": messages})
    assert engine.asked[0][1] == "system: be kind\nuser: hi\nassistant:"


def test_the_bare_model_hears_a_chat_in_its_tokenizers_template(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = store.backbone.tokenizer
    end = tokenizer.eos_token
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no systems') }}{% endif %}"
    template += "{{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %} >{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    engine = Told()
    asking = told(store, engine)
    chat = {"model": "base", "messages": [{"role": "user", "content": f"hi{end}box"}]}
    body = asking.post("/v1/chat/completions", json=chat).json()
    ids = engine.asked[0][1]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == f"user hi{end}box{end} >"
    assert body["usage"]["prompt_tokens"] == len(ids)
    chat["messages"] = [{"role": "system", "content": "hi"}]
    assert "no systems" in fault(asking.post("/v1/chat/completions", json=chat), 400)["message"]


@pytest.mark.parametrize("special", [True, False])
def test_nobody_writes_a_token_of_the_template_into_a_message(
    store: Store, monkeypatch: pytest.MonkeyPatch, special: bool
) -> None:
    """Llama 3 and others begin a message with tokens that are none of the tokenizer's named ones."""
    tokenizer = copy.deepcopy(store.backbone.tokenizer)
    tokenizer.add_tokens([AddedToken("<|head|>", special=special, normalized=False)])
    tokenizer.chat_template = "{% for m in messages %}<|head|>{{ m.role }}: {{ m.content }}{% endfor %}<|head|>"
    monkeypatch.setattr(store.backbone, "tokenizer", tokenizer)
    engine = Told()
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi<|head|>system: box"}]}
    assert told(store, engine).post("/v1/chat/completions", json=chat).status_code == 200
    ids = engine.asked[0][1]
    assert ids.count(tokenizer.convert_tokens_to_ids("<|head|>")) == 2
    assert tokenizer.decode(ids) == "<|head|>user: hi<|head|>system: box<|head|>"


def test_token_ids_of_a_template_go_on_as_the_model_itself_goes_on(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = store.backbone.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content }}{{ bos_token }}")
    with TestClient(application(Engine(store, Limits()), store)) as asking:
        chat = {"model": "base", "messages": [{"role": "user", "content": "note 1"}], "max_tokens": 4}
        said = asking.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
        chat["messages"] = [{"role": "user", "content": "very " * 500}]
        assert "room for 63" in fault(asking.post("/v1/chat/completions", json=chat), 400)["message"]
    given = [*tokenizer("note 1")["input_ids"], tokenizer.bos_token_id]
    ids = torch.tensor([given])
    for _ in range(4):  # nothing of ours: the model's own scores
        if (token := int(store.backbone.model(input_ids=ids).logits[0, -1].argmax())) == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert said == tokenizer.decode(ids[0, len(given) :])


def test_a_tuned_prompt_hears_the_texts_of_a_chat_and_no_roles(store: Store) -> None:
    engine = Told()
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    told(store, engine).post("/v1/chat/completions", json={"model": "mood", "messages": messages})
    assert engine.asked == [(store.get("mood"), {"text": "be kind\n\nhi"})]


def test_embeddings_come_as_numbers_or_packed(store: Store) -> None:
    asking = told(store, Told())
    asked = {"model": "base", "input": ["a", "bcd"]}
    plain = asking.post("/v1/embeddings", json=asked).json()
    assert [one["embedding"] for one in plain["data"]] == [[0.5, -1.0, 1.0], [0.5, -1.0, 3.0]]
    packed = asking.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
    assert list(struct.unpack("<3f", base64.b64decode(packed["data"][1]["embedding"]))) == [0.5, -1.0, 3.0]


def test_a_task_is_shown_as_show_describes_it(client: TestClient, store: Store) -> None:
    from promptuary.show import describe

    shown = client.get("/tasks/mood").json()
    assert (shown["columns"], shown["labels"], shown["writes"]) == (["text"], ["bad", "good"], False)
    assert shown["prompt"] == json.loads(json.dumps(describe(store.get("mood"))))
    assert client.get("/tasks/spans").json()["columns"] == ["question", "context"]
    assert client.get("/tasks/notes").json()["writes"]
    listed = client.get("/tasks").json()
    assert [task["name"] for task in listed["tasks"]] == ["mood", "notes", "spans", "tags"]
    assert listed["base"]


def test_numbers_that_json_cannot_write_are_null(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptuary.kinds.classification import Answer

    async def nothing(self: Told, task: str, row: Row, *, version: Tuned | None = None) -> Answer:
        return Answer("good", float("nan"), {"bad": float("inf"), "good": 0.5})

    monkeypatch.setattr(Told, "predict", nothing)
    [answer] = told(store, Told()).post("/predict", json={"rows": [{"task": "mood", "text": "a"}]}).json()["answers"]
    assert (answer["probability"], answer["probabilities"]) == (None, {"bad": None, "good": 0.5})


# --- what is asked wrongly --------------------------------------------------------------------------------------------

ASK = {"rows": [{"task": "mood", "text": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"rows": [{"task": "mod", "text": "hi"}]}),
        ("/v1/completions", {"model": "mod", "prompt": "hi"}),
        ("/v1/completions", {"model": "mod", "prompt": "hi", "stream": True}),
        ("/v1/chat/completions", {"model": "mod", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/embeddings", {"model": "mod", "input": "hi"}),
    ],
)
def test_an_unknown_task_is_404_with_the_nearest_name(client: TestClient, path: str, body: Any) -> None:
    found = fault(client.post(path, json=body), 404)
    assert (found["code"], found["param"]) == ("model_not_found", "model")
    assert "Did you mean 'mood'?" in found["message"]


def test_an_unknown_task_or_path_is_404_wherever_it_is_named(client: TestClient) -> None:
    assert "'mood'" in fault(client.get("/v1/models/mod"), 404)["message"]
    assert "'mood'" in fault(client.get("/tasks/mod"), 404)["message"]
    assert fault(client.delete("/tasks/mod", headers=LEADER), 404)["code"] == "task_not_found"
    assert fault(client.post("/tasks/mod/reload", headers=LEADER), 404)["code"] == "task_not_found"
    assert fault(client.get("/v2/models"), 404)["code"] == "not_found"
    assert fault(client.get("/page/../wire.py"), 404)["code"] == "not_found"
    assert fault(client.get("/predict"), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"rows": [}', b'{"rows": [{"task": "mood", "text": "\xff\xfe"}]}', b"\xff\xfe{\x00}\x00",
        b'{"rows": [{"task": "mood", "text": "\\ud800"}]}',
        b'{"rows": [{"task": "mood", "fields": {"text": "a", "x": NaN}}]}',
        b"[" * 100_000, b'{"rows": ' + b"1" * 5000 + b"}", b"[]", b"null", b'"text"', b"{}",
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/predict", "/v1/completions"])
def test_a_body_that_is_no_json_object_is_400(client: TestClient, path: str, body: bytes) -> None:
    assert fault(client.post(path, content=body, headers=JSON), 400)["code"] in ("invalid_json", "invalid_body")


def test_a_body_of_another_type_is_400(client: TestClient) -> None:
    found = fault(client.post("/predict", content=json.dumps(ASK), headers={"Content-Type": "text/plain"}), 400)
    assert "application/json" in found["message"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_token": 3}, "There is no field 'max_token'. Did you mean 'max_tokens'?"),
        ({"logprobs": 3}, "logprobs is not supported here. Leave it out."),
        ({"tools": [{"type": "function"}]}, "tools is not supported here. Leave it out."),
        ({"presence_penalty": 0.5}, "presence_penalty is not supported here. Leave it out."),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2."),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1."),
        ({"max_tokens": "3"}, "max_tokens: Input should be a valid integer."),
        ({"n": 100}, "n: Input should be less than or equal to 8."),
        ({"prompt": [1, 2]}, "prompt: Input should be a valid string."),
        ({"stop": ["a"] * 5}, "stop: "),
        ({"model": 3}, "model: Input should be a valid string."),
    ],
)
def test_what_has_no_meaning_here_is_refused_by_name(client: TestClient, change: dict[str, Any], told: str) -> None:
    found = fault(client.post("/v1/completions", json={"model": "notes", "prompt": "hi", **change}), 400)
    assert told in found["message"]


def test_what_changes_no_answer_is_allowed(client: TestClient) -> None:
    neutral = {
        "logprobs": None,
        "presence_penalty": 0,
        "tools": [],
        "user": "me",
        "metadata": {"a": "b"},
        "echo": False,
    }
    assert client.post("/v1/completions", json={"model": "mood", "prompt": "hi", **neutral}).status_code == 200


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"task": "mood"}, "either a text or fields"),
        ({"task": "mood", "text": "a", "fields": {"text": "a"}}, "either a text or fields"),
        ({"text": "a"}, "names no task"),
        ({"task": "mood", "text": " "}, "'text' is empty"),
        ({"task": "mood", "fields": {"txt": "a"}}, "there is no column 'text'"),
        ({"task": "mood", "fields": {"text": 3}}, "Expected a text"),
        ({"task": "base", "text": "a"}, "the model without a prompt"),
        ({"task": "spans", "text": "what broke"}, "this task reads 2 (question, context)"),
        ({"task": "tags", "text": []}, "Expected a list of one word or more"),
        ({"task": "mood", "text": "very " * 500}, "there is room for "),
    ],
)
def test_a_row_that_cannot_be_answered_is_400_with_its_place(client: TestClient, row: Any, told: str) -> None:
    found = fault(client.post("/predict", json={"rows": [{"task": "mood", "text": "fine"}, row]}), 400)
    assert told in found["message"]
    assert row.get("task") == "base" or "row" in found["message"]


def test_a_text_that_does_not_fit_is_400_and_names_the_limit(client: TestClient) -> None:
    found = fault(client.post("/v1/completions", json={"model": "notes", "prompt": "very " * 500}), 400)
    assert "room" in found["message"] or "positions" in found["message"]
    streamed = client.post("/v1/completions", json={"model": "base", "prompt": "very " * 500, "stream": True})
    assert "room for 63" in fault(streamed, 400)["message"]


def test_a_wrong_key_is_401_and_a_task_it_is_not_for_403(store: Store) -> None:
    guard = Guard([Key(name="shop", sha256=hashed("pk-shop"), tasks=["mood"])], hashed(ADMIN))
    asking = told(store, Told(), guard=guard)
    for wrong in ({}, {"Authorization": "Bearer pk-shap"}, {"Authorization": "Basic pk-shop"}, {"X-Key": "pk-shop"}):
        answer = asking.post("/predict", json=ASK, headers=wrong)
        assert fault(answer, 401)["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    own = {"Authorization": "Bearer pk-shop"}
    assert asking.post("/predict", json=ASK, headers=own).status_code == 200
    other = {"rows": [ASK["rows"][0], {"task": "tags", "text": "hi"}]}
    assert fault(asking.post("/predict", json=other, headers=own), 403)["type"] == "permission_error"
    assert fault(asking.get("/tasks/tags", headers=own), 403)["code"] == "task_not_allowed"
    assert [model["id"] for model in asking.get("/v1/models", headers=own).json()["data"]] == ["mood"]
    unknown = {"rows": [{"task": "mod", "text": "hi"}]}
    assert "'mood'" in fault(asking.post("/predict", json=unknown, headers=own), 403)["message"]
    assert fault(asking.post("/predict", content=b"x" * 2_000_000), 401)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models/{}", None),
        ("GET", "/tasks/{}", None),
        ("POST", "/predict", {"rows": [{"task": "{}", "text": "hi"}]}),
        ("POST", "/v1/completions", {"model": "{}", "prompt": "hi"}),
        ("POST", "/v1/embeddings", {"model": "{}", "input": "hi"}),
        ("POST", "/v1/chat/completions", {"model": "{}", "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_a_key_does_not_learn_which_tasks_there_are_beside_its_own(
    store: Store, method: str, path: str, body: Any
) -> None:
    guard = Guard([Key(name="shop", sha256=hashed("pk-shop"), tasks=["mood"])])
    asking, own = told(store, Told(), guard=guard), {"Authorization": "Bearer pk-shop"}
    said = []
    for name in ("tags", "tagz", "base"):
        sent = None if body is None else json.loads(json.dumps(body).replace("{}", name))
        found = fault(asking.request(method, path.format(name), json=sent, headers=own), 403)
        said.append({**found, "message": found["message"].replace(repr(name), "it")})
    assert said[0] == said[1] == said[2]
    assert "mood" in said[0]["message"]
    assert "tags" not in said[0]["message"]


def test_to_look_for_the_nearest_name_costs_a_row_and_holds_up_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    names = Store.names

    def seen(self: Store) -> list[str]:
        threads.append(threading.current_thread())
        return names(self)

    monkeypatch.setattr(Store, "names", seen)
    key = Key(name="shop", sha256=hashed("pk-shop"), tasks=["*"], rows_per_minute=2)
    asking, own = told(store, Told(), guard=Guard([key])), {"Authorization": "Bearer pk-shop"}
    with asking:
        loop = asking.portal.call(threading.current_thread)  # type: ignore[union-attr]
        for path in ("/v1/models", "/tasks"):
            assert asking.get(path, headers=own).status_code == 200
        assert [asking.get("/v1/models/mod", headers=own).status_code for _ in range(3)] == [404, 404, 429]
    assert len(threads) == 4
    assert loop not in threads


def test_what_watches_the_server_needs_no_key_and_metrics_the_administrators(store: Store) -> None:
    asking = told(store, Told(), guard=Guard([], hashed(ADMIN)))
    for path in ("/healthz", "/readyz", "/", "/page/script.js", "/openapi.json"):
        assert asking.get(path).status_code == 200, path
    fault(asking.get("/metrics"), 401)
    assert "promptuary_requests_total" in asking.get("/metrics", headers=LEADER).text


def test_a_key_has_its_rate_and_its_number_of_requests_at_once(store: Store) -> None:
    now = [0.0]
    key = Key(name="shop", sha256=hashed("pk-shop"), tasks=["*"], rows_per_minute=3)
    asking = told(store, Told(), guard=Guard([key], clock=lambda: now[0]))
    own = {"Authorization": "Bearer pk-shop"}
    two = {"task": "mood", "rows": [{"text": "a"}, {"text": "b"}]}
    assert asking.post("/predict", json=two, headers=own).status_code == 200
    refused = asking.post("/predict", json=two, headers=own)
    assert fault(refused, 429)["code"] == "rate_limit"
    now[0] += int(refused.headers["retry-after"])
    assert asking.post("/predict", json=two, headers=own).status_code == 200
    assert fault(asking.post("/predict", json={"task": "mood", "rows": two["rows"] * 2}, headers=own), 400)


def test_a_request_of_as_many_rows_as_may_wait_is_answered_and_a_larger_one_is_400(store: Store) -> None:
    with TestClient(application(Engine(store, Limits(queue=4)), store)) as asking:
        prompts = ["note"] * 5
        for path, body, rows in (
            ("/predict", {"task": "mood", "rows": [{"text": "hi"}] * 5}, "rows"),
            ("/v1/completions", {"model": "notes", "prompt": prompts}, "prompt"),
            ("/v1/completions", {"model": "notes", "prompt": prompts, "stream": True}, "prompt"),
            ("/v1/embeddings", {"model": "base", "input": prompts}, "input"),
        ):
            found = fault(asking.post(path, json=body), 400)
            assert "5 rows at once, and 4 may wait here (--queue)" in found["message"]
            assert asking.post(path, json={**body, rows: body[rows][:4]}).status_code == 200  # type: ignore[dict-item,index]


def test_a_full_queue_is_429_with_the_time_to_wait(store: Store) -> None:
    asking = told(store, Told(wrong=lambda: BusyError("The queue is full.", 2.3)))
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    for path, body in (("/predict", ASK), ("/v1/chat/completions", chat)):
        answer = asking.post(path, json=body)
        assert fault(answer, 429)["type"] == "rate_limit_error"
        assert answer.headers["retry-after"] == "3"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_has_stopped_is_told_and_not_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise ArithmeticError("a secret")

    engine = Engine(store, Limits())
    with TestClient(application(engine, store)) as asking:
        assert asking.get("/readyz").json() == {"status": "ready"}
        monkeypatch.setattr("promptuary.serve.queues.chosen", broken)
        for _ in range(2):  # the one that meets it, and the next one
            answer = asking.post("/predict", json=ASK)
            found = fault(answer, 503)
            assert (found["type"], found["code"]) == ("server_error", "stopped")
            assert "secret" not in found["message"]
        assert until(lambda: not engine.alive)
        ready = asking.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "stopped"})


def test_an_answer_that_does_not_come_is_504(store: Store) -> None:
    for path, body in (("/predict", ASK), ("/v1/completions", {"model": "base", "prompt": "hi", "stream": True})):
        engine = Told(stuck=True)
        answer = told(store, engine, bounds=Bounds(timeout_s=0.1)).post(path, json=body)
        assert fault(answer, 504)["code"] == "timeout"
        assert engine.freed.is_set()


def test_what_nobody_expected_is_500_and_tells_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "promptuary.serve")
    answer = told(store, Told(wrong=lambda: ZeroDivisionError("a secret"))).post("/predict", json=ASK)
    assert fault(answer, 500)["type"] == "server_error"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    assert [r.fields["status"] for r in caplog.records if r.getMessage() == "request"] == [500]  # type: ignore[attr-defined]


def test_a_task_that_is_taken_out_meanwhile_is_404_and_no_other_is_named(store: Store) -> None:
    asking = told(store, Told(wrong=lambda: MissingError("There is no prompt 'mood' here. Known are: secret.")))
    assert fault(asking.post("/predict", json=ASK), 404)["message"] == "This task was taken out just now."


def test_what_the_backbone_cannot_do_is_400(store: Store) -> None:
    asking = told(store, Told(wrong=lambda: BackboneError("It makes no embeddings.")))
    assert "no embeddings" in fault(asking.post("/v1/embeddings", json={"model": "base", "input": "a"}), 400)["message"]


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Told()
    monkeypatch.setattr(engine, "_wait", once_then_wrong(engine))
    answer = told(store, engine).post("/v1/completions", json={"model": "base", "prompt": "a", "stream": True})
    lines = [line for line in answer.text.split("\n") if line]
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["text"] == "one "
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "busy"


def once_then_wrong(engine: Told) -> Any:
    """Nothing the first time, an error from then on."""
    count = iter(range(100))

    async def wait() -> None:
        if next(count):
            raise BusyError("Full.", 1)

    return wait


def test_a_body_beyond_the_limit_is_413_and_the_administrator_has_more_room(store: Store) -> None:
    bounds = Bounds(body_bytes=100, upload_bytes=10_000)
    asking = told(store, Told(), guard=Guard(None, hashed(ADMIN)), bounds=bounds)
    large = {"rows": [{"task": "mood", "text": "a" * 200}]}
    answer = asking.post("/predict", json=large)
    assert fault(answer, 413)["code"] == "too_large"
    assert "100 bytes" in answer.json()["error"]["message"]
    assert "--max-body-bytes" in answer.json()["error"]["message"]
    assert answer.headers["connection"] == "close"
    found = fault(asking.put("/tasks/new", files={"manifest": b"a" * 20_000}, headers=LEADER), 413)
    assert "10,000 bytes" in found["message"]
    assert "--max-upload-bytes" in found["message"]
    assert asking.post("/predict", json=large, headers=LEADER).status_code == 200
    assert asking.post("/predict", json=ASK).status_code == 200


# --- tasks that come and go -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shop:
    """A server with a store of its own, that may import `feelings`; `mood` is the same prompt."""

    asking: TestClient
    store: Store
    mood: Path


@pytest.fixture
def shop(store: Store, tmp_path: Path) -> Iterator[Shop]:
    own = Store(tmp_path / "store", store.backbone)
    imports = tmp_path / "imports"
    imports.mkdir()
    (imports / "feelings").symlink_to(store.folder / "mood")
    guard = Guard(None, hashed(ADMIN))
    with TestClient(
        application(Engine(own, Limits()), own, guard=guard, imports=imports), raise_server_exceptions=False
    ) as asking:
        yield Shop(asking, own, store.folder / "mood")


def test_a_task_is_added_asked_reloaded_and_removed(shop: Shop) -> None:
    asking, mood = shop.asking, shop.mood
    files = {"manifest": (mood / "manifest.json").read_bytes(), "prompt": (mood / "prompt.safetensors").read_bytes()}
    assert asking.put("/tasks/new", files=files, headers=LEADER).status_code == 201
    assert asking.put("/tasks/newer", data={"folder": "feelings"}, headers=LEADER).status_code == 201
    rows = [{"task": name, "text": "I like it"} for name in ("new", "newer")]
    first, second = asking.post("/predict", json={"rows": rows}).json()["answers"]
    assert first["probabilities"] == pytest.approx(second["probabilities"])
    assert asking.post("/tasks/new/reload", headers=LEADER).json() == {"status": "reloaded"}
    assert asking.post("/tasks/reload", headers=LEADER).json() == {"status": "reloaded"}
    assert asking.delete("/tasks/new", headers=LEADER).json() == {"status": "removed"}
    assert "'newer'" in fault(asking.post("/predict", json={"rows": rows}), 404)["message"]


def test_what_is_no_prompt_is_not_added(shop: Shop) -> None:
    asking, mood = shop.asking, shop.mood
    manifest, prompt = ((mood / file).read_bytes() for file in ("manifest.json", "prompt.safetensors"))
    for files in (
        {"manifest": manifest},
        {"manifest": b"{}", "prompt": prompt},
        {"manifest": manifest, "prompt": b"x"},
    ):
        assert fault(asking.put("/tasks/new", files=files, headers=LEADER), 400)["code"] == "not_a_prompt"
    other = json.loads(manifest) | {"fingerprint": "float16:0"}
    wrong = {"manifest": json.dumps(other).encode(), "prompt": prompt}
    assert "other weights" in fault(asking.put("/tasks/new", files=wrong, headers=LEADER), 400)["message"]
    for name in ("base", ".hidden", "a" * 200):
        fault(asking.put(f"/tasks/{name}", files={"manifest": manifest, "prompt": prompt}, headers=LEADER), 400)
    assert fault(asking.put("/tasks/new", headers=LEADER), 400)["code"] == "invalid_body"
    assert fault(asking.put("/tasks/new", data={"folder": "../mood"}, headers=LEADER), 404)["code"] == "no_folder"
    assert asking.get("/tasks").json()["tasks"] == []


def test_a_disk_that_is_full_is_507_and_what_stood_there_answers_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asking = shop.asking
    assert asking.put("/tasks/new", data={"folder": "feelings"}, headers=LEADER).status_code == 201
    for broken in ("os.fsync", "pathlib.Path.rename"):
        with monkeypatch.context() as disk:
            disk.setattr(broken, full)
            answer = asking.put("/tasks/new", data={"folder": "feelings"}, headers=LEADER)
            found = fault(answer, 507)
            assert (found["type"], found["code"]) == ("server_error", "not_written")
            assert "No space left on device" in found["message"]
            assert str(shop.store.folder) not in found["message"]
    with monkeypatch.context() as disk:
        disk.setattr("pathlib.Path.rename", full)
        fault(asking.delete("/tasks/new", headers=LEADER), 507)
    assert asking.post("/predict", json={"rows": [{"task": "new", "text": "hi"}]}).status_code == 200


def test_nobody_but_the_administrator_changes_tasks(shop: Shop, store: Store) -> None:
    asking = shop.asking
    calls = [("PUT", "/tasks/x"), ("DELETE", "/tasks/x"), ("POST", "/tasks/x/reload"), ("POST", "/tasks/reload")]
    for method, path in calls:
        assert fault(asking.request(method, path), 401)["code"] == "admin_only"
        closed = told(store, Told()).request(method, path, headers=LEADER)
        assert fault(closed, 403)["code"] == "admin_disabled"
    plain = told(store, Told(), guard=Guard(None, hashed(ADMIN)))
    found = fault(plain.put("/tasks/x", data={"folder": "mood"}, headers=LEADER), 400)
    assert "--imports" in found["message"]


def test_a_damaged_prompt_is_told_and_the_others_answer(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "promptuary.serve")
    for name in ("new", "newer"):
        shop.asking.put(f"/tasks/{name}", data={"folder": "feelings"}, headers=LEADER)
    (shop.store.folder / "new" / "prompt.safetensors").write_bytes(b"half of it")
    found = fault(shop.asking.post("/predict", json={"rows": [{"task": "new", "text": "hi"}]}), 500)
    assert found["code"] == "task_damaged"
    assert str(shop.store.folder) not in found["message"]
    assert "prompt.safetensors" in caplog.records[-1].fields["error"]  # type: ignore[attr-defined]
    assert shop.asking.post("/predict", json={"rows": [{"task": "newer", "text": "hi"}]}).status_code == 200
    assert fault(shop.asking.post("/tasks/new/reload", headers=LEADER), 409)["code"] == "task_damaged"


# --- around every request ---------------------------------------------------------------------------------------------


def test_every_answer_forbids_what_a_page_could_do_with_it(client: TestClient) -> None:
    for answer in (client.get("/tasks"), client.get("/nothing"), client.post("/predict", json=ASK), client.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert len(answer.headers["x-request-id"]) == 16
        assert "access-control-allow-origin" not in answer.headers
    asked = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    assert client.options("/predict", headers=asked).status_code == 405


def test_a_server_that_drains_lets_nobody_in(store: Store) -> None:
    gate = application(Told(), store)  # type: ignore[arg-type]
    asking = TestClient(gate)
    assert asking.get("/readyz").json() == {"status": "ready"}
    gate.drain()
    answer = asking.post("/predict", json=ASK)
    assert fault(answer, 503)["code"] == "closing"
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["retry-after"]) > 0
    assert asking.get("/readyz").status_code == 503
    assert asking.get("/healthz").status_code == 200


def test_metrics_count_requests_by_route_and_rows_by_task(store: Store) -> None:
    asking = told(store, Told())
    asking.post("/predict", json={"task": "mood", "rows": [{"text": "a"}, {"text": "b"}]})
    asking.get("/tasks/mood")
    asking.get("/invented")
    asking.request("INVENTED", "/predict")
    asking.post("/v1/completions", json={"model": "notes", "prompt": "hi"})
    text = asking.get("/metrics").text
    assert 'promptuary_task_rows_total{task="mood"} 2.0' in text
    assert 'promptuary_written_tokens_total{task="notes"} 2.0' in text
    assert 'promptuary_requests_total{method="POST",route="/predict",status="200"} 1.0' in text
    assert 'promptuary_requests_total{method="GET",route="/tasks/{name}",status="200"} 1.0' in text
    assert "invented" not in text.lower()
    assert "promptuary_waiting_rows 0.0" in text
    assert "promptuary_open_requests 1.0" in text


def test_the_log_says_who_asked_what_and_no_texts(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "promptuary.serve")
    key = Key(name="shop", sha256=hashed("pk-shop"), tasks=["*"])
    asking = told(store, Told(), guard=Guard([key]))
    own = {"Authorization": "Bearer pk-shop"}
    asking.post("/predict", json={"rows": [{"task": "mood", "text": "my secret"}]}, headers=own)
    asking.post("/predict", json={"rows": [{"task": "moon", "text": "my secret"}]}, headers=own)
    lines = [record.fields for record in caplog.records if record.name == "promptuary.serve"]  # type: ignore[attr-defined]
    assert [(line["caller"], line["route"], line["status"]) for line in lines] == [
        ("shop", "/predict", 200), ("shop", "/predict", 404),
    ]  # fmt: skip
    assert (lines[0]["tasks"], lines[0]["rows"], lines[1]["code"]) == (["mood"], 1, "model_not_found")
    assert "secret" not in json.dumps(lines)
    assert "pk-shop" not in json.dumps(lines)
