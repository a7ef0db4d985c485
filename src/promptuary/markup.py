"""Pages of HTML that are whole by themselves: nothing comes from outside, and whatever comes from a user is escaped.

A page follows the reader's choice of light or dark and is as wide as its screen. Its policy forbids everything but its
own style and, where it has one, its own script, which is named by its hash.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from promptuary import drawing

# Characters that a text may have and a page may not: controls, and what Unicode keeps for itself.
ILLEGAL = re.compile(
    "[\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f\\ufdd0-\\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)


def section(title: str, body: str, *, mark: str = "") -> str:
    """A part of the page under a heading; `mark` is what a link names it by."""
    own = f' id="{escape(mark)}"' if mark else ""
    return f"<section{own}><h2>{escape(title)}</h2>{body}</section>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows; without `columns` it has no head."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if columns else ""}{body}</table></div>'


def folded(title: str, body: str) -> str:
    """Something that is there when it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def figure(told: str, draw: Callable[..., Any], *given: Any) -> str:
    """The picture `draw(*given)` over the sentence of what it shows."""
    return f"<figure>{drawing.svg(told, draw, *given)}<figcaption>{escape(told)}</figcaption></figure>"


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """The whole page.

    Arguments:
        style: rules beside those that all pages have. script: its own; without one, none may run.
    """
    policy, run = "default-src 'none'; style-src 'unsafe-inline'", ""
    if script:
        mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, run = f"{policy}; script-src 'sha256-{mark}'", f"<script>{script}</script>"
    whole = PAGE.format(title=escape(title), policy=policy, style=STYLE + style, body=_apart(body), script=run)
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", whole)


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
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>{style}</style></head>
<body><main><h1>{title}</h1>{body}</main>{script}</body></html>
"""
