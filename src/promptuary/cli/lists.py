"""What there is: `methods`, `tasks`, `backbones`."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from rich.table import Table

from promptuary.cli.terminal import AsJson, app, out, told

if TYPE_CHECKING:
    from promptuary.methods.method import Method


@app.command()
@told
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them: its settings, recipe and presets.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Also show each method's parts and numbers on this model (it is loaded).")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="With --backbone: the number of soft tokens.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the methods and their papers, or tell one of them."""
    from promptuary.methods import METHODS, method

    if name is not None and not as_json:
        _told_of(method(name))
        if backbone is None:
            return
    built = _built(backbone, length, None if name is None else method(name).name)
    if as_json:
        found = [
            {
                "name": m.name, "summary": m.summary, "paper": m.paper, "settings": m.settings(),
                "presets": {name: asdict(preset) for name, preset in m.presets.items()}, **built.get(m.name, {}),
            }
            for m in (METHODS.values() if name is None else (method(name),))
        ]  # fmt: skip
        print(json.dumps(found))
        return
    if backbone is not None:
        table = Table("method", "parts", "trained", "active", title=f"{length} soft tokens on {backbone}")
        for own, entry in built.items():
            sizes = [f"{entry['counts'][kind]:,}" if entry["counts"] else "" for kind in ("nominal", "active")]
            table.add_row(own, entry["parts"] or entry["refused"], *sizes)
        out.print(table)
        out.print("Trained: all numbers of the prompt. Active: those that the answer to one row depends on, at most.")
        return
    methods = Table("method", "what it does", "paper", "--preset")
    methods.columns[0].no_wrap = methods.columns[3].no_wrap = True
    for m in METHODS.values():
        methods.add_row(m.name, m.summary, _short(m.paper), "\n".join(m.presets))
    out.print(methods)
    out.print("Settings, recipe and presets of one: promptuary methods ipt")
    out.print("Parts and numbers of trained parameters on a model: promptuary methods --backbone minilm")


def _short(paper: str) -> str:
    """`Lester et al. 2021` of authors, year and title."""
    authors, _, year = paper.partition(":")[0].partition(" (")[0].rpartition(" ")
    first, *others = authors.split(", ")
    return f"{first} et al. {year}" if len(others) > 1 else f"{authors} {year}".strip()


def _told_of(method: "Method") -> None:
    """Everything about one method."""
    out.print(f"{method.name}: {method.summary}\n{method.paper}\n\n{inspect.getdoc(method.build)}\n")
    settings = Table("--set", "default", "may be")
    for name, value in method.settings().items():
        settings.add_row(name, _written(value), _kinds(method.types()[name]))
    recipe = asdict(method.recipe) | {f"rates.{part}": rate for part, rate in method.rates.items()}
    if method.settings():
        out.print(settings)
    out.print(f"It starts at --init {method.init}. Its recipe: {_listed(recipe)}.")
    for name, preset in method.presets.items():
        changed = {k: v for k, v in asdict(preset.recipe).items() if v != recipe[k]}
        sets = _listed({**preset.settings, **preset.run, **changed})
        out.print(f"\n--preset {name}: {preset.summary}\nIt sets {sets}.")


def _kinds(kind: Any) -> str:
    """A type in words; what may be absent is left out of the command."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(map(str, parts))
    if get_origin(kind) in (Union, UnionType):
        return ", ".join(_kinds(part) for part in parts if part is not NoneType)
    if parts:
        return f"[{_kinds(parts[0])}, ...]"
    return {int: "a whole number", float: "a number", bool: "true, false", str: "text"}[kind]


def _written(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _built(backbone: str | None, length: int, name: str | None) -> dict[str, dict[str, Any]]:
    """The methods, or one of them, as they are on a backbone, in plain values; none without one."""
    if backbone is None:
        return {}
    from promptuary.backbones.load import load
    from promptuary.catalogue import entry
    from promptuary.methods import METHODS

    loaded = load(backbone)
    return {own: asdict(entry(own, loaded, length)) for own in (METHODS if name is None else (name,))}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_written(value)}" for name, value in values.items())


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
