"""Making prompts: `tune`, and `pretrain` for the generators of instance-wise ones."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from promptuary.cli.terminal import COUNTED, LEAD, AsJson, Device, app, err, given, out, told

if TYPE_CHECKING:
    from collections.abc import Collection

    from promptuary.material import Material
    from promptuary.multitask.plan import Multitask
    from promptuary.specs import Run
    from promptuary.tuning import Outcome


@app.command()
@told
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
            "prompt:FOLDER, peft:FOLDER, activations, embeddings (default auto: the method's)."
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
    track: Annotated[
        list[str] | None,
        typer.Option(help="Tell an experiment tracker: tensorboard, wandb, trackio, mlflow (repeatable)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run already.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the prompt goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune a soft prompt on rows with their answers.

    The same command again goes on where an interrupted one stopped. A file with tables [tasks.NAME] tunes one prompt
    that several tasks share. Several GPUs share each step's rows: torchrun --nproc-per-node N -m promptuary tune ...
    """
    from promptuary.material import gather
    from promptuary.multitask.plan import read_tasks
    from promptuary.specs import Run, parse_settings, read_run

    own, fields, rates = parse_settings(settings or [])
    overrides = given(
        backbone=backbone, task=task, train=train, validation=validation, text=text, text_pair=text_pair, label=label,
        method=method, init=init, preset=preset, readout=readout, template=template, pool=pool, max_length=max_length,
        max_new_tokens=max_new_tokens, metric=metric, device=device, save_every=save_every, seeds=seed or None,
        track=track or None, out=None if folder is None else str(folder),
        settings=own | given(length=length) or None,
        recipe=fields | given(epochs=epochs, rate=rate, batch=batch, precision=precision) or None,
        rates=rates or None,
    )  # fmt: skip
    plan = None if config is None else read_tasks(config, overrides)
    if plan is not None:
        _tune_tasks(plan, overwrite, as_json)
        return
    run = Run(**overrides) if config is None else read_run(config, overrides)
    material = gather(run)  # what is wrong with the run or its rows is told before torch is imported
    _told_rows([material], run.backbone, as_json)

    from promptuary import tuning

    results = tuning.tune(run, material=material, overwrite=overwrite, console=None if as_json else err)
    if not LEAD:
        return
    if as_json:
        print(json.dumps([r.summary() for r in results] if len(results) > 1 else results[0].summary()))
        return
    _print_results(results, run)


def _told_rows(materials: "Collection[Material]", backbone: str, as_json: bool) -> None:
    if LEAD and not as_json:
        train, held = (sum(map(len, rows)) for rows in zip(*((m.train, m.validation) for m in materials), strict=True))
        err.print(f"{train:,} rows for training and {held:,} for validation; loading {backbone} ...")


def _tune_tasks(plan: "Multitask", overwrite: bool, as_json: bool) -> None:
    from promptuary.multitask.plan import gather_tasks

    materials = gather_tasks(plan)
    _told_rows(materials.values(), next(iter(plan.runs.values())).backbone, as_json)

    from promptuary.multitask.tuning import tune_tasks

    console = None if as_json else err
    results = tune_tasks(plan, materials=materials, overwrite=overwrite, console=console)
    if not LEAD:
        return
    if as_json:
        print(json.dumps([r.summary() for r in results] if len(results) > 1 else results[0].summary()))
        return
    run = next(iter(plan.runs.values()))
    table = Table(title=f"{run.method} on {run.backbone}, shared by {len(plan.runs)} tasks")
    for column in ("seed", "task", "metric", "validation", *COUNTED, "on disk"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right", overflow="fold")
    for r in results:
        for name, outcome in r.tasks.items():
            s = outcome.summary()
            sizes = (f"{number:,}" for number in s["counts"].values())
            score = f"{s['score']:.4f}"
            table.add_row(str(r.seed), name, plan.runs[name].metric, score, *sizes, f"{s['bytes'] / 1024:.1f} KiB")
    out.print(table)
    for r in results:
        out.print(f"seed {r.seed}: mean {r.result.score:.4f} at step {r.result.best_step} in {r.result.seconds:.1f} s")
    first = results[0]
    out.print(f"\nSaved in {plan.shared['out']}, a prompt for each task. Next:")
    out.print(f"  promptuary evaluate {first.folder / next(iter(first.tasks))} --data FILE")
    out.print(f"  promptuary serve {first.folder} --backbone {run.backbone}")


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
@told
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
    overrides = given(
        backbone=backbone, train=train, validation=validation, text=text, text_pair=text_pair, label=label, init=init,
        max_length=max_length, metric=metric, device=device, save_every=save_every,
        method=method or ("ipt" if config is None else None), seeds=None if seed is None else [seed],
        out=None if folder is None else str(folder),
        settings=own | given(length=length) or None,
        recipe=fields | given(epochs=epochs, rate=rate, batch=batch) or None,
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
