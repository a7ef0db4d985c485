"""What a tuned prompt does with the rows of a file: where it stands, how long it is, what it chose, its vectors.

`inspect` runs the prompt as it is used (nothing is drawn) and keeps for each row what it did. A static prompt does the
same for every row, so little is learnt of it; dynamic prompting (Yang et al. 2023) differs in places, lengths and
weights, instance-wise prompts (Jiang et al. 2022) in their vectors.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from promptuary.choices import Chooses, embedding_mean
from promptuary.data.batch import Batch
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.train.evaluation import arithmetic
from promptuary.tuned import Tuned
from promptuary.values import Instance, Layout, Prompt


@dataclass(frozen=True, eq=False)
class Decided:
    """What one choice decided of every row.

    Arguments:
        decides: in words, of all parts that act on it; first: the number of its first option; trained: or a control.
        weights: of the options, as the prompt uses them: 0 and 1 where one option is taken.
        entropy: of the distribution behind them, in nats (`Choice.uncertainty`).
    """

    decides: str
    first: int
    trained: bool
    weights: Float[Tensor, "rows options"]
    entropy: Float[Tensor, " rows"]


@dataclass(frozen=True, eq=False)
class Inspected:
    """What a prompt did with rows, in their order, on the CPU.

    Arguments:
        classes: the names of the task's classes; empty where it has none, and then there is no `label`, `predicted`.
        label: index of each row's class, -1 where it is not known. predicted: that of the answer.
        before: soft tokens nearer to the first of the row's tokens than to the last; `None` where none stands in a row.
        lengths: soft tokens that are present.
        choices: by their place in the model.
        sampled: numbers of the rows whose vectors are kept, ascending.
        vectors: the mean of these rows' present soft tokens (zeros where none is). inputs: the mean of the embeddings
            of their own tokens, which `vectors` are to be compared with.
    """

    classes: tuple[str, ...]
    label: Int[Tensor, " rows"] | None
    predicted: Int[Tensor, " rows"] | None
    before: Int[Tensor, " rows"] | None
    lengths: Int[Tensor, " rows"]
    choices: Mapping[str, Decided]
    sampled: Int[Tensor, " sample"]
    vectors: Float[Tensor, "sample width"]
    inputs: Float[Tensor, "sample dim"]

    @property
    def grouped_by(self) -> str:
        """What the rows can be told apart by: their `label`, else what was `predicted`, else nothing (`all`)."""
        if self.label is None or self.predicted is None:
            return "all"
        return "label" if bool((self.label >= 0).any()) else "predicted"

    @property
    def by(self) -> Int[Tensor, " rows"] | None:
        """The class that `grouped_by` means of each row, -1 where it is not known; `None` for tasks without classes."""
        return {"label": self.label, "predicted": self.predicted, "all": None}[self.grouped_by]

    def grouped(self) -> Int[Tensor, " rows"]:
        """The number of each row's group among `groups`."""
        return torch.stack([own for _, own in self.groups()]).int().argmax(0)

    def groups(self) -> list[tuple[str, Bool[Tensor, " rows"]]]:
        """The rows of each class that has some, by `grouped_by`; every row is in one group."""
        by = self.by
        if by is None:
            return [("all rows", torch.ones_like(self.lengths, dtype=torch.bool))]
        named = [(name, by == index) for index, name in enumerate(self.classes)]
        return [(name, rows) for name, rows in [*named, ("(no label)", by < 0)] if bool(rows.any())]


@torch.no_grad()
def inspect(tuned: Tuned, rows: Iterable[Row], *, batch: int = 64, sample: int = 1000, seed: int = 0) -> Inspected:
    """Run a prompt over rows, with or without labels, and keep what it did with each.

    Arguments:
        batch: rows a pass.
        sample: the vectors of at most so many rows are kept, drawn by `seed`.

    Raises:
        DataError: for a row without a text, or with an unknown label; where there are no rows.
    """
    given = list(rows)
    examples = tuned.wording.encode(given, labelled=False)
    pad = tuned.backbone.tokenizer.pad_token_id or 0
    kept = sorted(random.Random(seed).sample(range(len(given)), min(sample, len(given))))
    tuned.model.eval()
    tuned.readout.eval()
    seen: dict[str, list[Tensor]] = {}
    order: list[Tensor] = []
    for own in Loader(examples, batch, pad=pad).epoch(0):
        with arithmetic(tuned.backbone.device, tuned.precision):
            found = _looked(tuned, own.to(tuned.backbone.device), set(kept))
        order.append(own.rows)
        for name, value in found.items():
            seen.setdefault(name, []).append(value.cpu())
    place = torch.cat(order).argsort()
    whole = {name: torch.cat(values) for name, values in seen.items()}
    ordered = {name: value[place] for name, value in whole.items() if not name.startswith("sampled")}
    picked = whole["sampled rows"].argsort()
    known = "predicted" in ordered
    return Inspected(
        classes=tuned.task.labels if known else (),
        label=_labels(tuned.task, given) if known else None,
        predicted=ordered.get("predicted"),
        before=ordered.get("before"),
        lengths=ordered["lengths"],
        choices=_decided(tuned, ordered),
        sampled=whole["sampled rows"][picked],
        vectors=whole["sampled vectors"][picked],
        inputs=whole["sampled inputs"][picked],
    )


def _looked(tuned: Tuned, batch: Batch, kept: set[int]) -> dict[str, Tensor]:
    """What the prompt did with a batch, by name: values for each row, and those of the rows in `kept`."""
    model, x = tuned.model, tuned.model.instance_of(batch)
    p: Prompt = model.generator(x)
    call = model.injection(p, x)
    found = {"lengths": (p.keep > 0).sum(1)}
    if call.layout.prompts.shape[1]:
        found["before"] = before(p, x, call.layout)
    for name, choice in model.choices.items():
        found |= {f"weights {name}": choice(x).float(), f"entropy {name}": choice.uncertainty(x)}
    if batch.labels is not None:
        found["predicted"] = tuned.readout.predict(model.backbone.run(call, tuned.readout.targets(batch)), batch).label
    mine = torch.tensor([row in kept for row in batch.rows.tolist()], device=x.ids.device)
    weights = rearrange((p.keep > 0).float(), "b p -> b p 1")
    vectors = (p.values.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
    return found | {
        "sampled rows": batch.rows[mine],
        "sampled vectors": vectors[mine],
        "sampled inputs": embedding_mean(x)[mine],
    }


def before(p: Prompt, x: Instance, laid: Layout) -> Int[Tensor, " batch"]:
    """How many present soft tokens of each row have fewer of its real tokens in front of them than behind them."""
    real = rearrange(x.mask & (x.ids >= 0), "b t -> b 1 t")
    ahead = real & (rearrange(laid.tokens, "b t -> b 1 t") < rearrange(laid.prompts, "b p -> b p 1"))
    return ((p.keep > 0) & (2 * ahead.sum(2) < real.sum(2))).sum(1)


def _labels(task: Task, rows: list[Row]) -> Int[Tensor, " rows"]:
    """The index of each row's class; -1 where the row has none."""
    return torch.tensor([task.index(row) if row.fields.get(str(task.label)) is not None else -1 for row in rows])


def _decided(tuned: Tuned, ordered: Mapping[str, Tensor]) -> dict[str, Decided]:
    parts = [part for part in tuned.model.modules() if isinstance(part, Chooses)]
    found = {}
    for name, choice in tuned.model.choices.items():
        own = [part for part in parts if part.choice is choice]
        found[name] = Decided(
            decides=", and ".join(part.decides for part in own) or "its options",
            first=own[0].first if own else 0,
            trained=choice.trained,
            weights=ordered[f"weights {name}"],
            entropy=ordered[f"entropy {name}"],
        )
    return found
