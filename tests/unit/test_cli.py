"""What the command line promises: the commands, their options, what they print and what they leave."""

import gzip
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

import promptuary
from promptuary import predicting
from promptuary.backbones.decoder import Decoder
from promptuary.data.batch import Batch
from promptuary.data.source import Row, rows
from promptuary.methods import METHODS
from promptuary.readouts import Prediction
from promptuary.specs import Run
from promptuary.train.stepper import Stepper
from promptuary.tuned import Tuned, open_prompt
from promptuary.values import Call, Output, Targets
from tests.saved import SHORT, Shelf, command, done, lines, opinions, read, refused

PROMPT = "prompt.safetensors"


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_tuned_prompt_is_scored_and_labels_rows(shelf: Shelf, tmp_path: Path, family: str) -> None:
    prompt = shelf.prompt(family, "prompt-tuning")
    scores = json.loads(done("evaluate", prompt, "--data", shelf.dev, "--json"))
    assert scores["n"] == 6
    assert 0 <= scores["macro_f1"] <= 1
    assert 0 <= scores["accuracy"] <= 1
    fresh = lines(tmp_path / "new.jsonl", [{"id": r["id"], "text": r["text"]} for r in opinions(9)])
    assert done("predict", prompt, "--input", fresh, "--output", tmp_path / "out.jsonl") == ""
    found = read(tmp_path / "out.jsonl")
    assert [list(row) for row in found] == [["id", "text", "label", "probability"]] * 9
    assert [(row["id"], row["text"]) for row in found] == [(row["id"], row["text"]) for row in opinions(9)]
    assert all(row["label"] in ("good", "bad") and 0.5 <= row["probability"] <= 1 for row in found)


def test_accuracy_is_the_share_of_right_predictions(shelf: Shelf, tmp_path: Path) -> None:
    prompt = shelf.prompt("gpt2", "prompt-tuning")
    rows = opinions(23)
    data = lines(tmp_path / "data.jsonl", rows)
    scores = json.loads(done("evaluate", prompt, "--data", data, "--json", "--batch", "5"))
    done("predict", prompt, "--input", data, "--output", tmp_path / "out.jsonl")
    right = [row["label"] == row["given_label"] for row in read(tmp_path / "out.jsonl")]
    assert scores["accuracy"] == pytest.approx(sum(right) / 23)
    assert scores["majority"] == pytest.approx(12 / 23)


def test_soft_tokens_before_every_row_are_read_once_for_a_file(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = shelf.prompt("gpt2", "prompt-tuning")
    tuned, given, plain = open_prompt(prompt), list(rows(str(shelf.dev))), Decoder.run
    soft: list[int] = []  # tokens in the row of each pass over the file

    def counted(backbone: Decoder, call: Call, targets: Targets | None = None) -> Output:
        if len(call.layout.mask) == len(given):
            soft.append(call.layout.prompts.shape[1])
        return plain(backbone, call, targets)

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "run", counted)
        done("predict", prompt, "--input", shelf.dev, "--output", tmp_path / "out.jsonl")
        scores = json.loads(done("evaluate", prompt, "--data", shelf.dev, "--json"))
    assert soft == [0, 0]
    said = [row["probability"] for row in read(tmp_path / "out.jsonl")]
    assert said == pytest.approx([answer.probability for answer in tuned.predict(given)], abs=1e-5)
    assert scores == pytest.approx(tuned.evaluate(given), abs=1e-5)


def test_every_option_of_tune_reaches_the_run(shelf: Shelf, tmp_path: Path) -> None:
    rows = [{"body": r["text"], "reply": "thank you", "topic": r["label"], "lang": "en"} for r in opinions(16)]
    data = lines(tmp_path / "mail.jsonl", rows)
    done(
        "tune", "--backbone", shelf.model("bert"), "--train", data, "--text", "body", "--text-pair", "reply",
        "--label", "topic", "--method", "p-tuning-v2", "--length", "5", "--epochs", "2", "--seed", "7",
        "--init", "random",
        "--readout", "verbalizer", "--template", "{text} ( {lang} ) {pair} <mask:4>", "--rate", "0.02", "--batch", "4",
        "--max-length", "30", "--metric", "macro_f1", "--precision", "fp32", "--device", "cpu", "--save-every", "3",
        "--set", "parts=['encoder']", "--set", "warmup=0.25", "--out", tmp_path / "out",
    )  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    run, recipe = manifest["run"], manifest["run"]["recipe"]
    assert (manifest["method"], manifest["settings"]) == ("p-tuning-v2", {"length": 5, "parts": ["encoder"]})
    assert (manifest["seed"], manifest["backbone"]) == (7, str(shelf.model("bert")))
    assert (run["task"]["text"], run["task"]["text_pair"], run["task"]["label"]) == ("body", "reply", "topic")
    assert (run["readout"], run["max_length"], run["init"], run["blanks"]) == ("verbalizer", 30, "random", 4)
    given = {name: recipe[name] for name in ("epochs", "rate", "batch", "warmup", "precision")}
    assert given == {"epochs": 2, "rate": 0.02, "batch": 4, "warmup": 0.25, "precision": "fp32"}
    plain = [{"body": r["body"], "reply": r["reply"], "lang": "en"} for r in rows]
    done("predict", tmp_path / "out", "--input", lines(tmp_path / "new.jsonl", plain), "--output", tmp_path / "p.jsonl")
    assert {row["label"] for row in read(tmp_path / "p.jsonl")} <= {"good", "bad"}


@pytest.mark.parametrize("values", [("bad", "good"), (1, 2), (False, True), ("1", "2")], ids=str)
def test_a_label_comes_back_in_the_type_of_the_training_rows(
    shelf: Shelf, tmp_path: Path, values: tuple[Any, Any]
) -> None:
    rows = [{**row, "label": values[row["label"] == "good"]} for row in opinions(16)]
    data = lines(tmp_path / "data.jsonl", rows)
    out = tmp_path / "out"
    done("tune", "--backbone", shelf.model("bert"), "--train", data, "--method", "frozen", *SHORT, "--out", out)
    done("predict", out, "--input", data, "--output", tmp_path / "p.jsonl")
    found = read(tmp_path / "p.jsonl")
    assert [row["given_label"] for row in found] == [row["label"] for row in rows]
    assert all(any(row["label"] is v or row["label"] == v for v in values) for row in found)
    assert {type(row["label"]) for row in found} == {type(values[0])}


def test_columns_called_like_the_answer_are_kept_under_another_name(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(
        tmp_path / "d.jsonl", [{"label": "old", "text": "I like it", "probability": 3, "given_label": "older"}]
    )
    done("predict", shelf.prompt("bert", "frozen"), "--input", data, "--output", tmp_path / "p.jsonl")
    [row] = read(tmp_path / "p.jsonl")
    assert (row["given_label"], row["given_probability"], row["text"]) == ("old", 3, "I like it")
    assert row["label"] in ("good", "bad")
    assert isinstance(row["probability"], float)


def test_what_json_or_utf8_cannot_hold_is_still_written_as_json(shelf: Shelf, tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "I like it", "note": "\\ud800", "name": "é"}\n', encoding="utf-8")
    done("predict", shelf.prompt("bert", "frozen"), "--input", odd, "--output", tmp_path / "p.jsonl")
    assert read(tmp_path / "p.jsonl")[0]["note"] == "\ud800"
    table = pyarrow.table({"text": ["I like it"], "x": [float("nan")], "y": [[1.0, float("inf")]]})
    pyarrow.parquet.write_table(table, tmp_path / "odd.parquet")
    done(
        "predict", shelf.prompt("bert", "frozen"), "--input", tmp_path / "odd.parquet", "--output", tmp_path / "p.jsonl"
    )
    [row] = read(tmp_path / "p.jsonl")
    assert (row["x"], row["y"]) == (None, [1.0, None])


def _csv(path: Path, mark: str = ",") -> None:
    rows = [mark.join(map(str, row.values())) for row in opinions(16)]
    path.write_text("\n".join([mark.join(["id", "text", "label"]), *rows, ""]), encoding="utf-8")


def _packed(path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in opinions(16))


FORMATS: dict[str, Callable[[Path], Any]] = {
    "d.csv": _csv,
    "d.tsv": lambda path: _csv(path, "\t"),
    "d.json": lambda path: path.write_text(json.dumps(opinions(16)), encoding="utf-8"),
    "d.jsonl.gz": _packed,
    "d.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(opinions(16)), path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_the_same_rows_gives_the_same_prompt(shelf: Shelf, tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name)
    options = shelf.options("bert", "prompt-tuning", tmp_path / "out")
    done(*options, "--train", tmp_path / name)
    same = shelf.prompt("bert", "prompt-tuning") / PROMPT
    assert (tmp_path / "out" / PROMPT).read_bytes() == same.read_bytes()


def test_methods_and_backbones_are_lists_of_objects_with_names() -> None:
    methods = json.loads(done("methods", "--json"))
    assert [m["name"] for m in methods] == list(METHODS)
    assert all(m["summary"] and m["paper"] and isinstance(m["settings"], dict) for m in methods)
    assert {m["name"]: list(m["presets"]) for m in methods} == {name: list(m.presets) for name, m in METHODS.items()}
    [paper] = [m["presets"]["paper"] for m in methods if m["name"] == "prompt-tuning"]
    assert paper["settings"] == {"length": 100}
    assert (paper["run"]["init"], paper["recipe"]["rate"]) == ("labels", 0.3)
    backbones = json.loads(done("backbones", "--json"))
    assert all(isinstance(b["name"], str) and b["summary"] for b in backbones)
    shown = done("methods")
    assert all(name in shown for name in METHODS)
    assert all(preset in shown for m in METHODS.values() for preset in m.presets)
    for name, known in METHODS.items():
        shown = done("methods", name)
        assert all(f"{own}" in shown for own in (*known.settings(), *known.presets, known.summary.split()[0]))
    assert "lookup, cnn, mlp, lstm" in done("methods", "ipt")
    assert [m["name"] for m in json.loads(done("methods", "ipt", "--json"))] == ["ipt"]
    assert "Did you mean 'ipt'?" in refused("methods", "ipd")
    assert "--backbone" in done("backbones")


def test_a_preset_is_what_is_run_and_recorded(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("t5", "prompt-tuning", tmp_path / "out")
    at = options.index("--epochs")
    done(*options[:at], *options[at + 4 :], "--preset", "paper", "--set", "steps=2", "--precision", "fp32")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    run, recipe = manifest["run"], manifest["run"]["recipe"]
    assert manifest["settings"] == {"length": 100}
    assert (run["init"], run["readout"], run["z_loss"]) == ("labels", "text", 1e-4)
    assert (recipe["optimizer"], recipe["batch"], recipe["steps"]) == ("adafactor", 32, 2)
    config = json.loads((tmp_path / "out" / "record.jsonl").read_text().splitlines()[0])
    assert config["settings"]["dropout"] is True
    assert open_prompt(tmp_path / "out").readout.z_loss == 1e-4


def test_a_cloze_of_a_preset_has_marks_for_its_prompt(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[run]\nwords = {good = 'box', bad = 'card'}\n", encoding="utf-8")
    options = shelf.options("bert", "p-tuning", tmp_path / "out")
    done("tune", tmp_path / "run.toml", *options[1:], "--preset", "paper-lama")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"] == {"template": True, "length": 9}
    assert (manifest["run"]["readout"], manifest["run"]["blanks"]) == ("verbalizer", 1)


def test_several_seeds_have_a_folder_each(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("bert", "prompt-tuning", tmp_path / "out")
    found = json.loads(done(*options, "--seed", "0", "--seed", "1", "--json"))
    assert [run["seed"] for run in found] == [0, 1]
    assert [Path(run["folder"]) for run in found] == [tmp_path / "out" / "seed-0", tmp_path / "out" / "seed-1"]
    first, second = ((tmp_path / "out" / f"seed-{seed}" / PROMPT).read_bytes() for seed in (0, 1))
    assert first == (shelf.prompt("bert", "prompt-tuning") / PROMPT).read_bytes()
    assert first != second
    again = done(*options, "--seed", "0", "--seed", "1")
    assert "(2 seeds)" in again
    assert str(tmp_path / "out" / "seed-0") in again.replace("\n", "")


def test_a_run_as_json_is_one_object(shelf: Shelf, tmp_path: Path) -> None:
    summary = json.loads(done(*shelf.options("bert", "frozen", tmp_path / "out"), "--json"))
    assert summary["trainable"] == 32 * 2 + 2
    assert summary["bytes"] == (tmp_path / "out" / PROMPT).stat().st_size
    assert summary["counts"] == dict.fromkeys(("nominal", "touched", "active"), 32 * 2 + 2)
    assert set(summary["scores"]) >= {"accuracy", "macro_f1"}


def test_three_counts_are_told_kept_and_shown(shelf: Shelf, tmp_path: Path) -> None:
    told = done(*shelf.options("bert", "ipt", tmp_path / "out"), "--length", 4)
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["run"]["counts"]
    end = read(tmp_path / "out" / "record.jsonl")[-1]
    assert counts == end["counts"] == json.loads(done("show", tmp_path / "out", "--json"))["counts"]
    assert counts["active"] == 4 * 32 + 2 * 32 + 2
    assert counts["active"] < counts["touched"] < counts["nominal"]
    assert all(f"{number:,}" in told for number in counts.values())


def test_a_file_describes_a_run_and_options_override_it(shelf: Shelf, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f"""
        [run]
        backbone = {str(shelf.model("bert"))!r}
        train = {str(shelf.train)!r}
        validation = {str(shelf.dev)!r}
        method = "prompt-tuning"
        seeds = [3]
        out = {str(tmp_path / "file")!r}
        [method]
        length = 4
        [recipe]
        epochs = 1
        batch = 8
        """,
        encoding="utf-8",
    )
    done("tune", config)
    done(
        "tune",
        config,
        "--out",
        tmp_path / "options",
        "--length",
        "2",
        "--set",
        "head=1",
        "--set",
        "epochs=2",
        "--seed",
        5,
    )
    made, changed = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("file", "options"))
    assert (made["settings"], made["seed"], made["run"]["recipe"]["epochs"]) == ({"length": 4}, 3, 1)
    assert changed["settings"] == {"length": 2, "head": 1}
    assert (changed["seed"], changed["run"]["recipe"]["epochs"], changed["run"]["recipe"]["batch"]) == (5, 2, 8)


def test_a_prompt_that_writes_text_is_scored_in_four_ways(shelf: Shelf) -> None:
    prompt = shelf.prompt("t5", "prompt-tuning")
    scores = {
        mode: json.loads(done("evaluate", prompt, "--data", shelf.dev, "--json", "--decode", mode))
        for mode in ("free", "rank", "calibrated", "constrained")
    }
    assert all(set(s) == {"accuracy", "macro_f1", "illegal", "n"} and s["n"] == 6 for s in scores.values())
    assert all(scores[mode]["illegal"] == 0 for mode in ("rank", "calibrated", "constrained"))
    assert scores["free"]["accuracy"] + scores["free"]["illegal"] <= 1
    ranked = json.loads(done("evaluate", prompt, "--data", shelf.dev, "--json"))
    assert scores["rank"]["accuracy"] == ranked["accuracy"]


def test_what_a_prompt_wrote_stands_beside_its_label(shelf: Shelf, tmp_path: Path) -> None:
    prompt, data = shelf.prompt("t5", "prompt-tuning"), lines(tmp_path / "d.jsonl", opinions(9))
    for mode in ("free", "rank", "calibrated", "constrained"):
        done("predict", prompt, "--input", data, "--output", tmp_path / "out.jsonl", "--decode", mode, "--batch", 4)
        found = read(tmp_path / "out.jsonl")
        assert [row["text"] for row in found] == [row["text"] for row in opinions(9)]
        for row in found:
            legal = {"good": "good", "bad": "bad"}.get(row["written"])
            assert row["label"] == legal
            assert mode == "free" or legal is not None
        scores = json.loads(done("evaluate", prompt, "--data", data, "--json", "--decode", mode))
        right = [row["label"] == own["label"] for row, own in zip(found, opinions(9), strict=True)]
        assert scores["accuracy"] == sum(right) / 9
        assert scores["illegal"] == sum(row["label"] is None for row in found) / 9
    apart = command(
        "predict", shelf.place, "--by", "task", "--input", data, "--output", tmp_path / "o", "--decode", "free"
    )
    assert "--decode free is of one prompt" in apart.stderr
    other = command(
        "predict", shelf.prompt("bert", "frozen"), "--input", data, "--output", tmp_path / "o", "--decode", "free"
    )
    assert "reads its classes by 'classifier'" in other.stderr


def test_pictures_and_tables_are_for_people(shelf: Shelf) -> None:
    prompt = shelf.prompt("bert", "prompt-tuning")
    assert "accuracy" in done("evaluate", prompt, "--data", shelf.dev)
    assert "nearest words" in done("show", prompt, "--words", "3")
    assert json.loads(done("show", prompt, "--json"))["method"] == "prompt-tuning"


def test_labels_and_words_are_shown_as_they_are(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"good": "[/good]", "bad": "[red]:cat:"}
    data = lines(tmp_path / "d.jsonl", [{**row, "label": names[row["label"]]} for row in opinions(16)])
    options = shelf.options("bert", "prompt-tuning", tmp_path / "[b]out[/i]")
    done(*options, "--train", data, "--validation", data)
    table = done("evaluate", tmp_path / "[b]out[/i]", "--data", data)
    assert "[/i]" in table
    tokenizer = type(open_prompt(tmp_path / "[b]out[/i]").backbone.tokenizer)
    monkeypatch.setattr(tokenizer, "convert_ids_to_tokens", lambda self, ids: "[/unused]")
    shown = done("show", tmp_path / "[b]out[/i]")
    assert all(name in shown for name in [*names.values(), "[/unused]"])


def test_a_run_says_what_it_reads_and_what_it_chose_by(shelf: Shelf, tmp_path: Path) -> None:
    result = command(*shelf.options("bert", "frozen", tmp_path / "out"), "--metric", "macro_f1")
    assert "16 rows for training and 6 for validation" in result.stderr
    assert "macro_f1" in result.stdout


def test_the_same_command_again_changes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("bert", "prefix-tuning", tmp_path / "out")
    done(*options)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    done(*options)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*shelf.options("bert", "p-tuning", tmp_path / "out"), "--epochs", "3", "--save-every", "1"]
    calm = [*shelf.options("bert", "p-tuning", tmp_path / "calm"), "--epochs", "3", "--save-every", "1"]
    step = Stepper.step

    def interrupted(self: Stepper, number: int, batches: Any) -> Any:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted)
        patch.setattr("promptuary.train.fit.SAVING", 1.0)  # a state after each step, whatever saving it takes
        result = command(*options)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert "goes on after step 3" in command(*options).stderr
    done(*calm)
    for name in (PROMPT, "training.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_another_run_in_the_same_folder_is_refused_until_it_may_overwrite(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("bert", "prompt-tuning", tmp_path / "out")
    done(*options)
    kept = (tmp_path / "out" / PROMPT).read_bytes()
    result = command(*options, "--rate", "0.1", "--length", "4")
    assert result.exit_code == 2
    assert "recipe.rate is 0.1 and was 0.3" in result.stderr
    assert "settings.method.length is 4" in result.stderr
    assert command(*options, "--overwrite", "--init", "vocabulry").exit_code == 2
    assert (tmp_path / "out" / PROMPT).read_bytes() == kept
    done(*options, "--rate", "0.1", "--length", "4", "--overwrite")
    assert (tmp_path / "out" / PROMPT).read_bytes() != kept


def test_a_prompt_without_its_run_is_not_written_over(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("bert", "frozen", tmp_path / "out")
    done(*options)
    (tmp_path / "out" / "state.safetensors").unlink()
    result = command(*options)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    done(*options, "--overwrite")


def _said(_: Tuned, batch: Batch) -> Prediction:
    probability = torch.full((len(batch.ids), 2), 0.25)
    return Prediction(torch.ones(len(batch.ids), dtype=torch.long), probability)


@pytest.mark.long
def test_predict_is_a_stream(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, taken, ahead = 20_000, itertools.count(1), []
    written = itertools.count(1)
    counts = {"read": 0}
    line = predicting._line

    def source() -> Iterator[Row]:
        for i in range(rows):
            counts["read"] = next(taken)
            yield Row({"id": i, "text": "I like it" + " much" * (i % 7)}, f"row {i}")

    def counted(fields: dict[str, Any]) -> bytes:
        ahead.append(counts["read"] - next(written))
        return line(fields)

    monkeypatch.setattr(Tuned, "_said", _said)
    monkeypatch.setattr(predicting, "_line", counted)
    tuned = open_prompt(shelf.prompt("bert", "frozen"))
    count, _ = predicting.write_predictions(
        lambda given: tuned.outputs(given, batch=256), source(), tmp_path / "out.jsonl"
    )
    found = read(tmp_path / "out.jsonl")
    assert count == rows
    assert [row["id"] for row in found] == list(range(rows))
    assert max(ahead) <= 2048


def test_an_output_called_gz_is_compressed(shelf: Shelf, tmp_path: Path) -> None:
    prompt = shelf.prompt("bert", "frozen")
    for name in ("out.jsonl", "out.jsonl.gz"):
        done("predict", prompt, "--input", shelf.dev, "--output", tmp_path / name)
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == (tmp_path / "out.jsonl").read_bytes()
    assert len(list(rows(str(tmp_path / "out.jsonl.gz")))) == 6


def test_an_output_appears_only_when_it_is_whole(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    data = lines(tmp_path / "data.jsonl", opinions(3000))
    seen: list[bool] = []

    def interrupted(_: Tuned, batch: Batch) -> Prediction:
        seen.append(output.exists())
        if len(seen) == 40:
            raise KeyboardInterrupt
        return _said(_, batch)

    monkeypatch.setattr(Tuned, "_said", interrupted)
    result = command("predict", shelf.prompt("bert", "frozen"), "--input", data, "--output", output)
    assert result.exit_code == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl"]
    output.write_text("old\n", encoding="utf-8")
    seen.clear()
    assert command("predict", shelf.prompt("bert", "frozen"), "--input", data, "--output", output).exit_code == 130
    assert output.read_text(encoding="utf-8") == "old\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl", "out.jsonl"]


def test_an_output_has_the_rights_of_any_other_file(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    done("predict", shelf.prompt("bert", "frozen"), "--input", shelf.dev, "--output", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").stat().st_mode == (tmp_path / "other").stat().st_mode


QUICK = """
import json, sys
from typer.testing import CliRunner
from promptuary.cli import app
for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(app, arguments, prog_name="promptuary")
    heavy = sorted({"torch", "transformers", "datasets", "sklearn"} & set(sys.modules))
    print(json.dumps([result.exit_code, result.stdout, result.stderr, heavy]))
"""


def quickly(folder: Path, *commands: Sequence[Any]) -> list[tuple[int, str, str]]:
    """Run commands in a process of their own, in which none may import what takes seconds."""
    asked = json.dumps([[str(a) for a in command] for command in commands])
    told = subprocess.run(
        [sys.executable, "-c", QUICK], input=asked, capture_output=True, text=True, check=True, cwd=folder
    )
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(command, heavy) for command, (*_, heavy) in zip(commands, found, strict=True) if heavy] == []
    return [(code, out, err) for code, out, err, _ in found]


def test_help_and_methods_need_no_model_library(tmp_path: Path) -> None:
    shown, methods, table = quickly(tmp_path, ["tune", "--help"], ["methods", "--json"], ["methods"])
    assert {code for code, _, _ in (shown, methods, table)} == {0}
    for option in ("--backbone", "--train", "--validation", "--text-pair", "--label", "--method", "--out"):
        assert option in shown[1]
    assert [m["name"] for m in json.loads(methods[1])] == list(METHODS)


def test_the_version_is_told(tmp_path: Path) -> None:
    [(code, said, _)] = quickly(tmp_path, ["--version"])
    assert (code, said) == (0, f"promptuary {promptuary.__version__}\n")


def test_help_tells_every_default_and_every_command_in_a_line() -> None:
    shown = " ".join(done("tune", "--help").split())
    defaults = {name: field.default for name, field in Run.model_fields.items()}
    for name in ("backbone", "task", "method", "init", "readout", "pool", "device", "max_new_tokens", "save_every"):
        [text] = re.findall(f"--{name.replace('_', '-')} <.*?(?= --)", shown)
        assert f"default {defaults[name]}" in text, name
    assert "..." not in done("--help").split("Commands:")[1]


TUNE = ("tune", "--train", "d.jsonl", "--out", "out")
TAGS = ("tune", "--task", "tagging", "--train", "tags.jsonl", "--out", "out")
SLIPS: dict[str, tuple[tuple[Any, ...], str]] = {
    "option": ((*TUNE, "--epoch", 3), "--epochs"),
    "method": ((*TUNE, "--method", "promt-tuning"), "Did you mean 'prompt-tuning'?"),
    "setting": ((*TUNE, "--set", "lenght=3"), "Did you mean 'length'?"),
    "setting of another method": ((*TUNE, "--set", "middle=3"), "has no setting 'middle'"),
    "value of a setting": ((*TUNE, "--set", "parts=['front']"), "'parts"),
    "value of a field": ((*TUNE, "--set", "batch=2.5"), "'batch'"),
    "range of a field": ((*TUNE, "--rate", 0), "rate=0"),
    "preset": ((*TUNE, "--method", "prompt-tuning", "--preset", "papr"), "Did you mean 'paper'?"),
    "metric": ((*TUNE, "--metric", "f1"), "'metric'"),
    "key of a file": (("tune", "key.toml"), "Did you mean 'method'?"),
    "setting in a file": (("tune", "setting.toml"), "Did you mean 'length'?"),
    "missing run file": (("tune", "nosuch.toml"), "No such file"),
    "missing file": ((*TUNE, "--train", "nosuch.jsonl"), "no file 'nosuch.jsonl'"),
    "missing validation file": ((*TUNE, "--validation", "nosuch.jsonl"), "no file 'nosuch.jsonl'"),
    "broken file": ((*TUNE, "--train", "broken.jsonl"), "broken.jsonl, line 1: not JSON"),
    "sample": ((*TUNE, "--train", "sample:intent/train"), "Did you mean 'intents'?"),
    "column": ((*TUNE, "--text", "txt"), "Did you mean 'text'?"),
    "label": ((*TUNE, "--label", "lable"), "Did you mean 'label'?"),
    "column of a validation row": ((*TUNE, "--validation", "other.jsonl"), "other.jsonl, line 1: there is no column"),
    "column of texts": ((*TUNE, "--task", "text", "--label", "lable"), "Did you mean 'label'?"),
    "nothing to read": (("tune", "--out", "out"), "'train' is missing"),
    "nowhere to go": (("tune", "--train", "d.jsonl"), "'out' is missing"),
    "label of a validation row": ((*TUNE, "--validation", "label.jsonl"), "label.jsonl, line 2: label 'god'"),
    "text of a validation row": ((*TUNE, "--validation", "empty.jsonl"), "empty.jsonl, line 2: 'text' is empty"),
    "tag of a validation row": ((*TAGS, "--validation", "tag.jsonl"), "tag.jsonl, line 1: label 'B-plce'"),
    "answer of a text": (
        (*TUNE, "--task", "text", "--label", "label", "--train", "answer.jsonl"),
        "answer.jsonl, line 2: 'label' is empty",
    ),
    "a file as folder": (("tune", "--train", "d.jsonl", "--out", "d.jsonl"), "d.jsonl is a file"),
    "column of questions": ((*TUNE, "--task", "answering", "--text", "txt"), "Did you mean 'text'?"),
}


def test_slips_are_told_without_a_model_library(tmp_path: Path) -> None:
    lines(tmp_path / "d.jsonl", opinions(16))
    lines(tmp_path / "other.jsonl", [{"txt": "a", "label": "good"}])
    (tmp_path / "broken.jsonl").write_text("{\n", encoding="utf-8")
    run = "[run]\ntrain = 'd.jsonl'\nout = 'out'\n"
    (tmp_path / "key.toml").write_text(run + "metod = 'frozen'\n", encoding="utf-8")
    (tmp_path / "setting.toml").write_text(run + "[method]\nlenght = 3\n", encoding="utf-8")
    good = {"text": "a", "label": "good"}
    for name, slip in (("label", {"label": "god"}), ("empty", {"text": ""}), ("answer", {"label": " "})):
        lines(tmp_path / f"{name}.jsonl", [good, {**good, **slip}, *[good] * 10])
    tagged = {"tokens": ["in", "Rome"], "tags": ["O", "B-place"]}
    lines(tmp_path / "tags.jsonl", [tagged] * 10)
    lines(tmp_path / "tag.jsonl", [{**tagged, "tags": ["O", "B-plce"]}])
    before = sorted(tmp_path.iterdir())
    told = quickly(tmp_path, *(arguments for arguments, _ in SLIPS.values()))
    for (name, (_, expected)), (code, _, said) in zip(SLIPS.items(), told, strict=True):
        assert code == 2, name
        assert expected in said, name
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_no_prompt_is_told_without_a_model_library(tmp_path: Path) -> None:
    lines(tmp_path / "d.jsonl", opinions(4))
    for folder in ("runs/topic/seed-0", "runs/topic/seed-1", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    for seed in (0, 1):
        (tmp_path / f"runs/topic/seed-{seed}/manifest.json").write_text("{}", encoding="utf-8")
    data, answered = ("--data", "d.jsonl"), ("--input", "d.jsonl", "--output", "out.jsonl")
    slips: list[tuple[tuple[Any, ...], str]] = [
        (("evaluate", "runs/topic", *data), "holds some: seed-0, seed-1. Name one, as runs/topic/seed-0."),
        (("evaluate", "runs/topic/seed-0", "--ensemble", "runs/topic", *data), "holds some: seed-0, seed-1"),
        (("predict", "runs/topic", *answered), "holds some: seed-0, seed-1"),
        (("predict", "empty", "--by", "task", *answered), "empty holds no folders of tuned prompts"),
        (("show", "runs/topic"), "holds some: seed-0, seed-1"),
        (("show", "empty"), "empty has no manifest.json"),
        (("evaluate", "nosuch", *data), "nosuch does not exist"),
        (("predict", "runs/topic/seed-0", "--input", "d.jsonl", "--output", "d.jsonl"), "whose rows are read"),
        (("predict", "runs/topic/seed-0", "--input", "d.jsonl", "--output", "no/out.jsonl"), "a folder that exists"),
    ]
    told = quickly(tmp_path, *(arguments for arguments, _ in slips))
    for (arguments, expected), (code, _, said) in zip(slips, told, strict=True):
        assert code == 2, arguments
        assert expected in said, arguments
