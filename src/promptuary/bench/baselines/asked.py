"""Asking the frozen model as it is: label words after (or in the blank of) what a template makes of a row."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from promptuary.assembly import prompted
from promptuary.bench.contender import Probabilities
from promptuary.bench.grounds import Ground
from promptuary.data.loader import Loader
from promptuary.data.source import Row
from promptuary.train.evaluation import evaluate

CONTENTLESS = "N/A"  # Zhao et al. 2021


def asked(ground: Ground, *, calibrated: bool) -> Callable[[Sequence[Row]], Probabilities]:
    """What the frozen model answers to rows of a ground, by label words (`readout="verbalizer"`).

    Arguments:
        calibrated: divide by what it answers to a row whose texts are "N/A" (contextual calibration, Zhao et al. 2021).

    Raises:
        BackboneError: for a model without a trained head.
        SettingError: on a masked language model, for a template without a blank.
    """
    backbone, task = ground.backbone, ground.task
    reading: Any = ground.reading(readout="verbalizer")
    wording = reading.wording(backbone, task, backbone.shape.positions)
    readout = reading.reader(backbone, wording)
    model = prompted(backbone, "frozen", {}, init=None, seed=0)
    pad, size = int(backbone.tokenizer.pad_token_id or 0), 2 * ground.budget.batch

    def plain(rows: Sequence[Row]) -> Probabilities:
        batches, found = (
            Loader(wording.encode(rows, labelled=False), size, pad=pad),
            np.zeros((len(rows), len(task.values))),
        )
        told = evaluate(model, readout, batches, measure=lambda pairs: {}, precision=ground.budget.precision)
        for batch, said in told.pairs:
            found[batch.rows.numpy()] = said.probability.float().numpy()
        return found

    if not calibrated:
        return plain
    texts = [column for column in (task.text, task.text_pair) if column is not None]
    prior = plain([Row({**ground.train[0].fields, **dict.fromkeys(texts, CONTENTLESS)}, CONTENTLESS)])

    def against(rows: Sequence[Row]) -> Probabilities:
        weights = plain(rows) / np.maximum(prior, np.finfo(float).tiny)
        divided: Probabilities = weights / weights.sum(1, keepdims=True)
        return divided

    return against
