"""What is told of a prompt on a file is what a loop over its rows finds, one row at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.data.collate import collate
from promptuary.data.source import Row, rows
from promptuary.errors import DataError
from promptuary.inspecting import Inspected, before, inspect
from promptuary.placements import Slots, Split
from promptuary.tuned import Tuned, open_prompt
from promptuary.values import Instance, Prompt
from tests.laws.checks import TYPICAL
from tests.saved import Shelf, done, lines, opinions, save

CHOOSING = {
    "dp-position-instance": ["injection.placement.choice"],
    "dp-length-instance": ["generator.choice"],
    "dp-vector": ["generator.choice"],
    "dp-position-length": ["generator.choice", "injection.placement.choice"],
    "dp-bank": ["generator.choice"],
    "dp-deep": ["injection.placement.choice"],
    "ipl": ["generator.choice"],
}


def stirred(tuned: Tuned, scale: float = 2.0) -> Tuned:
    """The prompt with choices that differ from row to row."""
    with torch.no_grad():
        for choice in tuned.model.choices.values():
            for p in choice.parameters():
                p.normal_(0.0, scale, generator=torch.Generator().manual_seed(p.numel()))
    return tuned


def some(count: int = 12) -> list[Row]:
    return [Row(fields, f"row {i}") for i, fields in enumerate(opinions(count))]


def each(tuned: Tuned, given: list[Row]) -> list[tuple[Instance, Batch]]:
    """Every row as a batch of its own."""
    examples = tuned.wording.encode(given, labelled=False)
    alone = [collate([e], [i], 0) for i, e in enumerate(examples)]
    return [(tuned.model.instance_of(b), b) for b in alone]


def entropy(p: Tensor) -> float:
    return -sum(v * math.log(v) for v in p[0].double().tolist() if v > 0)


@pytest.mark.parametrize("name", CHOOSING)
def test_what_is_counted_is_what_a_loop_over_the_rows_counts(shelf: Shelf, name: str) -> None:
    tuned, given = stirred(open_prompt(shelf.prompt("bert", name))), some()
    found = inspect(tuned, given, batch=5)
    assert list(found.choices) == CHOOSING[name]
    assert found.predicted is not None
    answers = [tuned.task.values.index(a.label) for a in tuned.predict(given)]
    assert found.predicted.tolist() == answers
    assert found.label is not None
    assert found.label.tolist() == [tuned.task.values.index(row.fields["label"]) for row in given]
    taken: set[int] = set()
    for i, (x, _) in enumerate(each(tuned, given)):
        with torch.no_grad():
            p = tuned.model.generator(x)
        present = int((p.keep[0] > 0).sum())
        assert int(found.lengths[i]) == present
        for place, choice in tuned.model.choices.items():
            probabilities = choice.probabilities(x)
            option = int(probabilities.argmax())
            decided = found.choices[place]
            assert float(decided.entropy[i]) == pytest.approx(entropy(probabilities), abs=1e-4)
            wanted = probabilities[0] if choice.mode == "soft" else torch.eye(choice.options)[option]
            torch.testing.assert_close(decided.weights[i], wanted, atol=1e-5, rtol=0)
            taken.add(option)
            if "length" in decided.decides:
                assert present == decided.first + option
            if "position" in decided.decides:
                assert found.before is not None
                assert int(found.before[i]) == min(option, present)
    assert (len(taken) > 1) == (name != "dp-bank")  # whose choice is the task's


@pytest.mark.parametrize("name", [*TYPICAL, "dp-length-instance", "ipt"])
def test_every_method_can_be_inspected_and_its_vectors_are_those_of_its_rows(shelf: Shelf, name: str) -> None:
    tuned, given = stirred(open_prompt(shelf.prompt("bert", name))), some(7)
    found = inspect(tuned, given, batch=3)
    length, injection = tuned.model.generator.length, type(tuned.model.injection).__name__
    in_row = length > 0 and injection != "KeyValues"
    assert (found.before is not None) == in_row
    assert found.lengths.max() <= length
    assert found.sampled.tolist() == list(range(7))
    for i, (x, _) in enumerate(each(tuned, given)):
        with torch.no_grad():
            p = tuned.model.generator(x)
        slots = [v for v, keep in zip(p.values[0], p.keep[0], strict=True) if keep > 0]
        mean = sum(slots) / len(slots) if slots else torch.zeros(p.values.shape[2])
        torch.testing.assert_close(found.vectors[i], mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.inputs[i], x.embeds[0].mean(0).float(), atol=1e-5, rtol=1e-4)


def test_a_sample_of_rows_is_drawn_once_and_keeps_their_own_vectors(shelf: Shelf) -> None:
    tuned, given = open_prompt(shelf.prompt("bert", "ipt-lstm")), some(12)
    whole, few, same, other = (
        inspect(tuned, given, batch=5, sample=n, seed=s) for n, s in ((99, 0), (4, 0), (4, 0), (4, 1))
    )
    assert len(few.sampled) == 4
    assert few.sampled.tolist() == sorted(few.sampled.tolist()) == same.sampled.tolist() != other.sampled.tolist()
    torch.testing.assert_close(few.vectors, whole.vectors[few.sampled], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(few.lengths, whole.lengths)


def test_rows_may_have_no_labels_or_some(shelf: Shelf) -> None:
    tuned = open_prompt(shelf.prompt("bert", "dp-vector"))
    bare = [Row({"text": row.fields["text"]}, row.place) for row in some(6)]
    none, half = inspect(tuned, bare), inspect(tuned, [*some(3), *bare[3:]])
    assert none.label is not None
    assert none.label.tolist() == [-1] * 6
    assert none.grouped_by == "predicted"
    assert half.grouped_by == "label"
    assert [name for name, _ in half.groups()] == ["bad", "good", "(no label)"]
    assert sum(int(own.sum()) for _, own in half.groups()) == 6
    with pytest.raises(DataError, match="row 0: label 'fine' does not occur"):
        inspect(tuned, [Row({"text": "a box", "label": "fine"}, "row 0")])
    with pytest.raises(DataError, match="no rows"):
        inspect(tuned, [])


def test_the_rows_of_the_groups_are_all_rows(shelf: Shelf) -> None:
    found = inspect(open_prompt(shelf.prompt("bert", "prompt-tuning")), some(9))
    groups = found.groups()
    assert [name for name, _ in groups] == ["bad", "good"]
    assert torch.stack([own for _, own in groups]).sum(0).tolist() == [1] * 9


def laid(placement: Any, ids: list[list[int]], keep: list[list[int]]) -> list[int]:
    tokens = torch.tensor(ids)
    x = Instance(tokens, tokens != 0, torch.randn(*tokens.shape, 4), tokens.abs(), tokens[:, 0])
    p = Prompt(torch.randn(len(ids), len(keep[0]), 4), torch.tensor(keep).float())
    return before(p, x, placement(p, x)).tolist()


@pytest.mark.parametrize("split", range(4))
def test_soft_tokens_before_the_input_are_those_that_were_put_there(split: int) -> None:
    ids = [[5, 6, 7, 8, 0], [0, 5, 6, 7, 8], [5, 0, 6, 0, 9]]
    assert laid(Split(split), ids, [[1, 1, 1]] * 3) == [split] * 3
    assert laid(Split(split, head=1, tail=1), ids, [[1, 1, 1]] * 3) == [split] * 3
    assert laid(Split(split), ids, [[0, 1, 1]] * 3) == [max(0, split - 1)] * 3


def test_marks_of_a_template_are_no_tokens() -> None:
    assert laid(Slots(), [[-1, -1, 5, 6, -1]], [[1, 1, 1]]) == [2]
    assert laid(Slots(), [[-1, 5, -1, 6, 7, 8]], [[1, 1]]) == [2]
    assert laid(Slots(), [[5, 6, 7, -1, -1, 8]], [[1, 1]]) == [0]
    assert laid(Slots(), [[5, -1, -1, -1, -1, 6, 7]], [[1, 1, 1, 1]]) == [4]


def test_a_task_without_classes_is_inspected_too(tmp_path: Any) -> None:
    data = lines(
        tmp_path / "d.jsonl", [{"text": "the glass lid", "target": "a box"}, {"text": "my money", "target": "back"}]
    )
    options = ["--backbone", save("t5", tmp_path / "t5"), "--train", data, "--validation", data, "--epochs", 1]
    done("tune", "--task", "text", *options, "--method", "dp-position-instance", "--out", tmp_path / "out")
    found: Inspected = inspect(open_prompt(tmp_path / "out"), rows(str(data)))
    assert (found.classes, found.label, found.predicted, found.grouped_by) == ((), None, None, "all")
    assert [(name, own.tolist()) for name, own in found.groups()] == [("all rows", [True, True])]
