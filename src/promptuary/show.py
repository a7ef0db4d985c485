"""What a soft prompt is, in plain values: how it was made, its scale beside the embedding table's, its nearest words.

Nearest words are by cosine (trained prompts drift far off the table, so distances say nothing; Lester et al. 2021,
section 7). They are no explanation: every table comes with the same for random vectors, the control.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptuary.methods import method
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
        "task": tuned.task.kind,
        "labels": list(tuned.task.labels),
        "readout": run.get("readout", type(tuned.readout).__name__),
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
    """The mean cosine of random vectors to their nearest vocabulary item: what "near" is worth nothing."""
    source = torch.Generator().manual_seed(seed)
    random = torch.randn(draws, table.shape[1], generator=source)
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
