"""The command line: it parses, calls one function of the library, and prints.

Heavy imports are local to the commands, so that `promptuary --help` answers at once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from promptuary.specs import Run
    from promptuary.tuned import Tuned
    from promptuary.tuning import Outcome

P = ParamSpec("P")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Soft prompts for frozen language models: tune, keep and use them.",
)
# What is printed is data: a label may be called "[red]" or ":cat:".
out, err = (
    Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True) for stderr in (False, True)
)

COUNTED = ("trained numbers", "touched", "active")  # see promptuary.counts

Data = Annotated[
    str,
    typer.Option(
        help="A .jsonl/.csv/.tsv/.parquet file, sample:NAME/SPLIT, task:NAME/SPLIT, or a data set's name:split."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Backbone = Annotated[
    str | None, typer.Option(help="A short name, a folder, or a name on the hub (default: the one it was tuned on).")
]
Device = Annotated[str | None, typer.Option(help="Where the frozen model runs: cpu, cuda, cuda:1 (default auto).")]
Folder = Annotated[Path, typer.Argument(help="The folder that `tune --out` wrote.")]
Shown = Annotated[Path, typer.Argument(help="The folder that `tune --out` or `pretrain --out` wrote.")]


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
    err.print(f"promptuary: {sentence}", style="red")


def _version(asked: bool) -> None:
    if asked:
        from promptuary import __version__

        print(f"promptuary {__version__}")
        raise typer.Exit


@app.callback()
def _promptuary(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command()
@_told
def tune(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file that describes the run; options override it.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Training rows: a file, sample:NAME/SPLIT, task:NAME/SPLIT, or a data set's name:split."),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation rows; without them a tenth of train is held out.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A short name, a folder, or a name on the hub (default minilm).")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What an answer is: text, tagging, answering (default classification); or a task with a name, as "
            "boolq or boolq/cloze (see `promptuary tasks`), which fills in rows, columns, wording and metric."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text (default text; tokens, question).")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of a second text (default none; context).")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the answer (default label; target, tags, answers).")
    ] = None,
    method: Annotated[str | None, typer.Option(help="See `promptuary methods` (default p-tuning-v2).")] = None,
    length: Annotated[int | None, typer.Option(help="Soft tokens (default: the method's).")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Where the prompt starts: random, uniform, zeros, vocabulary, labels, words:SOME WORDS, file:PATH, "
            "prompt:FOLDER, activations, embeddings (default auto: the method's)."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published set-up (see `promptuary methods`); other options win over it.")
    ] = None,
    readout: Annotated[str | None, typer.Option(help="classifier, verbalizer, text (default auto).")] = None,
    template: Annotated[str | None, typer.Option(help="For example '{text} It was <mask> .'")] = None,
    pool: Annotated[
        str | None, typer.Option(help="What the classifier reads: first, mean, last (default auto).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows (default: the method's).")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the prompt, for prompt-tuning in units of the embedding table's deviation (default: "
            "the method's)."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step (default: the method's).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut longer texts to this many tokens.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of the longest text that is written, for task text (default 32).")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="What chooses the best checkpoint: macro_f1, loss, entity_f1, ... (default: the task's)."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of the frozen model: fp32 or bf16 (default fp32).")] = None,
    device: Device = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of everything random; several of them are several runs (default 0).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A method's setting, a recipe's field, or a part's rate: NAME=VALUE, rates.PART=VALUE."
        ),
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states (default 50).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run already.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the prompt goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a soft prompt on rows with their answers.

    The same command again goes on where an interrupted one stopped.
    """
    from promptuary.material import gather
    from promptuary.specs import Run, parse_settings, read_run

    own, fields, rates = parse_settings(settings or [])
    overrides = _given(
        backbone=backbone, task=task, train=train, validation=validation, text=text, text_pair=text_pair, label=label,
        method=method, init=init, preset=preset, readout=readout, template=template, pool=pool, max_length=max_length,
        max_new_tokens=max_new_tokens, metric=metric, device=device, save_every=save_every, seeds=seed or None,
        out=None if folder is None else str(folder),
        settings=own | _given(length=length) or None,
        recipe=fields | _given(epochs=epochs, rate=rate, batch=batch, precision=precision) or None,
        rates=rates or None,
    )  # fmt: skip
    run = Run(**overrides) if config is None else read_run(config, overrides)
    material = gather(run)  # what is wrong with the run or its rows is told before torch is imported
    if not as_json:
        rows = f"{len(material.train):,} rows for training and {len(material.validation):,} for validation"
        err.print(f"{rows}; loading {run.backbone} ...")

    from promptuary import tuning

    results = tuning.tune(run, material=material, overwrite=overwrite, console=None if as_json else err)
    if as_json:
        print(json.dumps([r.summary() for r in results] if len(results) > 1 else results[0].summary()))
        return
    _print_results(results, run)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _print_results(results: "list[Outcome]", run: "Run") -> None:
    from promptuary.train.record import spread

    table = Table(title=f"{results[0].tuned.manifest.method} on {results[0].tuned.manifest.backbone}")
    for column in ("seed", f"{run.metric}, validation", *COUNTED, "on disk", "seconds"):
        table.add_column(column, justify="right", overflow="fold")
    for r in results:
        s = r.summary()
        table.add_row(
            str(s["seed"]),
            f"{s['score']:.4f}",
            *(f"{number:,}" for number in s["counts"].values()),
            f"{s['bytes'] / 1024:.1f} KiB",
            f"{s['seconds']:.1f}",
        )
    out.print(table)
    if len(results) > 1:
        scores = spread([r.summary()["scores"] for r in results])
        out.print("validation: " + ", ".join(f"{name} {value}" for name, value in scores.items()))
    where = results[0].folder
    out.print(f"\nSaved in {run.out}. Next:")
    for command in ("evaluate {} --data FILE", "predict {} --input FILE --output FILE", "show {}"):
        out.print("  promptuary " + command.format(where))


@app.command()
@_told
def pretrain(
    config: Annotated[Path | None, typer.Argument(help="A TOML file that describes the run, as for `tune`.")] = None,
    train: Annotated[str | None, typer.Option(help="Labelled texts of any task, as for `tune`.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation rows; without them a tenth of train is held out.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Whose tokenizer and width the generator is for (default minilm).")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text (default text).")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of a second text (default none).")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the class (default label).")] = None,
    method: Annotated[
        str | None, typer.Option(help="ipt, ipt-cnn, ipt-mlp, ipt-lstm or ipt-prefix (default ipt).")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Soft tokens (default: the method's).")] = None,
    init: Annotated[str | None, typer.Option(help="Where the table starts, as for `tune`.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows (default: the method's).")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate (default: the method's).")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step (default: the method's).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut longer texts to this many tokens.")] = None,
    metric: Annotated[str | None, typer.Option(help="What chooses the best checkpoint (default accuracy).")] = None,
    device: Device = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random (default 0).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A method's setting or a recipe's field: NAME=VALUE.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states (default 50).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run already.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the generator goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the generator of an instance-wise prompt by itself.

    It learns from labelled texts, without the frozen model; `tune --set pretrained=FOLDER` starts from it. The same
    command again goes on where an interrupted one stopped.
    """
    from promptuary.material import gather
    from promptuary.specs import Run, parse_settings, read_run

    own, fields, rates = parse_settings(settings or [])
    overrides = _given(
        backbone=backbone, train=train, validation=validation, text=text, text_pair=text_pair, label=label, init=init,
        max_length=max_length, metric=metric, device=device, save_every=save_every,
        method=method or ("ipt" if config is None else None), seeds=None if seed is None else [seed],
        out=None if folder is None else str(folder),
        settings=own | _given(length=length) or None,
        recipe=fields | _given(epochs=epochs, rate=rate, batch=batch) or None,
        rates=rates or None,
    )  # fmt: skip
    run = Run(**overrides) if config is None else read_run(config, overrides)
    material = gather(run)

    from promptuary import pretraining

    done = pretraining.pretrain(run, material=material, overwrite=overwrite, console=None if as_json else err)
    summary = done.summary()
    if as_json:
        print(json.dumps(summary))
        return
    table = Table(title=f"generator of {run.method}")
    for column in (f"{run.metric}, validation", *COUNTED, "on disk", "seconds"):
        table.add_column(column, justify="right", overflow="fold")
    sizes = (f"{number:,}" for number in summary["counts"].values())
    table.add_row(f"{summary['score']:.4f}", *sizes, f"{summary['bytes'] / 1024:.1f} KiB", f"{summary['seconds']:.1f}")
    out.print(table)
    out.print(f"\nSaved in {done.folder}. Next:")
    out.print(f"  promptuary tune --method {run.method} --set pretrained={done.folder} --train FILE --out FOLDER")
    out.print(f"  promptuary show {done.folder}")


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
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another prompt of the same task, whose answers are combined with the first one's (repeatable)."
        ),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="How an ensemble's answers are combined: vote (majority), mean (log-probability).")
    ] = "vote",
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Score a prompt on labelled rows, or several as an ensemble."""
    from promptuary.data.source import rows
    from promptuary.errors import SettingError

    given = rows(data)  # a file that is not there is told before a model is loaded
    if ensemble:
        if decode is not None:
            raise SettingError(f"--decode {decode} is of one prompt. Leave it out, or evaluate the prompts one by one.")
        _print_ensemble([folder, *ensemble], data, rule, backbone, device, as_json)
        return
    tuned = _opened(folder, backbone, device)
    scores = tuned.evaluate(given, batch=batch) if decode is None else tuned.decode(given, mode=decode, batch=batch)
    if as_json:
        print(json.dumps(scores))
        return
    table = Table(title=f"{folder} on {data}")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*map(_number, scores.values()))
    out.print(table)


def _print_ensemble(
    folders: list[Path], data: str, rule: str, backbone: str | None, device: str | None, as_json: bool
) -> None:
    from promptuary.bank import open_bank
    from promptuary.data.source import rows
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
@_told
def predict(
    folder: Annotated[
        Path, typer.Argument(help="The folder that `tune --out` wrote; with --by one that holds such folders.")
    ],
    input: Annotated[str, typer.Option(help="Rows with the columns the prompt was tuned on.")],
    output: Annotated[Path, typer.Option(help="A JSONL file: the input's fields with those of the answer.")],
    backbone: Backbone = None,
    device: Device = None,
    by: Annotated[str | None, typer.Option(help="The column that names each row's prompt, a folder in FOLDER.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a pass.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="With --by, instead of --batch: tokens a pass.")] = 1024,
) -> None:
    """Answer the rows of a file.

    By one prompt, or each row by the prompt that it names (--by). A stream: rows keep their order, and memory stays
    constant.
    """
    from promptuary.data.source import rows

    given = rows(input)
    if by is None:
        said = partial(_opened(folder, backbone, device).outputs, batch=batch)
    else:
        from promptuary.bank import open_bank, prompts_in

        bank = open_bank(prompts_in(folder), backbone=backbone, device=device or "auto")
        said = partial(bank.outputs, by=by, tokens=tokens)

    from promptuary.predicting import write_predictions

    count, seconds = write_predictions(said, given, output, console=err)
    err.print(f"{count:,} rows in {seconds:.1f} s -> {output}")


@app.command()
@_told
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
    from promptuary.page import check_page

    if page is not None:
        if data is None:
            raise SettingError(f"--html {page} draws what a prompt does with rows. Name them: --data FILE.")
        check_page(page, projection)
    given = None if data is None else rows(data)

    from promptuary import pretrained

    if pretrained.is_in(folder):
        if data is not None:
            raise SettingError(f"{folder} holds a generator, which does nothing with rows by itself. Leave --data out.")
        _show_generator(folder, as_json)
        return
    tuned = _opened(folder, backbone, device)

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


@app.command()
@_told
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
@_told
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
@_told
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


def _opened(folder: Path, backbone: str | None, device: str | None) -> "Tuned":
    from promptuary.tuned import open_prompt

    return open_prompt(folder, backbone=backbone, device=device or "auto")
