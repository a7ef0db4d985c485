"""Tables in HTML: the cells of a comparison's Markdown and LaTeX, which here can be ordered and lead to records."""

from collections.abc import Callable, Sequence
from html import escape

from promptuary.bench.comparison import Line
from promptuary.bench.tables import Body, Cell, around, middle

Leads = Callable[[Line], str]  # the mark of the records that a line was made of


def html(caption: str, body: Body, leads: Leads) -> str:
    """A table with a head that names the columns and a first column that names the rows.

    The best score of each column that holds scores is set in bold.
    """
    heads, rows = body
    columns = [[row[i] for row in rows] for i in range(len(heads))]
    top = [max((c.value for c in column if c.line and c.value is not None), default=None) for column in columns]
    head = "".join(_head(name, column) for name, column in zip(heads, columns, strict=True))
    lines = [
        f'<th scope="row">{escape(row[0].text)}</th>'
        + "".join(_cell(cell, leads, best=most) for cell, most in zip(row[1:], top[1:], strict=True))
        for row in rows
    ]
    inside = "".join(f"<tr>{line}</tr>" for line in lines)
    return wide(
        f'<table class="ordered"><caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{inside}</tbody></table>",
        caption,
    )


def wide(table: str, told: str) -> str:
    """A table in a frame of its own, which a small screen scrolls, by keys too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(told)}">{table}</div>'


def plain(heads: Sequence[str], rows: Sequence[Sequence[str]], told: str) -> str:
    """A table of words."""
    head = "".join(f'<th scope="col">{escape(name) or "&nbsp;"}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return wide(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", told)


def _head(name: str, column: Sequence[Cell]) -> str:
    numbers = ' class="n"' if any(cell.value is not None for cell in column) else ""
    return f'<th scope="col"{numbers}>{escape(name) or "method"}</th>'


def _cell(cell: Cell, leads: Leads, *, best: float | None) -> str:
    value = "" if cell.value is None else f' data-v="{cell.value!r}"'
    if cell.line is None:
        return f'<td class="n"{value}>{escape(cell.text)}</td>'
    text = f'<a href="#{leads(cell.line)}">{escape(middle(cell.line))}</a>'
    text = f"<strong>{text}</strong>" if cell.value is not None and cell.value == best else text
    return f'<td class="n"{value}>{text} <small>{escape(around(cell.line))}</small></td>'
