"""The figures of a report: each method has one colour, one form of point and one kind of line throughout.

A figure is drawn twice: into the page, where one list names the methods of all figures, and into files, which name them
themselves. Nothing is told by colour alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from promptuary import drawing, markup
from promptuary.bench.tables import size
from promptuary.drawing import COLOURS, FORMS, INK, canvas
from promptuary.report.series import Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

DASHES = MappingProxyType({"-": "", "--": "6 3", ":": "1.5 3", "-.": "6 3 1.5 3"})
# The forms again, for the list of methods: the middle is at (18, 7).
PATHS = MappingProxyType({
    "o": "M13 7a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "s": "M13.5 2.5h9v9h-9z", "^": "M18 1.5l5.5 10h-11z",
    "D": "M18 1l6 6l-6 6l-6-6z", "v": "M18 12.5l5.5-10h-11z",
    "P": "M16.3 1.5h3.4v3.8h3.8v3.4h-3.8v3.8h-3.4v-3.8h-3.8v-3.4h3.8z",
})  # fmt: skip
# What a method may cost: the axis, the words, how a value is written.
PRICES: Mapping[str, tuple[str, str, Callable[[float], str]]] = MappingProxyType({
    "trained": ("trained numbers", "how many numbers are trained", lambda value: brief(value)),
    "seconds": ("seconds of training", "the seconds that training takes", lambda value: brief(value)),
    "stored": ("bytes kept for a task", "the bytes that are kept for a task", size),
})  # fmt: skip
NAMED = 12  # classes up to which a matrix shows its numbers


@dataclass(frozen=True)
class Style:
    """How a method is drawn: form of its points, colour, kind of its line."""

    form: str
    colour: str
    dash: str


Styles = Mapping[str, Style]


def styles(names: Iterable[str]) -> Styles:
    """A style for each name; no two have the same form and colour as far as there are 36 or fewer."""
    forms, dashes, made = list(FORMS), list(DASHES), {}
    for i, name in enumerate(names):
        made[name] = Style(
            forms[i % len(forms)], COLOURS[(i + i // len(forms)) % len(COLOURS)], dashes[i % len(dashes)]
        )
    return made


def legend(known: Styles) -> str:
    """The list of methods with their styles, in HTML."""
    return f'<ul class="legend">{"".join(f"<li>{_key(own)} {escape(name)}</li>" for name, own in known.items())}</ul>'


def _key(own: Style) -> str:
    dash = f' stroke-dasharray="{DASHES[own.dash]}"' if DASHES[own.dash] else ""
    return (
        '<svg class="key" viewBox="0 0 36 14" aria-hidden="true">'
        f'<path d="M0 7h36" stroke="{own.colour}" stroke-width="2"{dash}/>'
        f'<path d="{PATHS[own.form]}" fill="{own.colour}" stroke="currentColor"/></svg>'
    )


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Arguments:
        name: of its files. told: what it shows, in a sentence. draw, given: `draw(*given, keyed=...)` is the picture.
    """

    name: str
    told: str
    draw: Callable[..., "Canvas"]
    given: tuple[Any, ...]

    def html(self) -> str:
        """In the page."""
        return markup.figure(self.told, partial(self.draw, keyed=False), *self.given)

    def files(self) -> dict[str, bytes]:
        """By name of file: SVG to look at, PDF to print."""
        draw = partial(self.draw, keyed=True)
        return {f"{self.name}.{form}": drawing.file(form, draw, *self.given) for form in ("svg", "pdf")}


def grid(figures: Sequence[Figure]) -> str:
    """Figures beside each other, as far as the screen lets."""
    return f'<div class="grid">{"".join(figure.html() for figure in figures)}</div>'


def prices(known: Styles, points: Mapping[str, Sequence[Point]], mark: str = "") -> list[Figure]:
    """Scores against each cost that two methods or more are known by.

    Arguments:
        points: by the cost's name in `PRICES`. mark: ends the names of the files.
    """
    return [
        Figure(f"{name}{mark}", f"Mean score by {by}.", trade, (known, points[name], axis, form))
        for name, (axis, by, form) in PRICES.items()
        if len(points[name]) > 1
    ]


def curves(known: Styles, series: Sequence[Series], axis: str, score: str, wide: bool, *, keyed: bool) -> "Canvas":
    """Lines with their bands.

    Arguments:
        axis: what the lines run over. score: what is measured, in percent. wide: whether sizes grow by factors.
    """
    figure, (axes,) = canvas(3.0)
    for own in series:
        style = known[own.name]
        look = {"color": style.colour, "marker": style.form, "linestyle": style.dash, "markeredgecolor": INK}
        axes.plot(
            own.at, _percent(own.middle), markersize=5, markeredgewidth=0.5, linewidth=1.4, label=own.name, **look
        )
        axes.fill_between(own.at, _percent(own.low), _percent(own.high), color=style.colour, alpha=0.15, linewidth=0)
    if wide:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xticks(sorted({x for own in series for x in own.at}))
        axes.minorticks_off()
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{score}, %")
    return _finished(figure, axes, keyed)


def trade(known: Styles, points: Sequence[Point], axis: str, form: Callable[[float], str], *, keyed: bool) -> "Canvas":
    """Scores against a cost whose axis grows by factors; what costs nothing stands at its left end.

    Arguments:
        form: how a cost is written.
    """
    figure, (axes,) = canvas(3.0)
    for own in points:
        style = known[own.name]
        if own.interval is not None:
            axes.plot([own.at] * 2, _percent(own.interval), color=style.colour, linewidth=1.4, zorder=1)
        look = {"marker": style.form, "color": style.colour, "edgecolors": INK, "linewidths": 0.5}
        axes.scatter([own.at], [100 * own.score], s=46, label=own.name, zorder=2, **look)
    _by_factors(axes, [own.at for own in points])
    axes.xaxis.set_major_formatter(lambda value, _: form(value))
    axes.set_xlabel(axis)
    axes.set_ylabel("mean score, %")
    return _finished(figure, axes, keyed)


def gains(names: Sequence[str], middle: Sequence[float], intervals: Sequence[tuple[float, float]], over: str, *,
          keyed: bool) -> "Canvas":  # fmt: skip
    """Gains in points with their intervals, a line each; a point is filled where the interval leaves 0 out.

    Arguments:
        over: what they are gains over. keyed: means nothing here, names stand at the lines.
    """
    figure, (axes,) = canvas(0.9 + 0.3 * len(names))
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (gain, (low, high)) in enumerate(zip(middle, intervals, strict=True)):
        axes.plot([100 * low, 100 * high], [place] * 2, color=COLOURS[5], linewidth=2.2, solid_capstyle="round")
        fill = COLOURS[5] if low > 0 or high < 0 else "none"
        axes.scatter([100 * gain], [place], s=42, marker="o", color=fill, edgecolors=INK, linewidths=0.8, zorder=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"gain over {over}, points")
    return figure


def matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], down: str,
           across: str, *, keyed: bool) -> "Canvas":  # fmt: skip
    """Shares as a field of colours with their numbers in percent; what is not known is left empty.

    Arguments:
        down, across: what rows and columns are. keyed: means nothing here.
    """
    from matplotlib import colormaps

    figure, (axes,) = canvas(1.3 + 0.32 * len(rows))
    colours = colormaps["cividis"]
    filled = [[float("nan") if v is None else v for v in own] for own in values]
    axes.pcolormesh(range(len(columns) + 1), range(len(rows) + 1), filled, cmap=colours, vmin=0, vmax=1)
    axes.invert_yaxis()
    axes.set_yticks([i + 0.5 for i in range(len(rows))], [drawing.brief(name) for name in rows])
    axes.set_xticks([i + 0.5 for i in range(len(columns))], [drawing.brief(name) for name in columns])
    long = sum(len(drawing.brief(name)) for name in columns) > 30
    axes.tick_params(axis="x", rotation=90 if long else 0)
    axes.tick_params(length=0)
    axes.set_ylabel(down)
    axes.set_xlabel(across)
    for row, own in enumerate(values) if max(len(rows), len(columns)) <= NAMED + 1 else ():
        for column, value in enumerate(own):
            if value is not None:
                ink = "#ffffff" if value < 0.5 else "#000000"
                axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=ink, size=8)
    return figure


def _finished(figure: "Canvas", axes: "Axes", keyed: bool) -> "Canvas":
    axes.grid(axis="y", alpha=0.25, linewidth=0.6, color=INK)
    axes.set_axisbelow(True)
    if keyed:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        figure.set_figheight(figure.get_figheight() + 0.2 * ((len(axes.get_legend_handles_labels()[1]) + 1) // 2))
    return figure


def _by_factors(axes: "Axes", costs: Sequence[float], most: int = 5) -> None:
    """An axis that grows by factors, with 0 at its left end where something costs nothing, and ticks that have room."""
    priced = [cost for cost in costs if cost > 0] or [1.0]
    if min(costs) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=min(priced), linscale=0.5)
        axes.set_xlim(left=-0.15 * min(priced))
    low, high = min(priced), max(axes.get_xlim())
    ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
    while len(ticks) > most:
        ticks = ticks[::-1][::2][::-1]
    if len(ticks) < 2:  # less than a factor of a hundred: its ends say more
        ticks = sorted({min(priced), max(priced)})
    axes.set_xticks(ticks if min(costs) > 0 else [0.0, *ticks])
    axes.minorticks_off()


def brief(value: float) -> str:
    """`12k`."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def _percent(shares: Iterable[float]) -> list[float]:
    return [100 * share for share in shares]
