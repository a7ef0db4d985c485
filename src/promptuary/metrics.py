"""How answers are scored, exactly as the benchmarks score them. Everything is a share between 0 and 1.

Classes are integers. A prediction of -1 is an answer that is no class (an illegal text): it is always wrong.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from promptuary.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(gold: Sequence[int], predicted: Sequence[int]) -> float:
    """Share of equal pairs."""
    from sklearn.metrics import accuracy_score

    _paired(gold, predicted)
    return float(accuracy_score(gold, predicted))


def f1(
    gold: Sequence[int], predicted: Sequence[int], *, classes: int, average: Literal["macro", "micro"] = "macro"
) -> float:
    """F1 over all `classes`: the mean of each one's, or that of their pooled counts.

    A class that nobody answers and nobody expects counts 0 in the mean, as in T5's metric for CB. An illegal
    prediction is a miss of its true class, and belongs to none.
    """
    from sklearn.metrics import f1_score

    _paired(gold, predicted)
    return float(f1_score(gold, predicted, labels=range(classes), average=average, zero_division=0))


def binary_f1(gold: Sequence[int], predicted: Sequence[int], *, positive: int = 1) -> float:
    """F1 of class `positive` of {0, 1}. An illegal prediction counts as the opposite of the truth (T5's metric)."""
    from sklearn.metrics import f1_score

    _paired(gold, predicted)
    legal = [p if p in (0, 1) else 1 - g for g, p in zip(gold, predicted, strict=True)]
    return float(f1_score(gold, legal, labels=[0, 1], pos_label=positive, zero_division=0))


def illegal_rate(predicted: Sequence[int]) -> float:
    """Share of predictions that are no class: always beside the score of free decoding."""
    _some(predicted)
    return sum(p == -1 for p in predicted) / len(predicted)


def majority(train: Sequence[int], gold: Sequence[int], score: Callable[[Sequence[int], list[int]], float]) -> float:
    """`score` of always answering the commonest class of `train` (the smallest of equals): the line to beat."""
    _some(train)
    classes, counts = np.unique(np.asarray(train), return_counts=True)
    return score(gold, [int(classes[counts.argmax()])] * len(gold))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of a BIO-tagged sentence: kind, first word, word after the last.

    As the CoNLL script reads them: an `I-` that continues no entity of its kind begins one.

    Raises:
        DataError: for a tag that is neither `O` nor `B-kind` nor `I-kind`.
    """
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if (mark == "O") != (name == "") or mark not in ("B", "I", "O"):
            raise DataError(f"Tag {tag!r}: expected 'O', 'B-kind' or 'I-kind'.")
        if kind and (mark != "I" or name != kind):
            found.add((kind, start, place))
            kind = ""
        if name and not kind:
            kind, start = name, place
    return found


def entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities, counts pooled over all sentences (CoNLL 2003). 1 where neither side has any.

    Raises:
        DataError: where a sentence and its prediction differ in length, and as `entities` does.
    """
    _paired(gold, predicted)
    right = true = said = 0
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        if len(g) != len(p):
            raise DataError(f"Sentence {number} has {len(g)} tags, its prediction {len(p)}: expected as many.")
        there, claimed = entities(g), entities(p)
        right, true, said = right + len(there & claimed), true + len(there), said + len(claimed)
    return 1.0 if true + said == 0 else 2 * right / (true + said)


def normalised(text: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: Sequence[Iterable[str]], predicted: Sequence[str]) -> float:
    """Share of answers whose normal form equals that of one of the accepted answers."""
    return _best(gold, predicted, lambda g, p: float(normalised(g) == normalised(p)))


def token_f1(gold: Sequence[Iterable[str]], predicted: Sequence[str]) -> float:
    """Mean over answers of the F1 of words, each against the accepted answer it is nearest to (SQuAD 1.1 and 2.0)."""
    return _best(gold, predicted, _overlap)


def bleu(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Corpus BLEU against one text each (Papineni et al. 2002): sacrebleu's with its defaults, divided by 100."""
    from sacrebleu import corpus_bleu

    _paired(gold, predicted)
    return float(corpus_bleu(list(predicted), [list(gold)]).score) / 100


def chrf(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Corpus chrF against one text each (Popović 2015): sacrebleu's with its defaults, divided by 100."""
    from sacrebleu import corpus_chrf

    _paired(gold, predicted)
    return float(corpus_chrf(list(predicted), [list(gold)]).score) / 100


def _overlap(gold: str, predicted: str) -> float:
    g, p = normalised(gold).split(), normalised(predicted).split()
    if not g or not p:  # SQuAD 2.0: no answer is right exactly where none is expected
        return float(g == p)
    return 2 * (Counter(g) & Counter(p)).total() / (len(g) + len(p))


def _best(gold: Sequence[Iterable[str]], predicted: Sequence[str], score: Callable[[str, str], float]) -> float:
    _paired(gold, predicted)
    for number, accepted in enumerate(gold):
        if isinstance(accepted, str) or not list(accepted):
            raise DataError(f"Question {number}: expected a list of one accepted answer or more, [''] for no answer.")
    return sum(max(score(g, p) for g in accepted) for accepted, p in zip(gold, predicted, strict=True)) / len(gold)


def _paired(gold: Sequence[object], predicted: Sequence[object]) -> None:
    if len(gold) != len(predicted):
        raise DataError(f"There are {len(gold)} answers and {len(predicted)} predictions: expected as many.")
    _some(gold)


def _some(values: Sequence[object]) -> None:
    if not len(values):
        raise DataError("There is nothing to score: expected one row or more.")
