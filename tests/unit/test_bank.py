"""Many tasks on one loaded model: what a bank says is what each of its prompts says by itself."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from promptuary import bank as banks
from promptuary import open_bank, open_prompt, sharing
from promptuary.backbones.backbone import Backbone
from promptuary.bank import Bank
from promptuary.data.source import Row
from promptuary.errors import CheckpointError, DataError, SettingError
from promptuary.manifests import prompts_in
from promptuary.mixing import Share
from promptuary.values import Output
from tests.saved import SHORT, Shelf, done, lines, opinions, read, refused

NOTES = [{"text": f"note {i} says box", "target": ("glass", "box of money")[i % 2]} for i in range(8)]
TAGGED = [{"tokens": ["the", "glass", "box"][: 1 + i % 3], "tags": ["O", "B-x", "O"][: 1 + i % 3]} for i in range(8)]


def other(shelf: Shelf, family: str, task: str, rows: list[dict[str, Any]], *more: Any) -> Path:
    """A prompt of another kind of task."""
    out = shelf.place / "prompts" / family / "-".join([task, *more[1:]])
    if not out.is_dir():
        data = lines(shelf.place / f"{task}.jsonl", rows)
        options = ["--task", task, "--train", data, "--validation", data, *SHORT, *more]
        done("tune", "--backbone", shelf.model(family), *options, "--out", out)
    return out


def prompts(shelf: Shelf, family: str) -> dict[str, Path]:
    """Prompts of one family that differ in method, length, read-out and kind of task."""
    found = {m: shelf.prompt(family, m) for m in ("frozen", "prompt-tuning", "p-tuning-v2", "ipt-lstm", "dp-vector")}
    found["tagging"] = other(shelf, family, "tagging", TAGGED, "--length", "5")
    if family != "bert":
        found["text"] = other(shelf, family, "text", NOTES, "--max-new-tokens", "6")
        found["short"] = other(shelf, family, "text", NOTES, "--max-new-tokens", "2")
    return found


def questions(bank: Bank, count: int = 24) -> list[tuple[str, Row]]:
    """Rows of all prompts in turn."""
    given = opinions(count)
    return [
        (name, Row({**row, **TAGGED[i % 8]}, f"row {i}"))
        for i, (name, row) in enumerate(zip(itertools.cycle(bank), given, strict=False))
    ]


def same(one: Any, other: Any) -> None:
    """Answers agree, their numbers to rounding."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if isinstance(value, float | dict):
            assert value == pytest.approx(vars(other)[name], abs=1e-5)
        else:
            assert value == vars(other)[name]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.long
def test_rows_of_all_prompts_in_one_stream_are_answered_as_by_each(shelf: Shelf, family: str) -> None:
    bank = open_bank(prompts(shelf, family))
    asked = questions(bank)
    for tokens in (30, 100_000):
        said = list(bank.predict(asked, tokens=tokens))
        assert len(said) == len(asked)
        for (name, row), answer in zip(asked, said, strict=True):
            same(answer, next(bank[name].predict([row])))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_rows_of_all_prompts_are_scored_as_by_each(shelf: Shelf, family: str) -> None:
    bank = open_bank(prompts(shelf, family))
    rows = {name: [Row(f, f"row {i}") for i, f in enumerate(opinions(7))] for name in bank}
    rows["tagging"] = [Row(f, "row") for f in TAGGED]
    for name in {"text", "short"} & set(bank):
        rows[name] = [Row(f, "row") for f in NOTES[:3]]
    before = torch.get_rng_state()
    found = bank.evaluate(rows, tokens=60)
    assert torch.equal(torch.get_rng_state(), before)
    for name, given in rows.items():
        assert found[name] == pytest.approx(bank[name].evaluate(given), abs=1e-5)


def test_a_bank_takes_compiled_prompts_beside_others(shelf: Shelf) -> None:
    bank = open_bank(prompts(shelf, "gpt2"))
    asked = questions(bank)
    expected = list(bank.predict(asked))
    for name in ("prompt-tuning", "p-tuning-v2", "ipt-lstm", "tagging", "short"):
        bank.add(name, bank[name].compiled())
    for answer, own in zip(bank.predict(asked), expected, strict=True):
        same(answer, own)


def test_one_model_serves_all_and_one_pass_serves_many(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_bank(prompts(shelf, "bert"))
    assert all(bank[name].backbone is bank.backbone for name in bank)
    plain, passes, sizes = sharing.run, [], []

    def run(shares: list[Share]) -> list[Output]:
        passes.append(len(shares))
        longest = max(s.model.call(s.x).layout.mask.shape[1] for s in shares)
        sizes.append(longest * sum(s.rows for s in shares))
        return plain(shares)

    monkeypatch.setattr(sharing, "run", run)
    asked = [one for one in questions(bank) if one[0] != "frozen"]
    list(bank.predict(asked, tokens=2000))
    assert passes == [len(bank) - 1]
    list(bank.predict(asked, tokens=150))
    assert len(sizes) > 2
    assert max(sizes[1:]) <= 150


def test_each_prompt_has_its_own_precision(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tmp_path / "half"
    done(*shelf.options("bert", "p-tuning-v2", half), "--precision", "bf16")
    bank = open_bank(
        {"whole": shelf.prompt("bert", "p-tuning-v2"), "half": half, "frozen": shelf.prompt("bert", "frozen")}
    )
    plain, passes = sharing.run, []

    def run(shares: list[Share]) -> list[Output]:
        passes.append((torch.is_autocast_enabled("cpu"), {s.model for s in shares}))
        return plain(shares)

    monkeypatch.setattr(sharing, "run", run)
    list(bank.predict(questions(bank)))
    assert passes == [(False, {bank["whole"].model, bank["frozen"].model}), (True, {bank["half"].model})]


def test_prompts_come_and_go(shelf: Shelf) -> None:
    bank = open_bank({"a": shelf.prompt("bert", "frozen")})
    row = Row({"text": "I like this box"}, "row 1")
    more = open_prompt(shelf.prompt("bert", "p-tuning-v2"), backbone=bank.backbone)
    bank.add("b", more)
    assert (list(bank), len(bank), bank["b"]) == (["a", "b"], 2, more)
    stream = bank.predict([("b", row)] * 2)
    first = next(stream)
    bank.remove("b")
    same(next(stream), first)
    assert "b" not in bank
    with pytest.raises(DataError, match="row 1: there is no prompt 'b'"):
        next(bank.predict([("b", row)]))
    for wrong in (lambda: bank["b"], lambda: bank.remove("b")):
        with pytest.raises(SettingError, match="no prompt 'b' in this bank"):
            wrong()
    with pytest.raises(SettingError, match="a model of its own"):
        bank.add("b", open_prompt(shelf.prompt("bert", "p-tuning-v2")))


def test_what_is_no_bank_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a prompt or more"):
        open_bank({})
    with pytest.raises(CheckpointError, match="was tuned on"):
        open_bank({"a": shelf.prompt("bert", "frozen"), "b": shelf.prompt("gpt2", "prompt-tuning")})
    with pytest.raises(CheckpointError, match="holds no folders of tuned prompts"):
        prompts_in(tmp_path)


def test_no_more_rows_are_held_than_a_window(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "WINDOW", 8)
    bank = open_bank({"a": shelf.prompt("bert", "frozen"), "b": shelf.prompt("bert", "prompt-tuning")})
    taken = 0

    def many() -> Iterator[Row]:
        nonlocal taken
        while taken < 200:
            taken += 1
            yield Row({"text": "I like it", "task": "ab"[taken % 2], "label": "good"}, f"row {taken}")

    said = bank.outputs(many(), by="task")
    for n in range(1, 30):
        next(said)
        assert taken <= n + 8


def test_the_command_answers_each_row_by_the_prompt_it_names(shelf: Shelf, tmp_path: Path) -> None:
    found = prompts(shelf, "bert")
    names = ("frozen", "prompt-tuning", "p-tuning-v2")
    shelf_of = tmp_path / "prompts"
    shelf_of.mkdir()
    for name in names:
        (shelf_of / name).symlink_to(found[name])
    rows = [{"text": r["text"], "which": names[i % 3]} for i, r in enumerate(opinions(9))]
    data, out = lines(tmp_path / "new.jsonl", rows), tmp_path / "out.jsonl"
    done("predict", shelf_of, "--input", data, "--output", out, "--by", "which", "--tokens", 50)
    for row, answer in zip(rows, read(out), strict=True):
        (alone,) = open_prompt(found[row["which"]]).outputs([Row(row, "row")])
        assert answer == {**row, **alone, "probability": pytest.approx(alone["probability"], abs=1e-5)}
    again = ["predict", shelf_of, "--input", data, "--output", tmp_path / "no.jsonl", "--by"]
    assert "there is no column 'wich'. Did you mean 'which'?" in refused(*again, "wich")
    assert "there is no prompt" in refused(*again, "text")
    assert not (tmp_path / "no.jsonl").exists()
    assert json.loads(data.read_text().splitlines()[0])["which"] == "frozen"


def test_a_bank_is_of_one_backbone(shelf: Shelf) -> None:
    bank = open_bank({"a": shelf.prompt("bert", "frozen")}, device="cpu")
    again = open_bank({"b": shelf.prompt("bert", "prompt-tuning")}, backbone=bank.backbone)
    assert isinstance(bank.backbone, Backbone)
    assert again.backbone is bank.backbone
