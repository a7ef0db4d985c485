"""Always the commonest class of the rows that teach: what every score is to be compared with first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptuary.bench.contender import Contender, Learned, Probabilities
from promptuary.bench.grounds import Ground
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

        def answer(rows: Sequence[Row]) -> Probabilities:
            return np.tile(shares, (len(rows), 1))

        said = answer(ground.selection).argmax(1).tolist()
        return Learned(ground.scores(ground.selection, said), answer)
