"""The report of a search on one's own rows (`promptuary compare`): from its result to the parts of the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptuary.bench import advice, statistics
from promptuary.bench.advice import Advice, advise, spoken
from promptuary.bench.recommend import DOUBTFUL, PROMPT, RESULT, STUDY
from promptuary.bench.records import unpacked
from promptuary.bench.store import FILE
from promptuary.bench.tables import Captioned
from promptuary.errors import DataError, PromptuaryError
from promptuary.markup import paragraph
from promptuary.report import figures, mistakes, tables
from promptuary.report.explained import explained
from promptuary.report.figures import Figure, grid
from promptuary.report.page import Part, sentences
from promptuary.report.series import Confused, Point, Series
from promptuary.report.trace import settings
from promptuary.train.record import origin

SHOWN = 20  # doubtful rows


@dataclass(frozen=True)
class Search:
    """A search that ended.

    Arguments:
        folder: of the search. result: what it found. advice: what that says.
    """

    folder: Path
    result: Mapping[str, Any]
    advice: Advice

    @property
    def captioned(self) -> Captioned:
        """The estimates as a table."""
        return advice.table(self.advice, self.result["rows"]["estimate"])


def opened(folder: Path) -> Search:
    """The search in a folder.

    Raises:
        DataError: for a file that is no result of a search.
    """
    try:
        result = json.loads((folder / RESULT).read_bytes())
        return Search(folder, result, advise(result))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RESULT} is no result of `promptuary compare` ({error!r}).") from error


def lead(search: Search) -> str:
    """What was searched, in a sentence."""
    rows, tried = search.result["rows"], len(search.result["tried"])
    return (
        f"{tried} trials on {search.result['backbone']} in {search.result['spent_s']:.0f} s: {rows['train']:,} rows "
        f"teach, {rows['selection']:,} select, {rows['estimate']:,} estimate."
    )


def parts(search: Search, *, explain: bool = True) -> list[Part]:
    """All parts of the page; those without anything to say are empty.

    Arguments:
        explain: whether the prompt is opened, which loads its backbone.
    """
    names = dict.fromkeys(e["method"] for e in search.result["estimates"].values())
    return [
        Part("words", "In short", sentences(search.advice.words, kind="said")),
        Part("scores", "Scores", tables.html(*search.captioned, leads=lambda _: "trials")),
        _prices(search, figures.styles(names)),
        _learning(search),
        _mistakes(search),
        Part("doubtful", "Labels that may be wrong", _doubtful(search)),
        Part("prompt", "The prompt explained", _prompt(search) if explain else ""),
        Part("protocol", "Protocol", _protocol(search)),
        Part("trials", "Trials", _trials(search)),
    ]


def _prices(search: Search, known: figures.Styles) -> Part:
    own = search.result["estimates"]
    points: dict[str, list[Point]] = {name: [] for name in figures.PRICES}
    for e in search.advice.estimates:
        cost = own[e.name]["cost"] or {}
        for name in points:
            if name in cost:
                points[name].append(Point(own[e.name]["method"], float(cost[name]), e.score, e.interval))
    made = figures.prices(known, points)
    return Part("prices", "Scores against costs", figures.legend(known) + grid(made) if made else "", made)


def _learning(search: Search) -> Part:
    """The curves of all trials that were scored twice or more."""
    metric, found = search.result["metric"], []
    for trial in search.result["tried"]:
        curve = [(float(e["step"]), float(e[metric])) for e in trial.get("curve", ()) if metric in e]
        if len(curve) > 1:
            at, scores = zip(*curve, strict=True)
            found.append(Series(spoken(trial), at, scores, scores, scores))
    if not found:
        return Part("learning", "Learning curves", "")
    known = figures.styles(dict.fromkeys(own.name for own in found))
    told = "Score of each trial on the rows that select, by step."
    made = [Figure("learning", told, figures.curves, (known, found, "optimizer steps", metric, False))]
    return Part("learning", "Learning curves", figures.legend(known) + grid(made), made)


def _mistakes(search: Search) -> Part:
    if search.result["true"] is None:
        return Part("mistakes", "Mistakes of the prompt", "")
    true, said = unpacked(search.result["true"]), unpacked(search.result["estimates"]["prompt"]["said"])
    labels = tuple(map(str, search.result["labels"]))
    found = Confused(labels, statistics.confusion(true.tolist(), said.tolist(), len(labels)).astype(int))
    told = "What the prompt answered to rows of each class, % of them."
    made = mistakes.picture(found, told, "mistakes")
    return Part("mistakes", "Mistakes of the prompt", made.html() + mistakes.numbers(found, "the estimate"), [made])


def _doubtful(search: Search) -> str:
    path = search.folder / DOUBTFUL
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = whole.split("\n")[:-1]  # a text may hold what `splitlines` takes for the end of a line
    rows = [json.loads(line) for line in lines[:SHOWN]]
    if not rows:
        return ""
    told = f"The surest {len(rows)} of {len(lines)} rows that are answered otherwise than their label says."
    cells = [(r["place"], r["label"], r["said"], f"{r['probability']:.4f}", " / ".join(r["texts"])) for r in rows]
    return paragraph(told) + tables.plain(("row", "label", "answer", "probability", "text"), cells, told)


def _prompt(search: Search) -> str:
    try:
        return explained(search.folder / PROMPT)
    except PromptuaryError:  # a search may be read without its prompt and backbone
        return ""


def _protocol(search: Search) -> str:
    r = search.result
    shares = paragraph(
        "Copies of a text stay on one side of every division. Candidates compete by successive halving, scored on the "
        f"rows that select; the {r['rows']['estimate']:,} rows that estimate were opened once, for the table above. "
        f"The time was {r['budget_s']:.0f} s, of which {r['spent_s']:.0f} s were spent."
    )
    return shares + paragraph(f"{origin([r])}.")


def _trials(search: Search) -> str:
    kept = (
        f"Each line is a trial of {FILE}, study {STUDY!r}. The answers that the estimates are made of are in {RESULT}: "
        f"python -m json.tool {RESULT}"
    )
    rows = [
        (
            t.get("trial", spoken(t)), t["method"], settings(t["settings"]), f"{t['steps'] or 0:,}",
            t["sentence"] or "" if t["selection"] is None else f"{t['selection']:.4f}",
            f"{t['cost']['seconds']:.1f}" if t["cost"] else "",
        )
        for t in search.result["tried"]
    ]  # fmt: skip
    heads = ("trial", "method", "settings", "steps", f"{search.result['metric']} that chose", "seconds")
    return paragraph(kept) + tables.plain(heads, rows, "trials")
