"""From a plan to the jobs that it is made of: the trials of every search, and a final trial for every seed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptuary.bench.plan import Plan
from promptuary.bench.space import Settings
from promptuary.bench.store import Job

Trials = Mapping[str, Sequence[Settings]]  # what the search of each method tries


def jobs(plan: Plan) -> list[Job]:
    """All jobs of a plan, in the order in which they are begun: seed by seed, so that an unfinished study compares all
    methods on few seeds; the trials of a search before what waits for them.
    """
    found: dict[str, Job] = {}
    trials = {method: plan.trials(method) for method in plan.named_methods()}
    last = max(len(regime.seeds or plan.seeds) for regime in plan.regimes.values())
    for nth in range(last):
        for regime in plan.regimes:
            for job in _of_seed(plan, trials, regime, nth):
                found.setdefault(job.name, job)
    return list(found.values())


def _of_seed(plan: Plan, trials: Trials, regime: str, nth: int) -> Iterator[Job]:
    how = plan.regimes[regime]
    seeds = how.seeds or plan.seeds
    tasks = how.tasks or tuple(plan.tasks)
    asked = [(task, how.methods or plan.methods) for task in tasks]
    asked += [(name, own.methods) for name, own in plan.mixtures.items() if set(own.tasks) <= set(tasks)]
    for task, methods in asked:
        for backbone in plan.backbones:
            for method in (own for own in methods if plan.fits(own, task)):
                if nth < len(seeds) and (nth == 0 or how.drawn or plan.contender(method).drawn):
                    first = seeds[nth] if plan.search.each_seed else seeds[0]
                    yield from _of_cell(plan, trials[method], regime, task, backbone, method, seeds[nth], first)


def _of_cell(
    plan: Plan, tried: Sequence[Settings], regime: str, task: str, backbone: str, method: str, seed: int, first: int
) -> Iterator[Job]:
    """The trials of the search that a cell chooses from, and its final trial.

    Arguments:
        tried: the settings that the search tries. first: the seed that searches.
    """
    about = {"task": task, "regime": regime, "backbone": backbone, "method": method}
    made = {
        **about,
        "contender": plan.contender(method).name,
        **_made_of(plan, regime, task, backbone),
        "trials": list(tried),
    }
    mark = _hash({**made, "seed": first})
    search = f"{_spoken(about)}, search with seed {first} #{mark}"
    study = f"{task}, {regime}, {backbone}"
    for number, settings in enumerate(tried):
        yield Job(
            study,
            f"{_spoken(about)}, seed {first}, trial {number} #{mark}",
            {**about, "seed": first},
            number,
            search,
            settings,
        )
    transfers = [t.model_dump() | plan.tasks[t.to].model_dump() for t in plan.transfers if t.source == task]
    final = {**made, "first": first, "seed": seed, "transfers": transfers}
    yield Job(study, f"{_spoken(about)}, seed {seed} #{_hash(final)}", {**about, "seed": seed}, None, search, {})


def _made_of(plan: Plan, regime: str, task: str, backbone: str) -> dict[str, Any]:
    """Everything of a plan that makes a number comparable, in plain values."""
    rows = plan.regimes[regime].model_dump(exclude={"tasks", "methods", "seeds", "budget"})
    of: dict[str, Any]
    if task in plan.mixtures:
        members = {name: plan.tasks[name].model_dump(exclude={"budget"}) for name in plan.members(task)}
        of = {"tasks": members, "temperature": plan.mixtures[task].temperature}
    else:
        of = plan.tasks[task].model_dump(exclude={"budget"})
    return {"of": of, "rows": rows, "budget": plan.budget_of(task, regime, backbone).recipe()}


def _spoken(about: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in about.values())


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()
