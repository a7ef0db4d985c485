"""What a method mistakes for what: a picture and its numbers."""

from promptuary.markup import folded
from promptuary.report import figures
from promptuary.report.figures import Figure
from promptuary.report.series import Confused
from promptuary.report.tables import plain


def picture(found: Confused, told: str, name: str) -> Figure:
    """The share of each class that was called what; `told` says so, `name` is that of its files."""
    counts = found.counts if found.counts[:, -1].any() else found.counts[:, :-1]
    shares = [[float(n) / max(1, int(own.sum())) for n in own] for own in counts]
    columns = [*found.labels, "(none)"][: counts.shape[1]]
    return Figure(name, told, figures.matrix, (found.labels, columns, shares, "class", "answer"))


def numbers(found: Confused, task: str) -> str:
    """The same in numbers, folded: precision, recall and F1 of each class, and the counts."""
    rows = [
        (label, f"{int(own.sum()):,}", *(f"{100 * share:.1f}" for share in shares))
        for label, own, shares in zip(found.labels, found.counts, found.by_class(), strict=True)
    ]
    heads = ("class", "answers", "precision, %", "recall, %", "F1, %")
    shown = plain(heads, rows, f"classes of {task}")
    counts = [(label, *(f"{n:,}" for n in own)) for label, own in zip(found.labels, found.counts, strict=True)]
    counted = plain(("class", *found.labels, "(none)"), counts, f"answers on {task}, counted")
    return folded("by class", shown + counted)
