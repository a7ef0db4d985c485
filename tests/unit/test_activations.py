"""States that are kept: a run with them is the run without, and nothing that changed is ever taken for the same."""

import os
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptuary import activations, tune
from promptuary.activations import Activations, keep
from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import wrap
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.data.loader import Loader
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier
from promptuary.train import record
from promptuary.train.fit import Result, fit
from promptuary.train.recipe import Recipe
from promptuary.train.stepper import Stepper
from promptuary.values import Targets
from tests.answers import EXACT, gap, small
from tests.backbones import VOCABULARY, backbone, fresh
from tests.saved import Shelf, lines
from tests.unit.test_tuning import described, steps

ASKING: dict[str, tuple[str, dict[str, Any]]] = {
    "late": ("lpt", {"layer": 1}),
    "late, a table": ("lpt", {"layer": 1, "instance": False}),
    "a query": ("dp-vector", {"query": "encoder"}),
    "the control": ("frozen", {}),
}
PLENTY = 1 << 30


def examples(count: int = 40, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    rows = [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(4, 12))] for _ in range(count)]
    return [Example(row, [0] * len(row), label=n % 2) for n, row in enumerate(rows)]


def parts(asking: str, b: Backbone | None = None, pool: Any = "first") -> tuple[SoftPrompted, Classifier]:
    b = b or backbone("bert")
    method, settings = ASKING[asking]
    readout = Classifier(2, b.shape.output, pool=pool)
    return prompted(b, method, small(method) | settings, init=None, seed=0, readout=readout), readout


def kept(folder: Path, asking: str = "late", rows: list[Example] | None = None, **changes: Any) -> Activations:
    b = changes.pop("b", None)
    settings = {"pad": 0, "precision": "fp32", "folder": folder, "limit_bytes": PLENTY, **changes}
    found = keep(*parts(asking, b), [examples() if rows is None else rows], **settings)
    assert found is not None
    return found


def trained(asking: str, folder: Path | None, pool: Any = "first", **changes: Any) -> tuple[list[float], Result]:
    """The losses of a run over two epochs and their validation passes."""
    model, readout = parts(asking, pool=pool)
    train, held = examples(), examples(10, seed=1)
    given = None
    if folder is not None:
        settings = {"pad": 0, "precision": "fp32", "folder": folder, "limit_bytes": PLENTY, **changes}
        given = keep(model, readout, [train, held], **settings)
        assert given is not None
        model = model.asking(given.encode)
    result = fit(
        model, readout, Loader(train, 8, pad=0, shuffle=True), Loader(held, 16, pad=0),
        Recipe(epochs=2, rate=0.01, scaled=False, head_rate=0.01), activations=given,
    )  # fmt: skip
    return [e["loss"] for e in result.history if e["event"] in ("step", "scores")], result


def told(result: Result) -> Any:
    (event,) = (e for e in result.history if e["event"] == "activations")
    return event


@pytest.mark.parametrize(("asking", "pool"), [*((asking, "first") for asking in ASKING), ("the control", "mean")])
def test_a_run_with_kept_states_is_the_run_without(asking: str, pool: str, tmp_path: Path) -> None:
    plain, _ = trained(asking, None, pool)
    found, result = trained(asking, tmp_path, pool)
    assert gap(torch.tensor(found), torch.tensor(plain)) <= EXACT
    assert told(result)["hit_rate"] == 1.0
    assert told(result)["rows"] == told(result)["made"] == 50
    again, result = trained(asking, tmp_path, pool)
    assert again == found
    assert told(result)["made"] == 0


def test_a_run_that_lost_its_files_makes_the_same_numbers_again(tmp_path: Path) -> None:
    found, _ = trained("late", tmp_path / "one")
    mixed = [*examples(10, seed=1)[::-1], *examples()[::-1]]
    kept(tmp_path / "two", rows=mixed)  # in another order, by another run
    again, result = trained("late", tmp_path / "two")
    assert told(result)["made"] == 0
    assert again == found


@pytest.mark.parametrize("asking", ASKING)
def test_in_training_the_layers_below_are_not_run(asking: str, tmp_path: Path) -> None:
    b = wrap(fresh("bert"), "bert")
    model, readout = parts(asking, b)
    given = keep(model, readout, [examples()], pad=0, precision="fp32", folder=tmp_path, limit_bytes=PLENTY)
    assert given is not None
    ran: list[int] = []
    for number, layer in enumerate(b.model.base_model.encoder.layer):
        layer.attention.register_forward_hook(lambda *_, n=number: ran.append(n))
    batch = collate(examples()[:4], range(4), 0)
    told = model.asking(given.encode)
    told(told.instance_of(batch), None, readout.columns(batch))
    assert set(ran) == {"late": {1}, "late, a table": {1}, "a query": {0, 1}, "the control": set()}[asking]
    if asking == "a query":
        assert ran.count(0) == 1  # for the row with its prompt


def test_a_control_keeps_the_tokens_that_are_read(tmp_path: Path) -> None:
    width = backbone("bert").shape.output
    assert kept(tmp_path, "the control").told()["bytes"] == len(examples()) * width * 4
    assert kept(tmp_path, "late").told()["bytes"] == sum(len(e.ids) for e in examples()) * width * 4


def changed(b: Backbone) -> Backbone:
    """One number of one weight is another."""
    model = fresh("bert")
    with torch.no_grad():
        model.base_model.encoder.layer[0].output.dense.weight[3, 5] += 1.0
    return wrap(model, b.name)


def another(**settings: Any) -> Backbone:
    return wrap(fresh("bert", **settings), "bert")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [replace(e, ids=[*e.ids[:-1], 3 + e.ids[-1] % 90]) for e in examples()]},  # another tokenizer, or text
        {"rows": [replace(e, types=[1] * len(e.types)) for e in examples()]},
        {"b": lambda: changed(backbone("bert"))},
        {"b": lambda: another(layer_norm_eps=1e-3)},
        {"b": lambda: another(dtype=torch.bfloat16)},
        {"precision": "bf16"},
        {"asking": "a query"},
    ],
    ids=["tokens", "segments", "a weight", "a setting", "the weights' precision", "precision", "the layer"],
)
def test_what_changed_is_not_found(change: dict[str, Any], tmp_path: Path) -> None:
    kept(tmp_path)
    given = {name: value() if callable(value) else value for name, value in change.items()}
    assert kept(tmp_path, **given).told()["made"] == len(examples())
    assert kept(tmp_path).told()["made"] == 0
    again = another()
    again.model.config._name_or_path = "elsewhere"
    assert kept(tmp_path, b=again).told()["made"] == 0  # the same model, loaded again from another place


def test_rows_that_were_not_kept_are_asked_of_the_backbone(tmp_path: Path) -> None:
    model, _ = parts("late")
    found = kept(tmp_path)
    assert [model.train(on).asking(found.encode).training for on in (True, False)] == [True, False]
    batch = collate([examples()[0], *examples(3, seed=5)], range(4), 0)
    x = model.instance_of(batch)
    assert gap(found.encode(x, 1)[batch.mask], model.encode(x, 1)[batch.mask]) <= EXACT
    assert found.told()["hit_rate"] == 0.0
    assert gap(found.encode(x, None)[batch.mask], model.encode(x, None)[batch.mask]) <= EXACT  # another layer


def test_padding_on_the_left_finds_the_same_rows(tmp_path: Path) -> None:
    model, readout = parts("late")
    found, batch = kept(tmp_path), collate(examples()[:4], range(4), 0)
    read = kept(tmp_path, "the control")
    right = found.encode(model.instance_of(batch), 1)
    control = read.encode(model.instance_of(batch), None, readout.columns(batch))
    left = replace(batch, ids=batch.ids.flip(1), mask=batch.mask.flip(1))
    for row, real in enumerate(batch.mask.sum(1).tolist()):
        left.ids[row, -real:] = batch.ids[row, :real]
    again = found.encode(model.instance_of(left), 1)
    assert found.told()["hit_rate"] == 1.0
    for row, real in enumerate(batch.mask.sum(1).tolist()):
        assert torch.equal(right[row, :real], again[row, -real:])
    one = read.encode(model.instance_of(left), None, readout.columns(left))
    assert read.told()["hit_rate"] == 1.0
    assert torch.equal(one[left.mask.cumsum(1) * left.mask == 1], control[:, 0])


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some rows each."""
    monkeypatch.setattr(activations, "FILE_TOKENS", 60)


@pytest.mark.parametrize("harm", ["cut", "empty", "noise", "missing"])
def test_a_file_that_is_not_whole_is_made_again(harm: str, tmp_path: Path, few_tokens: None) -> None:
    kept(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3
    whole = files[1].read_bytes()
    harmed = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\xff" * len(whole)}
    files[1].unlink()
    if harm in harmed:
        files[1].write_bytes(harmed[harm])
    found = kept(tmp_path)
    assert 0 < found.told()["made"] < len(examples())
    assert found.told()["rows"] == len(examples())
    assert files[1].read_bytes() == whole


def test_a_crash_costs_the_file_that_is_being_made(
    tmp_path: Path, few_tokens: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = activations._written

    def crashing(*given: Any) -> Tensor | None:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt
        return written(*given)

    monkeypatch.setattr(activations, "_written", crashing)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(activations, "FILE_TOKENS", 60)
    found = kept(tmp_path)
    assert found.told()["rows"] == len(examples())
    assert 0 < found.told()["made"] < len(examples())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_folder_does_not_grow_over_its_bound_and_the_run_is_the_same(tmp_path: Path, few_tokens: None) -> None:
    plain, _ = trained("late", None)
    kept(tmp_path)
    bound = size(tmp_path) // 2
    found, result = trained("late", tmp_path, limit_bytes=bound)
    assert size(tmp_path) <= bound
    assert 0 < told(result)["hit_rate"] < 1
    assert gap(torch.tensor(found), torch.tensor(plain)) <= EXACT


def test_what_was_not_used_for_longest_is_removed_first(tmp_path: Path) -> None:
    sets = [examples(seed=seed) for seed in range(3)]
    for number, rows in enumerate(sets):
        kept(tmp_path, rows=rows)
        for path in tmp_path.iterdir():
            if path.stat().st_mtime > 10:
                os.utime(path, (number, number))
    kept(tmp_path, rows=sets[0])  # the oldest is used again
    bound = size(tmp_path) + 100
    assert kept(tmp_path, rows=examples(seed=3), limit_bytes=bound).told()["made"] == 40
    assert size(tmp_path) <= bound
    assert [kept(tmp_path, rows=rows, limit_bytes=PLENTY).told()["made"] for rows in (sets[0], sets[2])] == [0, 0]
    assert kept(tmp_path, rows=sets[1]).told()["made"] == 40


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    found, result = trained("late", tmp_path)
    assert told(result)["rows"] == 0
    assert found == trained("late", None)[0]


def test_runs_at_the_same_time_share_a_folder(tmp_path: Path, few_tokens: None) -> None:
    found: list[Activations] = []
    backbones = [another() for _ in range(3)]
    threads = [threading.Thread(target=lambda b=b: found.append(kept(tmp_path, b=b))) for b in backbones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f.told()["rows"] for f in found] == [len(examples())] * 3
    batch = collate(examples()[:4], range(4), 0)
    x = parts("late")[0].instance_of(batch)
    first, *others = (f.encode(x, 1) for f in found)
    assert all(torch.equal(first, other) for other in others)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning-v2"])
def test_a_prompt_that_asks_nothing_keeps_nothing(method: str, tmp_path: Path) -> None:
    readout = Classifier(2, backbone("bert").shape.output)
    model = prompted(backbone("bert"), method, small(method), init=None, seed=0, readout=readout)
    given = {"pad": 0, "precision": "fp32", "folder": tmp_path / "none"}
    assert keep(model, readout, [examples()], limit_bytes=PLENTY, **given) is None
    assert keep(*parts("late"), [examples()], limit_bytes=0, **given) is None
    assert not (tmp_path / "none").exists()


def test_seeds_share_what_is_kept_and_a_killed_run_goes_on_without_it(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "method": "lpt", "settings": {"layer": 1, "length": 3, "middle": 4}, "activations_in": str(tmp_path / "kept"),
        "seeds": (0, 1), "save_every": 1,
    }  # fmt: skip
    whole = tune(described(shelf, tmp_path / "whole", **changes))
    events = [record.read(o.folder / record.NAME) for o in whole]
    made = [e["made"] for own in events for e in own if e["event"] == "activations"]
    assert made[0] > 0
    assert made[1] == 0
    assert all(e["hit_rate"] == 1.0 for own in events for e in own if e["event"] == "activations")

    step, count = Stepper.step, [0]

    def dying(self: Stepper, *given: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return step(self, *given)

    for path in (tmp_path / "kept").iterdir():
        path.unlink()
    monkeypatch.setattr(Stepper, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        tune(described(shelf, tmp_path / "killed", **changes))
    monkeypatch.undo()
    for path in (tmp_path / "kept").iterdir():
        path.unlink()
    again = tune(described(shelf, tmp_path / "killed", **changes))
    assert [steps(o.result) for o in again] == [steps(o.result) for o in whole]


def test_rows_that_select_are_kept_too(shelf: Shelf, tmp_path: Path) -> None:
    other = lines(tmp_path / "other.jsonl", [{"text": f"the flat {'lid ' * n}box", "label": "good"} for n in range(5)])
    changes: dict[str, Any] = {"method": "frozen", "validation": str(other), "activations_in": str(tmp_path / "kept")}
    [outcome] = tune(described(shelf, tmp_path / "out", **changes))
    assert told(outcome.result)["hit_rate"] == 1.0


@torch.no_grad()
def test_texts_behind_a_row_are_asked_of_the_backbone() -> None:
    model = prompted(backbone("gpt2"), "frozen", {}, init=None, seed=0)
    x = model.instance(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    targets = Targets(torch.tensor([[[8, 9]]]), torch.ones(1, 1, 2, dtype=torch.bool))
    asking = model.asking(lambda *_: pytest.fail("was asked for states"))
    found, expected = asking(x, targets).targets, model(x, targets).targets
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)


def test_a_frozen_model_with_dropout_is_asked_every_time(shelf: Shelf, tmp_path: Path) -> None:
    tune(described(shelf, tmp_path / "out", method="frozen", dropout=True, activations_in=str(tmp_path / "kept")))
    assert not (tmp_path / "kept").exists()
