"""Several prompts of one task as one answer (Lester et al. 2021, section 6).

Each row is asked of every prompt, in mixed batches on one frozen model, and the answers are combined. `vote` is the
paper's majority vote: the class that most prompts name; among classes with as many votes, the one of the highest mean
log-probability, then the first. `mean` takes the highest mean log-probability, then the first class.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from promptuary.bank import TOKENS, Bank
from promptuary.data.source import Row
from promptuary.errors import SettingError, nearest
from promptuary.kinds.kind import Rule

Said = Sequence[Sequence[float]]  # by prompt and class, probabilities


def vote(said: Said) -> tuple[int, list[float]]:
    """The class most prompts name, and the share of the votes that each class has."""
    votes = Counter(max(range(len(own)), key=lambda c: (own[c], -c)) for own in said)
    means = _means(said)
    return max(range(len(means)), key=lambda c: (votes[c], means[c], -c)), [
        votes[c] / len(said) for c in range(len(means))
    ]


def mean(said: Said) -> tuple[int, list[float]]:
    """The class of the highest mean log-probability, and the exponentials of these means, divided by their sum."""
    means = _means(said)
    best = max(range(len(means)), key=lambda c: (means[c], -c))
    weights = [math.exp(value - means[best]) for value in means]
    return best, [weight / sum(weights) for weight in weights]


RULES: Mapping[str, Rule] = MappingProxyType({"vote": vote, "mean": mean})


def _means(said: Said) -> list[float]:
    # A probability that underflowed counts as the smallest there is, not as a veto.
    return [sum(math.log(max(p, sys.float_info.min)) for p in own) / len(said) for own in zip(*said, strict=True)]


class Ensemble:
    """All prompts of a bank as one; they are of one task and know the same classes.

    Arguments:
        rule: `vote` or `mean`.

    Raises:
        SettingError: for an unknown rule, for classes that differ, and for tasks whose answers are no classes.
    """

    def __init__(self, bank: Bank, *, rule: str = "vote") -> None:
        if rule not in RULES:
            raise SettingError(f"rule={rule!r}: there is no such way to combine answers. {nearest(rule, RULES)}")
        self.bank, self.rule, self.names = bank, RULES[rule], list(bank)
        if not self.names:
            raise SettingError("This bank is empty. An ensemble needs a prompt or more.")
        first = bank[self.names[0]]
        self.reading, self.task = first.reading, first.task
        for name in self.names:
            if bank[name].task.values != self.task.values:
                raise SettingError(
                    f"{name} was tuned on the classes {', '.join(bank[name].task.labels)}, {self.names[0]} on "
                    f"{', '.join(self.task.labels)}. Expected prompts of one task."
                )

    def predict(self, rows: Iterable[Row], *, tokens: int = TOKENS) -> Iterator[Any]:
        """The combined answer for each row, in order, in constant memory.

        Arguments:
            tokens: as in `Bank.predict`.
        """
        return map(self._combined, self._said(rows, tokens))

    def evaluate(self, rows: Iterable[Row], *, tokens: int = TOKENS) -> dict[str, Any]:
        """Scores on labelled rows: those of the kind of task for the combined answers (0 to 1), `majority` as in
        `Tuned.evaluate`, `n` (rows), and `members`, the scores of each prompt by itself, by its name.

        Raises:
            DataError: for a row without a text or a known label.
        """
        given = list(rows)
        examples = self.bank[self.names[0]].wording.encode(given)
        said = list(self._said(given, tokens))
        members = zip(self.names, zip(*said, strict=True), strict=True)
        return {
            **self.reading.scores(self.task, given, list(map(self._combined, said))),
            **self.reading.beside(self.task, examples),
            "n": len(given),
            "members": {name: dict(self.reading.scores(self.task, given, own)) for name, own in members},
        }

    def _combined(self, said: Sequence[Any]) -> Any:
        return self.reading.combined(self.task, said, self.rule)

    def _said(self, rows: Iterable[Row], tokens: int) -> Iterator[list[Any]]:
        """What every prompt says of each row."""
        answers = self.bank.predict(((name, row) for row in rows for name in self.names), tokens=tokens)
        while said := list(islice(answers, len(self.names))):
            yield said
