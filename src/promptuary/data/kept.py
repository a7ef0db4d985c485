"""Encoded rows for many epochs: few lie in memory, many in a file that is mapped into it."""

import marshal
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain
from mmap import ACCESS_READ, mmap
from operator import attrgetter
from typing import overload

from promptuary.data.example import Example
from promptuary.errors import TrainingError

HELD = 1 << 20  # tokens that stay in memory as Python's numbers: some 60 MB


def kept(chunks: Iterable[Sequence[Example]]) -> Sequence[Example]:
    """The examples of all chunks, in their order, to be read as often as it takes.

    Raises:
        TrainingError: where they are many, and the disk has no room for them.
    """
    remaining, held, tokens = iter(chunks), list[Example](), 0
    for chunk in remaining:
        held += chunk
        tokens += sum(len(e.ids) for e in chunk)
        if tokens > HELD:
            return Mapped(chain(held, chain.from_iterable(remaining)))
    return held


class Mapped(Sequence[Example]):
    """Examples in a temporary file without a name, which goes with this object: of it as much is in memory as is read.

    Raises:
        TrainingError: where the disk has no room.
    """

    _values = attrgetter(*(field.name for field in fields(Example)))

    def __init__(self, examples: Iterable[Example]) -> None:
        self._starts = array("Q", [0])
        try:
            with tempfile.TemporaryFile() as file:
                for example in examples:
                    # Nobody else reads it, so the interpreter's own format will do: five bytes a number.
                    written = file.write(marshal.dumps(Mapped._values(example)))
                    self._starts.append(self._starts[-1] + written)
                file.flush()
                self._bytes = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError as error:
            raise TrainingError(
                f"{tempfile.gettempdir()}: the encoded rows could not be written ({error.strerror or error}). Make "
                "room there, or name another folder in the environment variable TMPDIR."
            ) from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[row] for row in range(len(self))[place]]
        row = range(len(self))[place]
        return Example(*marshal.loads(self._bytes[self._starts[row] : self._starts[row + 1]]))

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))
