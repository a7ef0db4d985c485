"""Transfer, ensembles and shared prompts: what was published, beside what the plans found.

    python benchmarks/verdicts.py               # from the records of main, few, transfer and multitask, in results/

Writes `results/verdicts.md`. A verdict follows the rule of `claims.py`, over pairs of tasks where something learned on
one was asked of another, else over tasks. Published numbers are those of Lester et al. 2021 (T5 XXL): tables 1 and 2
(transfer), table 3 (ensembles of five prompts; the best member was chosen on the rows that report, and is here). The
shared prompts of Yang et al. 2023 were published without numbers.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from claims import gained, verdict, whole
from promptuary.bench import records, statistics
from promptuary.bench.compare import cells, voted
from promptuary.bench.plan import Plan, read
from promptuary.bench.records import Record, Worth
from promptuary.files import write
from promptuary.train.record import origin
from study import markdown

HOME = Path(__file__).resolve().parent
RESULTS = HOME / "results"
PLANS = ("main", "few", "transfer", "multitask")
PROMPT, WHOLE, UNKNOWN = "prompt-tuning", "fine-tuning", "-"
KINDS = {  # of a task that something is learned on: what a pair is of
    "squad_xquad": "questions on texts", "nq_qed": "questions on texts", "qqp": "paraphrases", "mrpc": "paraphrases",
    "sst2": "opinions", "amazon_books": "opinions", "imdb_cad": "opinions",
}  # fmt: skip
PUBLISHED = {
    "questions on texts": "+2.0",  # SQuAD -> TextbookQA, BioASQ, RACE, RE, DuoRC, DROP: +12.5 +1.2 +0.9 +0.4 -1.2 -1.8
    ("qqp", "mrpc"): "+3.2", ("mrpc", "qqp"): "+0.5",
    "over the mean member": "+0.8", "over the best member": "+0.3",  # means over SuperGLUE: 90.5, 91.0, 91.3
}  # fmt: skip
Gains = Mapping[str, Worth]


@dataclass(frozen=True)
class Study:
    """A plan and the records that it has so far."""

    plan: Plan
    found: Sequence[Record]

    def of(self, regime: str, backbone: str) -> dict[tuple[str, str], list[Record]]:
        return cells([r for r in self.found if (r["regime"], r["backbone"]) == (regime, backbone)])

    def places(self) -> Iterator[tuple[str, str]]:
        yield from dict.fromkeys((r["regime"], r["backbone"]) for r in self.found)


def study(name: str) -> Study:
    path = RESULTS / name / records.RECORDS
    return Study(read(HOME / f"{name}.toml"), records.read(path) if path.is_file() else [])


def line(said: Sequence[str], published: str, gains: Gains | str) -> list[str]:
    """A row of a table: gain, interval, verdict; or why there is none."""
    if isinstance(gains, str):
        return [*said, published, "", "", gains]
    low, high = statistics.interval(list(gains.values()), bounds=(-1.0, 1.0))
    gain = mean(float(own.mean()) for own in gains.values())
    return [*said, published, f"{100 * gain:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", verdict(gains)]


def transfers(of: Study) -> tuple[list[list[str]], list[list[str]]]:
    """What prompt tuning gains over fine-tuning on tasks that neither learned: by kind of task, and pair by pair."""
    kinds, pairs = list[list[str]](), list[list[str]]()
    for backbone in of.plan.backbones:
        own, groups = of.of("full", backbone), dict[str, dict[str, Worth | str]]()
        for source, to in ((pair.source, pair.to) for pair in of.plan.transfers):
            gain = gained(own, of.plan, (source, PROMPT), (source, WHOLE), to)
            groups.setdefault(KINDS[source], {})[f"{source} to {to}"] = gain
            said = [source, to, of.plan.name, backbone]
            pairs.append(line(said, PUBLISHED.get((source, to), UNKNOWN), whole({to: gain})))
        for kind, gains in groups.items():
            said = [kind, str(len(gains)), of.plan.name, backbone]
            kinds.append(line(said, PUBLISHED.get(kind, UNKNOWN), whole(gains)))
    return kinds, pairs


def ensembles(of: Study) -> Iterator[list[str]]:
    """The seeds of prompt tuning as an ensemble, beside their mean and their best, in one line a place."""
    for regime, backbone in of.places():
        over_mean, over_best, scores = dict[str, Worth](), dict[str, Worth](), list[tuple[float, float, float]]()
        for (task, method), own in of.of(regime, backbone).items():
            known = [r for r in own if "reports" in r]
            rows = voted(known) if method == PROMPT and len(known) == len(own) else None
            if rows is not None:
                single = records.right(known)
                best = single[single.mean(1).argmax()]
                over_mean[task], over_best[task] = rows - single.mean(0), rows - best
                scores.append((float(single.mean()), float(best.mean()), float(rows.mean())))
        if scores:
            middle = [f"{100 * mean(column):.1f}" for column in zip(*scores, strict=True)]
            for name, gains in (("over the mean member", over_mean), ("over the best member", over_best)):
                yield line([of.plan.name, regime, backbone, str(len(scores)), *middle, name], PUBLISHED[name], gains)


def shared(of: Study) -> Iterator[list[str]]:
    """A prompt that several tasks share: beside a prompt for each of them, and with choices beside without."""
    for name, backbone in ((name, backbone) for name in of.plan.mixtures for backbone in of.plan.backbones):
        mixture, own = of.plan.mixtures[name], of.of("full", backbone)
        held = [(f"{method} @ {name}", method) for method in mixture.methods]
        held += [(f"{m} @ {name}", f"{PROMPT} @ {name}") for m in mixture.methods if m != PROMPT]
        for better, than in held:
            gains = {task: gained(own, of.plan, (task, better), (task, than)) for task in mixture.tasks}
            yield line([better, than, backbone], UNKNOWN, whole(gains))


def page(studies: Mapping[str, Study]) -> str:
    """All tables, as far as there are results."""
    last = ["published", "gain", "95 % interval", "verdict"]
    both = [transfers(of) for of in studies.values()]
    kinds, pairs = ([row for own in both for row in own[side]] for side in range(2))
    members = ["plan", "rows", "backbone", "tasks", "mean member", "best member", "ensemble", ""]
    found = [record for of in studies.values() for record in of.found]
    made = f"Written by `python benchmarks/verdicts.py`. {origin(found)}." if found else "There are no results yet."
    return "\n\n".join([
        "## Domain transfer",
        "Points that prompt tuning gains over fine-tuning on a task that neither was trained on. Pairs with one source "
        "share what was learned there; the interval takes them as independent, and is narrower for it.",
        markdown(["on", "pairs", "plan", "backbone", *last], kinds),
        markdown(["from", "to", "plan", "backbone", *last], pairs),
        "## Ensembles",
        "Accuracy in percent; the members are the seeds, and vote by majority.",
        markdown([*members, *last], [row for of in studies.values() for row in ensembles(of)]),
        "## Shared prompts",
        "Points on the tasks of a mixture, in the score of each.",
        markdown(["better", "than", "backbone", *last], [row for of in studies.values() for row in shared(of)]),
        made, "",
    ])  # fmt: skip


def main() -> int:
    """Write the page."""
    write(RESULTS / "verdicts.md", page({name: study(name) for name in PLANS}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
