"""What `promptuary show --data` found, as one page of HTML: text, tables, and pictures (`drawing`) as inline SVG.

The page asks for nothing from outside, runs no script, follows the reader's choice of light or dark, and is as wide as
its screen. Classes differ in colour (Okabe and Ito's, which colour-blind readers can tell apart) and in the form of
their points. Whatever comes from a user is escaped.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptuary import drawing
from promptuary.drawing import COLOURS, FORMS, OTHERS
from promptuary.errors import DataError, SettingError, nearest
from promptuary.files import whole
from promptuary.picture import GROUPED, commonest, percent

if TYPE_CHECKING:
    from promptuary.inspecting import Inspected
    from promptuary.projecting import Plane

PROJECTIONS = {"pca": "principal components", "tsne": "t-SNE"}
HEATED = 24  # classes in a picture of weights, and in one of counts
COUNTED = 8


def check_page(path: Path, projection: str) -> None:
    """Refuse what would only fail when the work is done.

    Raises:
        SettingError: for an unknown projection, and where matplotlib is missing.
        DataError: where no file can be put.
    """
    if projection not in PROJECTIONS:
        raise SettingError(f"projection={projection!r}. {nearest(projection, PROJECTIONS)}")
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise SettingError(
            "The page's pictures need matplotlib, which is not installed. Write: pip install 'promptuary[show]'."
        ) from error
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"{path} is no file that could be written. Name a file in a folder that exists (--html).")


def write_page(path: Path, described: Mapping[str, Any], seen: "Inspected", *, projection: str = "pca") -> None:
    """Write the page.

    Arguments:
        described: what `show.describe` says, with `data`, what `show.describe_rows` says.
        seen: of the same rows, for the pictures of vectors. projection: `pca` or `tsne`.

    Raises:
        SettingError, DataError: as `check_page`; DataError when the file cannot be written, and nothing is left then.
    """
    check_page(path, projection)
    page = render(described, _planes(described["data"], seen, projection), projection=projection)
    try:
        with whole(path) as file:
            file.write(page.encode(errors="replace"))
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error.strerror or error}); nothing was left there.") from error


def _planes(data: Mapping[str, Any], seen: "Inspected", projection: str) -> "list[tuple[str, Plane, list[int]]]":
    """A title, a plane and the class of each point, for prompts and control; none where these say nothing."""
    if data["separation"] is None:
        return []
    from promptuary.projecting import project

    groups = seen.grouped()[seen.sampled].tolist()
    titles = {"The prompt's vectors": seen.vectors, "Control: the mean of the input's own embeddings": seen.inputs}
    return [(title, project(vectors, projection), groups) for title, vectors in titles.items()]  # type: ignore[arg-type]


def render(
    described: Mapping[str, Any], planes: "Sequence[tuple[str, Plane, list[int]]]", *, projection: str = "pca"
) -> str:
    """The page as text; see `write_page`."""
    data = described["data"]
    title = f"{described['method']} on {described['backbone']}"
    sections = [
        _section("The prompt", _table((), _facts(described))),
        _section(f"{data['rows']:,} rows of {data['source']}", _rows(data)),
        *(_section(f"{name} decides {choice['decides']}", _choice(name, choice, data))
          for name, choice in data["choices"].items()),
        _section("Where it stands", _places(data)),
        _section("What its vectors tell apart", _vectors(data, planes, projection)),
        _section("Nearest words", _words(described, data)),
    ]  # fmt: skip
    return PAGE.format(title=escape(title), style=STYLE, sections=_apart("".join(sections)))


# --- sections ---------------------------------------------------------------------------------------------------------


def _facts(described: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    names = (
        "settings",
        "init",
        "task",
        "readout",
        "scores",
        "seed",
        "soft_tokens",
        "numbers_per_token",
        "enters",
        "alarms",
    )
    for name in names:
        value = described[name]
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_number(v)}" for k, v in value.items())
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        yield name.replace("_", " "), str(value) or "-"


def _rows(data: Mapping[str, Any]) -> str:
    scored = "" if data["accuracy"] is None else f" Accuracy {data['accuracy']:.4f}."
    told = f"Told apart {GROUPED[data['grouped_by']]}.{scored}"
    if data["grouped_by"] == "all":
        told = "The task has no classes."
    sizes = [(name, f"{n:,}") for name, n in zip(data["classes"], data["rows_by_class"], strict=True)]
    return _paragraph(told) + _table(("class", "rows"), sizes)


def _choice(name: str, choice: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    told = f"Entropy on these rows: {choice['share']:.0%} of log({choice['options']}), the most there can be."
    if not choice["trained"]:
        told += " The choice is a control: it is not trained, and drawn while the prompt is tuned."
    curve = [(event["step"], event["share"][name]) for event in data["training"] if name in event["share"]]
    pictures = ""
    if curve:
        pictures += _figure("entropy by step of the tuning, as a share of the most there can be", drawing.curve, curve)
    shown = commonest(data["rows_by_class"], HEATED)
    names, weights = [data["classes"][c] for c in shown], [choice["weights"][c] for c in shown]
    told_weights = f"mean weight of each option ({choice['decides']}) by class{_of(shown, data)}"
    pictures += _figure(told_weights, drawing.heat, names, weights, choice["first"])
    columns = ("class", *(str(choice["first"] + i) for i in range(choice["options"])))
    numbers = [(data["classes"][c], *(f"{w:.3f}" for w in own)) for c, own in enumerate(choice["weights"])]
    return _paragraph(told) + pictures + _folded("the numbers", _table(columns, numbers))


def _places(data: Mapping[str, Any]) -> str:
    made = ""
    for what, counts in (("soft tokens before the input", data["before"]), ("soft tokens in all", data["lengths"])):
        if counts is None:
            made += _paragraph("No soft token stands in the row.")
            continue
        known = [value for value in range(len(counts[0])) if any(own[value] for own in counts)]
        if len(known) == 1:
            made += _paragraph(f"{what}: {known[0]} in every row.")
            continue
        shown = commonest(data["rows_by_class"], COUNTED)
        names, own = [data["classes"][c] for c in shown], [counts[c] for c in shown]
        made += _figure(f"rows by {what}, by class{_of(shown, data)}", drawing.bars, names, own, what)
        rows = [(name, *(f"{n:,}" for n in values)) for name, values in zip(data["classes"], counts, strict=True)]
        made += _folded("the numbers", _table(("class", *(str(v) for v in range(len(counts[0])))), rows))
    return made


def _vectors(data: Mapping[str, Any], planes: "Sequence[tuple[str, Plane, list[int]]]", projection: str) -> str:
    if data["separation"] is None:
        return _paragraph("The prompt's vectors are the same for every row, or the rows are of one class.")
    shown = commonest(data["rows_by_class"], len(COLOURS))
    marks = list(zip(FORMS, COLOURS, strict=True))
    legend = "".join(
        f'<li><span style="color:{colour}">{FORMS[form]}</span> {escape(data["classes"][c])}</li>'
        for c, (form, colour) in zip(shown, marks, strict=False)
    )
    if len(shown) < len(data["classes"]):
        legend += f'<li><span style="color:{OTHERS}">·</span> other classes</li>'
    pictures = ""
    for title, plane, groups in planes:
        axes = "" if plane.shares is None else " ({:.0%} and {:.0%} of the variance)".format(*plane.shares)
        styled = [marks[shown.index(g)] if g in shown else (".", OTHERS) for g in groups]
        told = f"{title}, {PROJECTIONS[projection]}{axes}"
        pictures += _figure(told, drawing.points, plane.points.tolist(), styled)
    names = {"prompts": "the prompt's vectors", "inputs": "the mean of the input's embeddings"}
    rows = [
        (names[key], f"{found['accuracy']:.1%}", f"{found['shuffled']:.1%}")
        for key, found in data["separation"].items()
    ]
    by_class = [
        (name, *(percent(found["by_class"][c]) for found in data["separation"].values()))
        for c, name in enumerate(data["classes"])
    ]
    return (
        _paragraph(
            "How often a row's nearest neighbour, by all numbers and not only the two drawn, is of its class. Clusters "
            "are seen in any picture: what is not clearly above shuffled labels is chance, and what is not above the "
            f"second line was in the input already. Vectors of {data['sampled']:,} rows."
        )
        + _table(("nearest neighbour by", "same class", "shuffled labels"), rows)
        + f'<ul class="legend">{legend}</ul>'
        + pictures
        + _folded("by class", _table(("class", *names.values()), by_class))
    )


def _words(described: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    def told(neighbours: Sequence[tuple[str, float]]) -> str:
        return "  ".join(f"{word} {cosine:.2f}" for word, cosine in neighbours)

    if "nearest" in described:
        head, control = "soft token", described["control_cosine"]
        rows = [(str(i), told(own)) for i, own in enumerate(described["nearest"])]
    elif "nearest" in data:
        head, control = "mean prompt of class", data["control_cosine"]
        rows = [(name, told(own)) for name, own in zip(data["classes"], data["nearest"], strict=True)]
    else:
        return _paragraph(
            "None for keys, values and hidden states, which do not live among word embeddings, and for a pool that "
            "mixes the same prompt for every row."
        )
    return _table((head, "words by cosine"), rows) + _paragraph(
        f"A random vector's nearest word has a cosine of {control:.2f}: what is not clearly above it says nothing."
    )


# --- HTML -------------------------------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if columns else ""}{body}</table></div>'


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _of(shown: Sequence[int], data: Mapping[str, Any]) -> str:
    return f" (the {len(shown)} commonest)" if len(shown) < len(data["classes"]) else ""


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(told: str, draw: Callable[..., Any], *given: Any) -> str:
    return f"<figure>{drawing.svg(told, draw, *given)}<figcaption>{escape(told)}</figcaption></figure>"


def _apart(body: str) -> str:
    """Names of parts made unique, since several pictures stand in one page."""
    pictures = iter(range(body.count("<svg ")))

    def renamed(found: re.Match[str]) -> str:
        mark = f"p{next(pictures)}-"
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{mark}", found[0])

    return re.sub(r"<svg .*?</svg>", renamed, body, flags=re.DOTALL)


STYLE = """
:root{color-scheme:light dark;--text:#1a1a1a;--ground:#fff;--line:#ccc}
@media (prefers-color-scheme:dark){:root{--text:#e8e8e8;--ground:#161616;--line:#444}}
body{margin:0 auto;padding:1rem;max-width:44rem;color:var(--text);background:var(--ground);overflow-wrap:anywhere}
body{font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem}
h2{font-size:1.1rem;margin-top:2rem;border-top:1px solid var(--line);padding-top:1rem}
figure{margin:1rem 0}
svg{display:block;width:100%;max-width:32rem;height:auto}
figcaption,summary{font-size:.9rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head>
<body><main><h1>{title}</h1>{sections}</main></body></html>
"""
