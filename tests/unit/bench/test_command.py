"""`promptuary bench`: from a plan in a file to tables in a folder, in one process or several, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from promptuary.backbones.load import MODELS, load
from promptuary.bench.jobs import jobs
from promptuary.bench.plan import read
from promptuary.bench.records import RECORDS
from promptuary.bench.store import Store
from promptuary.bench.study import LATEX, NUMBERS, PAGE
from promptuary.errors import BackboneError
from tests.saved import Shelf, done, lines, opinions, refused


def written(shelf: Shelf, folder: Path, methods: str, steps: int = 3) -> Path:
    """A plan on opinions, as a user writes it."""
    for part, start in (("train", 0), ("selection", 40), ("report", 60)):
        lines(folder / f"{part}.jsonl", opinions(24 if part == "train" else 10, start=start))
    path = folder / "plan.toml"
    path.write_text(
        f"""
name = "opinions"
backbones = ["{shelf.model("bert")}"]
methods = {methods}
seeds = [0, 1]
budget = {{steps = {steps}, batch = 8}}
search = {{trials = 2}}

[tasks.opinions]
train = "{folder / "train.jsonl"}"
selection = "{folder / "selection.jsonl"}"
report = "{folder / "report.jsonl"}"
""",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("name", ["nobody/nothing", "random:nowhere/./model", "ladder-causal-12m"])
@pytest.mark.parametrize("more", [["--check"], []])
def test_a_backbone_that_is_not_there_is_told_before_anything_runs(
    name: str, more: list[str], shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODELS, raising=False)
    plan, out = written(shelf, tmp_path, '["majority", "frozen"]'), tmp_path / "out"
    there = f'"{shelf.model("bert")}"'
    plan.write_text(plan.read_text(encoding="utf-8").replace(there, f'{there}, "{name}"'), encoding="utf-8")
    with pytest.raises(BackboneError) as own:
        load(name)
    said = refused("bench", plan, "--out", out, *more)
    assert " ".join(str(own.value).split()) in " ".join(said.split())
    assert not (out / RECORDS).exists()


def test_a_plan_in_a_file_becomes_tables_in_a_folder(shelf: Shelf, tmp_path: Path) -> None:
    plan, out = written(shelf, tmp_path, '["majority", "bag-of-words", "frozen"]'), tmp_path / "out"
    assert "9 trials: 5 that search and 4 that report." in done("bench", plan, "--out", out, "--check")
    assert not out.exists()
    printed = done("bench", plan, "--out", out)
    assert "4 of 4 results are there." in printed
    page = (out / PAGE).read_text(encoding="utf-8")
    assert page in printed
    assert page.startswith("# opinions\n\nEvery method that has settings to search has 2 trials on each task")
    assert [json.loads(line)["method"] for line in (out / RECORDS).read_text().splitlines()] == [
        "majority", "bag-of-words", "frozen", "frozen"
    ]  # fmt: skip
    assert len(json.loads((out / NUMBERS).read_text())["tables"][0]["lines"]) == 3
    assert r"\begin{tabular}" in (out / LATEX).read_text()
    assert done("bench", plan, "--out", out, "--table") == printed


def test_a_mistake_in_a_plan_is_one_sentence(shelf: Shelf, tmp_path: Path) -> None:
    plan = written(shelf, tmp_path, '["majority", "frosen"]')
    assert "There is no method 'frosen' to compare. Did you mean 'frozen'?" in refused("bench", plan, "--out", tmp_path)
    (tmp_path / "report.jsonl").unlink()
    plan = written(shelf, tmp_path, '["majority"]')
    (tmp_path / "report.jsonl").unlink()
    assert "There is no file" in refused("bench", plan, "--out", tmp_path / "out")


@pytest.mark.slow
def test_real_processes_killed_and_shared_leave_every_cell_once(shelf: Shelf, tmp_path: Path) -> None:
    plan, out = written(shelf, tmp_path, '["majority", "frozen", "prompt-tuning"]', steps=60), tmp_path / "out"
    command = [sys.executable, "-m", "promptuary", "bench", str(plan), "--out", str(out)]
    for finished in (1, 3):  # killed twice, each time in the middle of a trial
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while states(out)["COMPLETE"] < finished or not states(out)["RUNNING"]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done("bench", plan, "--out", out, "--jobs", "2")
    store = Store(out)
    found = store.entries()
    store.close()
    assert Counter(e.job.name for e in found) == Counter(job.name for job in jobs(read(plan)))
    assert states(out) == {"COMPLETE": len(found)}
    assert sum(e.starts for e in found) <= len(found) + 2


def states(out: Path) -> Counter[str]:
    if not (out / "study.sqlite").is_file():
        return Counter()
    store = Store(out)
    try:
        return Counter(entry.trial.state.name for entry in store.entries())
    finally:
        store.close()
