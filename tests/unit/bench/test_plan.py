"""A plan is looked at as a whole before anything runs, and says what is wrong with it."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from promptuary.bench.contenders import CONTENDERS
from promptuary.bench.duration import seconds
from promptuary.bench.jobs import jobs
from promptuary.bench.plan import Plan, read
from promptuary.bench.space import Range, draws
from promptuary.errors import SettingError
from promptuary.methods import METHODS

GOOD = """
name = "main"
methods = ["majority", "frozen", "prompt-tuning"]
seeds = [0, 1]

[budget]
epochs = 4

[search]
trials = 3

[search.space.prompt-tuning]
rate = {low = 0.1, high = 1.0, log = true}
length = [5, 20]

[tasks.sst2]
task = "sst2/classifier"
budget = {epochs = 3}

[tasks.mine]
train = "mine.csv"
selection = 0.2
report = "test.csv"
text = "body"

[regimes.full]
rows = 2000

[regimes.few]
each = 16
tasks = ["sst2"]
budget = {epochs = 40, batch = 8}
"""


def made(text: str, folder: Path) -> Plan:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)


def test_a_plan_is_its_file(tmp_path: Path) -> None:
    plan = made(GOOD, tmp_path)
    assert plan.budget_of("sst2", "full", "minilm").epochs == 3
    assert plan.budget_of("mine", "full", "minilm").epochs == 4
    assert plan.budget_of("sst2", "few", "minilm").model_dump() == {
        "epochs": 40, "steps": 0, "batch": 8, "evaluations": 1, "precision": "fp32",
    }  # fmt: skip
    assert plan.run("mine").text == "body"
    assert plan.run("sst2").train == "task:sst2/classifier/train"


def test_every_method_has_as_many_trials_and_the_first_is_its_default(tmp_path: Path) -> None:
    plan = made(GOOD, tmp_path)
    assert plan.trials("majority") == [{}]
    for method in ("frozen", "prompt-tuning"):
        found = plan.trials(method)
        assert len(found) == 3
        assert found[0] == {}
        assert found == plan.trials(method)
    assert {trial["head_rate"] for trial in plan.trials("frozen")[1:]} == {0.03, 0.00333}
    for trial in plan.trials("prompt-tuning")[1:]:
        assert 0.1 <= trial["rate"] <= 1.0
        assert trial["length"] in (5, 20)


VARIANTS = """
[variants."prompt-tuning@7"]
of = "prompt-tuning"
settings = {length = 7}

[variants.slow]
of = "frozen"
settings = {head_rate = 0.001}

[tasks.sst2]
"""


def test_a_variant_is_a_method_with_settings_that_no_trial_changes(tmp_path: Path) -> None:
    text = GOOD.replace("[tasks.sst2]", VARIANTS).replace(
        '"prompt-tuning"]', '"prompt-tuning", "prompt-tuning@7", "slow"]'
    )
    plan = made(text, tmp_path)
    assert plan.space("prompt-tuning@7") == {"rate": plan.space("prompt-tuning")["rate"]}
    assert plan.contender("prompt-tuning@7") is plan.contender("prompt-tuning")
    found = plan.trials("prompt-tuning@7")
    assert found[0] == {"length": 7}
    assert len({trial["rate"] for trial in found[1:]}) == 2
    assert {trial["length"] for trial in found} == {7}
    assert plan.trials("slow") == [{"head_rate": 0.001}]  # all that a search would change is set
    names = {job.about["method"] for job in jobs(plan)}
    assert {"prompt-tuning", "prompt-tuning@7", "slow"} <= names
    other = made(text.replace("length = 7", "length = 8"), tmp_path)
    changed = {job.about["method"] for job in jobs(other) if job.name not in {old.name for old in jobs(plan)}}
    assert changed == {"prompt-tuning@7"}
    plain = text.replace("trials = 3", "trials = 1")
    one, two = (made(plain.replace('of = "frozen"', f'of = "{of}"'), tmp_path) for of in ("frozen", "ipt"))
    assert one.trials("slow") == two.trials("slow")
    of_slow = [{job.name for job in jobs(p) if job.about["method"] == "slow"} for p in (one, two)]
    assert not of_slow[0] & of_slow[1]  # what was found under another method is not taken over
    searched = made(text.replace("[search.space.prompt-tuning]", '[search.space."prompt-tuning@7"]'), tmp_path)
    assert set(searched.space("prompt-tuning@7")) == {"rate"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("length = 7", "lenght = 7", "'prompt-tuning' has no setting 'lenght'. Did you mean 'length'?"),
        ('of = "frozen"', 'of = "frosen"', "There is no method 'frosen' to compare. Did you mean 'frozen'?"),
        ("[variants.slow]", "[variants.lora]", "Variant 'lora' has the name of a method. Give it one of its own."),
        ('"slow"]', '"slo"]', "There is no method 'slo' to compare. Did you mean 'slow'?"),
    ],
)
def test_a_variant_that_cannot_be_is_told(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = GOOD.replace("[tasks.sst2]", VARIANTS).replace(
        '"prompt-tuning"]', '"prompt-tuning", "prompt-tuning@7", "slow"]'
    )
    with pytest.raises(SettingError, match=re.escape(said)):
        made(text.replace(old, new), tmp_path)


PUBLISHED = """
[variants.published]
of = "ipt"
preset = "paper"
settings = {length = 8}

[tasks.sst2]
"""


def test_a_variant_with_a_preset_is_the_published_set_up_and_nothing_is_searched(tmp_path: Path) -> None:
    text = GOOD.replace("[tasks.sst2]", PUBLISHED).replace('"prompt-tuning"]', '"prompt-tuning", "ipt", "published"]')
    plan = made(text, tmp_path)
    assert plan.trials("published") == [{"preset": "paper", "length": 8}]
    assert len(plan.trials("ipt")) == 3
    space = "[search.space.published]\nrate = [0.01, 0.03, 0.05]\n[search.space.prompt-tuning]"
    searched = made(text.replace("[search.space.prompt-tuning]", space), tmp_path).trials("published")
    assert [trial.get("rate") for trial in searched[:1]] == [None]
    assert {trial["rate"] for trial in searched[1:]} == {0.01, 0.05}  # 0.03 is the preset's own, tried first
    names = {job.name for job in jobs(plan)}
    plain = made(text.replace('preset = "paper"\n', ""), tmp_path)
    assert {j.about["method"] for j in jobs(plain) if j.name not in names} == {"published"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('preset = "paper"', 'preset = "papr"', "Method 'ipt' has no preset 'papr'. Did you mean 'paper'?"),
        ('of = "ipt"', 'of = "smop"', "Method 'smop' has no presets; leave it out."),
        ('of = "ipt"', 'of = "majority"', "'majority' has no settings to search: leave out 'preset'."),
        ('preset = "paper"', 'presets = "paper"', "there is no key 'presets'. Did you mean 'preset'?"),
    ],
)
def test_a_preset_that_is_not_there_is_told(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = GOOD.replace("[tasks.sst2]", PUBLISHED).replace('"prompt-tuning"]', '"prompt-tuning", "ipt", "published"]')
    with pytest.raises(SettingError, match=re.escape(said)):
        made(text.replace(old, new), tmp_path)


def test_epochs_that_are_stated_further_in_win_over_steps(tmp_path: Path) -> None:
    plan = made(GOOD.replace("epochs = 4\n", "steps = 1200\n"), tmp_path)
    found = {task: plan.budget_of(task, "full", "minilm").recipe() for task in ("sst2", "mine")}
    assert (found["mine"]["steps"], "epochs" in found["mine"]) == (1200, False)
    assert (found["sst2"]["steps"], found["sst2"]["epochs"]) == (0, 3)
    assert plan.budget_of("sst2", "few", "minilm").epochs == 40


def test_a_backbone_may_have_a_budget_of_its_own_and_tasks_and_regimes_win_over_it(tmp_path: Path) -> None:
    both = 'backbones = ["minilm", "ladder-1m"]\n' + GOOD
    text = both + '\n[budgets.ladder-1m]\nbatch = 16\nprecision = "bf16"\nepochs = 9\n'
    plan, plain = made(text, tmp_path), made(both, tmp_path)
    small, usual, few = (
        plan.budget_of("mine", "full", "ladder-1m"), plan.budget_of("mine", "full", "minilm"),
        plan.budget_of("sst2", "few", "ladder-1m"),
    )  # fmt: skip
    assert (small.batch, small.precision, small.epochs) == (16, "bf16", 9)
    assert usual == plain.budget_of("mine", "full", "minilm")
    assert (few.batch, few.precision, few.epochs) == (8, "bf16", 40)
    names = [{job.name for job in jobs(one) if job.about["backbone"] == "minilm"} for one in (plan, plain)]
    assert names[0] == names[1]
    assert {job.name for job in jobs(plan)} != {job.name for job in jobs(plain)}
    with pytest.raises(SettingError, match=re.escape("Budgets 'ladder-1': there is no backbone 'ladder-1'. Did you")):
        made(text.replace("[budgets.ladder-1m]", "[budgets.ladder-1]"), tmp_path)
    with pytest.raises(SettingError, match=re.escape("[budgets.ladder-1m] has epochs = 9 and steps = 5.")):
        made(text.replace("batch = 16", "steps = 5"), tmp_path)


def test_a_budget_is_in_epochs_or_in_steps(tmp_path: Path) -> None:
    text = GOOD.replace("epochs = 40", "epochs = 40, steps = 160")
    assert text != GOOD
    with pytest.raises(SettingError, match=re.escape("[regimes.few.budget] has epochs = 40 and steps = 160.")):
        made(text, tmp_path)


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ({"report": "mine.csv"}, "the rows that report, 'mine.csv', also teach"),
        ({"selection": "test.csv"}, "the rows that report, 'test.csv', also select"),
        ({"selection": "test.csv", "report": "test.csv"}, "write report = other rows, or selection = 0.1"),
    ],
)
def test_rows_that_report_neither_teach_nor_select(mine: dict[str, str], said: str, tmp_path: Path) -> None:
    task = {"train": "mine.csv", "selection": 0.2, "report": "test.csv", "text": "body", **mine}
    with pytest.raises(SettingError, match=re.escape(said)):
        Plan(name="mine", methods=("majority",), against="majority", tasks={"mine": task})


def test_the_split_that_selects_by_default_does_not_report(tmp_path: Path) -> None:
    reporting = {"task": "rte/classifier", "report": "task:rte/classifier/validation"}
    given: dict[str, Any] = {"name": "mine", "methods": ("majority",), "against": "majority"}
    with pytest.raises(SettingError, match="'task:rte/classifier/validation', also select"):
        Plan(**given, tasks={"rte": reporting})
    Plan(**given, tasks={"rte": {**reporting, "selection": 0.1}})
    Plan(**given, tasks={"rte": reporting}, regimes={"few": {"each": 16}})  # which draws both from those that teach


def test_a_share_that_is_none_is_told(tmp_path: Path) -> None:
    text = GOOD + '\n[tasks.third]\ntask = "mr/classifier"\nselection = 60\n'
    with pytest.raises(SettingError, match="selection = 60: expected a share of the training rows"):
        made(text, tmp_path)


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        ('frozen = "prompt-tunin"', "Rivals 'frozen = prompt-tunin': there is no method 'prompt-tunin'"),
        ('lora = "frozen"', "Rivals 'lora = frozen': there is no method 'lora'."),
        ('frozen = "frozen"', "Rivals: 'frozen' is held against itself."),
    ],
)
def test_rivals_compete(rivals: str, said: str, tmp_path: Path) -> None:
    text = GOOD.replace("[tasks.sst2]", f"[rivals]\n{rivals}\n\n[tasks.sst2]")
    with pytest.raises(SettingError, match=re.escape(said)):
        made(text, tmp_path)


def test_the_jobs_are_all_cells_seed_by_seed_with_their_searches_first(tmp_path: Path) -> None:
    found = jobs(made(GOOD, tmp_path))
    assert len({job.name for job in found}) == len(found)
    cells = [(j.about["regime"], j.about["task"], j.about["method"], j.about["seed"]) for j in found if j.final]
    places = [("full", "sst2"), ("full", "mine"), ("few", "sst2")]
    methods = ("majority", "frozen", "prompt-tuning")
    first = [(*place, method, 0) for place in places for method in methods]
    second = [(*p, m, 1) for p in places for m in methods if m != "majority" or p[0] == "few"]
    assert cells == first + second
    assert sum(not job.final for job in found) == 3 * (1 + 3 + 3)
    for place, job in enumerate(found):
        if job.final:
            searches = [i for i, other in enumerate(found) if other.search == job.search and not other.final]
            assert searches
            assert max(searches) < place


def test_with_each_seed_every_cell_has_a_search_of_its_own(tmp_path: Path) -> None:
    plan = made(GOOD.replace("trials = 3", "trials = 3\neach_seed = true"), tmp_path)
    finals = [job for job in jobs(plan) if job.final]
    assert len({job.search for job in finals}) == len(finals)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds =", "seed =", "A plan: there is no key 'seed'. Did you mean 'seeds'?"),
        ("epochs = 4\n", "epoch = 4\n", "there is no key 'epoch'. Did you mean 'epochs'?"),
        ("trials = 3", "trial = 3", "there is no key 'trial'. Did you mean 'trials'?"),
        ('text = "body"', 'texts = "body"', "there is no key 'texts'. Did you mean 'text'?"),
        ('"frozen", ', '"frosen", ', "There is no method 'frosen' to compare. Did you mean 'frozen'?"),
        ('tasks = ["sst2"]', 'tasks = ["sst"]', "Regime 'few': there is no task 'sst'. Did you mean 'sst2'?"),
        ("length = [5, 20]", "lenght = [5, 20]", "has no setting 'lenght'. Did you mean 'length'?"),
        ("length = [5, 20]", 'length = ["5", 20]', "Setting 'length'"),
        ("length = [5, 20]", "length = [5, 2.5]", "Setting 'length'"),
        ("low = 0.1", "low = -0.1", "expected low above 0 and below high"),
        ("length = [5, 20]", "batch = [5, 20]", "'batch' is what a run may spend, the same for all methods"),
        ("rows = 2000", "rows = 2000\neach = 5", "A regime has rows=2000 and each=5. Write one of them."),
        ("rows = 2000", "rows = 0", "regimes.full.rows"),
        ("low = 0.1", "low = 2.0", "expected low above 0 and below high"),
        ("budget = {epochs = 3}", "budget = {epochs = -3}", "Budget 'epochs'"),
        ('"sst2/classifier"', '"sst2/classifer"', "Did you mean 'classifier'?"),
        ('report = "test.csv"', "", 'must say where its rows are. Write report = "FILE".'),
        ("trials = 3", "trials = 4", "the space of 'frozen' has only 2 settings beside the default. Every method must"),
        ('name = "main"', 'name = "main"\nagainst = "frosen"', "There is no method 'frosen'"),
        ("[regimes.full]", '[[transfers]]\nfrom = "sst2"\nto = "m"\n[regimes.full]', "there is no task 'm'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_told_with_the_nearest_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(SettingError) as told:
        made(GOOD.replace(old, new), tmp_path)
    assert said in str(told.value)
    assert str(told.value).startswith(str(tmp_path / "plan.toml"))


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"gone\.toml: No such file"):
        read(tmp_path / "gone.toml")
    with pytest.raises(SettingError, match="is not TOML"):
        made("name = ", tmp_path)


def test_draws_are_different_settings_and_the_same_every_time() -> None:
    space: dict[str, Any] = {"rate": (0.1, 0.3, 0.9), "length": Range(low=1, high=3)}
    found = draws(space, 8, seed=1, without={"rate": 0.3, "length": 2})
    assert found == draws(space, 8, seed=1, without={"rate": 0.3, "length": 2})
    assert len({tuple(sorted(s.items())) for s in found}) == 8  # all nine but the default
    assert {"rate": 0.3, "length": 2} not in found
    assert all(isinstance(s["length"], int) for s in found)
    assert len(draws(space, 20, seed=1, without={"rate": 0.3, "length": 2})) == 8


def test_everything_that_can_compete_is_described_and_its_space_is_of_its_settings() -> None:
    assert set(METHODS) < set(CONTENDERS)
    for name, contender in CONTENDERS.items():
        assert name == contender.name
        assert contender.summary
        assert contender.source
        assert set(contender.space) <= set(contender.default)
        for setting, values in contender.space.items():
            assert contender.default[setting] in values, (name, setting)


@pytest.mark.parametrize(
    ("text", "expected"), [("20min", 1200), ("90s", 90), ("1h30min", 5400), ("2 h", 7200), ("0.5m", 30)]
)
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "20", "min", "20 minutes", "1h x", "-5s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="is no time"):
        seconds(text)


needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="the plans name methods of PEFT")
PLANS = sorted((Path(__file__).resolve().parents[3] / "benchmarks").glob("*.toml"))


@needs_peft
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_plans_of_the_benchmarks_can_be_run(path: Path) -> None:
    plan = read(path)
    assert {job.about["method"] for job in jobs(plan)} >= set(plan.methods)


@needs_peft
@pytest.mark.long
def test_what_two_plans_of_the_benchmarks_have_in_common_needs_to_be_run_once() -> None:
    plans = [read(path) for path in PLANS]
    recipes: dict[str, set[str]] = {}
    for plan in plans:
        for job in jobs(plan):
            budget = plan.budget_of(*(str(job.about[part]) for part in ("task", "regime", "backbone")))
            recipes.setdefault(job.name, set()).add(str(budget.recipe()))
    assert {len(own) for own in recipes.values()} == {1}
    main, dynamic, few = (
        {job.name for job in jobs(read(path))} for name in ("main", "instance_dynamic", "few") for path in PLANS
        if path.stem == name
    )  # fmt: skip
    assert len(main & dynamic) > 8 * 5 * 3  # of each task five methods, three trials and the final ones
    assert few & dynamic
