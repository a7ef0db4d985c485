"""A tuned prompt in memory: every method on every kind of model comes back the same, in this process and a new one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from promptuary import Run, tune
from promptuary.backbones.load import load
from promptuary.data.source import Row, rows
from promptuary.errors import DataError, SettingError
from promptuary.generators import Free, Mapped, Multiplied
from promptuary.material import hold_out
from promptuary.tuned import open_prompt
from tests.laws.checks import STATIC, TYPICAL
from tests.saved import Shelf, lines, opinions, read

FAMILIES = ("bert", "gpt2", "t5")
TEXTS = ["I like this box", "I want my money back very much"]
FRESH = """
import json, sys
import torch
from promptuary import load, open_prompt
torch.set_num_threads(1)
asked = json.loads(sys.stdin.read())
for model, prompts in asked["prompts"].items():
    backbone = load(model)
    for prompt in prompts:
        answers = open_prompt(prompt, backbone=backbone).predict_texts(asked["texts"])
        print(json.dumps([prompt, [dict(a.probabilities) for a in answers]]))
"""


ASKED = [(f, m) for f in FAMILIES for m in TYPICAL if m in STATIC or f == "bert"]


@pytest.fixture(scope="session")
def fresh(shelf: Shelf) -> dict[str, Any]:
    """What every prompt answers in a new process."""
    asked: dict[str, list[str]] = {}
    for f, name in ASKED:
        asked.setdefault(str(shelf.model(f)), []).append(str(shelf.prompt(f, name)))
    said = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps({"prompts": asked, "texts": TEXTS}),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(line) for line in said.stdout.splitlines())


@pytest.mark.parametrize(("family", "name"), ASKED)
@pytest.mark.long
def test_every_method_answers_the_same_in_a_new_process(
    shelf: Shelf, tmp_path: Path, fresh: dict[str, Any], family: str, name: str
) -> None:
    run = Run(
        backbone=str(shelf.model(family)), train=str(shelf.train), validation=str(shelf.dev), method=name,
        recipe={"epochs": 1, "batch": 8}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run)
    # The prompt as training left it, with its network, against the flat table that another process read.
    before = [dict(a.probabilities) for a in outcome.tuned.predict_texts(TEXTS)]
    assert before == fresh[str(shelf.prompt(family, name))]


@pytest.mark.parametrize("name", ["prompt-tuning", "prefix-tuning", "ipt-lstm"])
def test_a_saved_prompt_answers_the_same_when_it_is_compiled(shelf: Shelf, name: str) -> None:
    tuned = open_prompt(shelf.prompt("gpt2", name))
    compiled = tuned.compiled()
    assert (compiled.model is tuned.model) == (name == "ipt-lstm")
    expected = [dict(a.probabilities) for a in tuned.predict_texts(TEXTS)]
    for found, own in zip(compiled.predict_texts(TEXTS), expected, strict=True):
        assert dict(found.probabilities) == pytest.approx(own, abs=1e-5)


NETWORKS = {
    "prefix-tuning": Mapped, "p-tuning": Mapped, "residual-prompt-tuning": Mapped,
    "multitask-prompt-tuning": Multiplied,
}  # fmt: skip


@pytest.mark.parametrize("name", STATIC)
def test_training_can_go_on_from_the_network_that_made_a_prompt(shelf: Shelf, name: str) -> None:
    backbone = load(str(shelf.model("bert")))
    plain = open_prompt(shelf.prompt("bert", name), backbone=backbone)
    whole = open_prompt(shelf.prompt("bert", name), backbone=backbone, trainable=True)
    assert isinstance(plain.model.generator, Free)
    assert isinstance(whole.model.generator, NETWORKS.get(name, Free))
    assert [a.probabilities for a in whole.predict_texts(TEXTS)] == [
        a.probabilities for a in plain.predict_texts(TEXTS)
    ]
    trained = [p for p in (*whole.model.parameters(), *whole.readout.parameters()) if p.numel()]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    batch = next(iter(_loader(whole, shelf).epoch(0)))
    x = whole.model.instance(batch.ids, batch.mask, batch.types, batch.task)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = whole.readout.loss(whole.model(x, whole.readout.targets(batch)), batch)
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]


def _loader(tuned: Any, shelf: Shelf) -> Any:
    from promptuary.data.loader import Loader

    return Loader(tuned.wording.encode(rows(str(shelf.train))), 16, pad=0)


def test_one_backbone_serves_many_prompts(shelf: Shelf) -> None:
    backbone = load(str(shelf.model("bert")))
    before = backbone.digest()
    prompts = [open_prompt(shelf.prompt("bert", name), backbone=backbone) for name in TYPICAL]
    alone = [open_prompt(shelf.prompt("bert", name)).predict_texts(TEXTS) for name in TYPICAL]
    for _ in range(2):
        for prompt, expected in zip(prompts, alone, strict=True):
            assert prompt.predict_texts(TEXTS) == expected
    assert backbone.digest() == before


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_the_same_alone_and_in_any_batch(shelf: Shelf, family: str) -> None:
    tuned = open_prompt(shelf.prompt(family, "prompt-tuning"))
    texts = [row["text"] for row in opinions(17)]
    together = tuned.predict_texts(texts, batch=5)
    alone = [tuned.predict_texts([text])[0] for text in texts]
    assert [a.label for a in together] == [a.label for a in alone]
    for one, two in zip(together, alone, strict=True):
        assert one.probability == pytest.approx(two.probability, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert one.probability == max(one.probabilities.values())


def test_predictions_are_asked_for_one_by_one(shelf: Shelf) -> None:
    tuned = open_prompt(shelf.prompt("bert", "frozen"))
    read = 0

    def endless() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield Row({"text": "I like it"}, f"row {read}")

    answers = tuned.predict(endless(), batch=64)
    assert next(answers).label in ("good", "bad")
    assert read <= 2048


def test_pairs_of_texts(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", [{"a": r["text"], "b": "thank you", "label": r["label"]} for r in opinions(16)])
    run = Run(
        backbone=str(shelf.model("bert")), train=str(data), validation=str(data), text="a", text_pair="b",
        method="p-tuning-v2", recipe={"epochs": 1}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run)
    one, two = outcome.tuned.predict_texts([("I like it", "thank you"), ("I like it", "the box broke")])
    assert one.probability != two.probability


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_pairs_of_texts_are_worded_alike_when_a_prompt_is_opened(shelf: Shelf, tmp_path: Path, family: str) -> None:
    data = lines(tmp_path / "d.jsonl", [{"a": r["text"], "b": "thank you", "label": r["label"]} for r in opinions(16)])
    run = Run(
        backbone=str(shelf.model(family)), train=str(data), validation=str(data), text="a", text_pair="b",
        method="prompt-tuning", recipe={"epochs": 1}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run)
    tokenizer = outcome.tuned.backbone.tokenizer
    wanted = [tokenizer(f"{row['a']}\n{row['b']}")["input_ids"] for row in read(data)]
    assert tokenizer.bos_token_id is None or all(ids.count(tokenizer.bos_token_id) <= 1 for ids in wanted)
    for tuned in (outcome.tuned, open_prompt(tmp_path / "out")):
        assert [example.ids for example in tuned.wording.encode(rows(str(data)))] == wanted


def test_scores_name_the_majority(shelf: Shelf, tmp_path: Path) -> None:
    tuned = open_prompt(shelf.prompt("bert", "frozen"))
    rare = [row for row in opinions(20) if row["label"] == "good" or row["id"] < 5]
    data = lines(tmp_path / "d.jsonl", rare)
    scores = tuned.evaluate(rows(str(data)))
    assert scores["n"] == len(rare) == 13
    assert scores["majority"] == pytest.approx(10 / 13)


def test_rows_that_cannot_be_answered_are_refused(shelf: Shelf) -> None:
    tuned = open_prompt(shelf.prompt("bert", "frozen"))
    with pytest.raises(DataError, match="text 2: 'text' is empty"):
        tuned.predict_texts(["fine", ""])
    with pytest.raises(DataError, match=r"text 1: the text is \d+ tokens long"):
        tuned.predict_texts(["box " * 200])
    with pytest.raises(SettingError, match="Did you mean 'free'"):
        tuned.decode([], mode="fre")


def test_held_out_rows_are_stratified_and_always_the_same() -> None:
    given = [Row(row, f"row {i}") for i, row in enumerate(opinions(40))]
    kept, held = hold_out(given, "label", 0.1)
    assert len(held) == 4
    assert sorted(r.fields["label"] for r in held) == ["bad", "bad", "good", "good"]
    assert sorted([*kept, *held], key=lambda r: r.fields["id"]) == given
    assert hold_out(given, "label", 0.1) == (kept, held)
    with pytest.raises(DataError, match=r"too few to split off 0\.1 .*'good' has 2"):
        hold_out(given[:5], "label", 0.1)


def test_without_validation_rows_a_tenth_is_held_out(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", opinions(40))
    run = Run(
        backbone=str(shelf.model("bert")), train=str(data), method="frozen", recipe={"epochs": 1, "batch": 8},
        out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run)
    assert outcome.result.steps == 5  # 36 rows
    assert outcome.tuned.manifest.run["data"]["holdout"] == 0.1


def test_longer_texts_are_cut_where_that_was_allowed(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", [{**row, "text": row["text"] + " box" * 99} for row in opinions(16)])
    run = Run(
        backbone=str(shelf.model("bert")), train=str(data), validation=str(data), method="frozen", max_length=12,
        recipe={"epochs": 1}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run)
    long, longer = outcome.tuned.predict_texts(["I like" + " box" * 50, "I like" + " box" * 60])
    assert long.label == longer.label
    assert long.probability == pytest.approx(longer.probability, abs=1e-6)  # some processors round by place in a batch


STARTS = ("random", "vocabulary", "labels", "words:I like it", "prompt:{}", "file:{}/prompt.safetensors", "activations")


@pytest.mark.parametrize("start", STARTS)
def test_a_prompt_starts_where_it_is_told_to(shelf: Shelf, tmp_path: Path, start: str) -> None:
    method = "p-tuning-v2" if start == "activations" else "prompt-tuning"
    other = shelf.prompt("bert", "prompt-tuning")
    backbone = load(str(shelf.model("bert")))
    run = Run(
        train=str(shelf.train), validation=str(shelf.dev), method=method, init=start.format(other), pool="last",
        settings={"length": 20}, recipe={"epochs": 1, "rate": 1e-7}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run, backbone=backbone)
    table = outcome.tuned.model.generator.table.detach()
    tokens = outcome.tuned.wording.label_tokens
    expected = {
        "labels": lambda: torch.stack([backbone.table[ids].mean(0) for ids in tokens()]),
        "words": lambda: backbone.table[tokens(["I like it"])[0]],
        "prompt": lambda: open_prompt(other, backbone=backbone).model.generator.table.detach(),
        "file": lambda: open_prompt(other, backbone=backbone).model.generator.table.detach(),
    }.get(start.partition(":")[0])
    if expected is not None:
        first = expected()
        torch.testing.assert_close(table[: len(first)], first, rtol=0, atol=1e-5)
    elif start == "vocabulary":
        gaps = (table[:, None] - backbone.table).abs().amax(2)  # [prompt, vocabulary]
        assert gaps.amin(1).max() < 1e-5
    assert outcome.tuned.reading.pool == "last"


def test_a_text_too_many_is_refused(shelf: Shelf) -> None:
    prompt = open_prompt(shelf.prompt("bert", "p-tuning-v2"))
    with pytest.raises(DataError, match="text 2: 2 given, this task has 1"):
        prompt.predict_texts(["I like this box", ("I like this box", "and this one")])


def test_a_prompt_names_the_backbone_it_was_tuned_on(shelf: Shelf, tmp_path: Path) -> None:
    backbone = load(str(shelf.model("bert")))
    run = Run(
        train=str(shelf.train),
        validation=str(shelf.dev),
        method="frozen",
        recipe={"epochs": 1},
        out=str(tmp_path / "out"),
    )
    (outcome,) = tune(run, backbone=backbone)
    assert outcome.tuned.manifest.backbone == str(shelf.model("bert"))
    before = outcome.tuned.predict_texts(TEXTS)
    assert [a.probabilities for a in open_prompt(outcome.folder).predict_texts(TEXTS)] == [
        a.probabilities for a in before
    ]


GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "dropout asked for": ({}, {"dropout": True}, "dropout=True, but the backbone that was given has dropout=False"),
    "dropout kept": ({"dropout": True}, {}, "dropout=False, but the backbone that was given has dropout=True"),
    "precision asked for": ({}, {"recipe": {"precision": "bf16"}}, "precision='bf16', but .* has precision='fp32'"),
    "precision kept": ({"dtype": torch.bfloat16}, {}, "precision='fp32', but .* has precision='bf16'"),
    "precision without a name": ({"dtype": torch.float16}, {}, "precision='fp32', but .* has precision='float16'"),
    "device": ({}, {"device": "cuda:3"}, "device='cuda:3', but .* has device='cpu'"),
}


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_backbone_that_is_given_must_be_the_one_described(
    shelf: Shelf, tmp_path: Path, family: str, name: str
) -> None:
    how, asked, expected = GIVEN[name]
    backbone = load(str(_dropping(shelf.model(family), tmp_path / "model")), **how)
    before = torch.get_rng_state()
    run = Run(train=str(shelf.train), validation=str(shelf.dev), out=str(tmp_path / "out"), **asked)
    with pytest.raises(SettingError, match=expected):
        tune(run, backbone=backbone)
    assert not (tmp_path / "out").exists()
    assert torch.equal(torch.get_rng_state(), before)
    assert not backbone.model.training


def _dropping(model: Path, folder: Path) -> Path:
    """The same model with dropout in its attention and nowhere else (Llama has no other)."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    names = ("attention_probs_dropout_prob", "attention_dropout", "dropout_rate")
    (folder / "config.json").write_text(json.dumps({**config, **dict.fromkeys(names, 0.1)}))
    return folder


def test_what_a_given_backbone_does_is_recorded(shelf: Shelf, tmp_path: Path) -> None:
    backbone = load(str(shelf.model("bert")), dtype=torch.bfloat16, dropout=True, device="cpu")
    run = Run(
        train=str(shelf.train), validation=str(shelf.dev), method="frozen", dropout=True, device="cpu",
        recipe={"epochs": 1, "precision": "bf16"}, out=str(tmp_path / "out"),
    )  # fmt: skip
    (outcome,) = tune(run, backbone=backbone)
    assert outcome.tuned.manifest.run["precision"] == "bf16"
    assert json.loads((tmp_path / "out" / "record.jsonl").read_text().splitlines()[0])["settings"]["dropout"] is True
    assert open_prompt(outcome.folder).backbone.dtype == torch.bfloat16


def test_a_moved_run_is_the_same_run(shelf: Shelf, tmp_path: Path) -> None:
    told = {
        "backbone": str(shelf.model("bert")), "train": str(shelf.train), "validation": str(shelf.dev),
        "method": "frozen", "recipe": {"epochs": 1},
    }  # fmt: skip
    (first,) = tune(Run(**told, out=str(tmp_path / "here")))  # type: ignore[arg-type]
    (tmp_path / "here").rename(tmp_path / "there")
    (again,) = tune(Run(**told, out=str(tmp_path / "there")))  # type: ignore[arg-type]
    assert again.result.scores == first.result.scores
