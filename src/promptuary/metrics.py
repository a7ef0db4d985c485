"""How answers are scored, exactly as the benchmarks score them. Everything is a share between 0 and 1.

Classes are integers. A prediction of -1 is an answer that is no class (an illegal text): it is always wrong.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from promptuary.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DETERMINERS = frozenset({
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the", "their",
    "these", "this", "those", "which", "whose", "your",
})  # fmt: skip
References = str | Sequence[str]


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


def bleu(gold: Sequence[References], predicted: Sequence[str]) -> float:
    """Corpus BLEU against one text each or several (Papineni et al. 2002): sacrebleu's defaults, divided by 100."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(predicted), _references(gold, predicted)).score) / 100


def chrf(gold: Sequence[References], predicted: Sequence[str]) -> float:
    """Corpus chrF against one text each or several (Popović 2015): sacrebleu's defaults, divided by 100."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(predicted), _references(gold, predicted)).score) / 100


def rouge(
    gold: Sequence[References], predicted: Sequence[str], *, kind: Literal["rouge1", "rouge2", "rougeL"] = "rougeL"
) -> float:
    """Mean ROUGE F1 (Lin 2004), each text against the reference it is nearest to: rouge-score's, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind])
    accepted = [[text for text in row if text is not None] for row in zip(*_references(gold, predicted), strict=True)]
    best = [
        max(float(scorer.score(text, said)[kind].fmeasure) for text in texts)
        for texts, said in zip(accepted, predicted, strict=True)
    ]
    return sum(best) / len(best)


def group_match(groups: Sequence[Hashable], gold: Sequence[object], predicted: Sequence[object]) -> float:
    """Share of groups in which every answer is right: MultiRC's exact match of questions (Khashabi et al. 2018).

    Arguments:
        groups: what each answer belongs to (in MultiRC the question); those of one group need not stand together.
    """
    _paired(gold, predicted)
    _paired(gold, groups)
    right: dict[Hashable, bool] = {}
    for group, g, p in zip(groups, gold, predicted, strict=True):
        right[group] = right.get(group, True) and g == p
    return sum(right.values()) / len(right)


def same_referent(referent: str, predicted: str) -> bool | None:
    """Whether a text names the referent: the words of one contain those of the other; `None` for a text of no words.

    T5's rule for WSC (`t5.data.postprocessors.wsc_simple`): case and determiners are left out, punctuation is not, and
    "Bob" is not "Bob's hat".
    """
    one, other = (_named_words(text) for text in (referent, predicted))
    if other == {""}:
        return None
    return ("'" in predicted) == ("'" in referent) and (one <= other or other <= one)


def referent_accuracy(gold: Sequence[bool], referents: Sequence[str], predicted: Sequence[str]) -> float:
    """Accuracy of WSC where the referent is written out: whether it was named must agree with `gold`.

    A text of no words is always wrong, also where the referent was not to be named (T5).
    """
    _paired(gold, predicted)
    _paired(gold, referents)
    said = [same_referent(*pair) for pair in zip(referents, predicted, strict=True)]
    return sum(g == s for g, s in zip(gold, said, strict=True)) / len(said)


def relation_f1(gold: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Mean F1 of relations without `Other`, where a relation in the wrong direction is wrong: SemEval-2010 task 8.

    The official score ("(9+1)-way evaluation with directionality taken into account", `semeval2010_task8_scorer`):
    both directions of a relation are counted together, and the mean is over the relations that `gold` has.

    Arguments:
        gold, predicted: such as `Cause-Effect(e2,e1)` and `Other`; `None` for an answer that is no relation.

    Raises:
        DataError: where `gold` has no relation but `Other`.
    """
    _paired(gold, predicted)
    true = Counter(label.partition("(")[0] for label in gold)
    claimed = Counter(label.partition("(")[0] for label in predicted if label is not None)
    right = Counter(g.partition("(")[0] for g, p in zip(gold, predicted, strict=True) if g == p)
    names = sorted(set(true) - {"Other"})
    if not names:
        raise DataError("All rows are of the relation 'Other', which is not scored: expected some of another.")
    return sum(2 * right[name] / (true[name] + claimed[name]) for name in names) / len(names)


def mean_over_tasks(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The SuperGLUE average (Wang et al. 2019): the mean over tasks of the mean of each task's metrics."""
    if not scores or not all(scores.values()):
        raise DataError("There is nothing to average: expected one task or more, with one score or more each.")
    return sum(sum(own.values()) / len(own) for own in scores.values()) / len(scores)


def _named_words(text: str) -> set[str]:
    return set(" ".join(word for word in text.strip().lower().split(" ") if word not in _DETERMINERS).split(" "))


def _references(gold: Sequence[References], predicted: Sequence[str]) -> list[list[Any]]:
    """The first text of each row, the second of each, and so on, as sacrebleu takes them; `None` where a row has less.

    Raises:
        DataError: for a row without a text.
    """
    _paired(gold, predicted)
    rows = [[own] if isinstance(own, str) else list(own) for own in gold]
    if [] in rows:
        raise DataError(f"Row {rows.index([])} has no text to compare with: expected one or more.")
    return [list(column) for column in zip_longest(*rows)]


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
