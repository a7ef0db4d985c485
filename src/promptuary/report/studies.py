"""The report of a study (`promptuary bench`): from its plan and its records to the parts of the page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from promptuary.bench import tables
from promptuary.bench.comparison import Comparison, Place, Table
from promptuary.bench.plan import Plan
from promptuary.bench.records import RECORDS, Record, read
from promptuary.bench.study import PLAN, compared
from promptuary.errors import DataError, PromptuaryError
from promptuary.markup import paragraph
from promptuary.methods import METHODS
from promptuary.report import figures, mistakes, series
from promptuary.report.explained import explained
from promptuary.report.figures import Figure, grid
from promptuary.report.page import Part, sentences, under
from promptuary.report.tables import html, plain
from promptuary.report.trace import Trace, trace
from promptuary.report.words import Told, general, tell
from promptuary.specs import complaint

PROMPTS = 6  # that are opened and explained, on so many rows
SAMPLE = 200


@dataclass(frozen=True)
class Study:
    """A study that reports.

    Arguments:
        folder: of the study. found: the comparison of its records. records: in the order of their file.
    """

    folder: Path
    plan: Plan
    found: Comparison
    records: Sequence[Record]

    @cached_property
    def trace(self) -> Trace:
        return trace(self.records)

    @cached_property
    def styles(self) -> figures.Styles:
        return figures.styles(dict.fromkeys(r["method"] for r in self.records))

    def of(self, table: Table) -> list[Record]:
        return series.of_place(self.records, table.place)

    def each(self, body: Callable[[Table], str]) -> str:
        """The same of every place, under its name where there are several."""
        if len(self.found.tables) == 1:
            return body(self.found.tables[0])
        return "".join(under(_called(table.place), body(table)) for table in self.found.tables)


def opened(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        DataError: where there is none, and for files that are no plan and no records.
    """
    for name in (PLAN, RECORDS):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} has no {name}, so it is no study that could be reported. Name the folder of `promptuary "
                "compare` or of `promptuary bench`; for one that was killed, `promptuary bench PLAN --out FOLDER "
                "--table` writes what is finished."
            )
    try:
        plan = Plan(**json.loads((folder / PLAN).read_bytes()))
    except ValidationError as error:
        raise DataError(f"{folder / PLAN}: {complaint(error, 'Key')}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / PLAN} is no plan ({error}).") from error
    records = read(folder / RECORDS)
    if not records:
        raise DataError(f"{folder / RECORDS} is empty: nothing is finished yet.")
    return Study(folder, plan, compared(plan, records), records)


def lead(study: Study) -> str:
    """What was compared, in a sentence."""
    tasks, methods = ({r[name] for r in study.records} for name in ("task", "method"))
    seeds, backbones = {r["seed"] for r in study.records}, sorted({r["backbone"] for r in study.records})
    return (
        f"{len(methods)} methods on {len(tasks)} tasks, on {', '.join(backbones)}, with {len(seeds)} seeds: "
        f"{study.found.finished} of {study.found.planned} results."
    )


def parts(study: Study, *, explain: bool = True) -> list[Part]:
    """All parts of the page; those without anything to say are empty.

    Arguments:
        explain: whether the best prompts are opened, which loads their backbone.
    """
    told = {table.place: tell(table, study.of(table), study.plan.against) for table in study.found.tables}
    return [
        Part("words", "In short", study.each(lambda t: sentences(told[t.place].sentences, kind="said"))),
        Part("doubts", "What to distrust", _doubts(study, told)),
        _scores(study),
        _prices(study),
        _learning(study),
        _mistakes(study),
        _shots(study),
        _transfer(study),
        Part("together", "Seeds together", study.each(lambda t: _table(study, t, tables.ensembles(t)))),
        Part("prompts", "Prompts explained", _prompts(study) if explain else ""),
        Part("protocol", "Protocol", _protocol(study)),
        Part("records", "Records", study.trace.html()),
    ]


def _doubts(study: Study, told: Mapping[Place, Told]) -> str:
    own = study.each(lambda table: sentences(told[table.place].doubts, kind="doubts"))
    return sentences(general(study.found), kind="doubts") + own


def _table(study: Study, table: Table, captioned: tables.Captioned) -> str:
    """One of the tables of `bench.tables`; nothing where it is empty."""
    caption, body = captioned
    return html(caption, body, lambda line: study.trace.mark(table.place, line.task, line.method)) if body[1] else ""


def _scores(study: Study) -> Part:
    made: list[Figure] = []

    def body(table: Table) -> str:
        found = _table(study, table, tables.scores(table))
        if not table.differences:
            return found
        d = sorted(table.differences, key=lambda d: -d.gain)
        several = len({x.against for x in d}) > 1
        over = "the method behind the stroke" if several else d[0].against
        told = f"Gain over {over} with its 95 % interval; filled where the interval leaves 0 out."
        given = (
            [f"{x.method} / {x.against}" if several else x.method for x in d],
            [x.gain for x in d],
            [x.interval for x in d],
            over,
        )
        made.append(Figure(f"gains-{_file(table.place)}", told, figures.gains, given))
        return found + made[-1].html() + _table(study, table, tables.gains(table))

    return Part("scores", "Scores", study.each(body), made)


def _prices(study: Study) -> Part:
    made: list[Figure] = []

    def body(table: Table) -> str:
        points = {name: series.points(table, name) for name in figures.PRICES}
        own = figures.prices(study.styles, points, f"-{_file(table.place)}")
        made.extend(own)
        drawn = figures.legend(study.styles) + grid(own) if own else ""
        return drawn + _table(study, table, tables.costs(table))

    return Part("prices", "Scores against costs", study.each(body), made)


def _learning(study: Study) -> Part:
    made: list[Figure] = []

    def body(table: Table) -> str:
        own = []
        for task in dict.fromkeys(line.task for line in table.lines):
            known = series.learning(study.of(table), task)
            if known:
                given = (study.styles, known, "optimizer steps", _metric(table, task), False)
                told = f"{task}: score on the rows that select by step; mean, and from least to most over seeds."
                own.append(Figure(f"learning-{task}-{_file(table.place)}", told, figures.curves, given))
        made.extend(own)
        return figures.legend(study.styles) + grid(own) if own else ""

    return Part("learning", "Learning curves", study.each(body), made)


def _mistakes(study: Study) -> Part:
    """What the best method of each place mistakes for what."""
    made: list[Figure] = []

    def body(table: Table) -> str:
        method, own = series.best(table), []
        for task in dict.fromkeys(line.task for line in table.lines) if method else ():
            found = series.confused(study.of(table), task, str(method))
            if found is not None:
                told = f"{task}: what {method} answered to rows of each class, % of them; all seeds."
                made.append(mistakes.picture(found, told, f"mistakes-{task}-{_file(table.place)}"))
                own.append(f"<div>{made[-1].html()}{mistakes.numbers(found, task)}</div>")
        return f'<div class="grid">{"".join(own)}</div>' if own else ""

    return Part("mistakes", "Mistakes of the best", study.each(body), made)


def _shots(study: Study) -> Part:
    made = []
    for backbone in dict.fromkeys(table.place.backbone for table in study.found.tables):
        for task in dict.fromkeys(r["task"] for r in study.records):
            found = series.shots(study.found.tables, study.records, task, backbone)
            if found:
                metric = next(m for t in study.found.tables if (m := _metric(t, task)))
                given = (study.styles, found, "rows a class that teach", metric, True)
                told = f"{task} on {backbone}: score by the number of rows that teach, with its interval."
                made.append(Figure(f"shots-{task}-{_plain(backbone)}", told, figures.curves, given))
    return Part("shots", "Few rows", figures.legend(study.styles) + grid(made) if made else "", made)


def _transfer(study: Study) -> Part:
    made: list[Figure] = []

    def body(table: Table) -> str:
        own = []
        for method in dict.fromkeys(e.method for e in table.elsewhere):
            learned, asked, values = series.transfer(table, method)
            told = f"{method}: score on tasks that it did not learn, %."
            name = f"transfer-{method}-{_file(table.place)}"
            own.append(Figure(name, told, figures.matrix, (learned, asked, values, "learned on", "asked of")))
        made.extend(own)
        return (grid(own) if own else "") + _table(study, table, tables.transfers(table))

    return Part("transfer", "Asked of other tasks", study.each(body), made)


def _prompts(study: Study) -> str:
    """The first prompt of the best method that keeps some, on each task, as far as they can be opened."""
    chosen = []
    for table in study.found.tables:
        kept = [r for r in study.of(table) if r.get("prompt") and r["method"] in METHODS and r["method"] != "frozen"]
        method = series.best(table, {r["method"] for r in kept})
        own = [r for r in kept if r["method"] == method]
        chosen += [next(r for r in own if r["task"] == task) for task in dict.fromkeys(r["task"] for r in own)]
    return "".join(_prompt(study, r) for r in chosen[:PROMPTS])


def _prompt(study: Study, record: Record) -> str:
    from promptuary.bench.grounds import rows_of

    title = f"{record['method']} on {record['task']}, {record['regime']}, seed {record['seed']}"
    try:
        rows = rows_of(study.plan, record["task"], record["regime"], record["seed"]).selection
        rows = rows[:: -(-len(rows) // SAMPLE)]
    except PromptuaryError:  # data that are no longer there: the prompt is told of without them
        rows = ()
    try:
        return under(title, explained(study.folder / record["prompt"], rows))
    except PromptuaryError:  # a study may be read without its prompts and backbones
        return ""


def _protocol(study: Study) -> str:
    known = [r for r in study.records if "reports" in r]
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for r in known:
        counts, budget = r["rows"], r["budget"]
        report = r["reports"][r["task"]]["rows"]
        spent = f"{budget['steps']} steps" if budget["steps"] else f"{budget['epochs']} epochs"
        rows.setdefault((r["task"], r["regime"]), (
            r["task"], r["regime"], f"{counts['train']:,}", f"{counts['selection']:,}", f"{counts['shared']:,}",
            f"{report:,}", f"{spent} of {budget['batch']} rows", budget["precision"],
        ))  # fmt: skip
    heads = ("task", "regime", "rows that teach", "that select", "in both", "that report", "a run", "precision")
    seeds = ", ".join(str(seed) for seed in sorted({r["seed"] for r in study.records}))
    return (
        paragraph(study.found.protocol)
        + plain(heads, list(rows.values()), "rows and budgets")
        + paragraph(f"Seeds {seeds}. {study.found.origin}.")
    )


def _metric(table: Table, task: str) -> str:
    return next((line.metric for line in table.lines if line.task == task and line.metric), "")


def _called(place: Place) -> str:
    return f"{place.regime}, {place.backbone}"


def _file(place: Place) -> str:
    return f"{_plain(place.regime)}-{_plain(place.backbone)}"


def _plain(name: Any) -> str:
    """A name as part of that of a file."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in str(name)).strip("-.")
