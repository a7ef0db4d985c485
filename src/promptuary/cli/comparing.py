"""Which method suits which rows: `bench`, `compare`, `report`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from promptuary.cli.terminal import AsJson, app, err, given, out, tell, told


@app.command()
@told
def bench(
    plan: Annotated[Path, typer.Argument(help="A TOML file: methods, tasks, regimes, seeds, search.")],
    folder: Annotated[Path, typer.Option("--out", help="The folder of the study; the same command goes on there.")],
    jobs: Annotated[int, typer.Option(help="Share the work among so many processes of one thread each.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Begin no other trial after so many minutes.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; write the tables of what is finished.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Run nothing; look at plan and rows, count trials.")] = False,
) -> None:
    """Run a plan: methods compete on tasks, and report once.

    All have equal rows, budget and search.

    A killed run goes on with the same command, several processes may share a folder, and nothing runs twice. Writes
    plan.json, records.jsonl, comparison.md, comparison.tex and comparison.json into the folder; `report` makes a page
    of them.
    """
    from promptuary.bench import check_installed

    check_installed()
    from promptuary.bench import run, study
    from promptuary.bench.jobs import jobs as listed
    from promptuary.bench.plan import read
    from promptuary.errors import TrainingError

    asked = read(plan)
    if check:
        from promptuary.bench.loaded import Loaded

        made = listed(asked)
        finals = sum(job.final for job in made)
        for (name, regime), rows in Loaded(asked).read(made).items():
            n = rows.counts
            out.print(
                f"{name}, {regime}: {n['train']:,} rows teach, {n['selection']:,} select ({n['shared']:,} copies)."
            )
        out.print(f"{len(made):,} trials: {len(made) - finals:,} that search and {finals:,} that report.")
        return
    if jobs and not table:
        more = () if minutes is None else ("--minutes", f"{minutes}")
        failed = run.share(("bench", f"{plan}", "--out", f"{folder}", *more), jobs)
        if failed:
            raise TrainingError(f"{failed} of {jobs} processes failed; what they said stands above.")
    elif not table:
        run.run(asked, folder, console=err, minutes=minutes)
    found = study.export(asked, folder)
    out.print((folder / study.PAGE).read_text(encoding="utf-8"))
    out.print(f"{found.finished} of {found.planned} results are there. Written to {folder / study.PAGE}.")


@app.command()
@told
def compare(
    data: Annotated[str, typer.Argument(help="Your rows: a .csv/.jsonl/.tsv/.parquet file, or as for `tune`.")],
    budget: Annotated[str, typer.Option(help="The time for everything: 90s, 20min, 1h.")] = "20min",
    task: Annotated[
        str | None, typer.Option(help="classification, text, tagging or answering (default classification).")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text (default: as for tune).")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of a second text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the answer (default: as for tune).")] = None,
    metric: Annotated[
        str | None, typer.Option(help="The score that chooses (default: the task's; of texts chrf).")
    ] = None,
    backbone: Annotated[str, typer.Option(help="A short name, a folder, or a name on the hub.")] = "minilm",
    method: Annotated[
        list[str] | None, typer.Option(help="A method that may compete (repeatable; default: those that do best).")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Cut longer texts to this many tokens (default 128; contexts 384).")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="Of the frozen model (auto: the faster one here).")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the division of the rows, and of everything random.")] = 0,
    folder: Annotated[Path, typer.Option("--out", help="Where the answer and the prompt go.")] = Path("compared"),
    as_json: AsJson = False,
) -> None:
    """Find the method that suits your rows, within a time.

    It ends with an estimate and a tuned prompt.

    The rows are divided into some that teach, some that select, and some that estimate, which are opened once, at the
    end. An interrupted search goes on with the same command.
    """
    import time

    began = time.monotonic()
    from promptuary.bench import check_installed
    from promptuary.bench.duration import SHORTEST_S, seconds
    from promptuary.bench.own_rows import divide
    from promptuary.data import source
    from promptuary.errors import SettingError
    from promptuary.methods import method as named
    from promptuary.specs import Run

    check_installed()
    allowed = seconds(budget)
    if allowed < SHORTEST_S:
        raise SettingError(
            f"--budget {budget}: that is over before a prompt is tuned. Expected {SHORTEST_S} s or more."
        )
    if metric == "loss":
        raise SettingError("--metric loss: that says nothing of how good an answer is. Name a score of the task's.")
    asked = given(task=task, text=text, text_pair=text_pair, label=label, metric=metric, max_length=max_length)
    plain = Run(train=data, out="-", **asked)
    length = 384 if plain.kind.name == "answering" else 128
    asked = {"max_length": length, **({"metric": "chrf"} if plain.metric == "loss" else {}), **asked}
    run = Run(train=data, out="-", **asked)
    rows = list(source.rows(data))
    made = run.kind.task(rows, Path(data.removesuffix(".gz")).stem, run)
    divide(rows, made, seed)  # what is wrong with rows and names is told before a model library is loaded
    for name in method or ():
        named(name)

    from promptuary.bench.advice import advise, table
    from promptuary.bench.question import Question
    from promptuary.bench.recommend import PROMPT, recommend

    question = Question(
        rows, made, asked, backbone, allowed, folder, tuple(method or ()), precision=precision, seed=seed
    )
    result = recommend(question, console=None if as_json else err, began=began)
    advice = advise(result)
    if as_json:
        print(json.dumps({**result, "advice": asdict(advice)}))
        _report_on(folder)
        return
    caption, (heads, cells) = table(advice, result["rows"]["estimate"])
    shown = Table(title=f"{made.name}: {caption}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in heads:
        least = {"what": 12, "": 12}.get(column)
        shown.add_column(column, justify="right" if least is None else "left", min_width=least)
    for line in cells:
        shown.add_row(*(cell.text for cell in line))
    out.print(shown)
    for sentence in advice.words:
        out.print(f"- {sentence}")
    if advice.learned:
        out.print(f"\nThe prompt is in {folder / PROMPT}. Next:")
        for command in ("evaluate {} --data FILE", "predict {} --input FILE --output FILE"):
            out.print("  promptuary " + command.format(folder / PROMPT))
    _report_on(folder)


def _report_on(folder: Path) -> None:
    """Put the page of a search into its folder, and say so; where that fails, the answer stands all the same."""
    from promptuary.errors import PromptuaryError
    from promptuary.report.writing import REPORT, report, save

    try:
        save(report(folder), folder / REPORT)
        err.print(f"The report is {folder / REPORT}.")
    except PromptuaryError as error:
        tell(f"no report was written. {error}")


@app.command()
@told
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of `promptuary bench` or `promptuary compare`.")],
    page: Annotated[Path | None, typer.Option("--out", help="The page (default: report.html in the folder).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Also write the tables as LaTeX (package booktabs).")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write the figures into this folder, as SVG and PDF.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Open the best prompts to explain them; loads their backbone.")] = True,
) -> None:
    """Make a page of a study or of a search.

    It has words, tables, figures, and where every number comes from.

    It is one file that asks nothing of a network. Needs `pip install 'promptuary[show]'`.
    """
    from promptuary.report import writing

    made = writing.report(folder, explain=explain)
    written = writing.save(made, page or folder / writing.REPORT, markdown=markdown, latex=latex, figures=figures)
    for path in written:
        out.print(f"{path}")
