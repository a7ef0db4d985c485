"""A comparison as text: Markdown to read, LaTeX to print. Numbers are percent, unless they say otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from promptuary.bench.comparison import Comparison, Line, Table
from promptuary.bench.statistics import Interval


@dataclass(frozen=True)
class Cell:
    """What stands in a place of a table.

    Arguments:
        text: as it is printed. value: the number that it stands for, by which rows are ordered; `None` for words.
        line: what it was made of, where that is one method on one task.
    """

    text: str
    value: float | None = None
    line: Line | None = None


Body = tuple[list[str], list[list[Cell]]]  # heads and rows
Captioned = tuple[str, Body]


def markdown(found: Comparison) -> str:
    """The whole comparison as a page."""
    state = (
        "" if found.finished == found.planned else f" **{found.finished} of {found.planned} results are there so far.**"
    )
    parts = [f"# {found.name}", f"{found.protocol}{state}".strip(), f"{found.origin}."]
    for table in found.tables:
        parts += [
            f"## {table.place.regime}, {table.place.backbone}",
            *(markdown_table(*captioned) for captioned in sections(table)),
        ]
        told = [f"- {line.method} on {line.task}: {alarm}" for line in table.lines for alarm in line.alarms]
        parts += ["### What looks wrong", "\n".join(told)] if told else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(found: Comparison) -> str:
    """The tables of the comparison, each a `tabular` (package booktabs)."""
    parts = [f"% {found.name}: {found.origin}".replace("\n", " ")]
    for table in found.tables:
        parts += [
            f"% {table.place.regime}, {table.place.backbone}",
            *(latex_table(*captioned) for captioned in sections(table)),
        ]
    return "\n\n".join(parts) + "\n"


def sections(table: Table) -> list[Captioned]:
    """The tables of a place, those that are not empty."""
    found = [part(table) for part in (scores, gains, costs, transfers, ensembles)]
    return [(caption, body) for caption, body in found if body[1]]


def scores(table: Table) -> Captioned:
    """Methods by tasks."""
    tasks = list(dict.fromkeys(line.task for line in table.lines))
    known = {(line.method, line.task): line for line in table.lines}
    body = []
    for method in methods(table):
        own = [known.get((method, task)) for task in tasks]
        means = [line.mean for line in own if line is not None and line.mean is not None]
        average = percent(mean(means)) if len(means) == len(tasks) else Cell("")
        cells = (Cell(said(line), None if line is None else line.mean, line) for line in own)
        body.append([Cell(method), *cells, average])
    metrics = {line.task: line.metric for line in table.lines if line.metric}
    heads = ["", *(f"{task} ({metrics.get(task, '-')})" for task in tasks), "mean"]
    return "Scores: mean ± deviation over seeds (their number), and the interval of the mean.", (heads, body)


def said(line: Line | None) -> str:
    """`85.4 ± 0.3 (3) [84.1, 86.6]`."""
    return "" if line is None else " ".join(part for part in (middle(line), around(line)) if part)


def middle(line: Line) -> str:
    """`85.4 ± 0.3`; what became of a line without a result."""
    if line.mean is None:
        return ", ".join(line.lost) or "-"
    return f"{100 * line.mean:.1f}" + ("" if line.deviation is None else f" ± {100 * line.deviation:.1f}")


def around(line: Line) -> str:
    """`(3) [84.1, 86.6]`: how many seeds, where the mean would fall, how many seeds are lost."""
    if line.mean is None:
        return ""
    lost = sum(line.lost.values())
    return f"({len(line.seeds)}){_between(line.interval)}" + (f", {lost} lost" if lost else "")


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def gains(table: Table) -> Captioned:
    """What each method gains over the one that it is held against."""
    several = len({d.against for d in table.differences}) > 1
    rows = [
        [
            Cell(d.method), *([Cell(d.against)] if several else []), Cell(f"{100 * d.gain:+.1f}", d.gain),
            Cell(f"{100 * d.interval[0]:+.1f} to {100 * d.interval[1]:+.1f}", d.interval[0]),
            number(len(d.tasks)), number(sum(gain > 0 for gain in d.tasks.values())),
            chance(d.p), chance(d.corrected),
        ]
        for d in table.differences
    ]  # fmt: skip
    over = "another method" if several else "".join({d.against for d in table.differences})
    said = (
        f"Gain over {over}, in points of each task's score: the mean over tasks, its interval for other seeds and "
        "rows, p by Wilcoxon's test over tasks (for one task by a sign-flip test over its rows, with these seeds; two "
        "to five are too few), and p by Holm's rule."
    )
    return said, (
        ["", *(["over"] if several else []), "gain", "95 % interval", "tasks", "of them better", "p", "p (Holm)"],
        rows,
    )


def costs(table: Table) -> Captioned:
    """What each method takes."""
    forms: dict[str, Callable[[float], str]] = {
        "trained": whole, "touched": whole, "stored": size, "seconds": "{:.1f}".format,
        "seconds_to_best": "{:.1f}".format, "peak_bytes": size, "inference_ms": "{:.2f}".format,
    }  # fmt: skip
    body = []
    for method in methods(table):
        own = [cost(table, method, name) for name in forms]
        cells = (Cell("" if v is None else form(v), v) for v, form in zip(own, forms.values(), strict=True))
        body.append([Cell(method), *cells])
    heads = ["", "trained", "touched", "stored", "seconds", "to the best step", "peak memory", "ms a row"]
    return "What it costs: means over tasks and seeds.", (heads, body)


def cost(table: Table, method: str, name: str) -> float | None:
    """What a method takes, by a name in `comparison.COSTS`: the mean over its tasks; `None` where it is not known."""
    known = [line.cost[name] for line in table.lines if line.method == method and name in line.cost]
    return mean(known) if known else None


def transfers(table: Table) -> Captioned:
    """What was learned on one task, asked of another one."""
    rows = []
    for e in table.elsewhere:
        spread = "" if e.deviation is None else f" ± {100 * e.deviation:.1f}"
        score = Cell(f"{100 * e.mean:.1f}{spread}{_between(e.interval)}", e.mean)
        rows.append(
            [Cell(e.method), Cell(e.source), Cell(e.to), score, Cell("") if e.majority is None else percent(e.majority)]
        )
    heads = ["", "learned on", "asked of", "score", "majority"]
    return "Asked of other tasks without training, in the score of the task that was learned.", (heads, rows)


def ensembles(table: Table) -> Captioned:
    """The seeds of each method together."""
    rows = [
        [Cell(t.method), Cell(t.task), number(t.members), *(percent(score) for score in (t.ensemble, t.mean, t.best))]
        for t in table.together
    ]
    heads = ["", "task", "members", "ensemble", "mean member", "best member"]
    return "The seeds as an ensemble, by majority vote, in accuracy.", (heads, rows)


def methods(table: Table) -> list[str]:
    """The methods of a place, in their order."""
    return list(dict.fromkeys(line.method for line in table.lines))


def chance(p: float | None) -> Cell:
    """`0.0312`, or a stroke where nothing was tested."""
    return Cell("-") if p is None else Cell(f"{p:.4f}", p)


def percent(share: float) -> Cell:
    """`85.4`."""
    return Cell(f"{100 * share:.1f}", share)


def number(count: int) -> Cell:
    """`12,345`."""
    return Cell(f"{count:,}", count)


def whole(value: float) -> str:
    """`12,345`."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes as `12.3 kB`."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def markdown_table(caption: str, body: Body) -> str:
    """One table in Markdown, under its caption."""
    heads, rows = body
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *([cell.text for cell in row] for row in rows)]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return caption + "\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def latex_table(caption: str, body: Body) -> str:
    """One table in LaTeX (package booktabs), under its caption as a comment."""
    heads, rows = body
    lines = [[_escaped(text) for text in heads], *([_escaped(cell.text) for cell in row] for row in rows)]
    head, *rest = (" & ".join(cells) + r" \\" for cells in lines)
    return "\n".join(
        [
            f"% {caption}", rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", head, r"\midrule",
            *rest, r"\bottomrule", r"\end{tabular}",
        ]
    )  # fmt: skip


MARKS = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "\n": " ",
    "<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", **{mark: f"\\{mark}" for mark in "&%$#_{}"},
})  # fmt: skip


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is; a bracket behind the end of a row would be read as a distance."""
    return text.translate(MARKS)
