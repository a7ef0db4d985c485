"""Always the commonest class of the rows that teach: what every score is to be compared with first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptuary.bench.contender import Answers, Contender, Learned
from promptuary.bench.grounds import Ground, classified
from promptuary.data.source import Row
from promptuary.train.progress import Progress


class Majority(Contender):
    """Knows nothing of the text. Its probabilities are the shares of the classes."""

    name = "majority"
    summary = "always the commonest class"
    source = "-"
    drawn = False

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        counts = Counter(ground.task.index(row) for row in ground.train)
        shares = np.array([counts[c] for c in range(len(ground.task.values))]) / len(ground.train)

        def answer(rows: Sequence[Row]) -> Answers:
            return classified(ground.task, np.tile(shares, (len(rows), 1)))

        return Learned(ground.scores(ground.selection, answer(ground.selection)), answer)
