"""What PEFT and promptuary make of the same inputs: 19 places where PEFT is wrong without saying so.

    python benchmarks/peft_errors.py

Each check runs both libraries on tiny random models with enlarged weights and holds each against a reference that is
neither: the bare model of transformers on prompt and text as one unpadded row, a figure computed by hand, or the text
of a paper. Enlarged weights prove that an error exists; how large it is on a trained model is not measured here.
Writes `results/peft_errors.json` and the table `results/peft_errors.md` beside this file.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MISSING = "This comparison needs PEFT. Write: pip install 'promptuary[dev,peers]', and run the same command again."


def main() -> int:
    if importlib.util.find_spec("peft") is None:
        print(MISSING, file=sys.stderr)
        return 2
    sys.path.insert(0, str(HERE.parent))  # for tests/backbones.py, the tiny models
    _quiet()
    import torch

    from peers import generation, heads, limits, training
    from peers.sides import SEED, Finding

    parts = (generation, heads, limits, training)
    named = {name: check for part in parts for name, check in vars(part).items() if _is_check(name)}
    checks: list[Callable[[], Finding]] = [named[name] for name in sorted(named)]
    began, findings = time.perf_counter(), []
    for check in checks:
        torch.manual_seed(SEED)  # PEFT draws its own starts from the global generator
        found = check()
        findings.append(found)
        print(f"{found.name:>4}  PEFT: {found.peft.figure}\n      promptuary: {found.ours.figure}", flush=True)
    about = {
        "versions": {name: importlib.metadata.version(name) for name in ("peft", "transformers", "torch")},
        "python": platform.python_version(),
        "commit": _commit(),
        "seed": SEED,
        "hardware": {"processors": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "threads": torch.get_num_threads(),
        "wall_s": round(time.perf_counter() - began, 1),
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    whole = {**about, "findings": [asdict(f) for f in findings]}
    (results / "peft_errors.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (results / "peft_errors.md").write_text(table(findings, about), encoding="utf-8")
    wrong = [f.name for f in findings if not f.ours.right]
    theirs = sum(not f.peft.right for f in findings)
    print(f"of {len(findings)}: {theirs} wrong in PEFT, {len(wrong)} in promptuary {' '.join(wrong)}")
    return 1 if wrong else 0


def table(findings: Sequence[Any], about: dict[str, Any]) -> str:
    """The findings as a page of Markdown."""
    versions, hardware = about["versions"], about["hardware"]
    lines = [
        "# The same inputs through PEFT and through promptuary",
        "",
        "Written by `python benchmarks/peft_errors.py`: "
        f"PEFT {versions['peft']}, transformers {versions['transformers']}, torch {versions['torch']}, "
        f"commit {about['commit']}, seed {about['seed']}, {hardware['processors']} processors "
        f"({hardware['processor']}), threads {about['threads']}, {about['wall_s']} s.",
        "",
        "Tiny random models with enlarged weights: the figures prove that an error exists, not how large it is on a",
        "trained model (logits here have a size of a few units). Both sides are held against the reference, never",
        "against each other. **Bold** is wrong.",
        "",
        "| | what is compared | reference | PEFT | promptuary |",
        "|---|---|---|---|---|",
    ]
    for f in findings:
        peft, ours = (s.figure if s.right else f"**{s.figure}**" for s in (f.peft, f.ours))
        lines.append(f"| {f.name} | {f.compared} | {f.reference} | {peft} | {ours} |")
    return "\n".join(lines) + "\n"


def _is_check(name: str) -> bool:
    return len(name) == 3 and name[0] == "a" and name[1:].isdigit()


def _quiet() -> None:
    """Only figures on the terminal: the libraries' notes on these small models are expected."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("peft").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
