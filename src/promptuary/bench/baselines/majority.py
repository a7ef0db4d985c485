"""Always the commonest answer of the rows that teach: what every score is to be compared with first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptuary.bench.contender import Answers, Contender, Learned
from promptuary.bench.grounds import Ground
from promptuary.data.source import Row
from promptuary.kinds import KINDS
from promptuary.train.progress import Progress


class Majority(Contender):
    """Knows nothing of the text (`Kind.commonest`): the commonest class, tag of each word, span or text."""

    name = "majority"
    summary = "always the commonest answer"
    source = "-"
    drawn = False
    kinds = frozenset(KINDS)

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        said = ground.run().kind.commonest(ground.task, ground.train)

        def answer(rows: Sequence[Row]) -> Answers:
            return [said(row) for row in rows]

        return Learned(ground.scores(ground.selection, answer(ground.selection)), answer)
