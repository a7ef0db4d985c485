"""Pictures for a page, drawn by matplotlib as SVG elements that take the colour of their text from the page.

Colours are Okabe and Ito's (2008) and cividis, which colour-blind readers can tell apart. matplotlib is imported where
a picture is drawn; its settings are as before afterwards.
"""

import importlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from promptuary.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Without yellow and black, which one of the two backgrounds swallows; forms for those who see no colours.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
FORMS = MappingProxyType({"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"})
OTHERS = "#999999"
INK = "#010203"  # stands for the colour of the page's text
# What would differ from one day to the next.
UNSAID = MappingProxyType(
    {"svg": ("Creator", "Date", "Format", "Type"), "pdf": ("Creator", "Producer", "CreationDate")}
)
SETTINGS: Mapping[Any, Any] = MappingProxyType({
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "svg.fonttype": "none", "svg.hashsalt": "promptuary", "text.parse_math": False, "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False,
})  # fmt: skip


def check(what: str) -> None:
    """Refuse to begin where no picture could be drawn.

    Arguments:
        what: begins the sentence: what needs matplotlib.

    Raises:
        SettingError: where matplotlib is missing.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise SettingError(
            f"{what} need matplotlib, which is not installed. Write: pip install 'promptuary[show]'."
        ) from error


def svg(told: str, draw: "Callable[..., Figure]", *given: Any) -> str:
    """The figure `draw(*given)` as an `<svg>` element: no prolog, no metadata, nothing from outside.

    Arguments:
        told: what it shows, for those who have it read to them.
    """
    whole = file("svg", draw, *given).decode()
    head, rest = re.sub(r"<metadata>.*?</metadata>", "", whole[whole.index("<svg") :], flags=re.DOTALL).split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    return f'<svg {box} role="img" aria-label="{escape(told)}">' + _light(
        rest.replace("xlink:href", "href").replace(INK, "currentColor").strip()
    )


def _light(drawn: str) -> str:
    """Without spaces between elements, and with places to a hundredth of a point: half the bytes, the same picture."""
    brief = re.sub(r">\s+<", "><", drawn)
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), brief)


def file(form: str, draw: "Callable[..., Figure]", *given: Any) -> bytes:
    """The figure `draw(*given)` as a file, the same bytes for the same figure.

    Arguments:
        form: `svg` or `pdf`.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names in scripts that matplotlib's own font lacks: the reader's has them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(dict(SETTINGS))
        made = io.BytesIO()
        draw(*given).savefig(made, format=form, metadata=dict.fromkeys(UNSAID[form]))
    return made.getvalue()


def curve(points: Sequence[tuple[int, float]]) -> "Figure":
    """Shares (0 to 1) by step."""
    figure, (axes,) = canvas(2.4)
    axes.plot(*zip(*points, strict=True), color=COLOURS[4], marker="o", markersize=3)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(_percent)
    return figure


def heat(names: Sequence[str], weights: Sequence[Sequence[float]], first: int) -> "Figure":
    """Mean weights: a line for each name, a column for each option from `first`."""
    from matplotlib import colormaps

    figure, (axes,) = canvas(1.4 + 0.24 * len(names))
    options = len(weights[0])
    edges = [first + i - 0.5 for i in range(options + 1)]
    mesh = axes.pcolormesh(edges, range(len(names) + 1), weights, cmap=colormaps["cividis"].resampled(16), vmin=0)
    axes.invert_yaxis()
    axes.set_yticks([i + 0.5 for i in range(len(names))], [brief(name) for name in names])
    if options <= 12:
        axes.set_xticks(range(first, first + options))
    axes.set_xlabel("option")
    figure.colorbar(mesh, ax=axes, label="mean weight")
    return figure


def bars(names: Sequence[str], counts: Sequence[Sequence[int]], what: str) -> "Figure":
    """A histogram for each name, below each other: shares of its rows by number of `what`."""
    figure, axes = canvas(0.8 + 0.9 * len(names), len(names))
    for each, name, own in zip(axes, names, counts, strict=True):
        each.bar(range(len(own)), [n / max(1, sum(own)) for n in own], color=COLOURS[1])
        each.set_title(brief(name), loc="left", fontsize=9)
        each.yaxis.set_major_formatter(_percent)
    axes[-1].set_xlabel(what)
    return figure


def points(places: Sequence[Sequence[float]], styled: Sequence[tuple[str, str]]) -> "Figure":
    """Points in a plane, each with its form and colour."""
    figure, (axes,) = canvas(4.0)
    for form, colour in sorted(set(styled)):
        own = [place for place, style in zip(places, styled, strict=True) if style == (form, colour)]
        axes.scatter(*zip(*own, strict=True), marker=form, c=colour, s=14, linewidths=0, alpha=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def canvas(height: float, rows: int = 1) -> "tuple[Figure, Any]":
    """A figure with axes below each other, in inches of a page of which a small screen shows all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for part in (figure, *axes):
        part.patch.set_visible(False)
    return figure, axes


def _percent(share: float, _: Any) -> str:
    return f"{share:.0%}"


def brief(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= 18 else name[:17] + "…"
