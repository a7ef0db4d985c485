"""The card of a published prompt: what it is, what it was tuned on, how well it did, how to use it.

All of it is read off the prompt's manifest.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from promptuary.checkpoint import Manifest
from promptuary.data.task import Task
from promptuary.methods import METHODS

SHOWN = 20  # classes that are listed


def card(manifest: Manifest, repository: str, *, license: str | None = None) -> str:
    """A page of Markdown with the header that the hub reads.

    Arguments:
        repository: `USER/NAME`, where the prompt goes. license: its name on the hub, `apache-2.0`.
    """
    run, name = manifest.run, repository.rpartition("/")[2]
    task = Task.from_json(run["task"])
    header = ModelCardData(
        library_name="promptuary", base_model=manifest.backbone, license=license,
        tags=["soft-prompt", manifest.method, task.kind],
    )  # fmt: skip
    known = METHODS.get(manifest.method)
    said = [
        f"---\n{header.to_yaml()}\n---",
        f"# {name}",
        f"A soft prompt for the frozen model `{manifest.backbone}`, tuned by `{manifest.method}`"
        + (f" ({known.paper})." if known else "."),
        _does(task),
        "## Use",
        f"```sh\npromptuary fetch {repository} --out {name}\n"
        f"promptuary predict {name} --input rows.jsonl --output answers.jsonl\n```",
        f'```python\nimport promptuary\n\nprompt = promptuary.open_prompt("{name}")\n'
        'answers = prompt.predict_texts(["..."])\n```',
        "## How it was made",
        _table(("", ""), _made(manifest)),
        f"Scores on the {_selected(run)} that chose the step, which is no test:",
        _table(("score", "value"), ((score, f"{value:.4f}") for score, value in run.get("scores", {}).items())),
    ]
    if run.get("alarms"):
        said.append("Alarms of the run:\n\n" + "\n".join(f"- {alarm}" for alarm in run["alarms"]))
    return "\n\n".join(said) + "\n"


def _does(task: Task) -> str:
    columns = f"`{task.text}`" + (f" and `{task.text_pair}`" if task.text_pair else "")
    shown = ", ".join(f"`{value}`" for value in task.values[:SHOWN])
    more = f" and {len(task.values) - SHOWN} more" if len(task.values) > SHOWN else ""
    return f"Kind of task: {task.kind}. It reads {columns}." + (f" It tells: {shown}{more}." if task.values else "")


def _selected(run: Mapping[str, Any]) -> str:
    data = run.get("data", {})
    return f"rows of {data['validation']}" if data.get("validation") else "training rows held out"


def _made(manifest: Manifest) -> Iterable[tuple[str, str]]:
    run = manifest.run
    yield "settings", json.dumps(dict(manifest.settings))
    yield "start", str(run.get("init", ""))
    yield "rows", str(run.get("data", {}).get("train", ""))
    yield "trained numbers", f"{run.get('counts', {}).get('nominal', 0):,}"
    yield "seed, steps, best step", f"{manifest.seed}, {run.get('steps')}, {run.get('best_step')}"
    yield "recipe", json.dumps(run.get("recipe", {}))
    yield "versions", ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    yield "fingerprint of the model", manifest.fingerprint


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {a} | {b} |" for a, b in (head, ("---", "---"))]
    return "\n".join([*lines, *(f"| {a} | {b.replace('|', chr(92) + '|')} |" for a, b in rows)])
