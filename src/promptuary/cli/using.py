"""What a tuned prompt is good for: `evaluate`, `predict`, `show`."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from promptuary.cli.terminal import (
    AsJson,
    Backbone,
    Data,
    Device,
    Folder,
    Int8,
    Shown,
    app,
    err,
    opened,
    out,
    ready,
    rounded,
    told,
)

Decode = Annotated[
    str | None, typer.Option(help="For prompts that write their classes: free, rank, calibrated, constrained.")
]


@app.command()
@told
def evaluate(
    folder: Folder,
    data: Data,
    backbone: Backbone = None,
    device: Device = None,
    decode: Decode = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another prompt of the same task, whose answers are combined with the first one's (repeatable)."
        ),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="How an ensemble's answers are combined: vote (majority), mean (log-probability).")
    ] = "vote",
    int8: Int8 = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Score a prompt on labelled rows, or several as an ensemble.

    With --int8 the prompt is scored on the model as it is, too: the difference is what rounding costs.
    """
    from promptuary.data.source import rows
    from promptuary.errors import SettingError

    _check(decode)
    given = list(rows(data))  # a file that is not there is told before a model is loaded
    if ensemble:
        for name, value in (("decode", decode), ("int8", int8)):
            if value is not None:
                raise SettingError(
                    f"--{name} {value} is of one prompt. Leave it out, or evaluate the prompts one by one."
                )
        _print_ensemble([folder, *ensemble], data, rule, backbone, device, as_json)
        return
    tuned = opened(folder, backbone, device)

    def score() -> dict[str, Any]:
        own = ready(tuned)
        return own.evaluate(given, batch=batch) if decode is None else own.decode(given, mode=decode, batch=batch)

    found = {"as it is": score()}
    if int8 is not None:
        rounded(tuned.backbone, int8)
        found[f"int8 {int8}"] = score()
    *before, last = found.values()
    if as_json:
        print(json.dumps({**last, **({"as_it_is": before[0]} if before else {})}))
        return
    table = Table(title=f"{folder} on {data}")
    for name in [*([""] if before else []), *last]:
        table.add_column(name, justify="right")
    for title, own in found.items():
        table.add_row(*([title] if before else []), *map(_number, own.values()))
    out.print(table)


def _check(decode: str | None) -> None:
    from promptuary.kinds.kind import known_way

    if decode is not None:
        known_way(decode)


def _print_ensemble(
    folders: list[Path], data: str, rule: str, backbone: str | None, device: str | None, as_json: bool
) -> None:
    from promptuary.data.source import rows
    from promptuary.manifests import manifest_in

    for folder in folders:
        manifest_in(folder)

    from promptuary.bank import open_bank
    from promptuary.ensembles import Ensemble

    bank = open_bank({str(folder): folder for folder in folders}, backbone=backbone, device=device or "auto")
    scores = Ensemble(bank, rule=rule).evaluate(rows(data))
    if as_json:
        print(json.dumps(scores))
        return
    members = scores.pop("members")
    table = Table(title=f"{len(bank)} prompts on {data}")
    table.add_column("prompt", overflow="fold")
    for name in scores:
        table.add_column(name, justify="right")
    for title, own in [*members.items(), (f"together ({rule})", scores)]:
        table.add_row(title, *(_number(own[name]) if name in own else "" for name in scores))
    out.print(table)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command()
@told
def predict(
    folder: Annotated[
        Path, typer.Argument(help="The folder that `tune --out` wrote; with --by one that holds such folders.")
    ],
    input: Annotated[str, typer.Option(help="Rows with the columns the prompt was tuned on.")],
    output: Annotated[
        Path, typer.Option(help="A JSONL file (.jsonl, .jsonl.gz): the input's fields with those of the answer.")
    ],
    backbone: Backbone = None,
    device: Device = None,
    decode: Decode = None,
    by: Annotated[str | None, typer.Option(help="The column that names each row's prompt, a folder in FOLDER.")] = None,
    int8: Int8 = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="With --by, instead of --batch: tokens a pass.")] = 1024,
) -> None:
    """Answer the rows of a file.

    By one prompt, or each row by the prompt that it names (--by). With --decode: the text that was written, and its
    label, empty where it is none. A stream: rows keep their order, and memory stays constant.
    """
    from promptuary.data.source import rows
    from promptuary.errors import SettingError
    from promptuary.predicting import check_output, write_predictions

    _check(decode)
    given = rows(input)
    check_output(output, input)
    if by is None:
        tuned = opened(folder, backbone, device)
        rounded(tuned.backbone, int8)
        own = ready(tuned)
        said = partial(own.outputs, batch=batch) if decode is None else partial(own.written, mode=decode, batch=batch)
    elif decode is not None:
        raise SettingError(
            f"--decode {decode} is of one prompt. Leave it out, or name one prompt's folder without --by."
        )
    else:
        from promptuary.manifests import prompts_in

        named = prompts_in(folder)

        from promptuary.bank import open_bank

        bank = open_bank(named, backbone=backbone, device=device or "auto")
        rounded(bank.backbone, int8)
        said = partial(bank.outputs, by=by, tokens=tokens)

    count, seconds = write_predictions(said, given, output, console=err)
    err.print(f"{count:,} rows in {seconds:.1f} s -> {output}")


@app.command()
@told
def show(
    folder: Shown,
    backbone: Backbone = None,
    device: Device = None,
    words: Annotated[int, typer.Option(min=1, help="Nearest vocabulary items for each soft token.")] = 5,
    data: Annotated[
        str | None, typer.Option(help="Rows, with or without labels: also show what the prompt does with them.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="With --data: also write a page with pictures there.")
    ] = None,
    projection: Annotated[str, typer.Option(help="Of the page's picture of vectors: pca or tsne.")] = "pca",
    sample: Annotated[
        int, typer.Option(min=1, help="With --data: compare the vectors of at most so many rows.")
    ] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Show how a prompt was made and what it does.

    Its settings, scores and scale, and the words nearest to its soft tokens; with --data what it chooses for each row,
    by class.
    """
    from promptuary.data.source import rows
    from promptuary.errors import SettingError
    from promptuary.manifests import holds_generator
    from promptuary.page import check_page

    if page is not None:
        if data is None:
            raise SettingError(f"--html {page} draws what a prompt does with rows. Name them: --data FILE.")
        check_page(page, projection)
    elif projection != "pca":
        raise SettingError(f"--projection {projection} is of a page's picture. Name the page: --html FILE.")
    given = None if data is None else rows(data)

    if holds_generator(folder):
        if data is not None:
            raise SettingError(f"{folder} holds a generator, which does nothing with rows by itself. Leave --data out.")
        _show_generator(folder, as_json)
        return
    tuned = opened(folder, backbone, device)

    from promptuary.picture import draw, draw_rows
    from promptuary.show import describe, describe_rows

    described = describe(tuned, words=words)
    if given is not None:
        from promptuary.inspecting import inspect
        from promptuary.page import write_page
        from promptuary.train import record

        seen = inspect(tuned, given, batch=batch, sample=sample)
        noted = [event for event in record.read(folder / record.NAME) if event["event"] == "choices"]
        described["data"] = {"source": data, **describe_rows(tuned, seen, words=words), "training": noted}
        if page is not None:
            write_page(page, described, seen, projection=projection)
    if as_json:
        print(json.dumps(described, ensure_ascii=False))
        return
    draw(described, out)
    if given is not None:
        draw_rows(described["data"], out)
    if page is not None:
        out.print(f"\nThe pictures are in {page}.")


def _show_generator(folder: Path, as_json: bool) -> None:
    from promptuary import pretrained
    from promptuary.picture import draw_generator

    described = pretrained.describe(folder)
    if as_json:
        print(json.dumps(described, ensure_ascii=False))
        return
    draw_generator(described, out)
