"""Prompts on a hub: what is fetched answers as what was published; nothing of this machine goes along."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from promptuary import open_prompt
from promptuary.backbones.load import load
from promptuary.data.source import public
from promptuary.errors import CheckpointError, SettingError
from promptuary.publishing import fetch, publish
from tests.hub import Hub, running
from tests.saved import TEXTS, Shelf, done

NAME, BASE = "somebody/mood", "someone/tiny-bert"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(tmp_path / "cache", monkeypatch) as found:
        yield found


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning", "ipt-cnn"])
def test_a_fetched_prompt_answers_as_the_published_one_and_can_be_trained_on(
    shelf: Shelf, hub: Hub, tmp_path: Path, method: str
) -> None:
    folder, taken = shelf.prompt("bert", method), tmp_path / "taken"
    assert hub.address in publish(folder, NAME, base_model=BASE)
    fetch(NAME, taken)
    backbone = load(str(shelf.model("bert")))
    for trainable in (False, True):
        own, other = (open_prompt(place, backbone=backbone, trainable=trainable) for place in (folder, taken))
        assert [a.probabilities for a in own.predict_texts(TEXTS)] == [
            a.probabilities for a in other.predict_texts(TEXTS)
        ]
        assert all(torch.equal(a, b) for a, b in zip(own.model.parameters(), other.model.parameters(), strict=True))


def test_nothing_of_this_machine_is_published(shelf: Shelf, hub: Hub) -> None:
    folder = shelf.prompt("bert", "prompt-tuning")
    publish(folder, NAME, base_model=BASE)
    told = {name: data for name, data in hub.files(NAME).items() if not name.endswith(".safetensors")}
    assert set(told) == {"manifest.json", "README.md"}
    assert not any(str(shelf.place).encode() in data for data in told.values())
    assert str(shelf.place) in (folder / "manifest.json").read_text()  # or the line above would say nothing
    assert json.loads(told["manifest.json"])["run"]["data"]["train"] == "train.jsonl"


def test_of_what_a_prompt_started_from_the_name_is_published_and_not_the_place(
    shelf: Shelf, hub: Hub, tmp_path: Path
) -> None:
    first = shelf.prompt("bert", "prompt-tuning")
    begun, pool = tmp_path / "begun", tmp_path / "pool"
    done(*shelf.options("bert", "prompt-tuning", begun), "--init", f"prompt:{first}")
    chosen = json.dumps([str(first), str(first)])
    done(*shelf.options("bert", "attempt", pool), "--set", f"sources={chosen}", "--set", "prompts=2")
    for folder, kept in ((begun, '"init": "prompt:prompt-tuning"'), (pool, '"sources": ["prompt-tuning"')):
        assert str(first) in (folder / "manifest.json").read_text()
        publish(folder, NAME, base_model=BASE)
        told = {name: data for name, data in hub.files(NAME).items() if not name.endswith(".safetensors")}
        assert not any(str(shelf.place.parent).encode() in data for data in told.values())
        assert kept in json.dumps(json.loads(told["manifest.json"]))


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("/home/me/rows.jsonl", "rows.jsonl"), ("~/rows:train", "rows:train"), ("../own/rows.csv.gz", "rows.csv.gz"),
        ("task:boolq/train:/home/me/train.jsonl", "task:boolq/train:train.jsonl"), ("task:boolq/train",) * 2,
        ("sample:intents/train",) * 2, ("nyu-mll/glue/sst2:train",) * 2, ("ag_news:train",) * 2,
    ],
)  # fmt: skip
def test_rows_are_told_by_their_name_where_this_machine_has_them(source: str, known: str) -> None:
    assert public(source) == known


def test_the_card_says_what_the_prompt_is_and_how_well_it_did(shelf: Shelf, hub: Hub) -> None:
    folder = shelf.prompt("bert", "prompt-tuning")
    publish(folder, NAME, base_model=BASE, license="apache-2.0")
    card, manifest = hub.files(NAME)["README.md"].decode(), json.loads((folder / "manifest.json").read_text())
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert {"library_name: promptuary", f"base_model: {BASE}", "license: apache-2.0", "- prompt-tuning"} <= {
        line.strip() for line in head.splitlines()
    }
    assert "Lester" in body
    assert "`bad`, `good`" in body
    assert f"promptuary fetch {NAME} --out mood" in body
    assert f"| accuracy | {manifest['run']['scores']['accuracy']:.4f} |" in body
    assert "no test" in body


def test_a_model_that_only_this_machine_has_must_be_named(shelf: Shelf, hub: Hub) -> None:
    with pytest.raises(SettingError, match=r"folder of this machine.*--base-model"):
        publish(shelf.prompt("bert", "prompt-tuning"), NAME)
    assert not hub.repositories


def test_who_may_not_write_and_what_is_not_there_is_told(
    shelf: Shelf, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("somebody/else", "no/such name"):
        with pytest.raises(SettingError, match=f"^{name}: the hub refuses, or cannot be reached"):
            fetch(name, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(SettingError, match="401"):
        publish(shelf.prompt("bert", "prompt-tuning"), NAME, base_model=BASE)
    assert not (tmp_path / "out").exists()


def test_a_damaged_prompt_is_neither_published_nor_fetched(shelf: Shelf, hub: Hub, tmp_path: Path) -> None:
    publish(shelf.prompt("bert", "prompt-tuning"), NAME, base_model=BASE)
    whole = dict(hub.files(NAME))
    bad = {
        "it is not whole": {**whole, "prompt.safetensors": whole["prompt.safetensors"][:-1]},
        "names a file": {**whole, "manifest.json": whole["manifest.json"].replace(b'"prompt.saf', b'"../prompt.saf')},
        "is damaged": {**whole, "manifest.json": b"{}"},
    }
    for said, files in bad.items():
        hub.repositories[NAME].append(files)
        with pytest.raises(CheckpointError, match=said if said != "is damaged" else "format None"):
            fetch(NAME, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    folder = tmp_path / "cut"
    folder.mkdir()
    for name in ("manifest.json", "prompt.safetensors"):
        (folder / name).write_bytes(bad["it is not whole"][name])
    before = len(hub.repositories[NAME])
    with pytest.raises(CheckpointError, match="it is not whole"):
        publish(folder, NAME, base_model=BASE)
    assert len(hub.repositories[NAME]) == before


def test_another_prompt_is_replaced_only_if_asked_and_a_commit_can_be_named(
    shelf: Shelf, hub: Hub, tmp_path: Path
) -> None:
    first, second = (shelf.prompt("bert", name) for name in ("prompt-tuning", "p-tuning-v2"))
    addresses = [publish(folder, NAME, base_model=BASE) for folder in (first, second)]
    out = tmp_path / "out"
    assert fetch(NAME, out).method == "p-tuning-v2"
    with pytest.raises(CheckpointError, match="holds a prompt"):
        fetch(NAME, out)
    revision = addresses[0].rpartition("/")[2]
    assert fetch(NAME, out, revision=revision, overwrite=True).method == "prompt-tuning"
    assert open_prompt(out, backbone=load(str(shelf.model("bert")))).manifest.method == "prompt-tuning"


def test_from_the_command_line(shelf: Shelf, hub: Hub, tmp_path: Path) -> None:
    said = done("publish", shelf.prompt("bert", "prompt-tuning"), NAME, "--base-model", BASE, "--private")
    assert said.strip() == f"{hub.address}/{NAME}/commit/{0:040x}"
    assert hub.private[NAME]
    done("fetch", NAME, "--out", tmp_path / "taken")
    assert open_prompt(tmp_path / "taken", backbone=load(str(shelf.model("bert")))).manifest.backbone == BASE


def test_a_hub_that_does_not_answer_is_told(
    shelf: Shelf, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    with pytest.raises(SettingError, match=f"^{NAME}: the hub refuses, or cannot be reached"):
        publish(shelf.prompt("bert", "prompt-tuning"), NAME, base_model=BASE)
