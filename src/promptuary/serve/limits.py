"""How much an engine does at once, and how much it has to do."""

from dataclasses import dataclass

from promptuary.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """How much is done at once.

    Arguments:
        rows: of a batch, and of texts that are written at once.
        tokens: of a batch, padding and soft tokens that stand in the row counted; no row may have more.
        wait_s: how long the first row of a batch waits for company while there is nothing else to do.
        queue: requests that may wait; more are refused.
        cache: tokens that the rows of texts in writing may ever have, padding and all soft tokens in positions counted.

    Raises:
        SettingError: for numbers out of range.
    """

    rows: int = 64
    tokens: int = 4096
    wait_s: float = 0.003
    queue: int = 1024
    cache: int = 65_536

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "queue", "cache"):
            if getattr(self, name) < 1:
                raise SettingError(f"Limits({name}={getattr(self, name)}): expected 1 or more.")
        if not self.wait_s >= 0:
            raise SettingError(f"Limits(wait_s={self.wait_s}): expected seconds, 0 or more.")

    def check(self, rows: int) -> None:
        """Refuse a request of more rows than may ever wait.

        Raises:
            SettingError: with how many that are.
        """
        if rows > self.queue:
            raise SettingError(f"{rows} rows at once, and {self.queue} may wait here (--queue). Send fewer.")


@dataclass(frozen=True)
class Load:
    """What there is to do, and what was done since the start.

    Arguments:
        waiting: requests that were accepted and are not begun. running: rows that the model has now.
        batches: passes of the model. rows: in these passes; a text counts once for each of its tokens.
        tokens: in these passes, soft ones that stand in rows counted, padding not.
        padding: in passes of rows that were read for an answer.
        seconds: that these passes took.
    """

    waiting: int = 0
    running: int = 0
    batches: int = 0
    rows: int = 0
    tokens: int = 0
    padding: int = 0
    seconds: float = 0.0
