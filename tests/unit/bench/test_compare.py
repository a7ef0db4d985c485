"""What the tables say is what the records say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptuary.bench import tables
from promptuary.bench.compare import compare, line, paired
from promptuary.bench.comparison import Place
from promptuary.bench.doubts import alarms
from promptuary.bench.records import folded, packed, read, unfolded, unpacked
from promptuary.errors import DataError
from promptuary.report.words import tell

TRUE = [0, 1, 1, 1] * 25  # 75 of 100 are of class 1


def record(method: str, seed: int, said: list[int], *, task: str = "sst2", **more: Any) -> dict[str, Any]:
    accuracy = float(np.mean(np.array(said) == np.array(TRUE)))
    probabilities = np.eye(2)[np.maximum(said, 0)] * 0.8 + 0.1
    report = {
        "scores": {"accuracy": accuracy}, "rows": len(TRUE), "true": packed(TRUE), "said": packed(said),
        "probabilities": folded(probabilities), "inference_ms": 2.0,
    }  # fmt: skip
    cost = {"trained": 770, "touched": 770, "stored": 3_080, "steps": 10, "best_step": 5, "seconds": 30.0}
    made = {
        "task": task, "regime": "full", "backbone": "minilm", "method": method, "seed": seed, "metric": "accuracy",
        "metrics": ["accuracy"], "chosen_by": "accuracy", "labels": ["bad", "good"],
        "reports": {task: report}, "settings": {},
        "cost": {**cost, "seconds_to_best": 15.0, "peak_bytes": 5_000_000}, "alarms": {}, "edges": [],
        "scores": {"accuracy": 0.8}, "last": {"accuracy": 0.8},
        "rows": {"train": 500, "selection": 100, "digest": "d1"}, "opened": [{"chosen": 0}],
        "outcome": "finished", "versions": {"torch": "2.13.0"}, "commit": "c" * 40,
        "hardware": {"accelerator": None, "machine": "x86_64", "processors": 2, "threads": 1},
    }  # fmt: skip
    return {**made, **more}


def wrong(count: int, start: int = 0) -> list[int]:
    """Answers of which `count` are wrong, from a row on."""
    return [1 - t if start <= i < start + count else t for i, t in enumerate(TRUE)]


def chosen(metric: str, best: float, last: float, *, by: str | None = None) -> dict[str, Any]:
    """Where another score chooses the step; with `by`, that of a task of a mixture whose mean chooses."""
    scores = {part: {by or metric: value} for part, value in (("scores", best), ("last", last))}
    return {"metric": by or metric, "metrics": [by or metric], "chosen_by": metric, **scores}


def test_a_line_is_mean_and_deviation_over_seeds_with_costs() -> None:
    found = line([record("frozen", seed, wrong(10 + 5 * seed)) for seed in range(3)])
    assert found.scores == (0.9, 0.85, 0.8)
    assert (found.mean, found.deviation) == (pytest.approx(0.85), pytest.approx(0.05))
    assert found.interval is not None
    assert found.interval[0] < 0.8 < 0.9 < found.interval[1]
    assert found.majority == 0.75
    assert found.cost["seconds_to_best"] == 15.0
    assert found.cost["inference_ms"] == 2.0


def test_gains_are_paired_row_by_row_and_seed_by_seed() -> None:
    ours = [record("ipt", seed, wrong(5)) for seed in (0, 1)]
    theirs = [record("frozen", seed, wrong(15)) for seed in (1, 2)]
    gains = paired(ours, theirs)
    assert gains is not None
    assert gains.shape == (1, 100)
    assert gains[0].tolist() == [0.0] * 5 + [1.0] * 10 + [0.0] * 85
    assert paired(ours[:1], theirs) is None


def test_a_method_that_draws_nothing_is_held_against_every_seed_and_one_that_draws_is_not() -> None:
    three = [record("frozen", seed, wrong(10)) for seed in range(3)]
    once = paired([record("bag-of-words", 0, wrong(20))], three)
    assert once is not None
    assert once.shape == (3, 100)
    drawn = paired([record("ipt", 0, wrong(20))], three)
    assert drawn is not None
    assert drawn.shape == (1, 100)


def test_a_method_that_draws_nothing_is_not_held_against_seeds_with_other_rows() -> None:
    drawn = {seed: {"train": 8, "selection": 8, "digest": f"d{seed}"} for seed in range(3)}  # few shots, of each seed
    three = [record("frozen", seed, wrong(10), rows=drawn[seed]) for seed in range(3)]
    first = paired([record("bag-of-words", 0, wrong(20), rows=drawn[0])], three)  # the others are not finished yet
    assert first is not None
    assert first.shape == (1, 100)
    both = paired([record("bag-of-words", seed, wrong(20), rows=drawn[seed]) for seed in (0, 1)], three)
    assert both is not None
    assert both.shape == (2, 100)


def test_differences_are_against_one_method_and_corrected_for_their_number() -> None:
    records = [record("frozen", s, wrong(25)) for s in range(3)]
    records += [record("ipt", s, wrong(5)) for s in range(3)] + [record("smop", s, wrong(24)) for s in range(3)]
    [table] = compare(records, name="x", planned=9, against="frozen").tables
    assert table.place == Place("full", "minilm")
    better, same = table.differences
    assert (better.method, better.gain) == ("ipt", pytest.approx(0.2))
    assert better.p < 0.001 < 0.05 < same.p
    assert better.corrected == pytest.approx(2 * better.p)
    assert better.interval[0] > 0.1
    assert same.interval[0] < 0.01


def test_a_method_with_a_rival_of_its_own_is_held_against_that_one() -> None:
    records = [record(method, 0, wrong(count)) for method, count in (("frozen", 25), ("p-tuning-v2", 10), ("ipt", 15))]
    found = compare(records, name="x", planned=3, against="frozen", rivals={"ipt": "p-tuning-v2"})
    [table] = found.tables
    gains = {d.method: (d.against, d.gain) for d in table.differences}
    assert gains == {"p-tuning-v2": ("frozen", pytest.approx(0.15)), "ipt": ("p-tuning-v2", pytest.approx(-0.05))}
    written = tables.markdown(found)
    assert "Gain over another method" in written
    assert "| ipt | p-tuning-v2 | -5.0 |" in written


def test_two_tasks_have_an_interval_and_no_test() -> None:
    records = [record(m, 0, wrong(n), task=t) for t in ("a", "b") for m, n in (("frozen", 20), ("ipt", 5))]
    records += [record("majority", 0, [1] * 100, task=t) for t in ("a", "b")]
    found = compare(records, name="x", planned=6, against="frozen")
    [table] = found.tables
    assert [(d.p, d.corrected) for d in table.differences] == [(None, None)] * 2
    assert table.differences[0].interval[0] > 0
    assert "| 2 | 2 | - | - |" in tables.markdown(found)
    assert {line.method: line.drawn for line in table.lines} == {"frozen": True, "ipt": True, "majority": False}
    doubts = " ".join(tell(table, records, "frozen").doubts)
    assert "With one seed, an interval says nothing of other seeds: frozen and ipt." in doubts


def test_several_tasks_are_tested_by_wilcoxon_over_tasks() -> None:
    records = []
    for i in range(7):
        records += [record("frozen", 0, wrong(20), task=f"t{i}"), record("ipt", 0, wrong(10 + i), task=f"t{i}")]
    [table] = compare(records, name="x", planned=14, against="frozen").tables
    [found] = table.differences
    assert found.p == pytest.approx(2 / 2**7)
    assert len(found.tasks) == 7


@pytest.mark.parametrize(
    ("more", "said", "expected"),
    [
        ({}, [1] * 100, "not one standard error above the majority's 75.0%"),
        ({"last": {"accuracy": 0.6}}, wrong(3), "The last step is far from the best one"),
        ({"last": {"accuracy": 0.76}}, wrong(3), None),
        ({"metric": "mean", "metrics": ["accuracy", "macro_f1"]}, [1] * 100, "above the majority's 75.0%"),
        (chosen("entity_f1", 0.8, 0.6), wrong(3), "The last step is far from the best one"),
        (chosen("mean", 0.8, 0.6), wrong(3), "The last step is far from the best one"),
        (chosen("token_f1", 0.8, 0.76), wrong(3), None),
        (chosen("mean", 0.8, 0.6, by="token_f1"), wrong(3), "The last step is far from the best one"),
        (chosen("loss", 2.0, 2.3), wrong(3), "The last step is far from the best one"),
        (chosen("loss", 2.0, 2.1), wrong(3), None),
        ({"scores": {"bleu": 0.3}, "last": {}}, wrong(3), None),
        ({"edges": ["rate"]}, wrong(3), "The search ended at the edge of its space: rate."),
        ({"opened": [{}, {}]}, wrong(3), "were opened again after an interruption (1 of 1 seeds)"),
        ({"alarms": {"settled": "..."}}, wrong(3), "a choice was decided before it could learn (1 of 1 seeds)"),
        ({}, wrong(3), None),
    ],
)
def test_what_looks_wrong_is_told(more: dict[str, Any], said: list[int], expected: str | None) -> None:
    found = alarms([record("ipt", 0, said, **more)])
    assert found == [] if expected is None else expected in " ".join(found)


def test_a_seed_without_a_result_is_counted_and_left_out_of_the_mean() -> None:
    lost = {k: v for k, v in record("ipt", 1, TRUE).items() if k not in ("reports", "metric")}
    found = line([record("ipt", 0, wrong(10)), {**lost, "outcome": "diverged"}])
    assert (found.mean, found.seeds, found.lost) == (0.9, (0,), {"diverged": 1})
    assert tables.said(found).endswith(", 1 lost")
    nothing = line([{**lost, "outcome": "diverged"}])
    assert nothing.mean is None
    assert tables.said(nothing) == "diverged"


def test_seeds_together_vote() -> None:
    records = [record("ipt", seed, wrong(10, start=10 * seed)) for seed in range(3)]  # no row is wrong twice
    [table] = compare(records, name="x", planned=3, against="frozen").tables
    [found] = table.together
    assert (found.members, found.ensemble, found.best) == (3, 1.0, 0.9)
    assert found.mean == pytest.approx(0.9)


def test_what_is_asked_elsewhere_has_a_table_of_its_own() -> None:
    own = record("ipt", 0, wrong(10))
    own["reports"]["mr"] = {**own["reports"]["sst2"], "said": packed(wrong(30)), "scores": {"accuracy": 0.7}}
    [table] = compare([own], name="x", planned=1, against="frozen").tables
    [found] = table.elsewhere
    assert (found.source, found.to, found.mean, found.majority) == ("sst2", "mr", pytest.approx(0.7), 0.75)
    assert "| ipt | sst2 | mr | 70.0" in tables.markdown(compare([own], name="x", planned=1, against="frozen"))


def test_the_page_and_the_latex_hold_the_same_numbers() -> None:
    records = [record(m, s, wrong(10 + s)) for m in ("frozen", "p-tuning-v2") for s in range(2)]
    found = compare(records, name="small", planned=6, against="frozen", protocol="Equal budgets.")
    page, latex = tables.markdown(found), tables.latex(found)
    assert "**4 of 6 results are there so far.**" in page
    assert "Commit cccccccccccc; torch 2.13.0; x86_64 with 2 processors and 1 threads." in page
    assert "| p-tuning-v2 | 89.5 ± 0.7 (2)" in page
    assert r"p-tuning-v2 & 89.5 $\pm$ 0.7 (2)" in latex
    assert "| frozen | 770 | 770 | 3.1 kB | 30.0 | 15.0 | 5.0 MB | 2.00 |" in page
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == page.count("| --- |")
    assert json.loads(json.dumps(found.to_json()))["tables"][0]["lines"][0]["mean"] == pytest.approx(0.895)


def test_records_are_read_back_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record("ipt", 0, TRUE)) + "\n", encoding="utf-8")
    assert read(path) == [record("ipt", 0, TRUE)]
    path.write_text('{"task": "sst2"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: no record of a study"):
        read(path)


def test_answers_and_probabilities_come_back_as_they_were() -> None:
    few, many = [0, 1, -1, 35], [0, 77, -1, 36]
    assert packed(few) == "01-z"
    assert unpacked(packed(few)).tolist() == few
    assert unpacked(packed(many)).tolist() == many
    given = np.random.default_rng(0).random((5, 3))
    assert unfolded(folded(given), 3) == pytest.approx(given, abs=1e-3)
