"""A study and a search by hand: records with numbers that a test can count itself."""

import base64
import json
from pathlib import Path
from typing import Any

HOSTILE = '<b>"x"</b> & $y_1$'  # a class that would like to be markup
LABELS = ["bad", HOSTILE]
TRUE = "0111" * 25  # 75 of 100 rows are of the second class
STEPS = (10, 20, 30, 40)  # of which only the last seed was scored at all
HALF = b"\x00\x38"  # 0.5 in float16
METHODS = ("prompt-tuning", "p-tuning-v2", "frozen", "majority")
TASKS = ("sst2", "mr")
WRONG = {"prompt-tuning": 8, "p-tuning-v2": 12, "frozen": 20}  # rows; two more for each seed, three for the second task


def said(method: str, task: str, seed: int) -> str:
    """The answers: so many wrong ones, from the front."""
    if method == "majority":
        return "1" * len(TRUE)
    count = WRONG[method] + 2 * seed + 3 * TASKS.index(task)
    return "".join(str(1 - int(t)) if i < count else t for i, t in enumerate(TRUE))


def accuracy(answers: str) -> float:
    return sum(a == t for a, t in zip(answers, TRUE, strict=True)) / len(TRUE)


def record(method: str, task: str, seed: int, regime: str = "full", **more: Any) -> dict[str, Any]:
    answers, still = said(method, task, seed), method == "majority"
    scores = {"accuracy": accuracy(answers)}
    report = {"scores": scores, "rows": 100, "true": TRUE, "said": answers, "inference_ms": 2.0 + seed}
    report["probabilities"] = base64.b64encode(HALF * 2 * len(TRUE)).decode()
    trained = {"prompt-tuning": 7_680, "p-tuning-v2": 61_440, "frozen": 770, "majority": 0}[method]
    curve = [
        {"step": s, "accuracy": 0.5 + s / 100 + seed / 50, "loss": 0.7 - s / 100} for s in STEPS[: 3 + (seed == 2)]
    ]
    cost = {
        "trained": trained, "touched": trained, "stored": 4 * trained, "steps": 0 if still else 30, "best_step": 20,
        "seconds": 0.0 if still else 30.0 + seed, "seconds_to_best": 20.0, "peak_bytes": 5_000_000,
    }  # fmt: skip
    return {
        "task": task, "regime": regime, "backbone": "minilm", "method": method, "seed": seed, "settings": {},
        "recipe": {}, "budget": {"epochs": 5, "steps": 0, "batch": 32, "evaluations": 1, "precision": "fp32"},
        "scores": {"accuracy": 0.8}, "last": {"accuracy": 0.8}, "curve": [] if still else curve, "cost": cost,
        "alarms": {}, "rows": {"train": 500, "selection": 100, "shared": 2, "digest": "d1" * 16},
        "versions": {"torch": "2.13.0"}, "commit": "c" * 40, "when": "2026-01-01T00:00:00+00:00",
        "hardware": {"accelerator": None, "machine": "x86_64", "processors": 2, "threads": 1},
        "search": [{"number": 0, "settings": {}, "score": 0.8, "outcome": "finished", "seconds": 30.0}], "chosen": 0,
        "edges": [], "chosen_by": "accuracy", "metric": "accuracy", "metrics": ["accuracy"], "labels": LABELS,
        "reports": {task: report},
        "opened": [{"chosen": 0}], "prompt": None, "outcome": "finished", **more,
    }  # fmt: skip


def records() -> list[dict[str, Any]]:
    """Two tasks with all rows, one of them with few, one asked of the other; a seed that is lost."""
    full = [
        record(method, task, seed)
        for task in TASKS
        for method in METHODS
        for seed in ((0,) if method == "majority" else range(3))
    ]
    for r in full:
        if r["task"] == "sst2":
            elsewhere = said(r["method"], "mr", r["seed"])
            own = {"said": elsewhere, "scores": {"accuracy": accuracy(elsewhere)}}
            r["reports"]["mr"] = {**r["reports"]["sst2"], **own}
    few = [
        record(method, "sst2", seed, "few", rows={"train": 8, "selection": 8, "shared": 0, "digest": "d2" * 16})
        for method in ("prompt-tuning", "frozen")
        for seed in range(3)
    ]
    lost = {k: v for k, v in record("p-tuning-v2", "sst2", 0, "few").items() if k not in ("reports", "metric", "rows")}
    return [*full, *few, {**lost, "outcome": "diverged", "sentence": "The loss is no number: <i>nan</i>."}]


def study(folder: Path) -> Path:
    """The folder of the study."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": "a.jsonl", "selection": 0.1, "report": "b.jsonl"}
    plan = {
        "name": "by-hand", "methods": METHODS, "seeds": [0, 1, 2], "against": "frozen",
        "tasks": dict.fromkeys(TASKS, files), "regimes": {"full": {}, "few": {"each": 4, "tasks": ["sst2"]}},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    lines = "".join(json.dumps(r) + "\n" for r in records())
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    return folder


def result() -> dict[str, Any]:
    """What a search found, as `promptuary compare` keeps it."""
    cost = {"trained": 7_680, "touched": 7_680, "stored": 30_720, "steps": 30, "best_step": 20, "seconds": 31.5}
    curve = [{"step": s, "accuracy": 0.6 + s / 100, "loss": 0.5} for s in (10, 20)]

    def estimate(method: str, answers: str) -> dict[str, Any]:
        scores = {"accuracy": accuracy(answers), "macro_f1": 0.5}
        return {"method": method, "settings": {}, "steps": 30, "selection": 0.8, "said": answers, "scores": scores,
                "cost": cost, "alarms": {}}  # fmt: skip

    first = record("frozen", "sst2", 0)
    return {
        "backbone": "minilm", "labels": LABELS, "metric": "accuracy", "warnings": ["2 rows are <copies>."],
        "rows": {"train": 350, "selection": 50, "estimate": 100}, "budget_s": 60.0, "spent_s": 58.2, "doubtful": 1,
        "tried": [
            {"method": "prompt-tuning", "settings": {"rate": 0.1}, "steps": 30, "selection": 0.8123, "sentence": None,
             "cost": cost, "curve": curve, "trial": "prompt-tuning, rate 0.1, 30 steps"},
            {"method": "p-tuning-v2", "settings": {}, "steps": 30, "selection": None, "sentence": "It <diverged>.",
             "cost": None, "curve": [], "trial": "p-tuning-v2, 30 steps"},
        ],
        "true": TRUE,
        "texts": list(range(100)),
        "estimates": {
            "prompt": estimate("prompt-tuning", said("prompt-tuning", "sst2", 0)),
            "frozen": estimate("frozen", said("frozen", "sst2", 0)),
            "majority": {**estimate("majority", "1" * 100), "cost": {**cost, "trained": 0, "stored": 0}},
        },
        **{name: first[name] for name in ("versions", "hardware", "commit")},
    }  # fmt: skip


def search(folder: Path) -> Path:
    """The folder of the search."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result()), encoding="utf-8")
    doubtful = {
        "place": "a.csv:7",
        "label": "bad",
        "said": HOSTILE,
        "probability": 0.99,
        "texts": ["<u>fine</u>\u2028\x85"],
    }
    (folder / "doubtful.jsonl").write_text(json.dumps(doubtful, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder
