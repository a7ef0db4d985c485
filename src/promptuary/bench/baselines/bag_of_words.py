"""Logistic regression on words and pairs of words (scikit-learn): no language model at all, and seconds to train."""

import re
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from promptuary.bench.contender import Answers, Contender, Cost, Learned
from promptuary.bench.grounds import Ground, classified
from promptuary.data.source import Row
from promptuary.train.progress import Progress

WORD = re.compile(r"\w+|[^\w\s]")


class BagOfWords(Contender):
    """TF-IDF of words and pairs of words, sublinear, then logistic regression; the texts of a pair are apart.

    `c` is the inverse of the penalty.
    """

    name = "bag-of-words"
    summary = "logistic regression on words and pairs of words"
    source = "Wang and Manning 2012: Baselines and Bigrams; scikit-learn"
    space = MappingProxyType({"c": (1.0, 10.0, 100.0)})
    default = MappingProxyType({"c": 10.0})
    drawn = False

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        began = time.perf_counter()
        model = make_pipeline(
            TfidfVectorizer(analyzer=_features, sublinear_tf=True),
            LogisticRegression(C=float(settings.get("c", self.default["c"])), max_iter=2000),
        )
        known = [ground.task.index(row) for row in ground.train]
        model.fit([ground.task.texts(row) for row in ground.train], known)
        seconds, present = time.perf_counter() - began, model.classes_

        def answer(rows: Sequence[Row]) -> Answers:
            said = np.zeros((len(rows), len(ground.task.values)))
            said[:, present] = model.predict_proba([ground.task.texts(row) for row in rows])
            return classified(ground.task, said)

        weights = model[-1].coef_.size + model[-1].intercept_.size
        cost = Cost(trained=weights, touched=weights, stored=8 * weights, seconds=seconds)
        return Learned(ground.scores(ground.selection, answer(ground.selection)), answer, cost)


def _features(texts: Sequence[str]) -> list[str]:
    """The words and pairs of words of each text of a row, marked by the text they stand in."""
    found = []
    for number, text in enumerate(texts):
        words = [f"{number} {word}" for word in WORD.findall(text.lower())]
        found += words + [f"{a} {b}" for a, b in pairwise(words)]
    return found
