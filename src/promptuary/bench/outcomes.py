"""What becomes of trials: what breaks down is an outcome, and of the others one is chosen."""

from collections.abc import Mapping, Sequence

import torch

from promptuary.bench.store import Entry
from promptuary.errors import BackboneError, DivergedError, MemoryShortError, SettingError

OUTCOMES: Mapping[type[BaseException], str] = {  # what breaks down so is kept as a result
    DivergedError: "diverged",
    MemoryShortError: "memory",
    torch.OutOfMemoryError: "memory",
    MemoryError: "memory",
    BackboneError: "refused",
    SettingError: "refused",
}


def outcome_of(error: BaseException) -> str:
    """The word for what broke down: an error of one of the kinds in `OUTCOMES`."""
    return next(name for kind, name in OUTCOMES.items() if isinstance(error, kind))


def choose(trials: Sequence[Entry]) -> Entry | None:
    """The trial with the best score on the rows that select; of equal ones that of the smaller loss, then the first."""
    known = [trial for trial in trials if trial.score is not None]

    def worth(trial: Entry) -> tuple[float, float]:
        loss = (trial.record or {}).get("scores", {}).get("loss", 0.0)
        return trial.score or 0.0, -loss

    return max(known, key=worth, default=None)
