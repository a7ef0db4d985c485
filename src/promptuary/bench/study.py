"""What a folder of a study says: its finished records, the comparison made of them, and the files beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

from promptuary.bench import tables
from promptuary.bench.compare import compare
from promptuary.bench.comparison import Comparison
from promptuary.bench.jobs import jobs
from promptuary.bench.plan import Plan
from promptuary.bench.records import RECORDS, Record, of_each_task
from promptuary.bench.restore import planned
from promptuary.bench.store import OUTCOME, Store
from promptuary.files import write

PLAN, PAGE, LATEX, NUMBERS = "plan.json", "comparison.md", "comparison.tex", "comparison.json"


def finished(plan: Plan, folder: Path) -> list[Record]:
    """The records of the plan's finished final trials, in its order, as they are compared: mixtures task by task."""
    return [one for record in kept(plan, folder) for one in of_each_task(record)]


def kept(plan: Plan, folder: Path) -> list[Record]:
    """The records of the plan's finished final trials, in its order, each with its job, its score and its outcome."""
    store = Store(folder)
    try:
        order = {job.name: place for place, job in enumerate(planned(plan, store)) if job.final}
        known = [e for e in store.entries() if e.job.name in order and e.record is not None]
    finally:
        store.close()
    known.sort(key=lambda entry: order[entry.job.name])
    return [
        {
            **(entry.record or {}),
            "job": entry.job.name,
            "score": entry.score,
            "outcome": entry.trial.user_attrs[OUTCOME],
        }
        for entry in known
    ]


def compared(plan: Plan, records: Sequence[Record]) -> Comparison:
    """The comparison of a plan's records."""
    count = sum(len(plan.members(str(job.about["task"]))) for job in jobs(plan) if job.final)
    return compare(
        records, name=plan.name, planned=count, against=plan.against, rivals=plan.rivals, protocol=protocol(plan)
    )


def protocol(plan: Plan) -> str:
    """What was equal for all methods, in words."""
    whose = "for each seed" if plan.search.each_seed else "with the first seed, whose choice the others run"
    search = (
        "Every method has its default settings; nothing is searched."
        if plan.search.trials == 1
        else f"Every method that has settings to search has {plan.search.trials} trials on each task, {whose}."
    )
    return (
        f"{search} Rows, batches, epochs, evaluations and precision are the same for all; nothing stops early. Steps "
        "and settings are chosen on rows that are not reported; the reported rows are opened once, after the choice."
    )


def export(plan: Plan, folder: Path) -> Comparison:
    """Write the plan, records (a line each), the comparison as JSON, as Markdown and as LaTeX into a study's folder."""
    records = kept(plan, folder)
    found = compared(plan, [one for record in records for one in of_each_task(record)])
    write(folder / PLAN, plan.model_dump_json(by_alias=True, indent=1).encode())
    write(folder / RECORDS, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    write(folder / NUMBERS, json.dumps(found.to_json(), indent=1, ensure_ascii=False).encode())
    write(folder / PAGE, tables.markdown(found).encode())
    write(folder / LATEX, tables.latex(found).encode())
    return found
