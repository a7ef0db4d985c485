"""How undecided the choices of a prompt are while it learns, noted at every step without making the device wait."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from promptuary.choices import Choice
from promptuary.train.team import ALONE, Team
from promptuary.values import Instance


@dataclass(eq=False)
class Entropies:
    """The entropy of each choice of a model, summed over the rows of the steps since it was last read.

    The sums stay on the device; only `read` and `notes` turn them into numbers.

    Arguments:
        choices: by their names; those of a single option have nothing to decide and are left out.
        team: the processes whose rows count together.
        rows: of the steps so far. sums: of each choice's entropies over these rows, in nats.
    """

    choices: Mapping[str, Choice]
    team: Team = ALONE
    rows: int = 0
    sums: dict[str, Tensor | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.choices = {name: choice for name, choice in self.choices.items() if choice.options > 1}

    def note(self, x: Instance) -> None:
        """Note the rows of a training pass over `x`, after it."""
        for name, choice in self.choices.items():
            self.sums[name] = self.sums.get(name, 0.0) + choice.uncertainty(x).sum()
        self.rows += len(x.ids)

    def read(self) -> dict[str, Any] | None:
        """What the record keeps, and start anew; `None` where there is nothing to tell.

        Returns:
            `rows` that were noted; by choice the mean `entropy` of a row in nats, and its `share` of log(options), the
            most there can be (0 to 1).
        """
        if not self.choices:
            return None
        noted = self.notes()
        if not noted["rows"]:
            return None
        entropy = {name: total / noted["rows"] for name, total in noted["sums"].items()}
        share = {name: nats / math.log(self.choices[name].options) for name, nats in entropy.items()}
        told = {"rows": noted["rows"], "entropy": entropy, "share": share}
        self.rows, self.sums = 0, {}
        return told

    def notes(self) -> dict[str, Any]:
        """What `resume` needs, as JSON values: of the rows of all processes."""
        if not self.choices:
            return {"rows": 0, "sums": {}}
        rows, *sums = self.team.sum([self.rows, *(float(self.sums.get(name, 0.0)) for name in self.choices)])
        return {"rows": int(rows), "sums": dict(zip(self.choices, sums, strict=True)) if rows else {}}

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Go on from what `notes` said."""
        if self.team.lead:
            self.rows, self.sums = notes["rows"], dict(notes["sums"])
