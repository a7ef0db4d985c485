"""What can go wrong, as a tree. Every message says what was given, what was expected and what to write instead.

PromptuaryError             the user can mend it; the command line prints the sentence and exits with 2
|-- SettingError            a setting that cannot work: unknown name, value out of range, parts that do not fit
|   `-- MissingError        a name that stands for no prompt of a store
|-- BusyError               more was asked at once than there is room for: the same will work later
|-- StoppedError            what answers is not running any more
|-- DataError               a row, a column or a file of data
|-- BackboneError           a model that is missing, or that cannot do what a method asks of it
|-- CheckpointError         a saved prompt that is broken, or that belongs to another backbone
`-- TrainingError           training that went wrong while running: no room on the disk, memory that is short
    |-- DivergedError       loss or gradient are no finite numbers: the same run would end there again
    `-- MemoryShortError    the device has too little memory for a step
"""

import difflib
from bisect import bisect
from collections.abc import Iterable

SHOWN = 50  # names that a message lists
COMPARED = 300  # names that a misspelt one is compared with, some milliseconds' work


class PromptuaryError(Exception):
    """Any error of this library that its user can mend."""


class SettingError(PromptuaryError):
    """A setting that cannot work: an unknown name, a value out of range, parts that do not fit together."""


class MissingError(SettingError):
    """A name that stands for no prompt of a store."""


class BusyError(PromptuaryError):
    """More was asked at once than there is room for; `retry_after_s` is when to ask again, in seconds."""

    def __init__(self, said: str, retry_after_s: float) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["BusyError"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after_s)


class StoppedError(PromptuaryError):
    """What answers is not running any more, and does not come back by itself."""


class DataError(PromptuaryError):
    """A row, a column or a file of data; the message names the file and the line or field."""


class BackboneError(PromptuaryError):
    """A backbone that is missing, or that cannot do what a method asks of it."""


class CheckpointError(PromptuaryError):
    """A saved prompt that is broken or incomplete, or that belongs to another backbone."""


class TrainingError(PromptuaryError):
    """Training that went wrong while running."""


class DivergedError(TrainingError):
    """Loss or gradient became NaN or infinite: the same run would end there again."""


class MemoryShortError(TrainingError):
    """The device has too little memory for a step."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name nearest to `name`, or the list of known names.

    Of more names than `COMPARED` those are looked at that stand about it in the alphabet, and begin as it does.
    """
    names = sorted(known)
    at = max(0, min(bisect(names, name) - COMPARED // 2, len(names) - COMPARED))
    close = difflib.get_close_matches(name, names[at : at + COMPARED], n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"Known are: {', '.join(names[:SHOWN])}{more}."
