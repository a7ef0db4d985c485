"""Every kind of task is tuned, scored, used, kept and shown by the same commands."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from promptuary import Run
from promptuary.backbones.load import load
from promptuary.data.source import Row, rows
from promptuary.data.task import classification, tagging, text_to_text
from promptuary.errors import BackboneError, DataError, SettingError
from promptuary.kinds import KINDS, Classification, Tagging, Text
from promptuary.kinds.tagging import Tags
from promptuary.kinds.text import Reply
from promptuary.material import hold_out
from promptuary.metrics import bleu, chrf, exact_match
from promptuary.train.stepper import Stepper
from promptuary.tuned import open_prompt
from tests.saved import command, done, lines, read, refused, save
from tests.saved import opinions as classified
from tests.toys import answered, tagged, written

FAMILIES = ("bert", "t5", "gpt2")
LEARNT = ("--method", "p-tuning-v2", "--epochs", 20, "--batch", 8, "--rate", 0.1, "--set", "head_rate=0.05")


@dataclass(frozen=True)
class Toy:
    """A task that every family learns in seconds: its rows, the score that must be 1, and the columns of `predict`."""

    rows: Callable[[int], list[dict[str, Any]]]
    score: str
    right: Callable[[dict[str, Any]], Any]
    adds: tuple[str, ...] = ("prediction",)
    options: tuple[Any, ...] = ()
    families: tuple[str, ...] = FAMILIES


TOYS = MappingProxyType(
    {
        "text": Toy(
            written, "exact_match", lambda r: r["target"], options=("--max-new-tokens", 6), families=FAMILIES[1:]
        ),
        "tagging": Toy(tagged, "entity_f1", lambda r: r["tags"]),
        "answering": Toy(answered, "exact_match", lambda r: r["answers"][0]["text"], ("prediction", "score")),
    }
)
CASES = [(kind, family) for kind, toy in TOYS.items() for family in toy.families]


@dataclass(frozen=True)
class Bench:
    """A folder with models by family, rows by kind, and the prompts tuned so far."""

    place: Path

    def model(self, family: str) -> Path:
        folder = self.place / family
        return folder if folder.is_dir() else save(family, folder)

    def data(self, kind: str, count: int = 12) -> Path:
        path = self.place / f"{kind}-{count}.jsonl"
        return path if path.exists() else lines(path, TOYS[kind].rows(count))

    def options(self, kind: str, family: str, out: Path) -> list[Any]:
        data = ["--train", self.data(kind, 24), "--validation", self.data(kind)]
        return ["tune", "--task", kind, "--backbone", self.model(family), *data, *TOYS[kind].options, "--out", out]

    def prompt(self, kind: str, family: str) -> Path:
        out = self.place / f"{kind}-{family}"
        if not out.is_dir():
            done(*self.options(kind, family, out), *LEARNT)
        return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_a_toy_task_is_learnt_scored_and_answered(bench: Bench, tmp_path: Path, kind: str, family: str) -> None:
    toy, prompt, data = TOYS[kind], bench.prompt(kind, family), bench.data(kind)
    scores = json.loads(done("evaluate", prompt, "--data", data, "--json", "--batch", 5))
    assert scores[toy.score] == 1
    assert scores["n"] == 12
    assert set(scores) == {*KINDS[kind].metrics, "loss", "n"}
    given = toy.rows(12)
    bare = [{name: row[name] for name in list(row)[:-1]} | {"prediction": "old"} for row in given]
    done("predict", prompt, "--input", lines(tmp_path / "new.jsonl", bare), "--output", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert [list(row) for row in found] == [[*list(given[0])[:-1], "given_prediction", *toy.adds]] * 12
    assert [row["prediction"] for row in found] == [toy.right(row) for row in given]
    shown = json.loads(done("show", prompt, "--json"))
    assert shown["task"] == kind
    assert kind in done("show", prompt)


FRESH = """
import json, sys
import torch
from promptuary import open_prompt
from promptuary.data.source import rows
torch.set_num_threads(1)
for prompt, data in json.load(sys.stdin):
    tuned = open_prompt(prompt)
    print(json.dumps([tuned.reading.output(a) for a in tuned.predict(rows(data))]))
"""


@pytest.mark.long
def test_a_new_process_answers_the_same(bench: Bench) -> None:
    asked = [(str(bench.prompt(kind, family)), str(bench.data(kind))) for kind, family in CASES]
    said = subprocess.run(
        [sys.executable, "-c", FRESH], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    for (prompt, data), line in zip(asked, said.stdout.splitlines(), strict=True):
        tuned = open_prompt(prompt)
        assert [tuned.reading.output(a) for a in tuned.predict(rows(data))] == json.loads(line)


@pytest.mark.parametrize("kind", TOYS)
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    step, few = Stepper.step, ("--epochs", 2, "--batch", 8, "--save-every", 1, "--metric", TOYS[kind].score)

    def interrupted(self: Stepper, number: int, batches: Any) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, batches)

    options, calm = (bench.options(kind, "t5", tmp_path / name) for name in ("out", "calm"))
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted)
        patch.setattr("promptuary.train.fit.SAVING", 1.0)  # a state after each step, whatever saving it takes
        assert command(*options, *few).exit_code == 130
    assert "goes on after step 4" in command(*options, *few).stderr
    done(*calm, *few)
    name = "prompt.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


@pytest.mark.parametrize("kind", ["classification", *TOYS])
def test_rows_that_lie_in_a_file_teach_and_score_the_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    few = ("--epochs", 2, "--batch", 8)
    if kind == "classification":
        options = ["tune", "--backbone", bench.model("t5"), "--train", lines(tmp_path / "o.jsonl", classified(24))]
        data, plain, mapped = tmp_path / "o.jsonl", *([*options, "--out", tmp_path / n] for n in ("plain", "mapped"))
    else:
        data, plain, mapped = bench.data(kind), *(bench.options(kind, "t5", tmp_path / n) for n in ("plain", "mapped"))
    done(*plain, *few)
    with monkeypatch.context() as patch:
        patch.setattr("promptuary.data.kept.HELD", 0)
        done(*mapped, *few)
        scores = done("evaluate", tmp_path / "mapped", "--data", data, "--json")
    assert scores == done("evaluate", tmp_path / "plain", "--data", data, "--json")
    name = "prompt.safetensors"
    assert (tmp_path / "mapped" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(("kind", "family"), [("text", "t5"), ("text", "gpt2"), ("tagging", "bert")])
def test_an_answer_is_the_same_alone_and_in_any_batch(bench: Bench, kind: str, family: str) -> None:
    tuned, given = open_prompt(bench.prompt(kind, family)), list(rows(str(bench.data(kind))))
    together = list(tuned.predict(given, batch=5))
    assert together == [answer for row in given for answer in tuned.predict([row])]


def test_texts_words_and_questions_are_answered_from_python(bench: Bench) -> None:
    words = ["my", "parcel", "from", "Berlin", "came"]
    [tags] = open_prompt(bench.prompt("tagging", "bert")).predict_texts([words])
    assert tags.prediction == ["O", "B-thing", "O", "B-place", "O"]
    [found] = open_prompt(bench.prompt("answering", "bert")).predict_texts(
        [("where is it ?", "the box is in Rome now")]
    )
    assert found.prediction == "Rome"
    [reply] = open_prompt(bench.prompt("text", "t5")).predict_texts(["my card is late very much"])
    assert reply == Reply("thank you")


def test_rows_are_held_out_of_any_kind(bench: Bench, tmp_path: Path) -> None:
    options = bench.options("tagging", "bert", tmp_path / "out")
    at = options.index("--validation")
    done(*options[:at], *options[at + 2 :], "--epochs", 1)
    given = [Row(row, "x") for row in tagged(20)]
    kept, held = hold_out(given, None, 0.1)
    assert (len(kept), len(held)) == (18, 2)
    with pytest.raises(DataError, match=r"1 rows are too few to split off 0\.1 of them\.$"):
        hold_out(given[:1], None, 0.1)


def test_a_word_that_was_cut_off_has_no_tag(bench: Bench, tmp_path: Path) -> None:
    done(*bench.options("tagging", "bert", tmp_path / "out"), "--epochs", 1, "--max-length", 5)
    tuned = open_prompt(tmp_path / "out")
    [tags] = tuned.predict_texts([["my", "parcel", "from", "Berlin", "came"]])
    assert len(tags.prediction) == 5
    assert tags.prediction[-1] is None
    assert 0 < tuned.evaluate(rows(str(bench.data("tagging"))))["accuracy"] < 1


def test_entities_that_no_training_row_has_are_wrong_and_told(bench: Bench, tmp_path: Path) -> None:
    given = [dict(row.fields) for row in rows(str(bench.data("tagging")))]
    given[0] = {**given[0], "tags": ["B-unheard", *given[0]["tags"][1:]]}
    path = lines(tmp_path / "more.jsonl", given)
    tuned = open_prompt(bench.prompt("tagging", "bert"))
    before, after = (tuned.evaluate(rows(str(place))) for place in (bench.data("tagging"), path))
    words = sum(len(row["tags"]) for row in given)
    assert after["untrained"] == pytest.approx(1 / words)
    assert after["accuracy"] <= before["accuracy"]
    assert "untrained" not in before
    assert "untrained" in done("evaluate", bench.prompt("tagging", "bert"), "--data", path)
    done(*bench.options("tagging", "bert", tmp_path / "out"), "--validation", path)  # it may choose the best step


def test_tags_are_scored_by_hand() -> None:
    given = [Row({"tokens": ["a", "b", "c"], "tags": ["B-x", "I-x", "O"]}, "x")]
    task, kind = tagging(given, name="x"), Tagging(max_length=None)
    assert kind.scores(task, given, [Tags(["B-x", "I-x", None])]) == {
        "entity_f1": 1.0,
        "accuracy": pytest.approx(2 / 3),
    }
    assert kind.scores(task, given, [Tags(["B-x", "O", "O"])]) == {"entity_f1": 0.0, "accuracy": pytest.approx(2 / 3)}
    more = [Row({"tokens": ["a", "b", "c", "d"], "tags": ["B-x", "I-x", "B-y", "I-y"]}, "x")]
    assert kind.scores(task, more, [Tags(["B-x", "I-x", "B-x", "I-x"])]) == {
        "entity_f1": 0.5, "accuracy": 0.5, "untrained": 0.5,
    }  # fmt: skip
    plain = [Row({"tokens": ["a", "b"], "tags": ["noun", "verb"]}, "x")]
    assert kind.scores(tagging(plain, name="x"), plain, [Tags(["noun", "noun"])]) == {"accuracy": 0.5}


def test_texts_are_scored_by_hand() -> None:
    gold, said = ["the cat sat on the mat", "two dogs ran home"], ["the cat sat on the mat", "two cats ran home"]
    given = [Row({"text": "x", "target": g}, "x") for g in gold]
    kind = Text(max_length=None, template=None, columns=(), max_new_tokens=4)
    scores = kind.scores(text_to_text(name="x"), given, [Reply(text) for text in said])
    assert scores["exact_match"] == 0.5
    assert scores["token_f1"] == pytest.approx((1 + 3 / 4) / 2)
    # BLEU by hand: 9 of 10 words, 6 of 8 pairs, 4 of 6 triples, 3 of 4 fours, no brevity penalty.
    assert scores["bleu"] == pytest.approx((9 / 10 * 6 / 8 * 4 / 6 * 3 / 4) ** 0.25)
    assert 0 < scores["chrf"] < 1
    assert bleu(gold, gold) == pytest.approx(1)
    assert chrf(gold, gold) == exact_match([[g] for g in gold], gold) == 1


def test_questions_accept_every_answer_and_none(bench: Bench) -> None:
    tuned, context = open_prompt(bench.prompt("answering", "bert")), "the box is in Rome now"
    both = {"text": ["in Rome", "Rome"], "answer_start": [11, 14]}
    row = {"question": "where is it ?", "context": context}
    assert tuned.evaluate([Row({**row, "answers": both}, "x")])["exact_match"] == 1
    assert tuned.evaluate([Row({**row, "answers": []}, "x")])["exact_match"] == 0


def test_a_run_has_the_columns_and_the_metric_of_its_kind() -> None:
    assert Run(train="a", out="b", task="tagging").text == "tokens"
    answering = Run(train="a", out="b", task="answering", label="gold")
    assert (answering.text, answering.text_pair, answering.label) == ("question", "context", "gold")
    assert {k: Run(train="a", out="b", task=k).metric for k in KINDS} == {
        "classification": "accuracy", "text": "loss", "tagging": "entity_f1", "answering": "token_f1"
    }  # fmt: skip
    with pytest.raises(SettingError, match="there is no kind 3"):
        Run(train="a", out="b", task=3)


MISTAKES: dict[str, tuple[str, str, list[Any], str]] = {
    "unknown kind": ("tagging", "bert", ["--task", "taging"], "Did you mean 'tagging'?"),
    "text from an encoder": ("text", "bert", [], "an encoder writes no text"),
    "nothing to tune": ("text", "t5", ["--method", "frozen"], "nothing to tune"),
    "metric of another kind": ("tagging", "bert", ["--metric", "entitty_f1"], "Did you mean 'entity_f1'?"),
    "metric of classes": ("text", "t5", ["--metric", "macro_f1"], "'metric': task='text' does not measure"),
    "template": ("tagging", "bert", ["--template", "{text} <mask>"], "'template': task='tagging' has none"),
    "read-out": ("answering", "bert", ["--readout", "verbalizer"], "'readout': task='answering' has none"),
    "second text": ("tagging", "bert", ["--text-pair", "x"], "'text_pair': task='tagging' has none"),
    "tokens": ("classification", "bert", ["--max-new-tokens", 3], "'max_new_tokens': task='classification' has none"),
    "no tokens": ("text", "t5", ["--max-new-tokens", 0], "'max_new_tokens'"),
    "no room to write": ("text", "gpt2", ["--max-new-tokens", 60], "room for 4 beside the prompt"),
    "missing words": ("tagging", "bert", ["--text", "token"], "Did you mean 'tokens'?"),
    "missing tags": ("tagging", "bert", ["--label", "tag"], "Did you mean 'tags'?"),
    "missing context": ("answering", "bert", ["--text-pair", "contxt"], "Did you mean 'context'?"),
    "missing target": ("text", "t5", ["--label", "targets"], "Did you mean 'target'?"),
    "text for words": ("tagging", "bert", ["--train", "text"], "there is no column 'tokens'"),
    "labels of none": ("text", "t5", ["--init", "labels", "--method", "prompt-tuning"], "Use 'vocabulary'"),
    "marks": ("tagging", "bert", ["--method", "p-tuning", "--set", "template=true"], "marks 0 soft tokens"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_kind_cannot_do_is_refused(bench: Bench, tmp_path: Path, name: str) -> None:
    kind, family, options, expected = MISTAKES[name]
    known = kind if kind in TOYS else "text"
    given = [bench.data(o) if o in TOYS and options[0] == "--train" else o for o in options]
    assert expected in refused(*bench.options(known, family, tmp_path / "out"), "--task", kind, *given)
    assert not (tmp_path / "out").exists()


def test_tags_without_entities_need_another_metric(bench: Bench, tmp_path: Path) -> None:
    plain = [{"tokens": ["a", "b"], "tags": ["noun", "verb"]}] * 8
    data = lines(tmp_path / "d.jsonl", plain)
    options = ["tune", "--task", "tagging", "--backbone", bench.model("bert"), "--train", data, "--validation", data]
    options += ["--epochs", 1, "--out", tmp_path / "out"]
    assert "'entity_f1' is not measured here. Known are: accuracy, loss." in refused(*options)
    done(*options, "--metric", "accuracy")


def test_only_classes_are_decoded(bench: Bench) -> None:
    said = refused("evaluate", bench.prompt("text", "t5"), "--data", bench.data("text"), "--decode", "free")
    assert "task='text' writes no class" in said


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_model_whose_texts_never_end_is_refused(bench: Bench, family: str) -> None:
    backbone = load(str(bench.model(family)))
    backbone.tokenizer.eos_token = None
    classes = classification([Row(row, "x") for row in classified(4)], name="x")
    for readout in ("text", "auto") if family == "t5" else ("text",):
        run = Run(train="a", out="b", readout=readout)
        with pytest.raises(BackboneError, match=r"readout='text' on .* no token that ends a text"):
            Classification.begin(run, backbone, classes, soft=3, columns=())
    run = Run(train="a", out="b", task="text")
    with pytest.raises(BackboneError, match=r"task='text' on .* no token that ends a text"):
        Text.begin(run, backbone, text_to_text(name="x"), soft=3, columns=())


def test_classes_need_no_end_where_they_are_not_written(bench: Bench) -> None:
    backbone = load(str(bench.model("gpt2")))
    backbone.tokenizer.eos_token = None
    classes = classification([Row(row, "x") for row in classified(4)], name="x")
    for readout in ("auto", "verbalizer", "classifier"):
        found = Classification.begin(Run(train="a", out="b", readout=readout), backbone, classes, soft=3, columns=())
        assert found.readout == {"auto": "verbalizer"}.get(readout, readout)


def test_a_target_that_a_decoder_cannot_write_is_told_before_training(bench: Bench, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", [{"text": "a box", "target": "a box " * n} for n in (1, 2, 90)] * 4)
    options = ["--train", data, "--validation", data, "--method", "prompt-tuning", "--out", tmp_path / "out"]
    said = refused("tune", "--task", "text", "--backbone", bench.model("bart"), "--max-new-tokens", 6, *options)
    assert "d.jsonl, line 3: 'target' is" in said
    assert "the model writes 64 at most" in said


LONGER = {
    "a longer word": ("calendar", "calendar update", None),
    "more digits": ("1", "10", None),
    "one of several": ("calendar", "reminder", {"reminder": ["agenda", "calendar update"]}),
}


@pytest.mark.parametrize("name", LONGER)
def test_a_class_whose_word_goes_on_from_anothers_can_be_said(bench: Bench, name: str) -> None:
    short, longer, words = LONGER[name]
    task = classification([Row({"text": "x", "label": label}, "x") for label in (short, longer)], name="x")
    backbone = load(str(bench.model("llama")))
    run = Run(train="a", out="b", readout="verbalizer", words=words or {})
    reading = Classification.begin(run, backbone, task, soft=3, columns=())
    readout = reading.reader(backbone, reading.wording(backbone, task, None))
    scored = readout.words
    sure = (scored.ids == scored.ids[-1]).cumprod(1)  # of a model that says the last word of the second class
    assert scored.scores(9.0 * (sure - 1)[None]).argmax(1).tolist() == [1]
    backbone.tokenizer.eos_token = None
    with pytest.raises(SettingError, match=f"a word of '{short}' begins one of '{longer}' .* use readout='classifier'"):
        reading.reader(backbone, reading.wording(backbone, task, None))


def test_words_that_do_not_begin_one_another_are_not_ended(bench: Bench) -> None:
    backbone = load(str(bench.model("llama")))
    task = classification([Row({"text": "x", "label": label}, "x") for label in ("calendar", "reminder")], name="x")
    run = Run(train="a", out="b", words={"reminder": ["reminder", "reminder update"]})
    reading = Classification.begin(run, backbone, task, soft=3, columns=())
    wording = reading.wording(backbone, task, None)
    words = reading.reader(backbone, wording).words
    found = [ids[: sum(mask)] for ids, mask in zip(words.ids.tolist(), words.mask.tolist(), strict=True)]
    assert found == wording.label_tokens(["calendar", "reminder", "reminder update"])


@pytest.mark.parametrize("readout", ["text", "verbalizer", "classifier"])
def test_a_tokenizer_without_padding_gives_the_same_alone_and_in_any_batch(
    bench: Bench, tmp_path: Path, readout: str
) -> None:
    data = lines(tmp_path / "d.jsonl", classified(16))
    options = ["--train", data, "--validation", data, "--readout", readout, "--epochs", 1, "--out", tmp_path / "out"]
    done("tune", "--backbone", bench.model("llama"), "--method", "prompt-tuning", *options)
    tuned, given = open_prompt(tmp_path / "out"), list(rows(str(data)))
    assert tuned.backbone.tokenizer.pad_token_id is None
    together = list(tuned.predict(given, batch=5))
    for row, answer in zip(given, together, strict=True):
        assert next(tuned.predict([row])).probability == pytest.approx(answer.probability, abs=1e-5)
    if readout == "text":
        assert tuned.decode(given, mode="free", batch=5) == tuned.decode(given, mode="free", batch=1)


def test_classes_are_scored_by_what_was_answered(bench: Bench, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", classified(16))
    options = ["--train", data, "--validation", data, "--epochs", 1, "--out", tmp_path / "out"]
    done("tune", "--task", "classification", "--backbone", bench.model("bert"), *options)
    tuned, given = open_prompt(tmp_path / "out"), list(rows(str(data)))
    right = [answer.label == row.fields["label"] for answer, row in zip(tuned.predict(given), given, strict=True)]
    assert tuned.evaluate(given)["accuracy"] == sum(right) / 16
