"""A generator is trained without the backbone, kept, and starts prompts of its tokenizer, width and settings alone."""

import json
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from promptuary import Run, pretrain, pretrained, tune
from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.idle import Idle
from promptuary.backbones.load import load
from promptuary.checkpoint import unpack
from promptuary.data.tokens import fingerprint
from promptuary.errors import BackboneError, CheckpointError, PromptuaryError, SettingError
from promptuary.generators import Mapped
from promptuary.injections import HiddenStates
from promptuary.lookups import Lookup
from promptuary.manifests import holds_generator
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.train.stepper import Stepper
from promptuary.tuned import open_prompt
from tests.answers import Given
from tests.backbones import backbone
from tests.saved import Shelf, command, done, refused
from tests.unit.data.vocabularies import VOCABULARIES

IPT = ("ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix")


def described(shelf: Shelf, out: Path, **changes: Any) -> Run:
    told: dict[str, Any] = {
        "backbone": str(shelf.model("bert")), "train": str(shelf.train), "validation": str(shelf.dev), "method": "ipt",
        "settings": {"length": 6}, "recipe": {"epochs": 15, "batch": 8, "rate": 0.02}, "out": str(out),
    }  # fmt: skip
    return Run(**{**told, **changes})


def tensors(folder: Path) -> dict[str, Tensor]:
    return unpack(folder / pretrained.TENSORS, pretrained.read(folder).hashes[pretrained.TENSORS], "")


def reader(model: SoftPrompted) -> Mapped:
    """The part of a prompt that reads tokens."""
    (found,) = [m for m in model.modules() if isinstance(m, Mapped) and isinstance(m.inner, Lookup)]
    return found


def started(b: Backbone, name: str = "ipt", **settings: Any) -> Mapped:
    return reader(prompted(b, name, {"length": 6, **settings}, init=None, seed=5))


@pytest.fixture(scope="module")
def bert(shelf: Shelf) -> Backbone:
    return load(str(shelf.model("bert")))


@pytest.fixture(scope="module")
def made(shelf: Shelf, bert: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generator of each kind."""
    place = tmp_path_factory.mktemp("generators")
    for name in IPT:
        pretrain(described(shelf, place / name, method=name), backbone=bert)
    return {name: place / name for name in IPT}


@pytest.mark.parametrize("name", IPT)
def test_table_and_encoder_learn(made: dict[str, Path], bert: Backbone, name: str) -> None:
    """The published code never trained the table, and saved its noise."""
    start = reader(SoftPrompted(bert, *METHODS[name].parts(bert.shape, length=6))).state_dict()
    after = tensors(made[name])
    assert after.keys() == start.keys()
    trained = [n for n in start if not n.endswith(("touched", "fill"))]
    assert [n for n in trained if torch.equal(after[n], start[n])] == []
    table, touched = "inner.table.weight", after["inner.touched"]
    assert bool((after[table] != start[table])[touched].any(1).all())
    manifest = pretrained.read(made[name])
    assert manifest.run["scores"]["accuracy"] > 0.9
    width = 32 * (2 if name == "ipt-prefix" else 1)
    assert (manifest.vocabulary, manifest.width, after[table].shape) == (len(touched), width, (len(touched), width))
    assert manifest.tokenizer == fingerprint(bert.tokenizer)
    assert manifest.settings == json.loads(json.dumps({**METHODS[name].settings(), "length": 6}))


@pytest.mark.parametrize("name", IPT)
def test_a_prompt_starts_at_exactly_the_saved_numbers(made: dict[str, Path], bert: Backbone, name: str) -> None:
    ours = started(bert, name, pretrained=str(made[name])).state_dict()
    for tensor, saved in tensors(made[name]).items():
        assert torch.equal(ours[tensor], torch.zeros_like(saved) if tensor == "inner.touched" else saved)


def test_the_model_is_never_run(shelf: Shelf, bert: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: Any, **__: Any) -> None:
        raise AssertionError("the backbone was run")

    for method in ("run", "embed", "logits"):
        monkeypatch.setattr(type(bert), method, ran)
    before = bert.digest()
    hooks = [m.register_forward_pre_hook(ran) for m in bert.model.modules()]
    try:
        pretrain(described(shelf, tmp_path, recipe={"steps": 2}), backbone=bert)
    finally:
        for hook in hooks:
            hook.remove()
    assert bert.digest() == before


def test_another_backbone_of_the_same_tokenizer_and_width_takes_it(
    shelf: Shelf, made: dict[str, Path], tmp_path: Path
) -> None:
    other = load(str(shelf.model("deberta")))
    ours = started(other, "ipt-cnn", pretrained=str(made["ipt-cnn"])).state_dict()
    assert torch.equal(ours["inner.table.weight"], tensors(made["ipt-cnn"])["inner.table.weight"])
    run = described(
        shelf, tmp_path, backbone=str(shelf.model("deberta")), settings={"length": 6, "pretrained": str(made["ipt"])}
    )
    (outcome,) = tune(run, backbone=other)
    assert outcome.result.scores["accuracy"] > 0.9


def test_another_tokenizer_is_refused(shelf: Shelf, made: dict[str, Path]) -> None:
    other = load(str(shelf.model("gpt2")))
    with pytest.raises(CheckpointError, match=r"the tokenizer of '.*gpt2' has other tokens.*Use a backbone with that"):
        started(other, pretrained=str(made["ipt"]))


@pytest.mark.parametrize(
    ("generator", "name", "settings", "sentence"),
    [
        ("ipt-cnn", "ipt-lstm", {}, "encoder='cnn', this prompt encoder='lstm'. Write --method ipt-cnn, or pre-train"),
        ("ipt", "ipt-cnn", {}, "encoder='lookup', this prompt encoder='cnn'. Write --method ipt, or"),
        ("ipt-mlp", "ipt-mlp", {"length": 5}, "length=6, this prompt length=5. Write --set length=6, or"),
        ("ipt", "ipt", {"rank": 4}, "rank=0, this prompt rank=4"),
        ("ipt", "ipt", {"buckets": 9}, "buckets=0, this prompt buckets=9"),
        ("ipt", "ipt-prefix", {}, "vectors of 32 numbers, this prompt needs"),
        ("ipt-prefix", "ipt", {}, "vectors of 64 numbers, this prompt needs"),
    ],
)
def test_other_settings_are_refused(
    made: dict[str, Path], bert: Backbone, generator: str, name: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CheckpointError) as told:
        started(bert, name, pretrained=str(made[generator]), **settings)
    assert sentence in str(told.value)


def test_a_table_of_another_size_is_refused(made: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"has \d+ vectors of 32 numbers, this prompt needs 99 of 32"):
        METHODS["ipt"].parts(backbone("bert").shape, pretrained=str(made["ipt"]))


@pytest.mark.parametrize("length", [6, 9])
def test_a_look_up_takes_the_table_alone_whatever_stood_behind_it(
    made: dict[str, Path], bert: Backbone, length: int
) -> None:
    ours = started(bert, length=length, pretrained=str(made["ipt-lstm"])).state_dict()
    assert torch.equal(ours["inner.table.weight"], tensors(made["ipt-lstm"])["inner.table.weight"])


def test_vectors_of_empty_slots_are_taken_over_where_there_are_as_many(
    shelf: Shelf, bert: Backbone, tmp_path: Path
) -> None:
    settings = {"length": 9, "pad": "task"}
    pretrain(described(shelf, tmp_path, settings=settings), backbone=bert)
    fill = tensors(tmp_path)["inner.fill"]
    assert fill.any()
    for given, same in (({}, True), ({"length": 8}, False), ({"pad": "row"}, False)):
        ours = started(bert, **{**settings, **given}, pretrained=str(tmp_path)).state_dict()["inner.fill"]
        assert torch.equal(ours, fill) if same else not ours.any()


@pytest.mark.parametrize("settings", [{"rank": 3}, {"buckets": 40}, {"lazy": True}])
def test_every_table_is_kept_and_taken(shelf: Shelf, bert: Backbone, tmp_path: Path, settings: dict[str, Any]) -> None:
    longer = {"epochs": 50, "batch": 8, "rate": 0.02}  # the vocabulary of the tests is another one in each process
    run = described(shelf, tmp_path, settings={"length": 6, **settings}, recipe=longer)
    losses = [e["loss"] for e in pretrain(run, backbone=bert).result.history if e["event"] == "step"]
    assert mean(losses[-3:]) < 0.9 * losses[0]
    ours = started(bert, **settings, pretrained=str(tmp_path)).state_dict()
    assert all(torch.equal(ours[n], t) for n, t in tensors(tmp_path).items() if n != "inner.touched")


def test_a_tuned_prompt_needs_its_generator_no_more_and_knows_it_by_its_numbers(
    shelf: Shelf, made: dict[str, Path], bert: Backbone, tmp_path: Path
) -> None:
    place = shutil.copytree(made["ipt"], tmp_path / "generator")
    settings = {"length": 6, "pretrained": str(place)}
    (first,) = tune(described(shelf, tmp_path / "out", settings=settings), backbone=bert)
    moved = place.rename(tmp_path / "moved")
    prompt = open_prompt(tmp_path / "out", backbone=bert)
    assert prompt.manifest.settings["pretrained"] == str(place)
    assert prompt.predict_texts(["I like this box"]) == first.tuned.predict_texts(["I like this box"])
    (again,) = tune(described(shelf, tmp_path / "out", settings={**settings, "pretrained": str(moved)}), backbone=bert)
    assert again.result.history == first.result.history
    with pytest.raises(CheckpointError, match=r"settings\.method\.pretrained is"):
        tune(
            described(shelf, tmp_path / "out", settings={**settings, "pretrained": str(made["ipt-cnn"])}), backbone=bert
        )


def interrupted(at: int) -> Any:
    step = Stepper.step

    def stepped(self: Stepper, number: int, batches: Any) -> Any:
        if number == at:
            raise KeyboardInterrupt
        return step(self, number, batches)

    return stepped


@pytest.mark.parametrize("lazy", [False, True])
def test_an_interrupted_pre_training_goes_on_to_the_same_end(
    shelf: Shelf, bert: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    monkeypatch.setattr("promptuary.train.fit.SAVING", 1.0)
    settings = {"length": 6, "lazy": lazy}
    whole = pretrain(described(shelf, tmp_path / "whole", method="ipt-lstm", settings=settings), backbone=bert)
    run = described(shelf, tmp_path / "out", method="ipt-lstm", settings=settings, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted(5))
        with pytest.raises(KeyboardInterrupt):
            pretrain(run, backbone=bert)
    assert not holds_generator(tmp_path / "out")
    again = pretrain(run, backbone=bert)
    assert again.result.counts == whole.result.counts
    assert (tmp_path / "out" / pretrained.TENSORS).read_bytes() == (
        tmp_path / "whole" / pretrained.TENSORS
    ).read_bytes()


def test_another_run_in_the_folder_is_refused_or_overwritten(shelf: Shelf, bert: Backbone, tmp_path: Path) -> None:
    pretrain(described(shelf, tmp_path), backbone=bert)
    other = described(shelf, tmp_path, settings={"length": 4})
    with pytest.raises(CheckpointError, match=r"pretraining\.length is 4 and was 6"):
        pretrain(other, backbone=bert)
    with pytest.raises(CheckpointError, match="another run"):
        tune(described(shelf, tmp_path), backbone=bert)
    assert pretrain(other, backbone=bert, overwrite=True).manifest.settings["length"] == 4
    tune(described(shelf, tmp_path), backbone=bert, overwrite=True)
    assert not holds_generator(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="without the state of its run"):
        pretrain(other, backbone=bert)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "p-tuning-v2", "settings": {}}, "no table of the vocabulary.*Expected one of ipt, ipt-cnn"),
        ({"seeds": (0, 1)}, "a folder holds one generator"),
        ({"task": "text", "label": "label"}, "on texts with a class"),
        ({"settings": {"pretrained": "x"}}, "pre-trained once"),
        ({"init": "embedings"}, "expected one of"),
    ],
)
def test_what_cannot_be_pre_trained_is_refused(
    shelf: Shelf, bert: Backbone, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        pretrain(described(shelf, tmp_path / "out", **changes), backbone=bert)
    assert not (tmp_path / "out").exists()


def test_two_starts_of_one_table_are_refused(made: dict[str, Path], bert: Backbone) -> None:
    with pytest.raises(SettingError, match="says where the table starts, and so does init"):
        prompted(bert, "ipt", {"pretrained": str(made["ipt"])}, init=lambda *_: torch.zeros(1, 1), seed=0)


DAMAGE: dict[str, Any] = {
    "no manifest": (lambda place: (place / pretrained.MANIFEST).unlink(), "has no generator.json: expected the folder"),
    "no tensors": (lambda place: (place / pretrained.TENSORS).unlink(), "is missing"),
    "cut short": (lambda place: _cut(place / pretrained.TENSORS), "is cut short or was changed"),
    "half a manifest": (lambda place: _cut(place / pretrained.MANIFEST), "generator.json is damaged"),
    "another format": (lambda place: _changed(place, format=9), "format 9; this version reads format 1"),
    "a field of another type": (lambda place: _changed(place, width=[]), "Field 'width'"),
    "a field too many": (lambda place: _changed(place, colour=1), "is damaged"),
    "tensors of another": (
        lambda place: _changed(place, settings={**_settings(place), "encoder": "cnn"}),
        "do not fit",
    ),
}


def _settings(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / pretrained.MANIFEST).read_text())["settings"]
    return found


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _changed(place: Path, **fields: Any) -> None:
    path = place / pretrained.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_generator_is_refused(made: dict[str, Path], bert: Backbone, tmp_path: Path, what: str) -> None:
    break_it, sentence = DAMAGE[what]
    place = shutil.copytree(made["ipt"], tmp_path / "generator")
    break_it(place)
    with pytest.raises(PromptuaryError, match=sentence):
        started(bert, "ipt-cnn" if sentence == "do not fit" else "ipt", pretrained=str(place))


def test_from_the_command_line_to_a_tuned_prompt(shelf: Shelf, tmp_path: Path) -> None:
    data = ["--train", shelf.train, "--validation", shelf.dev, "--backbone", shelf.model("bert")]
    options = [*data, "--method", "ipt-lstm", "--length", 5, "--epochs", 12, "--batch", 8, "--rate", 0.02]
    generator, out = tmp_path / "generator", tmp_path / "out"
    told = done("pretrain", *options, "--out", generator)
    assert f"promptuary tune --method ipt-lstm --set pretrained={generator}" in told.replace("\n", "")
    summary = json.loads(
        done("pretrain", *options, "--out", generator, "--json")
    )  # it is finished: nothing is made anew
    shown = json.loads(done("show", generator, "--json"))
    assert shown["counts"] == summary["counts"]
    assert shown["labels"] == ["bad", "good"]
    assert shown["tensors"]["inner.table.weight"]["shape"] == [shown["vocabulary"], 32]
    drawn = done("show", generator)
    assert "generator of ipt-lstm" in drawn
    assert "inner.table.weight" in drawn
    said = refused("evaluate", generator, "--data", shelf.dev)
    assert "holds a generator" in said
    assert f"--set pretrained={generator}" in said
    done("tune", *options, "--set", f"pretrained={generator}", "--out", out)
    assert json.loads(done("evaluate", out, "--data", shelf.dev, "--json"))["accuracy"] > 0.6
    assert json.loads(done("show", out, "--json"))["settings"]["pretrained"] == str(generator)
    assert "encoder='lstm', this prompt" in refused(
        "tune", *options, "--method", "ipt-cnn", "--set", f"pretrained={generator}", "--out", tmp_path / "other"
    )
    assert not (tmp_path / "other").exists()
    assert command("pretrain", *options, "--method", "idpg", "--out", tmp_path / "other").exit_code == 2


def test_tokens_and_their_ids_make_a_tokenizer_s_fingerprint() -> None:
    found = {name: fingerprint(make()) for name, make in VOCABULARIES.items()}
    assert len(set(found.values())) == len(found)
    tokenizer = VOCABULARIES["bert"]()
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=3)
    assert fingerprint(tokenizer) == found["bert"]  # settings of a call are none of its tokens


def test_an_idle_backbone_s_state_is_the_mean_of_the_present_soft_tokens() -> None:
    real = backbone("bert")
    idle = Idle(real.shape, real.device, width=4)
    values, keep = torch.randn(2, 3, 4), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    model = SoftPrompted(idle, Given(values, keep), HiddenStates(idle.shape))
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    call = model.call(model.instance(ids, ids > 0))
    out = idle.run(call)
    assert out.hidden.shape == (2, 5, 4)
    torch.testing.assert_close(
        out.hidden, torch.stack([values[0, :2].mean(0), torch.zeros(4)])[:, None].expand(-1, 5, -1)
    )
    plain = prompted(Idle(real.shape, real.device), "frozen", {}, init=None, seed=0)
    assert torch.equal(plain(plain.instance(ids, ids > 0)).hidden, torch.zeros(2, 5, 1))
    assert idle.digest() == idle.fingerprint() == "idle"
    assert (idle.dtype, list(idle.towers(None)), idle.plain(ids).shape) == (torch.float32, [], (2, 5, 4))
    with pytest.raises(BackboneError, match="generates nothing"):
        idle.generate(call, Generation(max_new_tokens=1))
