"""What there is: `methods`, `tasks`, `backbones`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from promptuary.cli.terminal import AsJson, app, out, told


@app.command()
@told
def methods(
    backbone: Annotated[
        str | None, typer.Option(help="Also show each method's parts and numbers on this model (it is loaded).")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="With --backbone: the number of soft tokens.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the methods, their papers, settings and presets."""
    from promptuary.methods import METHODS

    built = _built(backbone, length)
    if as_json:
        found = [
            {
                "name": m.name, "summary": m.summary, "paper": m.paper, "settings": m.settings(),
                "presets": {name: asdict(preset) for name, preset in m.presets.items()}, **built.get(m.name, {}),
            }
            for m in METHODS.values()
        ]  # fmt: skip
        print(json.dumps(found))
        return
    if backbone is not None:
        table = Table("method", "parts", "trained", "active", title=f"{length} soft tokens on {backbone}")
        for name, entry in built.items():
            sizes = [f"{entry['counts'][kind]:,}" if entry["counts"] else "" for kind in ("nominal", "active")]
            table.add_row(name, entry["parts"] or entry["refused"], *sizes)
        out.print(table)
        out.print("Trained: all numbers of the prompt. Active: those that the answer to one row depends on, at most.")
        return
    methods, presets = (
        Table("method", "what it does", "paper", "settings"),
        Table("--preset", "what it is", "sets, with a recipe"),
    )
    methods.columns[0].no_wrap = True
    for m in METHODS.values():
        methods.add_row(m.name, m.summary, m.paper.partition(":")[0], _listed(m.settings()))
        for name, preset in m.presets.items():
            presets.add_row(f"{name}\n({m.name})", preset.summary, _listed({**preset.settings, **preset.run}))
    out.print(methods)
    out.print(presets)
    out.print("Parts and numbers of trained parameters on a model: promptuary methods --backbone minilm")


def _built(backbone: str | None, length: int) -> dict[str, dict[str, Any]]:
    """The methods as they are on a backbone, in plain values; none without one."""
    if backbone is None:
        return {}
    from promptuary.backbones.load import load
    from promptuary.catalogue import entry
    from promptuary.methods import METHODS

    loaded = load(backbone)
    return {name: asdict(entry(name, loaded, length)) for name in METHODS}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


@app.command()
@told
def tasks(as_json: AsJson = False) -> None:
    """List the tasks that have a name, their wordings and metrics."""
    from promptuary.tasks import TASKS

    if as_json:
        found = [
            {
                "name": task.name, "summary": task.summary, "metrics": task.metrics, "hub": task.hub,
                "wordings": {how: {"kind": own.kind, **own.settings} for how, own in task.wordings.items()},
            }
            for task in TASKS.values()
        ]  # fmt: skip
        print(json.dumps(found))
        return
    table = Table("--task", "what is asked", "metrics", "wordings")
    table.columns[0].no_wrap = True
    for task in TASKS.values():
        table.add_row(task.name, task.summary, ", ".join(task.metrics), ", ".join(task.wordings))
    out.print(table)
    out.print("Write --task NAME, or --task NAME/WORDING for another than the first; rows are task:NAME/SPLIT.")


@app.command()
@told
def backbones(as_json: AsJson = False) -> None:
    """List the models that load without a network."""
    from promptuary.backbones.load import available

    found = [{"name": name, "summary": summary} for name, summary in sorted(available().items())]
    if as_json:
        print(json.dumps(found))
        return
    table = Table("name", "what it is")
    for b in found:
        table.add_row(b["name"], b["summary"])
    out.print(table)
    out.print("Any hub name (--backbone roberta-base) or local folder (--backbone ./my-model) works too.")
