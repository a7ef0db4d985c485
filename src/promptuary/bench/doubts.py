"""What looks wrong with the results of a method, in words."""

from collections import Counter
from collections.abc import Sequence

from promptuary.bench.records import Record, majority, own_report, right, unpacked

FAR = 2.0  # standard errors between the best and the last step's score, from where they are far apart
RISEN = 0.1  # where a loss chooses, which has no such error: by what share of the best the last is larger then


def alarms(records: Sequence[Record]) -> list[str]:
    """What looks wrong with the seeds of one method on one task, each as one sentence."""
    known, said = [r for r in records if "reports" in r], []
    if known and "true" in own_report(known[0]):
        rows = right(known)
        share, most = float(rows.mean()), majority(unpacked(own_report(known[0])["true"]))
        error = (most * (1 - most) / rows.shape[1]) ** 0.5
        if share - most <= error and known[0]["method"] != "majority":
            said.append(f"Accuracy by rows {share:.1%} is not one standard error above the majority's {most:.1%}.")
    apart = sum(_far(r) for r in known)
    if apart:
        said.append(f"The last step is far from the best one on the rows that select ({apart} of {len(known)} seeds).")
    edges = sorted({name for r in known for name in r["edges"]})
    if edges:
        said.append(f"The search ended at the edge of its space: {', '.join(edges)}.")
    twice = sum(len(r["opened"]) > 1 for r in known)
    if twice:
        said.append(f"The rows that report were opened again after an interruption ({twice} of {len(known)} seeds).")
    lost = Counter(r["outcome"] for r in records if "reports" not in r)
    said += [f"{count} of {len(records)} seeds: {outcome}." for outcome, count in lost.items()]
    counted = Counter(name for r in known for name in r["alarms"] if name != "majority")
    words = {"settled": "a choice was decided before it could learn", "risen": "the loss rose again"}
    return said + [f"{words.get(n, n)} ({count} of {len(known)} seeds)." for n, count in sorted(counted.items())]


def _far(record: Record) -> bool:
    """Whether the last step is far from the best one: two standard errors of a share of rows, or a loss that rose.

    They are compared by the score that chose the step; a task of a mixture that has no such score by the one that
    reports.
    """
    scores, lasts = record["scores"], record["last"]
    name = next((name for name in (record["chosen_by"], record["metric"]) if name in scores and name in lasts), None)
    if name is None:
        return False
    best, last, rows = scores[name], lasts[name], record["rows"]["selection"]
    if name == "loss":
        return bool(last > best * (1 + RISEN))
    error = max(best * (1 - best), 0.0) ** 0.5 / rows**0.5
    return bool(abs(best - last) > FAR * max(error, 1 / rows))
