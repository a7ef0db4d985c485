"""A run is described by names and values; what is not known or of the wrong type is answered with what is."""

from pathlib import Path

import pytest

from promptuary.errors import SettingError
from promptuary.methods import METHODS
from promptuary.specs import Run, merged, parse_settings, read_run
from promptuary.train.recipe import FIELDS
from promptuary.train.schedule import factor, plan


def test_defaults_are_a_whole_run() -> None:
    run = Run(train="a", out="b")
    assert (run.method, run.seeds, run.metric) == ("p-tuning-v2", (0,), "accuracy")
    assert run.full_recipe() == METHODS["p-tuning-v2"].recipe


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"metod": "frozen"}, "no setting 'metod'. Did you mean 'method'?"),
        ({"train": 3}, r"'train': input should be a valid string \(given: 3\)"),
        ({"holdout": 1.0}, "'holdout': input should be less than 1"),
        ({"seeds": ()}, "'seeds'"),
        ({"seeds": (1, 1)}, "'seeds': .* names one twice"),
        ({"seeds": (2**63,)}, "'seeds.0'"),
        ({"readout": "x"}, "'readout': input should be 'auto'"),
        ({"max_length": 0}, "'max_length'"),
        ({"settings": 3}, "'settings'"),
        ({"settings": 3, "method": "prompt-tuning", "preset": "paper"}, "'settings'"),
        ({"preset": 3, "method": "prompt-tuning"}, "no preset '3'"),
        ({"preset": "paper", "method": "promt-tuning"}, "no method 'promt-tuning'"),
        ({"z_loss": -1.0}, "'z_loss'"),
        ({"words": {"a": 3}}, "'words"),
    ],
)
def test_a_field_that_cannot_be_is_named(values: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        Run(**{"train": "a", "out": "b", **values})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingError, match=r"'out' is missing. Write --out NAME on the command line, or out = "):
        Run(train="a")


def test_a_recipe_takes_presets_and_single_fields() -> None:
    paper = METHODS["prompt-tuning"].presets["paper"].recipe
    run = Run(train="a", out="b", method="prompt-tuning", preset="paper", recipe={"rate": 0.1})
    assert run.full_recipe().rate == 0.1
    assert run.full_recipe().steps == paper.steps
    fewer = Run(train="a", out="b", method="prompt-tuning", preset="paper", recipe={"epochs": 3}).full_recipe()
    assert (fewer.epochs, fewer.steps) == (3, 0)
    both = Run(train="a", out="b", method="prompt-tuning", recipe={"epochs": 3, "steps": 7}).full_recipe()
    assert (both.epochs, both.steps) == (3, 7)


PRESETS = [(name, preset) for name, m in METHODS.items() for preset in m.presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_says_what_its_method_and_a_run_know(name: str, preset: str) -> None:
    found = METHODS[name].presets[preset]
    assert found.summary
    assert set(found.run) <= set(Run.model_fields) - {"backbone", "train", "validation", "method", "settings", "out"}
    run = Run(train="a", out="b", method=name, preset=preset)
    run.check_settings()
    assert {key: getattr(run, key) for key in found.run} == found.run
    assert run.settings == found.settings
    assert run.full_recipe() == found.recipe


# Lester et al. 2021, section 3 and the published configuration: length, start, optimizer, and what the frozen T5 keeps.
LESTER = {
    "settings": {"length": 100}, "init": "labels", "readout": "text", "dropout": True, "z_loss": 1e-4,
}  # fmt: skip
# Liu et al. 2022, the published script for RTE on BERT-large.
RTE = {"settings": {"length": 20}, "readout": "classifier", "pool": "first", "max_length": 128, "dropout": True}


def test_a_paper_is_the_whole_set_up() -> None:
    run = Run(train="a", out="b", method="prompt-tuning", preset="paper")
    assert {name: getattr(run, name) for name in LESTER} == LESTER
    recipe = run.full_recipe()
    assert (recipe.optimizer, recipe.rate, recipe.scaled, recipe.schedule) == ("adafactor", 0.3, False, "constant")
    assert (recipe.decay, recipe.batch, recipe.steps, recipe.precision) == (1e-5, 32, 30_000, "bf16")
    run = Run(train="a", out="b", method="p-tuning-v2", preset="paper-rte")
    assert {name: getattr(run, name) for name in RTE} == RTE
    recipe = run.full_recipe()
    assert (recipe.rate, recipe.dropout, recipe.batch, recipe.epochs, recipe.decay) == (1e-2, 0.1, 32, 60, 0.0)


# Jiang et al. 2022, the published configuration of RTE.
JIANG = {
    "settings": {"length": 100}, "init": "uniform", "readout": "classifier", "pool": "first", "max_length": 384,
    "dropout": True,
}  # fmt: skip


@pytest.mark.parametrize("name", ["ipt", "ipt-cnn", "ipt-mlp", "ipt-lstm", "ipt-prefix"])
def test_the_published_run_of_an_instances_prompt_has_its_rate_at_every_step(name: str) -> None:
    run = Run(train="a", out="b", method=name, preset="paper")
    assert {key: getattr(run, key) for key in JIANG} == JIANG
    recipe = run.full_recipe()
    assert (recipe.optimizer, recipe.rate, recipe.scaled, recipe.decay) == ("adamw", 0.03, False, 0.0)
    assert (recipe.batch * recipe.accumulation, recipe.epochs, recipe.clip) == (64, 100, 1.0)
    made = plan(recipe, 77)  # of 32 rows each: 2,490 of RTE
    assert made.total == 3900
    for step in range(1, made.total + 1):
        published = step / 2000 if step <= 2000 else (200_000 - step) / 198_000
        assert factor(recipe, step, made.total) == pytest.approx(published, abs=0.01)


STATED: dict[str, object] = {
    "settings": {"length": 7, "head": 1}, "init": "random", "readout": "classifier", "dropout": False, "z_loss": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_what_is_stated_wins_over_a_preset(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[run]\ntrain = 'a'\nout = 'b'\npreset = 'paper'\n", encoding="utf-8")
    for stated in ({"method": "prompt-tuning", name: STATED[name]}, {"method": "prompt-tuning", **STATED}):
        run = read_run(tmp_path / "run.toml", stated)
        expected = {**LESTER, **stated}
        assert {key: getattr(run, key) for key in expected} == expected


def test_rates_that_are_stated_leave_the_others_of_a_preset() -> None:
    for rates in ({"readout": 0.0}, {"generators.1": 0.5}, {}):
        run = Run(train="a", out="b", method="ipt-prefix", preset="paper", rates=rates)
        assert run.rates == {"generators.1": 0.03, **rates}


def test_a_setting_that_is_stated_leaves_the_others_of_a_preset() -> None:
    settings = {"middle": 16}
    run = Run(train="a", out="b", method="prefix-tuning", preset="paper-xsum", settings=settings)
    assert run.settings == {"length": 200, "middle": 16}
    words = {"yes": "sure", "no": "never"}
    assert Run(train="a", out="b", method="p-tuning", preset="rte-few-shot-frozen", words=words).words == words


def test_a_preset_leaves_out_what_a_kind_of_task_has_not() -> None:
    run = Run(train="a", out="b", task="tagging", method="p-tuning-v2", preset="paper-rte")
    assert (run.readout, run.pool, run.max_length, run.settings) == ("auto", "auto", 128, {"length": 20})


@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        ("prompt-tuning", {"preset": "papr"}, "no preset 'papr'. Did you mean 'paper'?"),
        ("frozen", {"preset": "paper"}, "has no presets"),
        ("frozen", {"recipe": {"rat": 1}}, "no field 'rat'. Did you mean 'rate'?"),
        ("frozen", {"recipe": {"epochs": 1.5}}, "'epochs': input should be a valid integer"),
        ("frozen", {"recipe": {"epochs": True}}, "'epochs'"),
        ("frozen", {"recipe": {"rate": "1"}}, "'rate'"),
        ("frozen", {"recipe": {"rate": float("nan")}}, "'rate'"),
        ("frozen", {"recipe": {"optimizer": "sgd"}}, "'optimizer': input should be 'adamw' or 'adafactor'"),
        ("frozen", {"recipe": {"warmup": 1.0}}, "warmup=1.0"),
        ("nosuch", {}, "no method 'nosuch'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(method: str, values: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        Run(**{"train": "a", "out": "b", "method": method, **values}).full_recipe()  # type: ignore[arg-type]


def test_whole_numbers_are_rates_too() -> None:
    assert Run(train="a", out="b", recipe={"rate": 1}).full_recipe().rate == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_defaults_and_nothing_else(name: str) -> None:
    known = METHODS[name].settings()
    Run(train="a", out="b", method=name, settings=known).check_settings()
    for odd in ("lenght", "seed", "init", "shape"):
        with pytest.raises(SettingError, match=f"has no setting '{odd}'"):
            Run(train="a", out="b", method=name, settings={odd: 3}).check_settings()
    for own in known:
        with pytest.raises(SettingError, match=f"'{own}'"):
            Run(train="a", out="b", method=name, settings={own: [{"of": "no use"}]}).check_settings()


def test_pairs_become_settings_and_fields() -> None:
    pairs = ["length=5", "parts=['encoder']", "rate = 1e-3", "encoder=mlp", "optimizer=adafactor", "template=true"]
    pairs += ["rates.choice=3e-3", "rates.prompt.generator = 1"]
    own, recipe, rates = parse_settings(pairs)
    assert own == {"length": 5, "parts": ["encoder"], "encoder": "mlp", "template": True}
    assert recipe == {"rate": 1e-3, "optimizer": "adafactor"}
    assert rates == {"choice": 3e-3, "prompt.generator": 1}
    assert parse_settings([]) == ({}, {}, {})


def test_no_name_is_both_a_setting_and_a_field() -> None:
    assert not {name for m in METHODS.values() for name in m.settings()} & set(FIELDS)


@pytest.mark.parametrize("pair", ["length", "=5", " = 5"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(SettingError, match="NAME=VALUE"):
        parse_settings([pair])


def test_an_unknown_pair_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"'epoch'\. Did you mean 'epochs'"):
        parse_settings(["epoch=3"])


def test_tables_merge_key_by_key() -> None:
    assert merged({"a": 1, "t": {"x": 1, "y": 2}}, {"b": 2, "t": {"y": 3}}) == {"a": 1, "b": 2, "t": {"x": 1, "y": 3}}
    assert merged({"t": {"x": 1}}, {"t": 3}) == {"t": 3}


def test_a_file_is_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "[run]\ntrain = 'a'\nout = 'b'\n[run.words]\ngood = ['fine']\n[method]\nlength = 3\n", encoding="utf-8"
    )
    run = read_run(path, {"out": "c", "settings": {"head": 1}})
    assert (run.out, run.settings, run.words) == ("c", {"length": 3, "head": 1}, {"good": ["fine"]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[rum]", "no table .rum.. Did you mean 'run'"),
        ("recipe = 3", "recipe is 3. Expected a table .recipe."),
        ("[run", "is not TOML"),
        ("[run]\nsettings = 3\ntrain = 'a'\nout = 'b'", "'settings'"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=expected):
        read_run(tmp_path / "run.toml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"[run]\ntrain = '\xe9'\n")
    with pytest.raises(SettingError, match="is not TOML"):
        read_run(tmp_path / "run.toml")
    with pytest.raises(SettingError, match="No such file"):
        read_run(tmp_path / "nosuch.toml")
