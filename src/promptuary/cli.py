"""The command line: it parses, calls one function of the library, and prints.

Heavy imports are local to the commands, so that `promptuary --help` answers at once.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from promptuary.tuned import Tuned

P = ParamSpec("P")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Soft prompts for frozen language models: tune, keep and use them.",
)
out, err = Console(), Console(stderr=True)

Data = Annotated[
    str, typer.Option(help="A .jsonl/.csv/.tsv/.parquet file, sample:NAME/SPLIT, or a data set's name:split.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Backbone = Annotated[str | None, typer.Option(help="A short name, a folder, or a name on the hub.")]
Device = Annotated[str | None, typer.Option(help="Where the frozen model runs: auto (the default), cpu, cuda, cuda:1.")]
Folder = Annotated[Path, typer.Argument(help="The folder that `tune --out` wrote.")]


def main() -> None:
    """Run the command line; a mistake of the user is one sentence and exit code 2."""
    app()


def _told(command: Callable[P, None]) -> Callable[P, None]:
    """Print the library's errors as a sentence and leave with 2; an interrupt leaves with 130."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from promptuary.errors import PromptuaryError

        try:
            command(*args, **kwargs)
        except PromptuaryError as error:
            _tell(str(error))
            raise typer.Exit(2) from error
        except BrokenPipeError:  # whoever read our output has left: no mistake, and nobody to tell
            raise
        except OSError as error:
            _tell(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.")
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            _tell("interrupted; what was saved is whole. The same command goes on from there.")
            raise typer.Exit(130) from error

    return wrapped


def _tell(sentence: str) -> None:
    err.print(f"promptuary: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)


@app.command()
@_told
def tune(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file that describes the run; options override it.")
    ] = None,
    backbone: Backbone = None,
    task: Annotated[str | None, typer.Option(help="classification (the default), text, tagging, answering.")] = None,
    train: Annotated[str | None, typer.Option(help="Training rows: a file, sample:NAME/SPLIT, or a data set.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation rows; without them a tenth of train is held out.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text (list of words, question).")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of a second text (context).")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label (text, list of tags, answers).")] = None,
    method: Annotated[str | None, typer.Option(help="A method; `promptuary methods` lists them.")] = None,
    length: Annotated[int | None, typer.Option(help="Soft tokens.")] = None,
    init: Annotated[
        str | None, typer.Option(help="auto, random, vocabulary, labels, words:..., file:..., prompt:..., activations.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published set-up (see `promptuary methods`); other options win over it.")
    ] = None,
    readout: Annotated[str | None, typer.Option(help="auto, classifier, verbalizer, text.")] = None,
    template: Annotated[str | None, typer.Option(help="For example '{text} It was <mask> .'")] = None,
    pool: Annotated[str | None, typer.Option(help="What the classifier reads: auto, first, mean, last.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the prompt (of prompt-tuning: in units of the embedding table's deviation)."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut longer texts to this many tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of the longest text that is written (task text).")] = None,
    metric: Annotated[
        str | None, typer.Option(help="What chooses the best checkpoint: accuracy, macro_f1, loss, entity_f1, ...")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 for the frozen model.")] = None,
    device: Device = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of everything random; give it several times for several runs.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A method's setting or a recipe's field: NAME=VALUE.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Start anew where --out holds a run already.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the prompt goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a soft prompt on rows with their answers. The same command again goes on where a killed one stopped."""
    from promptuary.material import gather
    from promptuary.specs import Run, parse_settings, read_run

    own, fields = parse_settings(settings or [])
    overrides = _given(
        backbone=backbone, task=task, train=train, validation=validation, text=text, text_pair=text_pair, label=label,
        method=method, init=init, preset=preset, readout=readout, template=template, pool=pool, max_length=max_length,
        max_new_tokens=max_new_tokens, metric=metric, device=device, save_every=save_every, seeds=seed or None,
        out=None if folder is None else str(folder),
        settings=own | _given(length=length) or None,
        recipe=fields | _given(epochs=epochs, rate=rate, batch=batch, precision=precision) or None,
    )  # fmt: skip
    run = Run(**overrides) if config is None else read_run(config, overrides)
    material = gather(run)  # what is wrong with the run or its rows is told before torch is imported

    from promptuary import tuning

    results = tuning.tune(run, material=material, overwrite=overwrite, console=None if as_json else err)
    if as_json:
        print(json.dumps([r.summary() for r in results] if len(results) > 1 else results[0].summary()))
        return
    _print_results(results, run.out)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _print_results(results: "list[Any]", folder: str) -> None:
    from promptuary.train.record import spread

    table = Table(title=f"{results[0].tuned.manifest.method} on {results[0].tuned.manifest.backbone}")
    for column in ("seed", "validation", "trainable", "on disk", "seconds"):
        table.add_column(column, justify="right")
    for r in results:
        s = r.summary()
        table.add_row(
            str(s["seed"]),
            f"{s['score']:.4f}",
            f"{s['trainable']:,}",
            f"{s['bytes'] / 1024:.1f} KiB",
            f"{s['seconds']:.1f}",
        )
    out.print(table)
    if len(results) > 1:
        scores = spread([r.summary()["scores"] for r in results])
        out.print("validation: " + ", ".join(f"{name} {value}" for name, value in scores.items()), highlight=False)
    where = results[0].folder
    out.print(f"\nSaved in {folder}. Next:", highlight=False)
    out.print(f"  promptuary evaluate {where} --data FILE", highlight=False, markup=False, soft_wrap=True)
    out.print(f"  promptuary predict {where} --input FILE --output FILE", highlight=False, markup=False, soft_wrap=True)
    out.print(f"  promptuary show {where}", highlight=False, markup=False, soft_wrap=True)


@app.command()
@_told
def evaluate(
    folder: Folder,
    data: Data,
    backbone: Backbone = None,
    device: Device = None,
    decode: Annotated[
        str | None, typer.Option(help="For prompts that write their classes: free, rank, calibrated, constrained.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Score a prompt on labelled rows."""
    with _opened(folder, backbone, device) as tuned:
        from promptuary.data.source import rows

        if decode is None:
            scores = tuned.evaluate(rows(data), batch=batch)
        else:
            scores = tuned.decode(rows(data), mode=decode, batch=batch)
    if as_json:
        print(json.dumps(scores))
        return
    table = Table(title=f"{folder} on {data}")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in scores.values()))
    out.print(table)


@app.command()
@_told
def predict(
    folder: Folder,
    input: Annotated[str, typer.Option(help="Rows with the columns the prompt was tuned on.")],
    output: Annotated[Path, typer.Option(help="A JSONL file: the input's fields with those of the answer.")],
    backbone: Backbone = None,
    device: Device = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
) -> None:
    """Answer rows: a stream that keeps their order, in constant memory."""
    from promptuary.data.source import rows
    from promptuary.predicting import write_predictions

    with _opened(folder, backbone, device) as tuned:
        count, seconds = write_predictions(tuned, rows(input), output, batch=batch, console=err)
    err.print(f"{count:,} rows in {seconds:.1f} s -> {output}", highlight=False)


@app.command()
@_told
def show(
    folder: Folder,
    backbone: Backbone = None,
    words: Annotated[int, typer.Option(min=1, help="Nearest vocabulary items for each soft token.")] = 5,
    as_json: AsJson = False,
) -> None:
    """What a prompt is: how it was made, its scores, its scale, and the words nearest to its soft tokens."""
    from promptuary.picture import draw
    from promptuary.show import describe

    with _opened(folder, backbone, None) as tuned:
        description = describe(tuned, words=words)
    if as_json:
        print(json.dumps(description, ensure_ascii=False))
        return
    draw(description, out)


@app.command()
@_told
def methods(as_json: AsJson = False) -> None:
    """The methods, their settings and presets."""
    from promptuary.methods import METHODS

    if as_json:
        found = [
            {
                "name": m.name, "summary": m.summary, "paper": m.paper, "settings": m.settings(),
                "presets": {name: asdict(preset) for name, preset in m.presets.items()},
            }
            for m in METHODS.values()
        ]  # fmt: skip
        print(json.dumps(found))
        return
    methods, presets = (
        Table("method", "what it does", "settings"),
        Table("--preset", "what it is", "sets, with a recipe"),
    )
    methods.columns[0].no_wrap = True
    for m in METHODS.values():
        methods.add_row(m.name, m.summary, _listed(m.settings()))
        for name, preset in m.presets.items():
            presets.add_row(f"{name}\n({m.name})", preset.summary, _listed({**preset.settings, **preset.run}))
    out.print(methods)
    out.print(presets)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


@app.command()
@_told
def backbones(as_json: AsJson = False) -> None:
    """The backbones that load without a network; any hub name or folder works the same way."""
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


@contextmanager
def _opened(folder: Path, backbone: str | None, device: str | None) -> "Iterator[Tuned]":
    from promptuary.tuned import open_prompt

    yield open_prompt(folder, backbone=backbone, device=device or "auto")
