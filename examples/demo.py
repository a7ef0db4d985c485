"""The whole library in a few minutes: tune five ways on one frozen model, keep the prompts, use one in a new process;
then a prompt by which a model that writes answers in words.

Run it with `make demo`, or `python examples/demo.py`. It needs no network. What it prints is measured while you watch
(what an earlier run finished in the same folder is kept, and scored again); the test rows are read once, at the end,
and choose nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import promptuary
from promptuary.data.source import rows

METHODS = {
    "frozen": "frozen head only",
    "prompt-tuning": "prompt tuning",
    "p-tuning-v2": "P-tuning v2",
    "ipt-lstm": "IPT (LSTM): made from the input",
    "dp-vector": "DP (vectors): mixed for the input",
}
SENTENCES = (
    "Hello, the courier said Tuesday and today is Friday, where is my box?",
    "The glass lid came in a hundred pieces.",
    "I moved last week, please send it to my new flat instead.",
)


def tuned(method: str, folder: Path, backbone: "object", console: Console, epochs: int) -> promptuary.Outcome:
    """Tune one method on the embedded customer messages."""
    run = promptuary.Run(
        train="sample:intents/train",
        validation="sample:intents/validation",
        method=method,
        recipe={"epochs": epochs},
        out=str(folder / method),
    )
    (outcome,) = promptuary.tune(run, backbone=backbone, overwrite=True, console=console)  # type: ignore[arg-type]
    return outcome


def table(outcomes: dict[str, promptuary.Outcome]) -> Table:
    """Scores on the test rows beside what they cost."""
    found = Table(title="10 kinds of customer messages, 100 test rows, all on one frozen MiniLM")
    for column in ("method", "accuracy", "trainable numbers", "on disk", "seconds"):
        found.add_column(column, justify="left" if column == "method" else "right")
    majority = 0.0
    for method, outcome in outcomes.items():
        scores = outcome.tuned.evaluate(rows("sample:intents/test"))
        summary, majority = outcome.summary(), scores["majority"]
        found.add_row(
            METHODS[method],
            f"{scores['accuracy']:.2f}",
            f"{summary['trainable']:,}",
            f"{summary['bytes'] / 1024:.0f} KiB",
            f"{summary['seconds']:.0f}",
        )
    found.add_row("majority class", f"{majority:.2f}", "0", "0 KiB", "0")
    return found


def written(folder: Path, console: Console, epochs: int) -> None:
    """Tune a prompt on a small text-to-text model, let it write the kinds of the messages, and say how well it does."""
    console.print(
        "\nA model that writes (ladder-1m: 3.3 million numbers, it comes along) learns to answer in words ..."
    )
    run = promptuary.Run(
        train="sample:intents/train",
        validation="sample:intents/validation",
        backbone="ladder-1m",
        method="p-tuning-v2",
        readout="text",
        recipe={"epochs": epochs, "batch": 8, "rate": 0.1},
        out=str(folder / "written"),
    )
    (outcome,) = promptuary.tune(run, overwrite=True, console=console)
    free, rank = (outcome.tuned.decode(rows("sample:intents/test"), mode=mode) for mode in ("free", "rank"))
    console.print(
        f"Written freely, {free['accuracy']:.0%} are right and {free['illegal']:.0%} are no kind at all; of the kinds "
        f"ranked by what writing them would cost, {rank['accuracy']:.0%} are right."
    )


def predicted_in_a_new_process(folder: Path) -> list[dict[str, object]]:
    """Label three sentences with a saved prompt, by the command line in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "sentences.jsonl", Path(scratch) / "labelled.jsonl"
        given.write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "promptuary",
            "predict",
            str(folder),
            "--input",
            str(given),
            "--output",
            str(made),
        ]
        subprocess.run(command, check=True, capture_output=True)
        return [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Tune, compare, reload, predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", type=int, default=10, help="for each method")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    console.print("Loading the frozen backbone (all-MiniLM-L6-v2: 22.7 million numbers, none of which will change) ...")
    backbone = promptuary.load("minilm")
    outcomes = {m: tuned(m, given.out, backbone, console, given.epochs) for m in METHODS}
    console.print(table(outcomes))
    best = max(outcomes, key=lambda m: outcomes[m].result.score or 0.0)
    console.print(f"\n{METHODS[best]} was best on the validation rows. Loaded again in a new process, it says:")
    for row in predicted_in_a_new_process(given.out / best):
        console.print(f"  {row['label']:<18} {row['probability']:.2f}  {row['text']}", markup=False)
    written(given.out, console, 2 * given.epochs)
    folder = given.out / best
    python = Path(sys.executable).parent
    command = python / "promptuary" if (python / "promptuary").exists() else Path("promptuary")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    console.print("\nNext:")
    for line in (
        f"{shown} show {folder}",
        f"{shown} evaluate {folder} --data sample:intents/test --json",
        f"{shown} tune --train YOUR.csv --text COLUMN --label COLUMN --method {best} --out runs/mine",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
