"""A run of several seeds: what they share is done once, what is finished stays, and only another run is overwritten."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptuary import Run, tune
from promptuary.backbones.load import load
from promptuary.data.loader import Loader
from promptuary.data.source import rows
from promptuary.data.wording import Wording
from promptuary.errors import CheckpointError, SettingError
from promptuary.pretraining import pretrain
from promptuary.train.fit import Result
from promptuary.train.stepper import Stepper
from promptuary.tuned import open_prompt
from tests.laws.checks import TYPICAL
from tests.saved import Shelf, command, done


def described(shelf: Shelf, out: Path, **changes: Any) -> Run:
    told: dict[str, Any] = {
        "backbone": str(shelf.model("bert")), "train": str(shelf.train), "validation": str(shelf.dev),
        "method": "prompt-tuning", "recipe": {"epochs": 2, "batch": 8}, "out": str(out),
    }  # fmt: skip
    return Run(**{**told, **changes})


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What stands in a folder, and when it was written."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def steps(result: Result) -> list[float]:
    return [e["loss"] for e in result.history if e["event"] == "step"]


def test_texts_are_encoded_once_for_all_seeds(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, encoded = Wording.chunks, list[int]()

    def counted(self: Wording, given: Any, **options: Any) -> Any:
        listed = list(given)
        encoded.append(len(listed))
        return chunks(self, listed, **options)

    monkeypatch.setattr(Wording, "chunks", counted)
    together = tune(described(shelf, tmp_path / "out", seeds=(0, 1, 2)))
    assert encoded == [16, 6]
    alone = [tune(described(shelf, tmp_path / f"alone-{seed}", seeds=(seed,)))[0] for seed in range(3)]
    assert [steps(o.result) for o in together] == [steps(o.result) for o in alone]
    assert len({steps(o.result)[-1] for o in together}) == 3


def interrupted(at: int) -> Any:
    step, left = Stepper.step, [at]

    def stepped(self: Stepper, number: int, batches: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return step(self, number, batches)

    return stepped


def test_an_interrupted_run_that_may_overwrite_goes_on_and_keeps_its_finished_seeds(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*shelf.options("bert", "prompt-tuning", tmp_path / "out"), "--seed", 0, "--seed", 1, "--epochs", 2]
    done(*options, "--rate", 0.1)
    before = files(tmp_path / "out" / "seed-0")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted(7))  # 4 steps of seed 0, 2 of seed 1
        patch.setattr("promptuary.train.fit.SAVING", 1.0)
        result = command(*options, "--overwrite", "--save-every", 1)
    assert result.exit_code == 130
    assert "The same command goes on from there" in result.stderr
    finished = files(tmp_path / "out" / "seed-0")
    assert finished["prompt.safetensors"][0] != before["prompt.safetensors"][0]
    assert not (tmp_path / "out" / "seed-1" / "manifest.json").exists()  # no prompt of the run that was overwritten
    again = command(*options, "--overwrite", "--save-every", 1)
    assert again.exit_code == 0
    assert "seed 1: goes on after step 2 of 4" in again.stderr
    assert {k: v[0] for k, v in files(tmp_path / "out" / "seed-0").items()} == {k: v[0] for k, v in finished.items()}
    done(*shelf.options("bert", "prompt-tuning", tmp_path / "calm"), "--seed", 1, "--epochs", 2)
    name = "prompt.safetensors"
    assert (tmp_path / "out" / "seed-1" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_a_damaged_run_may_be_overwritten(shelf: Shelf, tmp_path: Path) -> None:
    (first,) = tune(described(shelf, tmp_path))
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        tune(described(shelf, tmp_path))
    (again,) = tune(described(shelf, tmp_path), overwrite=True)
    assert steps(again.result) == steps(first.result)


def test_moved_data_is_the_same_run_and_other_data_is_not(shelf: Shelf, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(shelf.train.read_bytes())
    (first,) = tune(described(shelf, tmp_path / "out"))
    (again,) = tune(described(shelf, tmp_path / "out", train=str(moved)))
    assert again.result.history == first.result.history
    assert again.tuned.manifest.run["data"]["train"] == str(moved)
    moved.write_text(moved.read_text().replace("like", "hate"))
    with pytest.raises(CheckpointError, match=r"settings\.data is"):
        tune(described(shelf, tmp_path / "out", train=str(moved)))


@pytest.mark.parametrize("start", ["prompt:{}", "file:{}", "file:{}/prompt.safetensors"])
def test_a_start_is_what_its_folder_holds_wherever_it_lies(shelf: Shelf, tmp_path: Path, start: str) -> None:
    held, moved = tmp_path / "held", tmp_path / "moved"
    shutil.copytree(shelf.prompt("bert", "prompt-tuning"), held)
    (first,) = tune(described(shelf, tmp_path / "out", init=start.format(held)))
    held.rename(moved)
    (again,) = tune(described(shelf, tmp_path / "out", init=start.format(moved)))
    assert again.result.history == first.result.history
    tune(described(shelf, moved, seeds=(5,)), overwrite=True)
    with pytest.raises(CheckpointError, match=r"settings\.init is"):
        tune(described(shelf, tmp_path / "out", init=start.format(moved)))


def test_a_damaged_prompt_starts_no_other(shelf: Shelf, tmp_path: Path) -> None:
    held = tmp_path / "held"
    shutil.copytree(shelf.prompt("bert", "prompt-tuning"), held)
    whole = bytearray((held / "prompt.safetensors").read_bytes())
    whole[-1] ^= 1
    (held / "prompt.safetensors").write_bytes(whole)
    with pytest.raises(CheckpointError, match="cut short or was changed"):
        tune(described(shelf, tmp_path / "out", init=f"prompt:{held}"))


def test_a_row_that_changes_sides_makes_another_run(shelf: Shelf, tmp_path: Path) -> None:
    train, dev = (place.read_text().splitlines(keepends=True) for place in (shelf.train, shelf.dev))
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("".join(train[:-1]))
    other.write_text("".join([train[-1], *dev]))
    tune(described(shelf, tmp_path / "out"))
    with pytest.raises(CheckpointError, match=r"settings\.data is"):
        tune(described(shelf, tmp_path / "out", train=str(one), validation=str(other)))


@pytest.mark.parametrize("name", TYPICAL)
def test_a_prompt_scores_as_it_did_when_it_was_selected(shelf: Shelf, tmp_path: Path, name: str) -> None:
    backbone = load(str(shelf.model("bert")), dtype=torch.bfloat16)
    recipe = {"epochs": 1, "batch": 8, "precision": "bf16"}
    (outcome,) = tune(described(shelf, tmp_path, method=name, recipe=recipe), backbone=backbone)
    given = list(rows(str(shelf.dev)))
    for tuned in (outcome.tuned, open_prompt(tmp_path, backbone=backbone)):
        scores = tuned.evaluate(given, batch=16)
        assert {k: scores[k] for k in outcome.result.scores} == outcome.result.scores
        (batch,) = Loader(tuned.wording.encode(given), 16, pad=tuned.backbone.tokenizer.pad_token_id).epoch(0)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            out = tuned.model(tuned.model.instance(batch.ids, batch.mask, batch.types))
            expected = tuned.readout.predict(out, batch).probability
        found = [list(answer.probabilities.values()) for answer in tuned.predict(given)]
        assert [found[row] for row in batch.rows.tolist()] == expected.tolist()
    again = open_prompt(tmp_path, backbone=backbone)
    assert again.predict_texts(["I like it"]) == outcome.tuned.predict_texts(["I like it"])


def test_a_part_has_the_rate_that_the_run_gives_it(shelf: Shelf, tmp_path: Path) -> None:
    def choice(name: str, **changes: Any) -> torch.Tensor:
        made = tune(described(shelf, tmp_path / name, method="dp-position", **changes))[0]
        return made.tuned.model.injection.placement.choice.bias.detach()

    still = choice("still", rates={"choice": 0.0})
    assert torch.equal(still, torch.nn.functional.one_hot(torch.tensor([len(still[0]) - 1]), len(still[0])).float())
    assert not torch.equal(choice("moved"), still)


def test_settings_may_leave_out_the_part_that_a_method_has_a_rate_for(shelf: Shelf, tmp_path: Path) -> None:
    control = tune(described(shelf, tmp_path / "fixed", method="dp-position", settings={"position": 2}))[0]
    assert control.tuned.model.injection.placement.before == 2
    with pytest.raises(SettingError, match="no trained tensor is under 'choice'"):
        tune(described(shelf, tmp_path / "no", method="prompt-tuning", rates={"choice": 0.1}))


def test_settings_may_leave_out_the_part_that_a_preset_has_a_rate_for(shelf: Shelf, tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "method": "ipt-prefix", "preset": "paper", "recipe": {"epochs": 1}, "dropout": False, "max_length": 32,
    }  # fmt: skip
    frozen = {"length": 2, "control": "frozen"}
    (control,) = tune(described(shelf, tmp_path / "frozen", **told, settings=frozen))
    assert control.result.counts.nominal < control.tuned.model.generator.generators[1].inner.inner.table.weight.numel()
    alone = pretrain(described(shelf, tmp_path / "generator", **told, settings={"length": 2}))
    rates = [event["rates"] for event in alone.result.history if event["event"] == "step"]
    assert rates[-1] == {"prompt, not decayed": 0.03, "readout, not decayed": 0.03}
    with pytest.raises(SettingError, match=r"no trained tensor is under 'generators\.2'"):
        tune(described(shelf, tmp_path / "no", **told, settings={"length": 2}, rates={"generators.2": 0.1}))


def test_prompts_of_other_tasks_are_taken_as_they_are_and_their_folders_may_go(shelf: Shelf, tmp_path: Path) -> None:
    sources = [str(tmp_path / name) for name in ("one", "two")]
    for seed, source in enumerate(sources):
        tune(described(shelf, Path(source), seeds=(seed,), settings={"length": 4}))
    settings = {"length": 4, "prompts": 2, "sources": sources}
    made = tune(described(shelf, tmp_path / "out", method="attempt", settings=settings))[0]
    pool = made.tuned.model.generator.generators[1]
    for source, taken in zip(sources, pool.generators, strict=False):
        assert torch.equal(taken.table, open_prompt(source, backbone=made.tuned.backbone).model.generator.table)
        shutil.rmtree(source)
    again = open_prompt(tmp_path / "out", backbone=made.tuned.backbone)
    given = list(rows(str(shelf.dev)))
    assert [a.probability for a in again.predict(given)] == [a.probability for a in made.tuned.predict(given)]
    with pytest.raises(SettingError, match=r"prompts=4, but 2 sources.*prompts=2"):
        tune(described(shelf, tmp_path / "no", method="attempt", settings={"sources": sources}))
