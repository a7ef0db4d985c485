"""One prompt tuned on several tasks: from a file to a prompt for each task, and what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from promptuary import Multitask, open_prompt, tune_tasks
from promptuary.bank import open_bank
from promptuary.data.source import rows
from promptuary.errors import CheckpointError, SettingError
from promptuary.multitask.plan import read_tasks
from promptuary.multitask.tuning import MultitaskOutcome
from promptuary.specs import read_run
from promptuary.train.stepper import Stepper
from tests.saved import Shelf, command, done, lines, opinions, refused
from tests.unit.test_tuning import files, interrupted, steps

FORMS = {"round": ("a ball", "the ring"), "flat": ("a sheet", "the lid"), "long": ("a pole", "the rope")}


def forms(count: int) -> list[dict[str, Any]]:
    labels = sorted(FORMS)
    return [
        {"thing": f"{FORMS[labels[i % 3]][i // 3 % 2]} {'big ' * (i % 4)}there", "form": labels[i % 3]}
        for i in range(count)
    ]


def planned(shelf: Shelf, out: Path, *, tasks: dict[str, Any] | None = None, **more: Any) -> Multitask:
    told = {"backbone": str(shelf.model("bert")), "method": "dp-length", "recipe": {"epochs": 2, "batch": 8}}
    things = lines(shelf.place / "forms.jsonl", forms(24))
    own = {
        "mood": {"train": str(shelf.train), "validation": str(shelf.dev)},
        "form": {"train": str(things), "text": "thing", "label": "form", "metric": "macro_f1", "holdout": 0.25},
    }
    temperature = more.pop("temperature", 1.0)
    return Multitask(tasks=tasks or own, temperature=temperature, shared={**told, "out": str(out), **more})


def tuned(shelf: Shelf, out: Path, **more: Any) -> MultitaskOutcome:
    return tune_tasks(planned(shelf, out, **more))[0]


def test_every_task_has_a_prompt_like_any_other(shelf: Shelf, tmp_path: Path) -> None:
    found = tuned(shelf, tmp_path / "out")
    assert list(found.tasks) == ["mood", "form"]
    scores = found.result.scores
    assert scores["mean"] == pytest.approx((scores["mood/accuracy"] + scores["form/macro_f1"]) / 2)
    assert found.result.score == scores["mean"]
    data = {"mood": str(shelf.dev), "form": str(shelf.place / "forms.jsonl")}
    for name, outcome in found.tasks.items():
        kept, given = open_prompt(tmp_path / "out" / name), list(rows(data[name]))
        assert kept.manifest.settings == {}  # nothing of it says that others shared it
        assert kept.task.name == name
        own = {k.removeprefix(f"{name}/"): v for k, v in scores.items() if k.startswith(name)}
        assert kept.manifest.run["scores"] == own == outcome.result.scores
        assert [a.label for a in kept.predict(given)] == [a.label for a in outcome.tuned.predict(given)]
        if name == "mood":
            assert kept.evaluate(given)["accuracy"] == own["accuracy"] == outcome.result.score
    one, other = (outcome.tuned.model.generator.inner.state_dict() for outcome in found.tasks.values())
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


def test_what_no_step_touched_is_not_counted_as_touched_of_any_task(shelf: Shelf, tmp_path: Path) -> None:
    """Two steps take at most two of nine prompts."""
    few = {"epochs": 0, "steps": 2, "batch": 8}
    found = tuned(shelf, tmp_path / "out", method="dp-bank", settings={"length": 8}, recipe=few)
    whole, one = found.result.counts, 8 * found.tasks["mood"].tuned.backbone.shape.dim
    assert whole.nominal - whole.touched >= 7 * one
    for outcome in found.tasks.values():
        counts = outcome.result.counts
        assert counts.nominal - counts.touched == whole.nominal - whole.touched
        assert counts.active < counts.nominal - 7 * one
        assert vars(counts) == outcome.tuned.manifest.run["counts"]


def test_prompts_of_a_mixture_share_passes_in_a_bank(shelf: Shelf, tmp_path: Path) -> None:
    tuned(shelf, tmp_path / "out")
    bank = open_bank({name: tmp_path / "out" / name for name in ("mood", "form")})
    asked = [("mood", row) for row in rows(str(shelf.dev))]
    asked += [("form", row) for row in rows(str(shelf.place / "forms.jsonl"))]
    together = [answer.label for answer in bank.predict(asked)]
    assert together == [next(iter(bank[name].predict([row]))).label for name, row in asked]


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuned(shelf, tmp_path / "whole", temperature=3.0)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted(4))
        patch.setattr("promptuary.train.fit.SAVING", 1.0)
        with pytest.raises(KeyboardInterrupt):
            tuned(shelf, tmp_path / "cut", temperature=3.0, save_every=1)
    assert not (tmp_path / "cut" / "mood").exists()
    again = tuned(shelf, tmp_path / "cut", temperature=3.0, save_every=1)
    assert again.result.steps == whole.result.steps > 4
    for name in ("mood", "form"):
        one, other = ((tmp_path / place / name / "prompt.safetensors").read_bytes() for place in ("whole", "cut"))
        assert one == other
    before = files(tmp_path / "cut" / "mood")["prompt.safetensors"][0]
    tuned(shelf, tmp_path / "cut", temperature=3.0, save_every=1)  # finished: nothing changes
    assert files(tmp_path / "cut" / "mood")["prompt.safetensors"][0] == before


def test_another_mixture_is_another_run(shelf: Shelf, tmp_path: Path) -> None:
    tuned(shelf, tmp_path / "out")
    with pytest.raises(CheckpointError, match="temperature"):
        tuned(shelf, tmp_path / "out", temperature=2.0)
    plan = planned(shelf, tmp_path / "out", temperature=2.0)
    assert tune_tasks(plan, overwrite=True)[0].result.steps
    (tmp_path / "out" / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="mood holds a prompt without the state of its run"):
        tuned(shelf, tmp_path / "out", temperature=2.0)


def test_the_temperature_says_how_much_of_each_task_is_learned(shelf: Shelf, tmp_path: Path) -> None:
    one, other = (tuned(shelf, tmp_path / str(heat), temperature=heat) for heat in (0.05, 1.0))
    seen = [steps(found.result) for found in (one, other)]
    assert len(seen[0]) == len(seen[1])
    assert seen[0] != seen[1]  # at 0.05 the larger task is nearly all


@pytest.mark.parametrize("tasks", [1, 2])
def test_choices_are_for_each_task_unless_they_are_shared(shelf: Shelf, tmp_path: Path, tasks: int) -> None:
    found = tuned(shelf, tmp_path / "out", settings={"tasks": tasks, "length": 4}, rates={"choice": 3.0})
    one, other = (outcome.tuned.model.choices["generator.choice"].bias for outcome in found.tasks.values())
    assert one.shape == other.shape == (1, 4)
    assert torch.equal(one, other) == (tasks == 1)


def test_several_seeds_have_a_folder_each(shelf: Shelf, tmp_path: Path) -> None:
    found = tune_tasks(planned(shelf, tmp_path / "out", seeds=(0, 1), method="prompt-tuning"))
    assert [outcome.folder for outcome in found] == [tmp_path / "out" / f"seed-{seed}" for seed in (0, 1)]
    for outcome in found:
        assert open_prompt(outcome.folder / "form").manifest.seed == outcome.seed


def described(shelf: Shelf, path: Path, text: str) -> Path:
    path.write_text(
        f'[run]\nbackbone = "{shelf.model("bert")}"\nmethod = "prompt-tuning"\n[recipe]\nepochs = 1\nbatch = 8\n{text}'
    )
    return path


def test_the_command_line_tunes_a_file_of_tasks(shelf: Shelf, tmp_path: Path) -> None:
    text = "".join(f'[tasks.{name}]\ntrain = "{shelf.train}"\n' for name in ("one", "two"))
    config = described(shelf, tmp_path / "mix.toml", f"[mixture]\ntemperature = 2\n{text}")
    told = json.loads(done("tune", config, "--out", tmp_path / "out", "--length", 3, "--json"))
    assert set(told["tasks"]) == {"one", "two"}
    assert told["score"] == pytest.approx(sum(t["score"] for t in told["tasks"].values()) / 2)
    table = done("tune", config, "--out", tmp_path / "out", "--length", 3)
    assert "shared by 2 tasks" in table
    assert f"promptuary serve {tmp_path / 'out'}" in table.replace("\n", "")
    assert json.loads(done("evaluate", tmp_path / "out" / "one", "--data", shelf.dev, "--json"))["n"] == 6
    with pytest.raises(SettingError, match="describes several tasks"):
        read_run(config)
    assert read_tasks(described(shelf, tmp_path / "run.toml", "")) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[tasks.one]\ntrain = 'a'\n", "at least 2"),
        ("[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\nmethod = 'frozen'\n", "'method' is of the prompt"),
        ("[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\ntemplat = 'x'\n", "Task 'two': A run has no setting"),
        ("[tasks.one]\ntrain = 'a'\n[tasks.two]\nlabel = 'x'\n", "Task 'two': Setting 'train' is missing"),
        ("[tasks.one]\ntrain = 'a'\n[tasks.'t/o']\ntrain = 'a'\n", "should match pattern"),
        ("[mixture]\ntemperature = 0\n[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\n", "greater than 0"),
        ("[mixture]\nheat = 1\n[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\n", "'heat'"),
        ("[mixture]\ntemperature = 1\n", "there is none"),
        ("[method]\ntasks = 2\n[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\n", "nothing of its own for a task"),
        ("[tasks.one]\ntrain = 'a'\n[tasks.two]\ntrain = 'a'\ntask = 'text'\n", "metric='loss' has no mean"),
        ("[tasks.one]\ntrain = 'a.jsonl'\n[tasks.two]\ntrain = 'a.jsonl'\n", "a.jsonl"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    shelf: Shelf, tmp_path: Path, text: str, sentence: str
) -> None:
    config = described(shelf, tmp_path / "mix.toml", text)
    assert sentence in refused("tune", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_must_be_named(shelf: Shelf, tmp_path: Path) -> None:
    text = "".join(f'[tasks.{name}]\ntrain = "{shelf.train}"\n' for name in ("one", "two"))
    assert "Setting 'out' is missing" in refused("tune", described(shelf, tmp_path / "mix.toml", text))


def test_the_number_of_tasks_is_no_free_setting(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Expected 1 .* or 2"):
        planned(shelf, tmp_path, settings={"tasks": 3})


def test_tasks_that_are_read_off_other_towers_share_no_prompt(shelf: Shelf, tmp_path: Path) -> None:
    own = {
        name: {"train": str(shelf.train), "validation": str(shelf.dev), "readout": readout}
        for name, readout in (("one", "classifier"), ("two", "text"))
    }
    plan = planned(shelf, tmp_path / "out", tasks=own, backbone=str(shelf.model("t5")), method="prompt-tuning")
    with pytest.raises(SettingError, match="'one' and 'two' are read off other towers"):
        tune_tasks(plan)


def test_labels_are_no_common_start(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="init='labels': each task has its own"):
        tuned(shelf, tmp_path / "out", init="labels")


def test_rows_without_a_tasks_label_are_told(shelf: Shelf, tmp_path: Path) -> None:
    odd = lines(tmp_path / "odd.jsonl", [*opinions(4), {"text": "no label"}])
    text = f'[tasks.one]\ntrain = "{shelf.train}"\n[tasks.two]\ntrain = "{odd}"\n'
    result = command("tune", described(shelf, tmp_path / "mix.toml", text), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "odd.jsonl" in result.stderr
