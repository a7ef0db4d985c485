"""Asking the frozen model as it is: label words after (or in the blank of) a row in its template, or for a text."""

from collections.abc import Callable, Sequence

import numpy as np

from promptuary.assembly import prompted
from promptuary.bench.baselines.answers import Reader
from promptuary.bench.contender import Answers
from promptuary.bench.grounds import Ground, classified, probabilities
from promptuary.data.source import Row

CONTENTLESS = "N/A"  # Zhao et al. 2021


def asked(ground: Ground, *, calibrated: bool) -> Callable[[Sequence[Row]], Answers]:
    """What the frozen model answers to rows of a ground: classes by label words (`readout="verbalizer"`), or a text.

    Arguments:
        calibrated: divide by what it answers to a row whose texts are "N/A" (contextual calibration, Zhao et al. 2021);
            texts are written as they come.

    Raises:
        BackboneError: for a model without a trained head.
        SettingError: on a masked language model, for a template without a blank.
    """
    backbone, task = ground.backbone, ground.task
    classes = task.kind == "classification"
    reading = ground.reading(readout="verbalizer") if classes else ground.reading()
    wording = reading.wording(backbone, task, backbone.shape.positions)
    model = prompted(backbone, "frozen", {}, init=None, seed=0)
    plain = Reader(
        model, reading.reader(backbone, wording), reading, wording,
        size=2 * ground.budget.batch, precision=ground.budget.precision,
    )  # fmt: skip
    if not (calibrated and classes):
        return plain
    texts = [column for column in (task.text, task.text_pair) if column is not None]
    empty = Row({**ground.train[0].fields, **dict.fromkeys(texts, CONTENTLESS)}, CONTENTLESS)
    prior = probabilities(task, plain([empty]))

    def against(rows: Sequence[Row]) -> Answers:
        weights = probabilities(task, plain(rows)) / np.maximum(prior, np.finfo(float).tiny)
        return classified(task, weights / weights.sum(1, keepdims=True))

    return against
