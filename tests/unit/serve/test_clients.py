"""The official `openai` client against the server on a real socket, over the real engine."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from promptuary import open_prompt
from promptuary.data.source import Row
from promptuary.serve.app import application
from promptuary.serve.engine import Engine, Limits
from promptuary.serve.keys import Guard, Key, hashed
from promptuary.store import Store
from tests.saved import Shelf
from tests.serving import ADMIN, Live, live, until

KEY = "pk-official"


@pytest.fixture(scope="module")
def serving(store: Store) -> Iterator[Live]:
    keys = [
        Key(name="official", sha256=hashed(KEY), tasks=["*"]),
        Key(name="narrow", sha256=hashed("pk-narrow"), tasks=["mood"], rows_per_minute=2),
    ]
    with live(application(Engine(store, Limits()), store, guard=Guard(keys))) as running:
        yield running


def asking(serving: Live, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serving.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(serving: Live) -> Iterator[openai.OpenAI]:
    with asking(serving) as own:
        yield own


def test_models_are_the_tasks_and_the_bare_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mood", "notes", "spans", "tags", "base"]
    assert client.models.retrieve("mood").owned_by == "promptuary"


def test_a_completion_is_what_the_prompt_writes(client: openai.OpenAI, store: Store) -> None:
    made = client.completions.create(model="notes", prompt="note 1 says box")
    [expected] = store.get("notes").predict([Row({"text": "note 1 says box"}, "here")])
    assert made.choices[0].text.strip() == expected.prediction
    assert made.usage is not None
    assert made.usage.completion_tokens <= 6


def test_a_chat_with_a_task_that_labels_is_its_label(client: openai.OpenAI, store: Store) -> None:
    made = client.chat.completions.create(model="mood", messages=[{"role": "user", "content": "I like this box"}])
    [expected] = store.get("mood").predict([Row({"text": "I like this box"}, "here")])
    assert made.choices[0].message.content == expected.label


def test_streams_add_up_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="notes", prompt="note 2", max_tokens=5)
    parts = list(client.completions.create(model="notes", prompt="note 2", max_tokens=5, stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    chat = {"model": "notes", "messages": [{"role": "user", "content": "note 2"}], "max_tokens": 5}
    said = client.chat.completions.create(**chat).choices[0].message.content  # type: ignore[call-overload]
    told = client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    chunks = list(told)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said == whole.choices[0].text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.total_tokens > 0


def test_the_clients_own_accumulation_of_a_stream_agrees(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "I like this box"}]
    with client.chat.completions.stream(model="mood", messages=asked) as told:  # type: ignore[arg-type]
        message = told.get_final_completion().choices[0].message
    whole = client.chat.completions.create(model="mood", messages=asked)  # type: ignore[arg-type]
    assert (message.content, message.role) == (whole.choices[0].message.content, "assistant")


def test_the_same_seed_draws_the_same_text(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str:
        how = {"temperature": 1.5, "max_tokens": 12, "seed": seed}
        return client.completions.create(model="base", prompt="note 1", **how).choices[0].text  # type: ignore[call-overload,no-any-return]

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_embeddings_are_vectors_of_one_width(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="base", input=["note 1", "the glass box"])
    plain = client.embeddings.create(model="base", input=["note 1", "the glass box"], encoding_format="float")
    assert [len(one.embedding) for one in made.data] == [32, 32]
    for one, other in zip(made.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


def test_errors_are_the_clients_own(serving: Live, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'mood'") as missing:
        client.chat.completions.create(model="mod", messages=[{"role": "user", "content": "hi"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="logprobs is not supported"):
        client.completions.create(model="notes", prompt="hi", logprobs=3)
    with pytest.raises(openai.BadRequestError, match="room"):
        client.completions.create(model="notes", prompt="very " * 500, stream=True)
    with asking(serving, "pk-wrong") as wrong, pytest.raises(openai.AuthenticationError, match="not known"):
        wrong.models.list()
    with asking(serving, "pk-narrow") as narrow:
        with pytest.raises(openai.PermissionDeniedError, match="'notes'"):
            narrow.completions.create(model="notes", prompt="hi")
        narrow.completions.create(model="mood", prompt="hi")
        with pytest.raises(openai.RateLimitError, match="2 rows in a minute"):
            narrow.completions.create(model="mood", prompt="hi")


def test_a_task_is_replaced_under_load_and_no_request_is_dropped_or_mixed(
    store: Store, shelf: Shelf, tmp_path: Path
) -> None:
    versions = [store.folder / "mood", shelf.prompt("gpt2", "p-tuning-v2")]
    own = Store(tmp_path / "store", store.backbone)
    own.add("mood", versions[0])
    row = {"task": "mood", "text": "I like this box"}
    [[one], [other]] = [
        open_prompt(folder, backbone=store.backbone).predict_texts([row["text"]]) for folder in versions
    ]
    expected = [answer.probabilities["good"] for answer in (one, other)]
    assert abs(expected[0] - expected[1]) > 1e-3
    found: list[tuple[int, list[float]]] = []
    over = threading.Event()
    with live(application(Engine(own, Limits()), own, guard=Guard(None, hashed(ADMIN)))) as serving:

        def ask() -> None:
            while not over.is_set():
                status, _, body = serving.post("/predict", {"rows": [row] * 3})
                found.append((status, [answer["probabilities"]["good"] for answer in body.get("answers", [])]))

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        for number in range(1, 7):
            before = len(found)
            put(serving, "mood", versions[number % 2])
            assert until(lambda before=before: len(found) > before + 8)  # type: ignore[misc]
        over.set()
        for thread in asking:
            thread.join()
    assert {status for status, _ in found} == {200}
    near = [[min((abs(e - p), i) for i, e in enumerate(expected)) for p in own] for _, own in found]
    assert max(distance for own in near for distance, _ in own) < 1e-4
    assert {version for own in near for _, version in own} == {0, 1}


def put(serving: Live, name: str, folder: Path) -> None:
    """Put a prompt into a server's store."""
    files = {part: (folder / file).read_bytes() for part, file in FILES.items()}
    answer = httpx.put(f"{serving.url}/tasks/{name}", files=files, headers={"Authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == 201, answer.text


FILES = {"manifest": "manifest.json", "prompt": "prompt.safetensors"}
