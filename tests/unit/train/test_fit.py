"""The loop learns, keeps the best, repeats itself, and leaves everything else as it found it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.errors import BackboneError, DataError, SettingError, TrainingError
from promptuary.train.alarms import Alarm
from promptuary.train.evaluation import Pairs, evaluate
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Silent
from promptuary.train.stepper import Stepper
from promptuary.values import Output
from tests.backbones import backbone, fresh
from tests.unit.train.toy import Head, Listed, Toy, numbers, parts, recipe

HELD_OUT = Toy(count=4, seed=9)


def losses(result: Result) -> list[float]:
    return [e["loss"] for e in result.history if e["event"] == "step"]


def names(result: Result) -> list[str]:
    return [alarm.name for alarm in result.alarms]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("name", ["prompt-tuning", "p-tuning-v2", "deep-prompt-tuning", "prefix-tuning"])
def test_a_prompt_learns_and_nothing_is_alarmed(family: str, name: str) -> None:
    model, readout = parts(family, name)
    rate = {"prompt-tuning": 0.3, "p-tuning-v2": 0.2, "deep-prompt-tuning": 0.02, "prefix-tuning": 3e-3}[name]
    result = fit(model, readout, Toy(), HELD_OUT, recipe(rate=rate, epochs=8, scaled=name == "prompt-tuning"))
    found = losses(result)
    assert sum(found[-8:]) < 0.8 * sum(found[:8])
    assert result.scores["accuracy"] > 0.9
    assert result.score == result.scores["accuracy"]
    assert result.alarms == ()


def test_a_prompt_alone_learns_through_a_fixed_head() -> None:
    model, readout = parts("bert", "p-tuning-v2")
    readout.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    readout.requires_grad_(False)
    before = readout.head.weight.clone()
    result = fit(model, readout, Toy(), HELD_OUT, recipe(rate=0.05, scaled=False, epochs=8))
    assert sum(losses(result)[-8:]) < 0.8 * sum(losses(result)[:8])
    assert torch.equal(readout.head.weight, before)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_a_read_out_with_a_rate_of_0_stays_as_it_was_drawn_and_counts_where_gradients_are_clipped(clip: float) -> None:
    """As published with instance-wise prompts (Jiang et al. 2022)."""
    found = {}
    for rate in (0.0, 1e-2):
        model, readout = parts("bert", "ipt-cnn")
        before = numbers(model, readout)
        stepper = Stepper(model, readout, recipe(clip=clip, decay=0.1), 10, {"readout": rate})
        norm = stepper.step(1, [Toy().batch(0)]).norm
        found[rate] = {name: p.grad.clone() for name, p in stepper.named.items() if p.grad is not None}
        stepper.close()
        after = numbers(model, readout)
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        assert ("head.head.weight" in moved) == bool(rate)
        assert any(name.startswith("generator") for name in moved)
        left = math.sqrt(sum(float(g.square().sum()) for g in found[rate].values()))
        assert left == pytest.approx(clip or norm, rel=1e-4)
    assert "readout.head.weight" in found[0.0]
    assert all(torch.equal(found[0.0][name], g) for name, g in found[1e-2].items())


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize(("method", "settings"), [("ipt", {}), ("ipt-lstm", {"buckets": 7}), ("ipt-prefix", {})])
def test_a_table_with_a_rate_of_0_stays_as_it_started_and_all_else_learns(
    method: str, settings: dict[str, int], optimizer: str
) -> None:
    model, readout = parts("bert", method, **settings)
    before = numbers(model, readout)
    r = recipe(epochs=1, decay=0.1, optimizer=optimizer)
    fit(model, readout, Toy(2), None, r, rates={"table.weight": 0.0})
    still = {name for name, p in numbers(model, readout).items() if torch.equal(p, before[name])}
    trained = {name for name, p in (*model.named_parameters(), *readout.named_parameters("head")) if p.requires_grad}
    assert len(still & trained) == 1
    assert all(name.endswith("table.weight") for name in still & trained)


def test_a_model_without_a_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, readout = parts("bert", "p-tuning-v2")
    monkeypatch.setattr(model.backbone, "int8", "dynamic")
    with pytest.raises(SettingError, match="has no gradient"):
        fit(model, readout, Toy(), HELD_OUT, recipe())


def test_adafactor_learns() -> None:
    result = fit(*parts(), Toy(), HELD_OUT, recipe(optimizer="adafactor", clip=0.0, rate=0.3, decay=1e-5, epochs=6))
    assert result.scores["accuracy"] > 0.9


def test_the_model_ends_with_the_best_step_and_that_is_the_earliest_of_equals() -> None:
    scores = iter([0.0, 0.5, 0.9, 0.9, 0.2])  # the first is the rehearsal on one batch

    def measure(_: Pairs) -> Mapping[str, float]:
        return {"accuracy": next(scores)}

    class Copies(Silent):
        kept: dict[int, dict[str, Tensor]] = {}  # noqa: RUF012

        def scored(self, step: int, *_: Any) -> None:
            self.kept[step] = numbers(model, readout)

    model, readout = parts()
    copies = Copies()
    result = fit(model, readout, Toy(), HELD_OUT, recipe(epochs=4), measure=measure, progress=copies)
    assert (result.best_step, result.score, result.steps, result.stopped) == (16, 0.9, 32, False)
    assert all(torch.equal(v, copies.kept[16][k]) for k, v in numbers(model, readout).items())
    assert any(not torch.equal(v, copies.kept[32][k]) for k, v in numbers(model, readout).items())


def test_the_smallest_loss_can_select() -> None:
    result = fit(*parts(), Toy(), HELD_OUT, recipe(epochs=3), metric="loss")
    assert result.score == min(e["loss"] for e in result.history if e["event"] == "scores")


def test_patience_stops_a_run() -> None:
    scores = iter([0.0, 0.5, 0.4, 0.6, 0.6, 0.5, 0.9])
    result = fit(*parts(), Toy(), HELD_OUT, recipe(epochs=9, patience=2), measure=lambda _: {"accuracy": next(scores)})
    assert (result.steps, result.best_step, result.stopped) == (40, 24, True)


def test_without_validation_rows_the_last_step_is_kept() -> None:
    result = fit(*parts(), Toy(), None, recipe(epochs=2))
    assert (result.score, result.scores, result.best_step, result.steps) == (None, {}, 16, 16)
    assert len(losses(result)) == 16


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    runs = [fit(*parts(dropout=0.2), Toy(), None, recipe(epochs=1, dropout=0.2), seed=s) for s in (0, 0, 1)]
    assert losses(runs[0]) == losses(runs[1])
    assert losses(runs[0]) != losses(runs[2])


def test_a_run_leaves_the_caller_s_randomness_and_the_backbone_as_they_were() -> None:
    model, readout = parts(dropout=0.2)
    before, state = model.backbone.digest(), torch.get_rng_state()
    fit(model, readout, Toy(), HELD_OUT, recipe(epochs=1, dropout=0.2))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.backbone.digest() == before
    assert not model.training
    assert not readout.training
    assert not model.backbone.model.training
    assert all(p.grad is None for p in (*model.parameters(), *readout.parameters(), *model.backbone.model.parameters()))


def test_evaluation_draws_no_randomness_and_leaves_modes_as_they_were() -> None:
    b = wrap(fresh("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    for module in b.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model, readout = parts(b=b, dropout=0.5)
    model.train()
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        scores.append(evaluate(model, readout, HELD_OUT).scores)
        assert torch.equal(torch.get_rng_state(), state)
    assert scores[0] == scores[1]
    assert model.training
    assert readout.training
    assert not b.model.training


def test_what_scoring_asks_of_the_model_is_asked_in_the_run_s_precision() -> None:
    seen: list[tuple[bool, bool]] = []

    def measure(_: Pairs) -> Mapping[str, float]:
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return {}

    for precision in ("fp32", "bf16"):
        evaluate(*parts(), HELD_OUT, measure=measure, precision=precision)
    assert seen == [(False, False), (True, False)]


def test_a_frozen_model_s_own_dropout_is_on_while_stepping_only() -> None:
    b = wrap(fresh("bert"))
    for module in b.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    modes: list[bool] = []
    b.model.register_forward_hook(lambda *_: None)
    hook = b.model.base_model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    result = fit(*parts(b=b), Toy(count=2), Toy(count=1, seed=9), recipe(epochs=1))
    hook.remove()
    assert modes[:4] == [False, True, True, False]  # rehearsal, two steps, scoring
    assert losses(result) != losses(fit(*parts(), Toy(count=2), None, recipe(epochs=1)))


def halved(batch: Batch) -> list[Batch]:
    """A batch as two, of unequal size."""

    def part(rows: slice) -> Batch:
        return replace(batch, **{k: v[rows] for k, v in vars(batch).items() if isinstance(v, Tensor)})

    return [part(slice(0, 3)), part(slice(3, None))]


@pytest.mark.parametrize(
    ("family", "name", "settings"),
    [("bert", "prompt-tuning", {}), ("gpt2", "prompt-tuning", {}), ("bert", "dp-vector", {"entropy": 0.5})],
    ids=str,
)
def test_two_part_batches_accumulated_are_one_whole_batch(family: str, name: str, settings: dict[str, Any]) -> None:
    whole = list(Toy(count=4).epoch(0))
    split = [half for batch in whole for half in halved(batch)]
    one, two = parts(family, name, **settings), parts(family, name, **settings)
    a = fit(*one, Listed(whole), None, recipe(epochs=2))
    b = fit(*two, Listed(split), None, recipe(epochs=2, accumulation=2))
    assert losses(b) == pytest.approx(losses(a), abs=1e-5)
    wanted, found = numbers(*one), numbers(*two)
    assert all(torch.allclose(found[k], wanted[k], atol=1e-4) for k in wanted)
    assert a.history[-1]["rows"] == b.history[-1]["rows"] == 64


@pytest.mark.parametrize("name", ["prompt-tuning", "p-tuning-v2"])
def test_recomputing_activations_changes_nothing_and_is_off_afterwards(name: str) -> None:
    b = wrap(fresh("bert"))
    runs = [fit(*parts(name=name, b=b), Toy(), None, recipe(epochs=1, checkpointing=c)) for c in (True, False, True)]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-5)
    assert losses(runs[0]) == losses(runs[2])
    assert not any(layer.gradient_checkpointing for layer in b.attachment.layers)


def test_a_family_that_cannot_recompute_says_so() -> None:
    with pytest.raises(BackboneError, match="gradient checkpointing"):
        fit(*parts("albert"), Toy(), None, recipe(checkpointing=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_learns_and_prompts_stay_in_full_precision(dtype: torch.dtype) -> None:
    model, readout = parts(b=backbone("bert", dtype=dtype))
    result = fit(model, readout, Toy(), HELD_OUT, recipe(epochs=6, precision="bf16"))
    assert result.scores["accuracy"] > 0.9
    assert {p.dtype for p in (*model.parameters(), *readout.parameters())} == {torch.float32}
    assert losses(result) != losses(fit(*parts(), Toy(), None, recipe(epochs=6)))


class Broken(Head):
    """A head whose loss is no number from a step on."""

    def __init__(self, classes: int, dim: int, at: int, value: float) -> None:
        super().__init__(classes, dim)
        self.left, self.value = at, value

    def loss(self, out: Output, batch: Batch) -> Tensor:
        self.left -= 1
        loss = super().loss(out, batch)
        return loss if self.left else loss * self.value


@pytest.mark.parametrize(("value", "what"), [(math.nan, "the loss is nan"), (math.inf, "the loss is inf")])
def test_a_loss_that_is_no_number_stops_before_it_is_applied(value: float, what: str) -> None:
    model, _ = parts()
    readout = Broken(2, model.backbone.shape.output, 3, value)
    moved: list[dict[str, Tensor]] = []

    class Copies(Silent):
        def stepped(self, *_: Any) -> None:
            moved.append(numbers(model, readout))

    with pytest.raises(TrainingError, match=rf"Step 3: {what}, at the learning rates prompt .*rate=0\.03"):
        fit(model, readout, Toy(), None, recipe(), progress=Copies())
    assert len(moved) == 2
    assert all(torch.equal(v, moved[-1][k]) for k, v in numbers(model, readout).items())
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_no_number_stops_too() -> None:
    model, readout = parts()
    model.generator.table.register_hook(lambda g: g * math.nan)
    with pytest.raises(TrainingError, match="Step 1: the gradient's norm is nan"):
        fit(model, readout, Toy(), None, recipe())


def test_a_backbone_that_changes_is_noticed() -> None:
    class Writes(Head):
        def loss(self, out: Output, batch: Batch) -> Tensor:
            next(iter(b.model.parameters())).data += 1e-3
            return super().loss(out, batch)

    b = wrap(fresh("bert"))
    model, _ = parts(b=b)
    with pytest.raises(TrainingError, match="weights of 'custom' changed"):
        fit(model, Writes(2, b.shape.output), Toy(), None, recipe(epochs=1))
    fit(model, Writes(2, b.shape.output), Toy(), None, recipe(epochs=1), audit=False)


def test_short_memory_says_what_to_change() -> None:
    class Large(Head):
        def loss(self, out: Output, batch: Batch) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    model, _ = parts()
    with pytest.raises(TrainingError, match=r"8 rows of 8 tokens. Halve batch \(now 8\) and double accumulation"):
        fit(model, Large(2, model.backbone.shape.output), Toy(), None, recipe())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"save_every": 0}, "save_every=0"),
        ({"rates": {"prompt.generatr": 0.1}}, "no trained tensor"),
        ({"settings": {"init": object()}}, "settings: "),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_first_step(arguments: dict[str, Any], sentence: str) -> None:
    class Never(Silent):
        def stepped(self, *_: Any) -> None:
            raise AssertionError("a step was made")

    with pytest.raises(SettingError, match=sentence):
        fit(*parts(), Toy(), HELD_OUT, recipe(), progress=Never(), **arguments)


def test_a_model_with_another_dropout_than_the_recipe_is_refused() -> None:
    with pytest.raises(SettingError, match=r"dropout=0\.1.*dropout=0\.0.*Write SoftPrompted"):
        fit(*parts(), Toy(), None, recipe(dropout=0.1))


def test_validation_rows_must_exist_and_have_labels() -> None:
    with pytest.raises(SettingError, match="validation set has no batches"):
        fit(*parts(), Toy(), Listed([]), recipe())
    batch = Toy().batch(0)

    class Unlabelled(Head):
        def loss(self, out: Output, batch: Batch) -> Tensor:
            return super().loss(out, replace(batch, labels=torch.zeros(len(batch.ids), dtype=torch.long)))

    model, _ = parts()
    unknown = Listed([replace(batch, labels=torch.full((8,), -1))])
    with pytest.raises(DataError, match="without a label"):
        fit(model, Unlabelled(2, model.backbone.shape.output), Toy(), unknown, recipe())


def test_only_the_generators_of_the_run_s_own_device_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_gpu(seed: int) -> None:
        raise AssertionError("a run on the CPU seeds the GPUs")

    model, readout = parts()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", every_gpu)  # by which torch.manual_seed reaches them
    fit(model, readout, Toy(), HELD_OUT, recipe(epochs=1))


def test_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="started in 2"):
        fit(*parts(), Toy(), None, recipe())


def test_a_run_leaves_the_process_free_for_a_caller_s_own_accelerator() -> None:
    AcceleratorState._reset_state(True)
    try:
        fit(*parts(), Toy(), None, recipe(epochs=1))
        Accelerator(mixed_precision="bf16", cpu=True)  # refused where the process has one of another precision
    finally:
        AcceleratorState._reset_state(True)


def test_what_a_caller_set_of_accelerate_bears_on_no_step_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm() -> float:
        stepper = Stepper(*parts(), recipe(), 10)
        found = stepper.step(1, [Toy().batch(0)]).norm
        stepper.close()
        return found

    AcceleratorState._reset_state(True)
    try:
        alone = norm()
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # as `accelerate launch` does
        assert norm() == alone
        monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
        own = Accelerator(gradient_accumulation_steps=8, cpu=True)
        assert norm() == alone
        assert own.gradient_accumulation_steps == 8
    finally:
        AcceleratorState._reset_state(True)


class Deaf(Head):
    """Hears nothing: its scores do not depend on the model."""

    def scores(self, out: Output, batch: Batch) -> Tensor:
        return super().scores(replace(out, hidden=torch.zeros_like(out.hidden)), batch)


def test_a_run_that_learns_nothing_is_alarmed() -> None:
    model, _ = parts()
    result = fit(model, Deaf(2, model.backbone.shape.output), Toy(), HELD_OUT, recipe(epochs=4))
    assert {"majority", "still", "dead"} <= set(names(result))
    assert [e["name"] for e in result.history if e["event"] == "alarm"] == names(result)
    dead = next(alarm for alarm in result.alarms if alarm.name == "dead")
    assert "prompt.generator.table" in dead.sentence


@pytest.mark.parametrize("chosen", [["decoder"], ["encoder", "decoder", "cross"]])
def test_prefixes_that_the_read_out_never_reads_are_alarmed(chosen: list[str]) -> None:
    model, readout = parts("t5", "p-tuning-v2", parts=chosen)
    result = fit(model, readout, Toy(), HELD_OUT, recipe(rate=0.02, scaled=False, epochs=1))
    assert "dead" in names(result)


def test_a_saturated_network_is_alarmed() -> None:
    model, readout = parts("bert", "prefix-tuning")
    assert "saturated" in names(fit(model, readout, Toy(), None, recipe(rate=3.0, scaled=False, epochs=1)))


def test_the_majority_alarm_names_the_label() -> None:
    model, _ = parts()
    readout = Deaf(2, model.backbone.shape.output)
    result = fit(model, readout, Toy(), HELD_OUT, recipe(epochs=1), names={"toy": ("late", "lost")})
    (alarm,) = [alarm for alarm in result.alarms if alarm.name == "majority"]
    assert "always answering 'late'" in alarm.sentence


def test_the_paper_s_rate_on_a_small_embedding_table_is_alarmed() -> None:
    model, readout = parts()
    r = recipe(optimizer="adafactor", clip=0.0, rate=3.0, scaled=False, warmup=0.0, epochs=1)
    assert "leap" in names(fit(model, readout, Toy(), HELD_OUT, r))


def test_progress_is_told_everything() -> None:
    @dataclass
    class Log:
        said: list[tuple[Any, ...]]

        def begin(self, total: int, done: int) -> None:
            self.said.append(("begin", total, done))

        def stepped(self, step: int, loss: float) -> None:
            self.said.append(("stepped", step))

        def scored(self, step: int, scores: Mapping[str, float], metric: str, best: bool) -> None:
            self.said.append(("scored", step, best))

        def alarmed(self, alarm: Alarm) -> None:
            self.said.append(("alarmed", alarm.name))

        def end(self) -> None:
            self.said.append(("end",))

    log = Log([])
    model, _ = parts()
    fit(model, Deaf(2, model.backbone.shape.output), Toy(count=2), Toy(count=1, seed=9), recipe(epochs=1), progress=log)
    assert log.said[:4] == [("begin", 2, 0), ("stepped", 1), ("stepped", 2), ("scored", 2, True)]
    assert ("alarmed", "majority") in log.said
    assert log.said[-1] == ("end",)


def test_validation_is_scored_so_often_an_epoch() -> None:
    result = fit(*parts(), Toy(), HELD_OUT, recipe(epochs=2, evaluations=4))
    assert [e["step"] for e in result.history if e["event"] == "scores"] == [2, 4, 6, 8, 10, 12, 14, 16]


def test_epochs_ask_for_their_own_batches() -> None:
    data = Toy()
    fit(*parts(), data, None, recipe(epochs=3))
    assert [n for n in data.asked if n] == [1, 2]


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    for family in ("bert", "gpt2"):
        assert not backbone(family).model.training
