"""Where every number comes from: the records behind a page, cell by cell, each named by its line of `records.jsonl`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from promptuary.bench.comparison import Place
from promptuary.bench.records import Record
from promptuary.bench.store import FILE
from promptuary.report.tables import plain

LINES = "records.jsonl"
Cell = tuple[str, str, str, str]  # regime, backbone, task, method


@dataclass(frozen=True)
class Trace:
    """Records with their marks.

    Arguments:
        records: in the order of their file. cells: of each cell, the numbers (from 1) of its records' lines.
    """

    records: Sequence[Record]
    cells: Mapping[Cell, tuple[int, ...]]

    def mark(self, place: Place, task: str, method: str) -> str:
        """What links name a cell by."""
        return f"cell-{list(self.cells).index((place.regime, place.backbone, task, method)) + 1}"

    def html(self) -> str:
        """The records of all cells, folded."""
        return "".join(self._cell(cell, lines) for cell, lines in self.cells.items())

    def _cell(self, cell: Cell, lines: Sequence[int]) -> str:
        regime, backbone, task, method = cell
        mark, first = self.mark(Place(regime, backbone), task, method), self.records[lines[0] - 1]
        told = f"{method} on {task}, {regime}, {backbone}"
        study = f"{FILE}, study {f'{task}, {regime}, {backbone}'!r}"
        budget = ", ".join(f"{name} {value}" for name, value in first.get("budget", {}).items())
        kept = first.get("rows", {}).get("digest")
        facts = [
            ("store", study), ("read it", f"sed -n {lines[0]}p {LINES} | python -m json.tool"),
            ("budget of a run", budget), ("hash of the rows", kept or ""),
        ]  # fmt: skip
        said = "".join(
            f"<dt>{name}</dt><dd>{f'<code>{escape(value)}</code>' if name == 'read it' else escape(value)}</dd>"
            for name, value in facts
            if value
        )
        rows = [_row(number, self.records[number - 1]) for number in lines]
        heads = ("line", "seed", "score that reports", "score that chose", "trial", "settings", "seconds", "prompt")
        return (
            f'<details id="{mark}"><summary>{escape(told)}</summary><dl>{said}</dl>'
            + plain(heads, rows, f"records of {told}")
            + "</details>"
        )


def trace(records: Sequence[Record]) -> Trace:
    """The records of a study, by cell."""
    cells: dict[Cell, tuple[int, ...]] = {}
    for number, r in enumerate(records, 1):
        cell = (r["regime"], r["backbone"], r["task"], r["method"])
        cells[cell] = (*cells.get(cell, ()), number)
    return Trace(records, cells)


def _row(number: int, record: Record) -> tuple[str, ...]:
    if "reports" not in record:
        lost = f"{record['outcome']}: {record.get('sentence', '')}"
        return f"{number}", f"{record['seed']}", lost, "", "", "", "", ""
    metric = record["metric"]
    return (
        f"{number}",
        f"{record['seed']}",
        f"{metric} {record['reports'][record['task']]['scores'][metric]:.4f}",
        f"{record['scores'].get(record.get('chosen_by'), record['scores'].get(metric, float('nan'))):.4f}",
        f"{record['chosen']} of {len(record['search'])}",
        settings(record["settings"]),
        f"{record['cost']['seconds']:.1f}",
        record["prompt"] or "",
    )


def settings(given: Mapping[str, Any]) -> str:
    """`rate 0.01, length 20`, or `default`."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in given.items()) or "default"
