"""What a soft prompt is, in plain values: how it was made, its scale beside the embedding table's, its nearest words;
and what it did with the rows of a file (`inspecting`).

Nearest words are by cosine (trained prompts drift far off the table, so distances say nothing; Lester et al. 2021,
section 7). They are no explanation: every table comes with the same for random vectors, the control, which have the
mean and the spread of the embedding table: where all embeddings point one way, everything is near to some word.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.inspecting import Decided, Inspected
from promptuary.methods import method
from promptuary.projecting import differ, separation
from promptuary.tuned import Tuned


def describe(tuned: Tuned, *, words: int = 5) -> dict[str, Any]:
    """The prompt in plain values: how it was made, its scores, its scale, its nearest words.

    Nearest words exist for prompts at the input only: keys and values do not live among word embeddings.
    """
    run = dict(tuned.manifest.run)
    described: dict[str, Any] = {
        "method": tuned.manifest.method,
        "settings": {**method(tuned.manifest.method).settings(), **tuned.manifest.settings},
        "init": run.get("init"),
        "backbone": tuned.manifest.backbone,
        "seed": tuned.manifest.seed,
        "task": run.get("named") or tuned.task.kind,
        "labels": list(tuned.task.labels),
        "readout": run.get("readout", tuned.task.kind),
        "scores": run.get("scores"),
        "counts": run.get("counts"),
        "seconds": run.get("seconds"),
        "alarms": run.get("alarms"),
        "soft_tokens": tuned.model.generator.length,
        "numbers_per_token": tuned.model.generator.width,
        "enters": type(tuned.model.injection).__name__,
    }
    with torch.no_grad():
        one = tuned.model.generator.fixed()
    if one is None or one.values.shape[2] != tuned.backbone.shape.dim or one.values.shape[1] == 0:
        return described
    vectors, table = one.values[0].detach().cpu(), tuned.backbone.table.cpu()
    special = [int(i) for i in tuned.backbone.tokenizer.all_special_ids]
    measured = sizes(vectors, table)
    described["scale"] = vars(measured)
    described["control_cosine"] = control(table, leave_out=special)
    described["nearest"] = [
        [(tuned.backbone.tokenizer.convert_ids_to_tokens(i), c) for i, c in zip(n.ids, n.cosine, strict=True)]
        for n in nearest_words(vectors, table, count=words, leave_out=special)
    ]
    return described


def describe_rows(tuned: Tuned, seen: Inspected, *, words: int = 5) -> dict[str, Any]:
    """What a prompt did with rows, in plain values. Lists by class stand in the order of `classes`.

    Returns:
        `rows`, and of how many of them vectors were `sampled`; what they are `grouped_by` (`label`, `predicted`,
        `all`), the `classes` that occur and how many `rows_by_class`; `accuracy` (0 to 1) where labels are known.
        `before` and `lengths`: for each class how many rows have 0, 1, ... soft tokens before the input, and in all.
        `choices`: what each decided. `separation`: how often a row's nearest neighbour is of its class, by the prompts
        and, to compare with, by the plain mean of the inputs' embeddings, each beside shuffled labels; `None` where the
        prompt is the same for every row, or one class was sampled. `nearest`: for prompts at the input that differ from
        row to row, the words nearest to each class's mean vector.
    """
    groups = seen.groups()
    described: dict[str, Any] = {
        "rows": len(seen.lengths),
        "sampled": len(seen.sampled),
        "grouped_by": seen.grouped_by,
        "classes": [name for name, _ in groups],
        "rows_by_class": [int(own.sum()) for _, own in groups],
        "accuracy": _accuracy(seen),
        "before": None if seen.before is None else [_counts(seen.before, own) for _, own in groups],
        "lengths": [_counts(seen.lengths, own) for _, own in groups],
        "choices": {name: _choice(decided, [own for _, own in groups]) for name, decided in seen.choices.items()},
        "separation": _separation(seen, groups),
    }
    if not differ(seen.vectors) or seen.vectors.shape[1] != tuned.backbone.shape.dim:
        return described
    table, tokenizer = tuned.backbone.table.cpu(), tuned.backbone.tokenizer
    special = [int(i) for i in tokenizer.all_special_ids]
    present = [seen.vectors[own[seen.sampled]] for _, own in groups]
    means = torch.stack([v.mean(0) if len(v) else seen.vectors.mean(0) for v in present])
    found = nearest_words(means, table, count=words, leave_out=special)
    described["control_cosine"] = control(table, leave_out=special)
    described["nearest"] = [
        [(tokenizer.convert_ids_to_tokens(i), c) for i, c in zip(n.ids, n.cosine, strict=True)] for n in found
    ]
    return described


def _accuracy(seen: Inspected) -> float | None:
    if seen.label is None or seen.predicted is None or not bool((seen.label >= 0).any()):
        return None
    known = seen.label >= 0
    return float((seen.label == seen.predicted)[known].float().mean())


def _counts(values: Int[Tensor, " rows"], own: Bool[Tensor, " rows"]) -> list[int]:
    """How many of a class's rows have 0, 1, ... up to the largest value of all rows."""
    return [int(n) for n in values[own].bincount(minlength=int(values.max()) + 1)]


def _choice(decided: Decided, groups: Sequence[Tensor]) -> dict[str, Any]:
    """A choice over rows: how many of a class `taken` each option most, its mean `weights`, its mean `entropy` (nats).

    `share` is the entropy of all rows as a share of log(`options`); `first` the number of the first option.
    """
    options = decided.weights.shape[1]
    taken = decided.weights.argmax(1)
    nats = float(decided.entropy.mean())
    return {
        "decides": decided.decides,
        "options": options,
        "first": decided.first,
        "trained": decided.trained,
        "share": nats / math.log(options) if options > 1 else 0.0,
        "taken": [[int(n) for n in taken[own].bincount(minlength=options)] for own in groups],
        "weights": [decided.weights[own].mean(0).tolist() for own in groups],
        "entropy": [float(decided.entropy[own].mean()) for own in groups],
    }


def _separation(seen: Inspected, groups: Sequence[tuple[str, Tensor]]) -> dict[str, Any] | None:
    if seen.by is None or not differ(seen.vectors):
        return None
    known = seen.by[seen.sampled] >= 0
    labels = seen.grouped()[seen.sampled][known]
    if len(set(labels.tolist())) < 2:
        return None
    vectors = {"prompts": seen.vectors[known], "inputs": seen.inputs[known]}
    return {name: asdict(separation(v, labels, len(groups))) for name, v in vectors.items()}


@dataclass(frozen=True)
class Neighbours:
    """The vocabulary items nearest to one vector: token ids, and the cosine of each (-1 to 1)."""

    ids: tuple[int, ...]
    cosine: tuple[float, ...]


def nearest_words(
    vectors: Float[Tensor, "prompt dim"],
    table: Float[Tensor, "vocabulary dim"],
    *,
    count: int = 5,
    leave_out: Sequence[int] = (),
) -> list[Neighbours]:
    """The `count` vocabulary items (at most all) nearest to each vector by cosine, without the ids in `leave_out`."""
    similarity = F.normalize(vectors.float(), dim=1) @ F.normalize(table.float(), dim=1).T  # [prompt, vocabulary]
    if leave_out:
        similarity[:, torch.tensor(list(leave_out))] = -2.0
    cosine, ids = similarity.topk(min(count, table.shape[0] - len(set(leave_out))), dim=1)
    return [Neighbours(tuple(i.tolist()), tuple(c.tolist())) for i, c in zip(ids, cosine, strict=True)]


def control(
    table: Float[Tensor, "vocabulary dim"], *, draws: int = 64, seed: int = 0, leave_out: Sequence[int] = ()
) -> float:
    """The mean cosine of random vectors to their nearest vocabulary item: what "near" is worth nothing.

    Each number of a vector is drawn with the mean and the deviation that it has in the table.
    """
    source = torch.Generator().manual_seed(seed)
    spread, middle = torch.std_mean(table.float(), dim=0)
    random = middle + spread * torch.randn(draws, table.shape[1], generator=source)
    found = nearest_words(random, table, count=1, leave_out=leave_out)
    return sum(n.cosine[0] for n in found) / draws


@dataclass(frozen=True)
class Sizes:
    """The scale of a prompt's soft tokens, beside the embedding table's.

    `deviation` and `row_norm` are of the soft tokens' numbers and rows, `table_*` of the table's; `cosine` is the
    mean cosine between different soft tokens (1 would mean that they are all the same).
    """

    deviation: float
    row_norm: float
    table_deviation: float
    table_row_norm: float
    cosine: float


def sizes(vectors: Float[Tensor, "prompt dim"], table: Float[Tensor, "vocabulary dim"]) -> Sizes:
    """Measure soft tokens against the embedding table."""
    unit = F.normalize(vectors.float(), dim=1)
    count = vectors.shape[0]
    off = ~torch.eye(count, dtype=torch.bool)
    between = float((unit @ unit.T)[off].mean()) if count > 1 else 1.0
    return Sizes(
        float(vectors.float().std()),
        float(vectors.float().norm(dim=1).mean()),
        float(table.std()),
        float(table.norm(dim=1).mean()),
        between,
    )
