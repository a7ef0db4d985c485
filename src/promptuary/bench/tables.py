"""A comparison as text: Markdown to read, LaTeX to print. Numbers are percent, unless they say otherwise."""

from collections.abc import Callable, Sequence
from statistics import mean

from promptuary.bench.compare import Comparison, Difference, Elsewhere, Line, Table, Together
from promptuary.bench.statistics import Interval

Body = tuple[list[str], list[list[str]]]  # heads and rows


def markdown(found: Comparison) -> str:
    """The whole comparison as a page."""
    state = (
        "" if found.finished == found.planned else f" **{found.finished} of {found.planned} results are there so far.**"
    )
    parts = [f"# {found.name}", f"{found.protocol}{state}".strip(), f"{found.origin}."]
    for table in found.tables:
        parts += [f"## {table.place.regime}, {table.place.backbone}", *_sections(table, _markdown)]
        told = [f"- {line.method} on {line.task}: {alarm}" for line in table.lines for alarm in line.alarms]
        parts += ["### What looks wrong", "\n".join(told)] if told else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(found: Comparison) -> str:
    """The tables of the comparison, each a `tabular` (package booktabs)."""
    parts = [f"% {found.name}: {found.origin}"]
    for table in found.tables:
        parts += [f"% {table.place.regime}, {table.place.backbone}", *_sections(table, _latex)]
    return "\n\n".join(parts) + "\n"


def _sections(table: Table, drawn: Callable[[str, Body], str]) -> list[str]:
    parts = [drawn("Scores: mean ± deviation over seeds (their number), and the interval of the mean.", _scores(table))]
    if table.differences:
        said = (
            f"Gain over {table.differences[0].against}, in points of accuracy: the mean over tasks, its interval, p by "
            "Wilcoxon's test over tasks (by a sign-flip test over rows for one task), and p by Holm's rule."
        )
        parts.append(drawn(said, _gains(table.differences)))
    parts.append(drawn("What it costs: means over tasks and seeds.", _costs(table)))
    if table.elsewhere:
        parts.append(drawn("Asked of other tasks without training, in accuracy.", _transfers(table.elsewhere)))
    if table.together:
        parts.append(drawn("The seeds as an ensemble, by majority vote, in accuracy.", _ensembles(table.together)))
    return parts


def _scores(table: Table) -> Body:
    tasks = list(dict.fromkeys(line.task for line in table.lines))
    known = {(line.method, line.task): line for line in table.lines}
    body = []
    for method in _methods(table):
        own = [known.get((method, task)) for task in tasks]
        means = [line.mean for line in own if line is not None and line.mean is not None]
        average = f"{100 * mean(means):.1f}" if len(means) == len(tasks) else ""
        body.append([method, *(said(line) for line in own), average])
    metrics = {line.task: line.metric for line in table.lines if line.metric}
    return ["", *(f"{task} ({metrics.get(task, '-')})" for task in tasks), "mean"], body


def said(line: Line | None) -> str:
    """`85.4 ± 0.3 (3) [84.1, 86.6]`."""
    if line is None:
        return ""
    if line.mean is None:
        return ", ".join(line.lost) or "-"
    spread = "" if line.deviation is None else f" ± {100 * line.deviation:.1f}"
    lost = sum(line.lost.values())
    return f"{100 * line.mean:.1f}{spread} ({len(line.seeds)}){_between(line.interval)}" + (
        f", {lost} lost" if lost else ""
    )


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _gains(found: Sequence[Difference]) -> Body:
    rows = [
        [
            d.method, f"{100 * d.gain:+.1f}", f"{100 * d.interval[0]:+.1f} to {100 * d.interval[1]:+.1f}",
            f"{len(d.tasks)}", f"{sum(gain > 0 for gain in d.tasks.values())}", f"{d.p:.4f}", f"{d.corrected:.4f}",
        ]
        for d in found
    ]  # fmt: skip
    return ["", "gain", "95 % interval", "tasks", "of them better", "p", "p (Holm)"], rows


def _costs(table: Table) -> Body:
    body = []
    for method in _methods(table):
        costs = [line.cost for line in table.lines if line.method == method and line.cost]

        def of(name: str, form: Callable[[float], str], costs: Sequence[object] = costs) -> str:
            values = [cost[name] for cost in costs if name in cost]  # type: ignore[index, operator]
            return form(mean(values)) if values else ""

        body.append(
            [
                method, of("trained", whole), of("touched", whole), of("stored", size), of("seconds", "{:.1f}".format),
                of("seconds_to_best", "{:.1f}".format), of("peak_bytes", size), of("inference_ms", "{:.2f}".format),
            ]
        )  # fmt: skip
    heads = ["", "trained", "touched", "stored", "seconds", "to the best step", "peak memory", "ms a row"]
    return heads, body


def _transfers(found: Sequence[Elsewhere]) -> Body:
    rows = []
    for e in found:
        spread = "" if e.deviation is None else f" ± {100 * e.deviation:.1f}"
        score = f"{100 * e.mean:.1f}{spread}{_between(e.interval)}"
        rows.append([e.method, e.source, e.to, score, f"{100 * e.majority:.1f}"])
    return ["", "learned on", "asked of", "accuracy", "majority"], rows


def _ensembles(found: Sequence[Together]) -> Body:
    rows = [
        [t.method, t.task, f"{t.members}", *(f"{100 * score:.1f}" for score in (t.ensemble, t.mean, t.best))]
        for t in found
    ]
    return ["", "task", "members", "ensemble", "mean member", "best member"], rows


def _methods(table: Table) -> list[str]:
    return list(dict.fromkeys(line.method for line in table.lines))


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


def _markdown(caption: str, body: Body) -> str:
    heads, rows = body
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return caption + "\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _latex(caption: str, body: Body) -> str:
    heads, rows = body
    lines = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (heads, *rows)]
    return "\n".join(
        [
            f"% {caption}", rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", lines[0], r"\midrule",
            *lines[1:], r"\bottomrule", r"\end{tabular}",
        ]
    )  # fmt: skip


def _escaped(text: str) -> str:
    for mark in ("\\", "&", "%", "_", "#", "$"):
        text = text.replace(mark, "\\" + mark)
    return text.replace("±", r"$\pm$")
