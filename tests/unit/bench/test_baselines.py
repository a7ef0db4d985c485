"""Baselines train what they say they train, start as the model is, and have the read-out that prompts have."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptuary.assembly import prompted
from promptuary.backbones import cpu_linear
from promptuary.backbones.load import load
from promptuary.bench.baselines.adapted import Adapted, Whole
from promptuary.bench.contender import Contender, Learned
from promptuary.bench.contenders import CONTENDERS, contender
from promptuary.bench.grounds import Ground, Probabilities, probabilities, rows_of
from promptuary.data.collate import collate
from promptuary.data.source import Row
from promptuary.errors import BackboneError
from promptuary.train import groups
from tests.saved import Shelf
from tests.unit.bench.toy import plan

CHANGED = ("fine-tuning", "bitfit", "lora", "ia3", "adapters")


def ground(shelf: Shelf, folder: Path, family: str = "bert", **more: Any) -> Ground:
    study = plan(shelf, folder, "majority", family=family, **more)
    rows = rows_of(study, "opinions", "full", 0)
    backbone = load(study.backbones[0])
    asked = study.tasks["opinions"].asked()
    return Ground(
        asked, study.budget_of("opinions", "full", study.backbones[0]), backbone, rows.task, rows.train, rows.selection
    )


def shares(place: Ground, learned: Learned, rows: Sequence[Row] | None = None) -> Probabilities:
    """The probability of every class that is said of rows; of those that select, if none are given."""
    return probabilities(place.task, learned.answer(place.selection if rows is None else rows))


def installed(name: str) -> Contender:
    found = contender(name)
    if found.needs is not None and importlib.util.find_spec(found.needs[0]) is None:
        pytest.skip(f"{found.needs[0]} is not installed")
    return found


def whole(name: str, place: Ground) -> tuple[Whole, Any]:
    """A baseline's read-out before training, and how rows are written for it."""
    found: Any = installed(name)
    return found.readout(place, {}, seed=0)


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("family", ["bert", "gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_before_training_a_changed_model_says_what_the_model_says(
    shelf: Shelf, tmp_path: Path, family: str, name: str
) -> None:
    place = ground(shelf, tmp_path, family)
    try:
        readout, wording = whole(name, place)
    except BackboneError:
        assert (name, family) == ("bitfit", "t5")  # it has no biases
        return
    examples = place.reading().taught(wording.encode(place.train[:6]), wording)
    batch = collate(examples, range(6), pad=0)
    plain = prompted(place.backbone, "frozen", {}, init=None, seed=0)
    reader = place.reading().reader(place.backbone, wording, seed=0)
    readout.eval()
    reader.eval()
    with torch.no_grad():
        expected = reader.predict(plain(plain.instance_of(batch), reader.targets(batch)), batch).probability
        found = readout.predict(plain(plain.instance_of(batch)), batch).probability
    assert torch.allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("fine-tuning", lambda name: name.startswith("model.bert.")),
        ("bitfit", lambda name: name.startswith("model.bert.") and name.endswith("bias")),
        ("lora", lambda name: "lora_" in name),
        ("ia3", lambda name: "ia3_" in name),
        ("adapters", lambda name: ".bottleneck." in name),
    ],
)
def test_what_is_trained_is_what_the_baseline_says_and_the_head(
    shelf: Shelf, tmp_path: Path, name: str, trained: Any
) -> None:
    readout, _ = whole(name, ground(shelf, tmp_path))
    free = {n for n, p in readout.named_parameters() if p.requires_grad}
    assert {n for n in free if not n.startswith("inner.")} == {
        n for n, _ in readout.named_parameters() if trained(n) and not n.startswith("inner.")
    }
    assert {n for n in free if n.startswith("inner.")} == {"inner.head.weight", "inner.head.bias"}
    assert all(p.dtype == torch.float32 for p in readout.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["adapters", *(pytest.param(n, marks=pytest.mark.slow) for n in CHANGED[:-1])])
def test_a_baseline_learns_and_everything_it_trains_hears_of_the_loss(shelf: Shelf, tmp_path: Path, name: str) -> None:
    place = ground(shelf, tmp_path, budget={"steps": 8, "batch": 8})
    before = place.backbone.digest()
    learned = installed(name).learn(place, {}, seed=0, folder=tmp_path / name)
    assert learned.cost.trained == learned.cost.touched > 0
    assert learned.cost.stored == 4 * learned.cost.trained
    assert "dead" not in learned.alarms
    assert place.backbone.digest() == before
    said = shares(place, learned)
    assert said.sum(1) == pytest.approx(1.0, abs=1e-5)
    right = [
        row.fields["label"] == place.task.values[c] for row, c in zip(place.selection, said.argmax(1), strict=True)
    ]
    assert np.mean(right) == learned.scores["accuracy"]
    again = installed(name).learn(place, {}, seed=0, folder=tmp_path / name)  # it had ended: nothing is trained
    assert shares(place, again, place.train) == pytest.approx(shares(place, learned, place.train), abs=1e-6)
    assert again.cost == learned.cost


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_in_bfloat16_every_number_of_a_fine_tuned_model_hears_of_the_loss(
    shelf: Shelf, tmp_path: Path, family: str
) -> None:
    place = ground(shelf, tmp_path, family, budget={"steps": 2, "batch": 8, "precision": "bf16"})
    learned = installed("fine-tuning").learn(place, {}, seed=0, folder=tmp_path / "learned")
    assert learned.cost.trained == learned.cost.touched > 0
    assert "dead" not in learned.alarms


def test_bitfit_trains_biases_under_the_fast_product_of_frozen_layers(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_linear, "pays", lambda: True)
    place = ground(shelf, tmp_path)
    readout, wording = whole("bitfit", place)
    batch = collate(wording.encode(place.train[:6]), range(6), pad=0)
    plain = prompted(place.backbone, "frozen", {}, init=None, seed=0)
    readout.loss(plain(plain.instance_of(batch)), batch).backward()
    named = groups.trained(plain, readout)
    silent = [name for name, p in named.items() if p.grad is None or not p.grad.any()]
    # A bias of the keys moves all scores of a query alike, so it never matters.
    assert [name for name in silent if ".key." not in name] == []


def test_bag_of_words_is_scikit_learn_and_keeps_the_texts_of_a_pair_apart(shelf: Shelf, tmp_path: Path) -> None:
    from promptuary.bench.baselines.bag_of_words import _features

    assert _features(["Good, good."]) == [
        "0 good", "0 ,", "0 good", "0 .", "0 good 0 ,", "0 , 0 good", "0 good 0 ."
    ]  # fmt: skip
    assert _features(["a", "b"]) == ["0 a", "1 b"]
    place = ground(shelf, tmp_path)
    learned = contender("bag-of-words").learn(place, {"c": 1.0}, seed=0, folder=tmp_path)
    assert learned.scores["accuracy"] == 1.0  # the two classes share no phrase
    assert learned.cost.stored == 8 * learned.cost.trained


def test_the_majority_is_the_commonest_class_of_the_rows_that_teach(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path)
    few = Ground(place.asked, place.budget, place.backbone, place.task, place.train[:3], place.selection)
    learned = contender("majority").learn(few, {}, seed=0, folder=tmp_path)
    labels = [place.task.index(row) for row in place.train[:3]]
    assert shares(place, learned).argmax(1).tolist() == [max(labels, key=labels.count)] * 8
    assert np.allclose(shares(place, learned).sum(1), 1.0)


def test_a_family_that_a_baseline_does_not_know_is_refused_in_a_sentence(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has no biases"):
        whole("bitfit", ground(shelf, tmp_path, "t5"))


def test_every_changed_model_is_one_of_the_adapted() -> None:
    assert {name for name, c in CONTENDERS.items() if isinstance(c, Adapted)} == set(CHANGED)


def test_zero_shot_is_the_probability_of_label_words_behind_the_template(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path, "gpt2")
    place = replace(place, asked={**place.asked, "template": "the box {text}", "words": {"good": "box", "bad": "lid"}})
    found = shares(place, contender("zero-shot").learn(place, {}, seed=0, folder=tmp_path))
    tokenizer, model = place.backbone.tokenizer, place.backbone.model

    def likelihood(text: str, word: str) -> float:
        """The log-probability of the word's tokens behind the text, by the bare model."""
        before, whole = tokenizer(text).input_ids, tokenizer(f"{text} {word}").input_ids
        with torch.no_grad():
            steps = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(1)
        return float(sum(steps[i - 1, whole[i]] for i in range(len(before), len(whole))))

    for row, said in zip(place.selection, found, strict=True):
        words = [likelihood(f"the box {row.fields['text']}", word) for word in ("lid", "box")]
        assert said == pytest.approx(torch.tensor(words).softmax(0).numpy(), abs=1e-3)


def test_demonstrations_that_do_not_fit_are_left_out(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path, "gpt2")
    learned = contender("in-context").learn(place, {"shots": 4}, seed=0, folder=tmp_path)
    told = learned.recipe["demonstrations"]
    assert 0 < len(place.backbone.tokenizer(told).input_ids) <= place.backbone.shape.positions // 2


def test_calibration_divides_by_what_is_said_of_no_content(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path, "gpt2")
    plain, against = (
        contender("zero-shot").learn(place, {"calibrated": on}, seed=0, folder=tmp_path) for on in (False, True)
    )
    empty = [replace(place.train[0], fields={**place.train[0].fields, "text": "N/A"})]
    assert shares(place, against, empty)[0] == pytest.approx([0.5, 0.5])
    odds = shares(place, plain)[:, 0] / shares(place, plain)[:, 1]
    prior = shares(place, plain, empty)[0, 0] / shares(place, plain, empty)[0, 1]
    found = shares(place, against)
    assert found[:, 0] / found[:, 1] == pytest.approx(odds / prior, rel=1e-4)


def test_what_stands_before_a_row_in_context_are_rows_that_teach_with_their_words(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path, "gpt2")
    short = [replace(row, fields={**row.fields, "text": f"box {i}"}) for i, row in enumerate(place.train[:6])]
    place = replace(place, asked={**place.asked, "template": "box: {text} is"}, train=short)
    texts = {}
    for order in range(4):
        learned = contender("in-context").learn(place, {"order": order, "shots": 1}, seed=0, folder=tmp_path)
        texts[order] = learned.recipe["demonstrations"]
        parts = texts[order].split("\n\n")
        known = {f"box: {row.fields['text']} is {row.fields['label']}" for row in place.train}
        assert len(parts) == 2
        assert set(parts) <= known
        assert sum(part.endswith("good") for part in parts) == 1
        assert learned.cost.stored == len(texts[order])
    assert len(set(texts.values())) > 1
    again = contender("in-context").learn(place, {"order": 1, "shots": 1}, seed=0, folder=tmp_path)
    assert again.recipe["demonstrations"] == texts[1]
    other = contender("in-context").learn(place, {"order": 1, "shots": 1}, seed=1, folder=tmp_path)
    assert other.recipe["demonstrations"] != texts[1]


def test_what_stands_before_a_row_moves_the_answer_as_if_it_were_part_of_its_text(shelf: Shelf, tmp_path: Path) -> None:
    place = ground(shelf, tmp_path, "gpt2")
    place = replace(place, train=place.train[:4])
    learned = contender("in-context").learn(
        place, {"order": 0, "shots": 1, "calibrated": False}, seed=0, folder=tmp_path
    )
    joined = [
        replace(row, fields={**row.fields, "text": f"{learned.recipe['demonstrations']}\n\n{row.fields['text']}"})
        for row in place.selection
    ]
    plain = contender("zero-shot").learn(
        replace(place, asked={**place.asked, "template": "{text}"}), {}, seed=0, folder=tmp_path
    )
    assert shares(place, learned) == pytest.approx(shares(place, plain, joined), abs=1e-4)


def test_an_encoder_is_asked_nothing_in_context(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="does not write, so it is asked nothing in context"):
        contender("in-context").learn(ground(shelf, tmp_path), {}, seed=0, folder=tmp_path)
