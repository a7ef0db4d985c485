"""A mistake is one sentence with its place and exit code 2, at once, and nothing half-written is left."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptuary.cli import app
from promptuary.data import lines as readers
from tests.saved import Shelf, command, done, lines, opinions, refused

ROWS = opinions(16)


def _changed(number: int, **fields: Any) -> list[dict[str, Any]]:
    return [{**row, **fields} if i == number - 1 else row for i, row in enumerate(ROWS)]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


GOOD = _jsonl(ROWS)
DATA: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "missing column": (_jsonl([{"txt": "a", "label": "good"}]), ("line 1", "'text'", "Did you mean 'txt'?")),
    "missing label": (_jsonl([{"text": "a"}]), ("line 1", "'label'")),
    "empty text": (_jsonl(_changed(4, text=" ")), ("line 4", "'text' is empty")),
    "null text": (_jsonl(_changed(4, text=None)), ("line 4", "'text' is null")),
    "number as text": (_jsonl(_changed(4, text=3)), ("line 4", "'text' holds 3")),
    "empty label": (_jsonl(_changed(5, label="")), ("line 5", "'label' is empty")),
    "fraction as label": (_jsonl(_changed(5, label=0.5)), ("line 5", "'label' holds 0.5")),
    "mixed labels": (_jsonl(_changed(6, label=1)), ("line 6", "label 1 is a number", "line 1", "is a text")),
    "not UTF-8": (GOOD + b'{"text": "caf\xe9", "label": "good"}\n', ("line 17", "byte 14", "UTF-8")),
    "broken JSON": (GOOD + b'{"text": "a", \n', ("line 17", "not JSON")),
    "no object": (GOOD + b"[1]\n", ("line 17", "an array")),
    "blank line": (GOOD + b"\n" + GOOD, ("line 17", "empty")),
    "too long": (_jsonl(_changed(7, text="box " * 99)), ("line 7", "101 tokens", "room for 61", "--max-length 61")),
    "one label": (_jsonl([{**row, "label": "good"} for row in ROWS]), ("'label'", "only label is 'good'")),
    "empty file": (b"", ("no rows",)),
}


def _tune(shelf: Shelf, out: Path, *more: Any, method: str = "prompt-tuning", family: str = "bert") -> list[Any]:
    return [*shelf.options(family, method, out), *more]


@pytest.mark.parametrize("name", DATA)
def test_broken_training_rows_are_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    content, expected = DATA[name]
    data = tmp_path / "data.jsonl"
    data.write_bytes(content)
    said = refused(*_tune(shelf, tmp_path / "out", "--length", 3, "--train", data))
    assert all(part in said for part in expected), said
    assert "line" not in said or "data.jsonl, line" in said
    assert not (tmp_path / "out").exists()


CSV = {
    "cells": (b"text,label\na,good\nb,bad,more\n", "line 3: 3 cells"),
    "quote": (b'text,label\na,good\n"b,bad\n', "line 3"),
    "header": (b"text,text\na,good\n", "names the column 'text' twice"),
    "separator": (b"text;label\na;good\n", "Separate"),
}


@pytest.mark.parametrize("name", CSV)
def test_a_broken_table_is_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    content, expected = CSV[name]
    (tmp_path / "data.csv").write_bytes(content)
    assert expected in refused(*_tune(shelf, tmp_path / "out", "--train", tmp_path / "data.csv"))


FILES = {
    "gzip": ("d.jsonl.gz", b"\x1f\x8b\x08\x00broken", "gzip"),
    "parquet": ("d.parquet", b"PAR1", "Parquet"),
    "kind": ("d.xlsx", b"PK", ".xlsx"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_wrong_kind_is_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    file, content, expected = FILES[name]
    (tmp_path / file).write_bytes(content)
    assert expected in refused(*_tune(shelf, tmp_path / "out", "--train", tmp_path / file))


def test_a_label_nobody_trained_on_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "dev.jsonl", [*opinions(3), {"text": "hello", "label": "awful"}])
    prompt = shelf.prompt("bert", "frozen")
    for said in (
        refused(*_tune(shelf, tmp_path / "out", "--validation", data)),
        refused("evaluate", prompt, "--data", data, "--json"),
    ):
        assert "dev.jsonl, line 4: label 'awful'" in said
        assert "'bad', 'good'" in said
    assert not (tmp_path / "out").exists()


def test_labels_of_another_type_than_in_training_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "dev.jsonl", [{"text": "hello", "label": True}])
    assert "line 1: label true" in refused("evaluate", shelf.prompt("bert", "frozen"), "--data", data)


OPTIONS: dict[str, tuple[list[Any], str]] = {
    "missing file": (["--train", "nosuch.jsonl"], "no file 'nosuch.jsonl'"),
    "missing folder": (["--train", "nosuch/x.csv"], "folder 'nosuch' does not exist"),
    "unknown sample": (["--train", "sample:intent/train"], "Did you mean 'intents'?"),
    "unknown split": (["--train", "sample:intents/dev"], "no split 'dev'"),
    "data set offline": (["--train", "nobody/nothing:train"], "'nobody/nothing:train' is no file"),
    "data set without split": (["--train", "nothing"], "needs a split"),
    "prompt fills the model": (["--length", 70], "64 positions and the prompt takes 70"),
    "negative length": (["--length", -1], "length=-1"),
    "max_length over the room": (["--length", 3, "--max-length", 62], "max_length=62"),
    "max_length without text": (["--max-length", 2], "max_length=2"),
    "max_length 0": (["--max-length", 0], "'max_length'"),
    "no such model folder": (["--backbone", "./nosuch"], "'./nosuch' has no config.json"),
    "no such model": (["--backbone", "nobody/nothing"], "'nobody/nothing' is not on this machine"),
    "no possible name": (["--backbone", "a b"], "'a b'"),
    "unknown method": (["--method", "promt-tuning"], "Did you mean 'prompt-tuning'?"),
    "unknown setting": (["--set", "lenght=3"], "Did you mean 'length'?"),
    "setting of another method": (["--set", "middle=3"], "'prompt-tuning' has no setting 'middle'"),
    "unknown field": (["--set", "epoch=3"], "Did you mean 'epochs'?"),
    "no pair": (["--set", "length"], "NAME=VALUE"),
    "seed as setting": (["--set", "seed=3"], "'seed'"),
    "text for a number": (["--set", "length=two"], "'length': input should be a valid integer (given: 'two')"),
    "fraction for a number": (["--set", "length=2.5"], "'length'"),
    "boolean for a number": (["--set", "length=true"], "'length'"),
    "text for a rate": (["--set", "head_rate=fast"], "'head_rate'"),
    "fraction of a batch": (["--set", "accumulation=2.5"], "'accumulation'"),
    "no boolean": (["--set", "checkpointing=yes"], "'checkpointing'"),
    "infinite rate": (["--rate", "inf"], "'rate'"),
    "rate 0": (["--rate", "0"], "rate=0"),
    "no epochs": (["--epochs", 0], "epochs=0"),
    "dropout of everything": (["--set", "dropout=1"], "dropout=1"),
    "more before than there are": (["--set", "before=50"], "before=50"),
    "epochs in words": (["--epochs", "many"], "'--epochs'"),
    "seed in words": (["--seed", "x"], "'--seed'"),
    "negative seed": (["--seed", -1], "'seeds.0'"),
    "same seed twice": (["--seed", 1, "--seed", 1], "'seeds'"),
    "unknown option": (["--epoch", 3], "--epochs"),
    "unknown start": (["--init", "vocabulry"], "init='vocabulry'"),
    "start from no file": (["--init", "file:nosuch.safetensors"], "nosuch.safetensors"),
    "start from another kind of file": (["--init", f"file:{__file__}"], "no readable safetensors file"),
    "unknown readout": (["--readout", "clasifier"], "'readout'"),
    "text from an encoder": (["--readout", "text"], "an encoder writes no text"),
    "verbalizer without a mask": (["--readout", "verbalizer"], "<mask>"),
    "verbalizer with too few masks": (
        ["--readout", "verbalizer", "--template", "{text} <mask> .", "--label", "text"],
        "tokens and the template 1 blanks",
    ),
    "unknown preset": (["--preset", "papr"], "Did you mean 'paper'?"),
    "unknown pool": (["--pool", "max"], "'pool'"),
    "unknown metric": (["--metric", "f1"], "'metric'"),
    "unknown precision": (["--precision", "fp16"], "'precision'"),
    "unknown device": (["--device", "abacus"], "device='abacus'"),
    "unknown field of a template": (["--template", "{txt} ."], "Did you mean 'text'?"),
    "slip in a mark": (["--template", "{text} <maks>"], "Did you mean 'mask'?"),
    "template without text": (["--template", "It was <mask>"], "no text"),
    "marks nobody fills": (["--template", "<soft:3> {text}"], "marks 3 soft tokens"),
    "zero save-every": (["--save-every", 0], "'save_every'"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_work_is_refused(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options, expected = OPTIONS[name]
    said = refused(*_tune(shelf, tmp_path / "out", *options))
    assert expected in said
    assert list(tmp_path.iterdir()) == []


OTHERS: dict[str, tuple[str, str, list[Any], str]] = {
    "keys and values on DeBERTa": ("deberta", "p-tuning-v2", [], "'prompt-tuning', 'p-tuning'"),
    "a mask on GPT-2": ("gpt2", "prompt-tuning", ["--template", "{text} <mask>"], "no mask token"),
    "parts BERT lacks": ("bert", "prefix-tuning", ["--set", "parts=['cross']"], "['encoder']"),
    "no such network": ("bert", "p-tuning", ["--set", "encoder=gru"], "'encoder'"),
    "slots without marks": ("bert", "p-tuning", ["--set", "template=true"], "marks 0 soft tokens"),
    "a preset of another method": ("bert", "frozen", ["--preset", "paper"], "has no presets"),
    "words start keys and values": ("bert", "p-tuning-v2", ["--init", "vocabulary"], "start prompts at the input only"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_model_or_a_method_cannot_do_is_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    family, method, options, expected = OTHERS[name]
    assert expected in refused(*_tune(shelf, tmp_path / "out", *options, method=method, family=family))
    assert not (tmp_path / "out").exists()


def test_a_verbalizer_needs_a_trained_head(shelf: Shelf, tmp_path: Path) -> None:
    headless = tmp_path / "model"
    shutil.copytree(shelf.model("bert"), headless)
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    options = ["--backbone", headless, "--readout", "verbalizer", "--template", "{text} <mask:4>"]
    assert "no trained language-model head" in refused(*_tune(shelf, tmp_path / "out", *options))


def test_models_without_weights_or_tokenizer_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    for missing, expected in (("model.safetensors", "weights"), ("config.json", "config.json")):
        broken = tmp_path / missing
        shutil.copytree(shelf.model("bert"), broken)
        (broken / missing).unlink()
        assert expected in refused(*_tune(shelf, tmp_path / "out", "--backbone", broken))


def test_an_unknown_model_is_refused_without_waiting_for_a_network(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("promptuary.hub.getproxies", dict)
    monkeypatch.setattr("promptuary.hub.socket.getaddrinfo", unreachable)
    assert "'roberta-none'" in refused(*_tune(shelf, tmp_path / "out", "--backbone", "roberta-none"))
    assert len(asked) <= 2  # the client of the hub would go on asking for half a minute


RUNS = {
    "unknown key": ("[run]\nmetod = 'frozen'\n", "Did you mean 'method'?"),
    "unknown table": ("[rum]\n", "Did you mean 'run'?"),
    "no table": ("run = 3\n", "run is 3"),
    "no TOML": ("[run\n", "is not TOML"),
    "no data": ("[run]\nout = 'out'\n", "'train' is missing. Write --train"),
    "text for a number": ("[run]\ntrain = 'a'\nout = 'out'\nsave_every = 'often'\n", "'save_every'"),
    "setting": ("[run]\ntrain = 'a'\nout = 'out'\n[method]\nlenght = 3\n", "Did you mean 'length'?"),
    "field": ("[run]\ntrain = 'a'\nout = 'out'\n[recipe]\nrat = 3\n", "Did you mean 'rate'?"),
    "type of a field": ("[run]\ntrain = 'a'\nout = 'out'\n[recipe]\nrate = '3'\n", "'rate'"),
    "no seeds": ("[run]\ntrain = 'a'\nout = 'out'\nseeds = []\n", "'seeds'"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_broken_run_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(RUNS[name][0], encoding="utf-8")
    assert RUNS[name][1] in refused("tune", "run.toml")
    assert [p.name for p in tmp_path.iterdir()] == ["run.toml"]


def test_a_missing_run_file_is_refused() -> None:
    assert "nosuch.toml: No such file" in refused("tune", "nosuch.toml")


WORDS = {
    "of no label": ("{awful = 'bad'}", "no label 'awful'"),
    "empty": ("{good = ' '}", "'good' has [' ']"),
    "none": ("{good = []}", "'good' has []"),
    "of two labels": ("{good = 'fine', bad = 'fine'}", "'fine' stands for"),
}


@pytest.mark.parametrize("name", WORDS)
def test_label_words_that_cannot_work_are_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    (tmp_path / "run.toml").write_text(f"[run]\nwords = {WORDS[name][0]}\n", encoding="utf-8")
    options = _tune(shelf, tmp_path / "out", family="gpt2")
    assert WORDS[name][1] in refused("tune", tmp_path / "run.toml", *options[1:])


def test_several_words_cannot_be_one_text(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[run]\nwords = {good = ['fine', 'great']}\n", encoding="utf-8")
    assert "writes one" in refused("tune", tmp_path / "run.toml", *_tune(shelf, tmp_path / "out", family="t5")[1:])


def test_a_file_in_the_place_of_the_folder_is_kept(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert "is a file" in refused(*_tune(shelf, tmp_path / "out"))
    assert "is a file" in refused(*_tune(shelf, tmp_path / "out" / "deep"))
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_too_few_rows_to_hold_some_out_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "few.jsonl", opinions(5))
    options = ["tune", "--backbone", shelf.model("bert"), "--train", data, "--out", tmp_path / "out"]
    assert "too few" in refused(*options)
    assert not (tmp_path / "out").exists()


def test_training_that_ends_in_no_number_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    said = refused(*_tune(shelf, tmp_path / "out", "--rate", "1e30", "--epochs", "4"))
    assert "Step" in said
    assert "Try a rate ten times smaller" in said
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert "has no manifest.json" in refused("show", tmp_path / "out")


INPUTS = {name: DATA[name] for name in ("missing column", "empty text", "not UTF-8", "broken JSON", "empty file")}


@pytest.mark.parametrize("name", INPUTS)
def test_predict_leaves_nothing_when_its_input_is_broken(shelf: Shelf, tmp_path: Path, name: str) -> None:
    content, expected = INPUTS[name]
    data = tmp_path / "in" / "data.jsonl"
    data.parent.mkdir()
    data.write_bytes(content)
    said = refused("predict", shelf.prompt("bert", "frozen"), "--input", data, "--output", tmp_path / "out.jsonl")
    assert all(part in said for part in expected)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_an_output_that_cannot_be_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    prompt = shelf.prompt("bert", "frozen")
    for output, expected in ((tmp_path / "no" / "x.jsonl", "a folder that exists"), (tmp_path, "is no file")):
        assert expected in refused("predict", prompt, "--input", shelf.dev, "--output", output)
    assert "is no file" in refused("predict", prompt, "--input", shelf.dev, "--output", os.devnull)
    assert not Path(os.devnull).is_file()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_would_replace_the_input_or_is_called_another_format_is_refused(
    shelf: Shelf, tmp_path: Path
) -> None:
    prompt, data = shelf.prompt("bert", "frozen"), tmp_path / "rows.jsonl"
    data.write_bytes(GOOD)
    (tmp_path / "link.jsonl").hardlink_to(data)
    for output in (data, tmp_path / "link.jsonl", tmp_path / ".." / tmp_path.name / "rows.jsonl"):
        assert "the file whose rows are read" in refused("predict", prompt, "--input", data, "--output", output)
    for name in ("out.csv", "out.TSV.gz", "out.parquet"):
        assert ".jsonl" in refused("predict", prompt, "--input", data, "--output", tmp_path / name)
    assert data.read_bytes() == GOOD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.jsonl", "rows.jsonl"]


@pytest.mark.parametrize(
    "options", [["--batch", 0], ["--batch", -3], ["--batch", "x"], ["--backbone", "./nosuch"]], ids=str
)
def test_options_of_evaluate_and_predict_that_cannot_work_are_refused(
    shelf: Shelf, tmp_path: Path, options: list[Any]
) -> None:
    prompt, value = shelf.prompt("bert", "frozen"), options[0] if options[0] == "--batch" else str(options[1])
    assert value in refused("evaluate", prompt, "--data", shelf.dev, *options)
    assert value in refused("predict", prompt, "--input", shelf.dev, "--output", tmp_path / "out", *options)


def test_a_way_to_decode_that_cannot_work_is_refused(shelf: Shelf) -> None:
    prompt = shelf.prompt("bert", "frozen")
    assert "Did you mean 'rank'?" in refused("evaluate", prompt, "--data", shelf.dev, "--decode", "ranks")
    assert "'classifier'" in refused("evaluate", prompt, "--data", shelf.dev, "--decode", "free")
    assert "--words" in refused("show", prompt, "--words", 0)


def test_a_file_that_may_not_be_read_is_a_sentence(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(readers, "_opened", forbidden)
    assert refused(*_tune(shelf, tmp_path / "out")) == f"promptuary: {shelf.train}: Permission denied."


class _Full:
    """A call that fails once, the n-th time, as on a full disk."""

    def __init__(self, call: Callable[..., Any], n: int) -> None:
        self.call, self.left, self.failed = call, n, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.failed = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.call(*args, **kwargs)


def _hidden(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*") if p.is_file()]


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.long
def test_a_disk_full_at_any_moment_leaves_a_run_that_goes_on(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wanted = (shelf.prompt("bert", "prompt-tuning") / "prompt.safetensors").read_bytes()
    for n in range(1, 20):
        out = tmp_path / str(n)
        full = _Full(getattr(os, name), n)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            result = command(*_tune(shelf, out))
        if not full.failed:
            break
        assert result.exit_code == 2, result.stderr
        assert "No space left on device" in result.stderr
        assert str(out) in result.stderr
        assert _hidden(tmp_path) == []
        assert not (out / "manifest.json").exists()
        done(*_tune(shelf, out))
        assert (out / "prompt.safetensors").read_bytes() == wanted
    assert 4 < n < 19


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_full_at_the_output_leaves_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "out.jsonl").write_text("old\n", encoding="utf-8")
    prompt = shelf.prompt("bert", "frozen")
    monkeypatch.setattr(os, name, _Full(getattr(os, name), 1))
    said = refused("predict", prompt, "--input", shelf.dev, "--output", tmp_path / "out.jsonl")
    assert "out.jsonl: could not be written (No space left on device)" in said
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "old\n"


def test_an_interrupt_while_a_file_is_written_leaves_no_part_of_it(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        assert command(*_tune(shelf, tmp_path / "out")).exit_code == 130
    assert _hidden(tmp_path) == []


def test_every_command_tells_its_mistakes() -> None:
    """No command may print a traceback: each goes through the one place that turns errors into sentences."""
    assert all(hasattr(found.callback, "__wrapped__") for found in app.registered_commands)
