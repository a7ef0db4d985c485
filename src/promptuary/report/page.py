"""The page of a report: its parts under headings, a list of them, style for screen, dark and paper, a short script.

The script orders tables by a column and opens the record that a link leads to. Without it the page is as complete.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from promptuary import markup
from promptuary.report.figures import Figure


@dataclass(frozen=True)
class Part:
    """A part of the report: its mark for links, its title, its body in HTML, the figures in it (for files)."""

    mark: str
    title: str
    body: str
    figures: Sequence[Figure] = field(default_factory=tuple)


def render(title: str, lead: str, parts: Iterable[Part]) -> str:
    """The whole page; parts without a body are left out.

    Arguments:
        lead: one sentence under the title.
    """
    known = [part for part in parts if part.body]
    links = "".join(f'<li><a href="#{part.mark}">{escape(part.title)}</a></li>' for part in known)
    sections = "".join(markup.section(part.title, part.body, mark=part.mark) for part in known)
    head = f'<p class="lead">{escape(lead)}</p><nav aria-label="Contents"><ul>{links}</ul></nav>'
    return markup.page(title, head + sections, style=STYLE, script=SCRIPT)


def under(title: str, body: str) -> str:
    """A heading of the third rank over a body; nothing where there is none."""
    return f"<h3>{escape(title)}</h3>{body}" if body else ""


def sentences(said: Sequence[str], *, kind: str = "") -> str:
    """Sentences as a list; nothing where there are none."""
    own = f' class="{kind}"' if kind else ""
    return f"<ul{own}>{''.join(f'<li>{escape(one)}</li>' for one in said)}</ul>" if said else ""


STYLE = """
:root{--soft:#595959;--card:#f6f6f4;--link:#0b5394;--warn:#8a4b00}
@media (prefers-color-scheme:dark){:root{--soft:#a8a8a8;--card:#202020;--link:#8ec5ff;--warn:#f0b45a}}
html{scroll-padding-top:1rem}
body{max-width:66rem;padding:1.5rem 1rem 4rem;line-height:1.6}
p,li,dd{max-width:44rem}
h1{font-size:1.7rem;line-height:1.2;margin:1rem 0 .3rem}
h2{font-size:1.25rem;margin-top:3rem;padding-top:1.2rem}
h3{font-size:1rem;margin:2rem 0 .6rem;color:var(--soft)}
a{color:var(--link);text-underline-offset:.15em}
a:focus-visible,summary:focus-visible,button:focus-visible,.wide:focus-visible{outline:2px solid var(--link)}
.lead,small,figcaption,caption{color:var(--soft)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;font-size:.9rem}
section>ul:not([class]),ul.said{padding-left:1.2rem}
ul.said{background:var(--card);border-radius:.5rem;padding:1rem 1rem 1rem 2.2rem;margin:1rem 0;max-width:46rem}
ul.doubts{list-style:none;padding:0}
ul.doubts li{border-left:3px solid var(--warn);padding-left:.8rem;margin:.6rem 0}
.legend{font-size:.9rem;max-width:none}
.legend li{display:flex;align-items:center;gap:.4rem}
.key{width:2.2rem;flex:none}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1rem 2rem}
.grid figure{margin:.5rem 0}
svg text{font-family:system-ui,sans-serif!important}
table{font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.4rem 0}
caption span{display:block;max-width:min(44rem,100vw - 2.5rem)}
thead th{vertical-align:bottom;border-bottom:2px solid var(--line)}
th[scope=row]{font-weight:500}
td.n,th.n{text-align:right}
td.n,th,td small{white-space:nowrap}
.wide td{overflow-wrap:normal;max-width:28rem}
td small{display:block}
th button{all:unset;cursor:pointer}
th button::after{content:" \\2195";color:var(--soft)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
details{margin:.4rem 0}
summary{cursor:pointer}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:.9rem}
dt{color:var(--soft)}
dd{margin:0;min-width:0}
@media (max-width:30rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
@media print{
body{max-width:none;padding:0;font-size:10pt}
nav,th button::after{display:none}
figure,tr,ul.said{break-inside:avoid}
h2,h3{break-after:avoid}
.wide{overflow:visible}
details::details-content{content-visibility:visible;block-size:auto}
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.ordered")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "descending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = down < 0 ? "descending" : "ascending";
      const worth = (row) => row.cells[column].dataset.v;
      const text = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        if (worth(a) === undefined && worth(b) === undefined) return down * text(a).localeCompare(text(b));
        if (worth(a) === undefined || worth(b) === undefined) return worth(a) === undefined ? 1 : -1;
        return down * (worth(a) - worth(b));
      });
      body.append(...rows);
    });
  });
}
const open = () => {
  const found = document.getElementById(location.hash.slice(1));
  if (found && found.tagName === "DETAILS") found.open = true;
};
addEventListener("hashchange", open);
open();
"""
