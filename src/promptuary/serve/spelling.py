"""The text of token ids that come one at a time: told as soon as it is sure, and cut off at a stop string."""

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Spelling:
    """One text. What was told, joined, is what the tokenizer says of all ids, up to the first stop string.

    A character of several tokens is told with its last one; what may begin a stop string, when it turns out not to.

    Arguments:
        tokenizer: of transformers, backed by the library `tokenizers`.
        stop: strings that end the text and do not belong to it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._spelled, self._told, self.stopped = "", 0, False

    def add(self, token: int) -> str:
        """What can be told now that this token was written; after it, `stopped` says whether the text is at its end."""
        self._ids.append(token)
        return self._grown(self._stream.step(self._tokenizer.backend_tokenizer, token) or "", last=False)

    def end(self) -> str:
        """What was not told yet, when no more tokens come."""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        return self._grown(whole[len(self._spelled) :], last=True)

    def _grown(self, more: str, *, last: bool) -> str:
        """What can be told of the text with `more` behind it."""
        if self.stopped:
            return ""
        begun = max(0, len(self._spelled) - max(map(len, self._stop), default=1) + 1)
        self._spelled += more
        found = [at for at in (self._spelled.find(s, begun) for s in self._stop) if at >= 0]
        self.stopped = bool(found)
        sure = min(found) if found else len(self._spelled) - (0 if last else self._open())
        told, self._told = self._spelled[self._told : sure], max(self._told, sure)
        return told

    def _open(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        return max((n for s in self._stop for n in range(1, len(s)) if self._spelled.endswith(s[:n])), default=0)


def spelled(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
    """The text of some token ids up to the first stop string, and whether there was one."""
    whole = str(tokenizer.decode(ids, skip_special_tokens=True))
    found = [at for at in (whole.find(s) for s in stop if s) if at >= 0]
    return whole[: min(found, default=len(whole))], bool(found)
