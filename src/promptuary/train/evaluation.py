"""Scores of a prompt on a data set: no gradient, no dropout, no randomness."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError, nearest
from promptuary.metrics import accuracy, f1
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.train.batches import Batches
from promptuary.train.team import ALONE, Team

Pairs = Sequence[tuple[Batch, Any]]
Measure = Callable[[Pairs], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out of a data set.

    Arguments:
        scores: by name; larger is better, but for `loss`.
        pairs: each batch with the read-out's prediction of it, on the CPU, in order.
    """

    scores: Mapping[str, float]
    pairs: Pairs


def by_task(pairs: Pairs) -> dict[int, Pairs]:
    """The pairs of each task by its number; each batch is of one task."""
    found: dict[int, list[tuple[Batch, Any]]] = {}
    for batch, said in pairs:
        found.setdefault(int(batch.task[0]), []).append((batch, said))
    return dict(sorted(found.items()))


def classification(pairs: Pairs) -> Mapping[str, float]:
    """Accuracy and macro F1, from 0 to 1.

    Raises:
        DataError: when rows have no labels.
    """
    true, said = answers(pairs)
    if not true or min(true) < 0:
        raise DataError("Rows without a label cannot be scored. Expected a label for every validation row.")
    classes = pairs[0][1].probability.shape[1]
    return {"accuracy": accuracy(true, said), "macro_f1": f1(true, said, classes=classes)}


def answers(pairs: Pairs) -> tuple[list[int], list[int]]:
    """Labels and predicted classes of all rows; empty where the task has no classes."""
    known = [(batch.labels, prediction) for batch, prediction in pairs if batch.labels is not None]
    true = [label for labels, _ in known for label in labels.tolist()]
    return true, [label for _, prediction in known for label in prediction.label.tolist()]


def evaluate(
    model: SoftPrompted,
    readout: Readout,
    batches: Batches,
    *,
    measure: Measure = classification,
    precision: str = "fp32",
    limit: int | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Predict every row of `batches` and score it, with model and read-out in evaluation mode.

    `loss`, the mean over all known answers, is added to the scores of `measure`. The state of torch's random
    generators is the same afterwards.

    Arguments:
        measure: scores from batches and predictions.
        precision: of the frozen model's arithmetic, `fp32` or `bf16`.
        limit: score so many batches only.
        team: processes that each predict some of the batches; all get the same scores.

    Raises:
        SettingError: for a set without rows.
    """
    device = model.backbone.device
    own = list[tuple[int, Batch, Any, float, int]]()
    with evaluating(model, readout), torch.no_grad(), unmoved_randomness(device), arithmetic(device, precision):
        for number, batch in enumerate(islice(batches.epoch(0), limit)):
            if number % team.size != team.rank:
                continue
            moved = batch.to(device)
            x = model.instance_of(moved)
            out = model(x, readout.targets(moved), readout.columns(moved))
            said, count = on_cpu(readout.predict(out, moved)), readout.count(moved)
            own.append((number, batch.to("cpu"), said, float(readout.loss(out, moved)) * count, count))
        found = sorted(chain.from_iterable(team.all(own)), key=itemgetter(0))
        if not found:
            raise SettingError("The validation set has no batches. Expected at least one row, or validation=None.")
        pairs = [(batch, said) for _, batch, said, _, _ in found]
        measured = measure(pairs)  # inside, since it may ask the model again
        scores = team.led(lambda: measured)
    loss, answered = sum(one[3] for one in found), sum(one[4] for one in found)
    return Evaluation({**scores, "loss": loss / max(1, answered)}, pairs)


def goodness(scores: Mapping[str, float], metric: str) -> float:
    """The score that selects a checkpoint, larger being better.

    Raises:
        SettingError: for a metric that was not measured, with the nearest one that was.
    """
    if metric not in scores:
        raise SettingError(f"metric={metric!r} is not measured here. {nearest(metric, scores)}")
    return -scores[metric] if metric == "loss" else scores[metric]


def training(model: SoftPrompted, readout: Readout, mode: bool) -> None:
    """Training mode on or off everywhere: prompt, read-out, and the frozen model's dropout and checkpointing."""
    model.train(mode)
    readout.train(mode)
    model.backbone.train(mode)


@contextmanager
def evaluating(model: SoftPrompted, readout: Readout) -> Iterator[None]:
    """Evaluation mode everywhere inside; afterwards every part is in the mode it was in."""
    modes = model.training, readout.training
    model.train(False)
    readout.train(False)
    try:
        with model.backbone.evaluating():
            yield
    finally:
        model.train(modes[0])
        readout.train(modes[1])


@contextmanager
def unmoved_randomness(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, torch's generators are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def arithmetic(device: torch.device, precision: str) -> torch.autocast:
    """The precision of the frozen model's arithmetic; trained tensors stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def on_cpu(prediction: Any) -> Any:
    """A prediction with its tensors on the CPU."""
    moved = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
    return replace(prediction, **{name: v.cpu() for name, v in moved.items() if isinstance(v, Tensor)})
