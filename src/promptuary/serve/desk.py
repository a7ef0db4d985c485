"""Where texts are written: rows of any prompt and age in one pass for the next token of each (continuous batching).

A row joins by a pass over its own input and leaves with its last token, or when nobody waits for it any more; the
others go on meanwhile. All rows that agree in precision stand in one draft; on a model whose decoder numbers its tokens
by columns (BART), those that have also written equally many tokens. Encoder-decoders take part: a row's draft holds
what its encoder said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.draft import Draft
from promptuary.backbones.generation import ends
from promptuary.backbones.picking import Pen, pen, picked
from promptuary.mixing import begin, beside
from promptuary.serve.apart import apart
from promptuary.serve.jobs import Ended, Piece, Post, Writing
from promptuary.serve.spelling import Spelling
from promptuary.sharing import alike, batched, shares
from promptuary.train.evaluation import arithmetic


@dataclass(eq=False)
class _Text:
    """One text that is being written."""

    job: Writing
    pen: Pen
    ends: tuple[int, ...]
    spelling: Spelling
    ids: list[int]
    told: int = 0  # of `ids`

    def grown(self, token: int) -> Piece | None:
        """What there is to tell after one more token, if anything."""
        if token in self.ends:
            return self._told(self.spelling.end(), "stop")
        self.ids.append(token)
        text = self.spelling.add(token)
        if self.spelling.stopped:
            return self._told(text, "stop")
        if len(self.ids) == self.job.how.max_new_tokens:
            text += self.spelling.end()
            return self._told(text, "stop" if self.spelling.stopped else "length")
        return self._told(text, None) if text else None

    def _told(self, text: str, ended: Ended | None) -> Piece:
        ids, self.told = tuple(self.ids[self.told :]), len(self.ids)
        return Piece(text, ids, ended)


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A draft and the texts of its rows."""

    precision: str
    draft: Draft
    texts: Sequence[_Text]

    def kept(self, rows: Sequence[int]) -> "_Sheet":
        if len(rows) == len(self.texts):
            return self
        return replace(self, draft=self.draft.kept(rows), texts=[self.texts[n] for n in rows])


class Desk:
    """The texts that are being written on one backbone. It belongs to one thread.

    Arguments:
        post: where pieces and exceptions go.
    """

    def __init__(self, backbone: Backbone, post: Post) -> None:
        self._backbone, self._post = backbone, post
        self._sheets: list[_Sheet] = []

    def __len__(self) -> int:
        """How many texts are being written."""
        return sum(len(sheet.texts) for sheet in self._sheets)

    @property
    def longest(self) -> int:
        """The most tokens that a row has and may still get."""
        return max((text.job.tokens for sheet in self._sheets for text in sheet.texts), default=0)

    def join(self, jobs: Sequence[Writing]) -> None:
        """Read the rows of new texts, those of one precision in one pass, and write the first token of each."""
        for precision in sorted({job.asked.tuned.precision for job in jobs}):
            own = [job for job in jobs if job.asked.tuned.precision == precision]
            for _, sheets in apart(own, partial(self._begun, precision), self._post.tell):
                for sheet in sheets:
                    self._write(sheet)
        self._gather()

    def step(self) -> int:
        """Write the next token of every text; how many there were."""
        rows, sheets, self._sheets = len(self), self._sheets, []
        for sheet in sheets:
            self._advance(sheet)
        self._gather()
        return rows

    def leave(self) -> None:
        """Let go of texts that nobody waits for."""
        sheets, self._sheets = self._sheets, []
        for sheet in sheets:
            self._lay(sheet, [n for n, text in enumerate(sheet.texts) if not text.job.gone])

    def clear(self, error: Exception) -> None:
        """Give up all texts."""
        for text in (text for sheet in self._sheets for text in sheet.texts):
            self._post.tell(text.job, error)
        self._sheets = []

    def _begun(self, precision: str, jobs: Sequence[Writing]) -> list[_Sheet]:
        of = {id(job.asked): job for job in jobs}
        groups = batched(alike([job.asked for job in jobs]))
        own = [[of[id(asked)] for asked in group] for group, _ in groups]
        device, tokenizer, model = self._backbone.device, self._backbone.tokenizer, self._backbone.model
        sheets = []
        with arithmetic(device, precision):
            begun = begin(shares(groups))
        for numbers, draft in begun:
            texts = [
                _Text(job, pen(job.how, device), ends(job.how, model), Spelling(tokenizer, job.stop), [])
                for n in numbers
                for job in own[n]
            ]
            sheets.append(_Sheet(precision, draft, texts))
        return sheets

    def _advance(self, sheet: _Sheet) -> None:
        def advanced(rows: Sequence[int]) -> _Sheet:
            part = sheet.kept(rows)
            with arithmetic(self._backbone.device, part.precision):
                draft = self._backbone.advance(part.draft, [text.ids[-1] for text in part.texts])
            return replace(part, draft=draft)

        def fail(row: int, error: Exception) -> None:
            self._post.tell(sheet.texts[row].job, error)

        for _, part in apart(range(len(sheet.texts)), advanced, fail):
            self._write(part)

    def _write(self, sheet: _Sheet) -> None:
        """Pick and tell the next token of each row; rows that are not at their end stay."""
        tokens = picked(sheet.draft.scores, [t.pen for t in sheet.texts], [t.ids for t in sheet.texts])
        self._lay(sheet, [n for n, token in enumerate(tokens) if self._goes_on(sheet.texts[n], token)])

    def _goes_on(self, text: _Text, token: int | Exception) -> bool:
        try:
            if isinstance(token, Exception):
                raise token
            piece = text.grown(token)
        except Exception as error:
            self._post.tell(text.job, error)
            return False
        if piece is not None:
            self._post.tell(text.job, piece)
        return piece is None or piece.ended is None

    def _lay(self, sheet: _Sheet, rows: Sequence[int]) -> None:
        """Keep these rows of a sheet."""
        if rows:
            self._sheets.append(sheet.kept(rows))

    def _gather(self) -> None:
        """Lay rows beside one another that can stand in one draft."""
        together: dict[tuple[str, int], list[_Sheet]] = {}
        for sheet in self._sheets:
            age = 0 if self._backbone.evens else len(sheet.texts[0].ids)
            together.setdefault((sheet.precision, age), []).append(sheet)
        self._sheets = [
            _Sheet(precision, beside([s.draft for s in own]), [text for s in own for text in s.texts])
            for (precision, _), own in together.items()
        ]
