"""How a tokenizer writes: what it puts around a text, and how a text begins in the middle of a row.

Tokenizers disagree on spaces. Byte-level ones (GPT-2, RoBERTa) write " great" and "great" as different tokens,
SentencePiece ones (T5, Llama) write "great" at the start as they write " great" elsewhere, WordPiece ones (BERT)
do not care. A text that stands behind a soft token or a mask must be written as it would be inside a sentence; how,
is found out by trying, once for each tokenizer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from promptuary.errors import SettingError

Start = Literal["begin", "spaced", "glued"]
Offsets = list[tuple[int, int]]
WORD, OTHER, POINT = "a", "b", "."


@dataclass(frozen=True)
class Written:
    """A text as token ids, with the characters that each token covers."""

    ids: list[int]
    offsets: Offsets


@dataclass(frozen=True)
class Frame:
    """The special tokens around one text, or around and between two, with their segment ids; the texts' own too."""

    parts: tuple[tuple[int, ...], ...]
    types: tuple[int, ...]
    texts: tuple[int, ...]


def fingerprint(tokenizer: Any) -> str:
    """A hash of which token each id stands for: tables made for one tokenizer fit another with the same."""
    tokens = sorted((int(i), token) for token, i in tokenizer.get_vocab().items())
    return hashlib.blake2b(json.dumps(tokens).encode(), digest_size=16).hexdigest()


class Tokens:
    """A tokenizer of transformers, asked in three ways only: for a text, for its frame, for its special tokens.

    What looks like a special token inside a text (a review that says "[SEP]") is text: it never becomes one.

    Arguments:
        causal: the model goes on where the input ends, so special tokens that close the input are left out.

    Raises:
        SettingError: when the tokenizer cannot say which characters its tokens cover (a "slow" one).
    """

    def __init__(self, tokenizer: Any, *, causal: bool = False) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise SettingError(
                f"The tokenizer {type(tokenizer).__name__} cannot tell which characters its tokens cover. "
                "Expected one that is backed by the library `tokenizers` (a tokenizer.json in the model's folder)."
            )
        self.tokenizer, self.causal = tokenizer, causal
        self._forbidden = {int(i) for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
        self._leads = {"begin": ("", 0), "spaced": self._spaced(), "glued": self._glued()}

    @property
    def mask(self) -> int:
        """The id of the mask token.

        Raises:
            SettingError: when the tokenizer has none.
        """
        if self.tokenizer.mask_token_id is None:
            raise SettingError(
                "The template asks for a <mask>, but this backbone's tokenizer has no mask token. Use a backbone "
                "trained to fill masks (BERT, RoBERTa), or a template without <mask>."
            )
        return int(self.tokenizer.mask_token_id)

    @property
    def end(self) -> list[int]:
        """The id that ends a text which the model writes, or nothing where the tokenizer has none."""
        return [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]

    def write(self, texts: Sequence[str], start: Start = "begin") -> list[Written]:
        """Each text as token ids without special tokens.

        Arguments:
            start: `begin` at the start of a row; in the middle of one, `spaced` after a space, else `glued`.
        """
        lead, drop = self._leads[start]
        written = self._batch([lead + text for text in texts])
        if lead:
            written = [_without(w, len(lead), drop) for w in written]
        # Where a text has grown together with the letter that was put before it, it is written as at the start.
        lost = [i for i, w in enumerate(written) if drop and w.offsets and w.offsets[0][0] < drop - len(lead)]
        for i, alone in zip(lost, self._batch([texts[i] for i in lost]), strict=True):
            written[i] = alone
        return written

    def frame(self, texts: int) -> Frame:
        """What the tokenizer puts around `texts` (1 or 2) texts: one part more than there are texts.

        Raises:
            SettingError: when it cannot be found out.
        """
        probes = [WORD, OTHER][:texts]
        full = self.tokenizer(*probes)
        ids, types = full["input_ids"], full.get("token_type_ids", [0] * len(full["input_ids"]))
        parts, part_types, text_types, at = [], [], [], 0
        for probe in probes:
            bare = self._batch([probe])[0].ids
            place = next((i for i in range(at, len(ids)) if bare and ids[i : i + len(bare)] == bare), None)
            if place is None:
                raise SettingError(f"The tokenizer writes {probe!r} differently with special tokens and without.")
            parts.append(tuple(ids[at:place]))
            part_types.append(types[at] if place > at else types[place])
            text_types.append(types[place])
            at = place + len(bare)
        parts.append(() if self.causal else tuple(ids[at:]))
        part_types.append(types[-1])
        return Frame(tuple(parts), tuple(part_types), tuple(text_types))

    def words(self, words: Sequence[str]) -> list[list[int]]:
        """Words as they stand inside a sentence: what a mask token in their place is asked for."""
        return [w.ids for w in self.write(words, "spaced")]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as the model should write them: after a space for causal models, and with their end."""
        if self.causal:
            return [ids + self.end for ids in self.words(texts)]
        (head, tail) = self.frame(1).parts
        tail = tail if set(self.end) <= set(tail) else (*tail, *self.end)
        return [[*head, *w.ids, *tail] for w in self.write(texts)]

    def _batch(self, texts: Sequence[str]) -> list[Written]:
        written = self._written(texts)
        # Unigram models find special tokens in a text even when these are not looked for.
        found = [i for i, w in enumerate(written) if not self._forbidden.isdisjoint(w.ids)]
        if found:
            disarmed = [self._disarmed(texts[i], written[i]) for i in found]
            for i, again in zip(found, self._batch(disarmed), strict=True):
                written[i] = again
        return written

    def _written(self, texts: Sequence[str]) -> list[Written]:
        if not texts:
            return []
        encodings = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        ).encodings
        return [Written(e.ids, e.offsets) for e in encodings]

    def _disarmed(self, text: str, w: Written) -> str:
        """The text with a space for the first character of each special token in it; no other character moves."""
        characters = list(text)
        for token, (start, end) in zip(w.ids, w.offsets, strict=True):
            if token in self._forbidden:
                first = next(i for i in range(start, end) if not characters[i].isspace())
                characters[first] = " "
        return "".join(characters)

    def _spaced(self) -> tuple[str, int]:
        both, first = self._batch([f"{WORD} {OTHER}", WORD])
        wanted = both.ids[len(first.ids) :]
        for lead in (" ", ""):
            if self._batch([lead + OTHER])[0].ids == wanted:
                return lead, 0
        return f"{WORD} ", 1

    def _glued(self) -> tuple[str, int]:
        both, first, point = self._batch([WORD + POINT, WORD, POINT])
        return ("", 0) if point.ids == both.ids[len(first.ids) :] else (WORD, 1)


def _without(w: Written, lead: int, drop: int) -> Written:
    """The text's own tokens, its characters counted from 0; a token of the lead's first `drop` characters goes."""
    skip = next((i for i, (_, end) in enumerate(w.offsets) if end > drop), len(w.ids)) if drop else 0
    return Written(w.ids[skip:], [(start - lead, end - lead) for start, end in w.offsets[skip:]])
