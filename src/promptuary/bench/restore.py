"""A study that goes on elsewhere: what its records tell is not run again.

The store of a study (`study.sqlite`) stays on the machine that filled it. `records.jsonl` beside it is small, and can
be kept with a project or joined from several machines (`cat`): a study whose store is new takes up what stands there.
A record belongs to a job by its name, which holds everything that it is made of: what was asked for differently then is
run anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from promptuary.bench.jobs import jobs
from promptuary.bench.plan import Plan
from promptuary.bench.records import RECORDS, Record, whole
from promptuary.bench.store import Entry, Job, Store


def planned(plan: Plan, store: Store) -> list[Job]:
    """The jobs of a plan, in their order; all of them stand in the store then, and those that its folder's records tell
    of are finished there.

    Raises:
        DataError: for a line of `records.jsonl` that is no record.
    """
    found = jobs(plan)
    methods = {str(job.about["method"]) for job in found}
    store.add(found, {method: plan.space(method) for method in methods})
    path, names = store.folder / RECORDS, {job.name for job in found}
    if path.is_file():
        restore(store, [entry for entry in store.entries() if entry.job.name in names], whole(path))
    return found


def restore(store: Store, entries: Sequence[Entry], records: Sequence[Record]) -> None:
    """Finish the cells that records tell of, and the searches that came before them.

    A search whose cell is not finished is not told of, and runs again.
    """
    told = {str(record.get("job")): record for record in records}
    cells = [entry for entry in entries if entry.job.final and not entry.finished and entry.job.name in told]
    tried = {entry.job.search: told[entry.job.name].get("search", ()) for entry in cells}
    for entry in entries:
        if not entry.job.final and not entry.finished:
            for trial in tried.get(entry.job.search, ()):
                if trial["number"] == entry.job.number:
                    _finish(store, entry, trial["outcome"], trial["score"], _of_search(trial))
    for entry in cells:
        record = told[entry.job.name]
        _finish(store, entry, record["outcome"], record["score"], record)


def _of_search(trial: Mapping[str, Any]) -> Record:
    """What a record keeps of a trial of its search, as the trial's own."""
    scores = {} if trial["loss"] is None else {"loss": trial["loss"]}
    said = {} if trial["sentence"] is None else {"sentence": trial["sentence"]}
    return {"settings": trial["settings"], "scores": scores, "cost": {"seconds": trial["seconds"]}, **said}


def _finish(store: Store, entry: Entry, outcome: str, score: float | None, record: Record) -> None:
    with store.claim(entry) as mine:
        if mine and score is not None:
            store.finish(entry, record, score)
        elif mine:
            store.fail(entry, record, outcome)
