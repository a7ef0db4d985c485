"""What two papers claim, beside what `instance_dynamic.toml` found: a table of verdicts for each.

    python benchmarks/claims.py                 # from results/instance_dynamic/records.jsonl

Writes `claims-ipt.md` and `claims-dp.md` beside the records. A verdict follows a rule, not a reading:

- *holds*: the interval of the mean gain over all tasks lies above 0;
- *holds in part*: it does not, but on some task the gain lies surely above 0, and on none surely below;
- *the reverse holds*: the interval lies below 0;
- *does not hold here*: anything else;
- *under way*: results of some task or seed are missing;
- *lost*: there is no pair of results on some task, because a method broke down there.

"Surely" is an interval at a level of 1 - 0.05 / tasks. Intervals are those of `promptuary.bench.statistics`: for other
seeds and other rows of these tasks. Published numbers are means of the paper's tasks, of one seed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from promptuary.bench import records, statistics
from promptuary.bench.compare import cells, paired
from promptuary.bench.plan import Plan, read
from promptuary.bench.records import Record, Worth
from promptuary.files import write
from promptuary.train.record import origin
from study import markdown

HOME = Path(__file__).resolve().parent
PLAN, FOLDER = HOME / "instance_dynamic.toml", HOME / "results" / "instance_dynamic"
FULL, FEW = ("full",), ("few16", "few32")
EVERYWHERE = (*FULL, *FEW)
Cell = tuple[str, str]  # a task and a method
OURS = "-"  # a control that no paper ran


@dataclass(frozen=True)
class Claim:
    """That one method is better than another one.

    Arguments:
        better, than: methods of the plan. published: the gain in points, or `-` where none was published.
        regimes: where it was claimed.
    """

    better: str
    than: str
    published: str
    regimes: tuple[str, ...] = FULL


# Figure "end2end" (RoBERTa-large; BoolQ, CB, RTE, MultiRC) and figure "few-shot"; see docs/reproduce/ipt.md.
IPT = (
    Claim("ipt", "prompt-tuning", "+4.1"),
    Claim("ipt-pretrained", "prompt-tuning", "+5.5"),
    Claim("ipt-cnn", "prompt-tuning", "+5.4"),
    Claim("ipt-lstm", "prompt-tuning", "+4.2"),
    Claim("ipt-mlp", "prompt-tuning", "+3.9"),
    Claim("ipt-prefix", "p-tuning-v2", "+1.4"),
    Claim("ipt-prefix-pretrained", "p-tuning-v2", "+1.6"),
    Claim("ipt-prefix-cnn", "p-tuning-v2", "+0.7"),
    Claim("ipt-prefix-lstm", "p-tuning-v2", "+0.6"),
    Claim("ipt-prefix-mlp", "p-tuning-v2", "+0.5"),
    Claim("ipt-prefix", "p-tuning-v2", "+5.1", FEW),
    Claim("ipt-prefix-pretrained", "p-tuning-v2", "+5.4", FEW),
    Claim("ipt-prefix-cnn", "p-tuning-v2", "+4.4", FEW),
    Claim("ipt-prefix-lstm", "p-tuning-v2", "+4.7", FEW),
    Claim("ipt-prefix-mlp", "p-tuning-v2", "+5.2", FEW),
    Claim("ipt-pretrained", "ipt", "+1.4"),
    Claim("ipt-prefix-pretrained", "ipt-prefix", "+0.2"),
    Claim("ipt", "ipt-shuffled", OURS, EVERYWHERE),
    Claim("ipt", "ipt-frozen", OURS, EVERYWHERE),
    Claim("ipt-lstm", "ipt-lstm-shuffled", OURS, EVERYWHERE),
    Claim("ipt-lstm", "ipt-lstm-frozen", OURS, EVERYWHERE),
)
# Tables of adaptive position, length and vector (T5 Large; a length of the task: Base); see docs/reproduce/dp.md.
DP = (
    Claim("dp-position", "prompt-tuning", "+5.0"),
    Claim("dp-position-instance", "prompt-tuning", "+7.0"),
    Claim("dp-position-instance", "dp-position", "+2.0"),
    Claim("dp-length", "prompt-tuning", "+2.9"),
    Claim("dp-length-instance", "prompt-tuning", "+1.4"),
    Claim("dp-vector-position", "prompt-tuning", "+7.3"),
    Claim("dp-position-vector", "prompt-tuning", "+8.5"),
    *(
        Claim(better, "prompt-tuning", OURS, FEW)
        for better in ("dp-position", "dp-position-instance", "dp-length", "dp-length-instance")
    ),
    *(
        Claim(better, "prompt-tuning@80", OURS, EVERYWHERE)
        for better in ("dp-vector", "dp-vector-position", "dp-position-vector")
    ),
    Claim("dp-bank", "prompt-tuning", OURS, EVERYWHERE),
    Claim("dp-position-length", "prompt-tuning", OURS, EVERYWHERE),
    *(Claim("dp-position", f"dp-position-{at}", OURS, EVERYWHERE) for at in ("middle", "behind", "random")),
)  # fmt: skip


def gains(claim: Claim, regime: str, found: Sequence[Record], plan: Plan) -> dict[str, Worth] | str:
    """Row by row what the method gains, on every task, with the seeds on which both came to an end; else in a word why
    there is nothing to say.
    """
    of = cells([r for r in found if r["regime"] == regime])
    return whole({t: gained(of, plan, (t, claim.better), (t, claim.than)) for t in plan.tasks})


def gained(
    of: Mapping[Cell, Sequence[Record]], plan: Plan, better: Cell, than: Cell, task: str | None = None
) -> Worth | str:
    """What one cell gains over another one, on its own task or on one that both were asked; or why nothing is said."""
    both = [of.get(cell, ()) for cell in (better, than)]
    if any(len(own) < len(plan.seeds) for own in both):
        return "under way"
    gain = paired(*both, task=task)
    return "lost" if gain is None else gain


def whole(gains: Mapping[str, Worth | str]) -> dict[str, Worth] | str:
    """All the gains, or the first word of why one is missing."""
    found: dict[str, Worth] = {}
    for name, own in gains.items():
        if isinstance(own, str):
            return own
        found[name] = own
    return found


def verdict(own: Mapping[str, Worth]) -> str:
    """By the rule above."""
    low, high = statistics.interval(list(own.values()), bounds=(-1.0, 1.0))
    if low > 0 or high < 0:
        return "holds" if low > 0 else "the reverse holds"
    level = 1 - 0.05 / len(own)
    each = [statistics.interval([gain], bounds=(-1.0, 1.0), level=level) for gain in own.values()]
    part = any(low > 0 for low, _ in each) and not any(high < 0 for _, high in each)
    return "holds in part" if part else "does not hold here"


def table(claims: Sequence[Claim], found: Sequence[Record], plan: Plan) -> str:
    """A line for each claim under each regime."""
    heads = ["better", "than", "published", "rows", "gain", "95 % interval", "tasks better", "verdict"]
    body = []
    for claim in claims:
        for regime in claim.regimes:
            own = gains(claim, regime, found, plan)
            line = [claim.better, claim.than, claim.published, regime]
            if isinstance(own, str):
                body.append([*line, "", "", "", own])
                continue
            low, high = statistics.interval(list(own.values()), bounds=(-1.0, 1.0))
            means = [float(gain.mean()) for gain in own.values()]
            better = f"{sum(gain > 0 for gain in means)} of {len(means)}"
            spread = f"{100 * low:+.1f} to {100 * high:+.1f}"
            body.append([*line, f"{100 * mean(means):+.1f}", spread, better, verdict(own)])
    return markdown(heads, body)


def main() -> int:
    """Write both tables."""
    plan, path = read(PLAN), FOLDER / records.RECORDS
    found = records.read(path) if path.is_file() else []
    said = f"""\
Gains in points, mean over {len(plan.tasks)} tasks and {len(plan.seeds)} seeds. *Holds*: the interval lies above 0.
*Holds in part*: it does not, but on some task the gain lies surely above 0, and on none surely below. *The reverse
holds*: the interval lies below 0. Of forty intervals two leave out 0 by chance. `full` is at most 2,000 rows, `few16`
and `few32` are rows a class. Published numbers are means over the paper's own tasks, of one seed; `-` is a control that
it does not have."""
    made = f"Written by `python benchmarks/claims.py`. {origin(found)}." if found else "There are no results yet."
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, claims in (("ipt", IPT), ("dp", DP)):
        tables = []
        for backbone in plan.backbones:
            own = [record for record in found if record["backbone"] == backbone]
            tables.append(f"On `{backbone}`:\n\n{table(claims, own, plan)}")
        write(FOLDER / f"claims-{name}.md", "\n\n".join([said, *tables, made, ""]).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
