"""Classes as words: the probability of a class is that of its words, at the blanks of a cloze or as a continuation.

Nothing is trained here. Masked language models fill blanks (Schick and Schütze 2021); causal and text-to-text models
continue. A multi-token word is scored whole, at several blanks or by teacher forcing.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError
from promptuary.readouts.readout import ClassReadout
from promptuary.readouts.words import Beginnings, Combination, Words
from promptuary.values import PARTS, Output, Part, Shape, Targets


class WordsAtBlanks(ClassReadout):
    """Label words at the mask tokens of a cloze: a word of n tokens is read at the first n blanks.

    Arguments:
        ids: for each label its words, for each word its token ids, as they stand in the middle of a text
            (with the leading space of byte-level vocabularies).
        blanks: how many mask tokens the template has.
        tokens: how a word's token log-probabilities make its score: `mean` is fair to long words.
        words: how a label's words make its score, see `Words`.
        prior: of the labels, for calibration, see `Words` and `log_prior`.

    Raises:
        SettingError: for a word of more tokens than there are blanks, and as `Words` does.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[Sequence[int]]],
        *,
        blanks: int = 1,
        tokens: Combination = "mean",
        words: Combination = "sum",
        prior: Float[Tensor, " classes"] | None = None,
    ) -> None:
        super().__init__()
        self.words, self.blanks = Words(ids, tokens=tokens, words=words, prior=prior), blanks
        if self.words.longest > blanks:
            raise SettingError(
                f"A label word has {self.words.longest} tokens and the template {blanks} blanks. "
                f"Write a template with {self.words.longest} blanks, or choose shorter label words."
            )

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"] | None:
        return None if batch.blanks is None else batch.blanks[:, : self.words.longest]

    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        found = 0 if batch.blanks is None else batch.blanks.shape[1]
        if batch.blanks is None or found != self.blanks:
            raise DataError(f"The batch has {found} blanks a row, the read-out was built with blanks={self.blanks}.")
        log_probability = out.once(self._log_probability, batch)
        step = torch.arange(self.words.longest, device=log_probability.device)
        return self.words.scores(log_probability[:, step, self.words.ids])

    def _log_probability(self, out: Output, batch: Batch) -> Float[Tensor, "batch longest vocabulary"]:
        assert batch.blanks is not None
        row = torch.arange(len(batch.blanks), device=batch.blanks.device)[:, None]
        return out.logits(out.hidden[row, batch.blanks[:, : self.words.longest]]).float().log_softmax(2)


class WordsAsContinuation(ClassReadout):
    """Label words as what a causal model says next, or as the decoder's text of a text-to-text model.

    The backbone reads each row once, with what words of several tokens begin with behind it; see `Beginnings`.

    Arguments:
        ids: for each label its words, for each word its token ids, exactly as they would be generated (with the
            leading space or the end token where these were learned).
        tokens: `sum` is the probability of the word, `mean` normalises it by length.
        words, prior: as for `WordsAtBlanks`.

    Raises:
        SettingError: as `Words` does.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[Sequence[int]]],
        *,
        tokens: Combination = "sum",
        words: Combination = "sum",
        prior: Float[Tensor, " classes"] | None = None,
    ) -> None:
        super().__init__()
        self.words = Words(ids, tokens=tokens, words=words, prior=prior)
        self.beginnings = Beginnings([word for label in ids for word in label])

    def targets(self, batch: Batch) -> Targets:
        return self.choices(len(batch.ids))

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"]:
        return batch.ids[:, :0]

    def reads(self, shape: Shape) -> frozenset[Part]:
        return PARTS

    def choices(self, rows: int) -> Targets:
        """What the backbone is to score behind each of `rows` rows."""
        return self.beginnings.targets(rows)

    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        return self.scores_of(out)

    def scores_of(self, out: Output) -> Float[Tensor, "batch classes"]:
        """Scores from the output alone: the model was run with this read-out's `choices`."""
        logits, of = out.once(self.beginnings.logits), self.beginnings.of
        return self.words.scores(logits[:, of, self.words.ids] - logits.logsumexp(2)[:, of])


def log_prior(scores: Float[Tensor, "batch classes"]) -> Float[Tensor, " classes"]:
    """Log of the labels' mean probability on inputs without content ("N/A", an empty text): `prior` of a verbalizer.

    Arguments:
        scores: what the verbalizer, built without a prior, says of these inputs.
    """
    probability = scores.log_softmax(1).exp()
    return probability.mean(0).log()
