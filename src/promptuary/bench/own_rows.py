"""A user's own rows: what looks wrong with them, and how they are divided into rows that teach, select and estimate.

Copies of one text, and questions on one context, stay on one side of every division, so that nothing is estimated on
what was learned.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from promptuary.bench.sealed import Sealed
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.errors import DataError

FEWEST = 40  # rows, below which no estimate is worth its name
TINY = 10  # rows of a class, below which its score is an anecdote
MOST = 20_000  # rows that teach: more are not seen within minutes
FOLDS = 20  # into which rows are dealt; a part is some of them
SHARES = ((1_000, 4, 4), (10_000, 2, 4))  # up to so many rows, so many folds select and estimate
LEAST = (1, 2)  # of more rows


@dataclass(frozen=True, eq=False)
class Divided:
    """Rows in three parts.

    Arguments:
        train, selection: those that teach and select. estimate: those that tell how good the choice is, sealed.
        counts: rows of each part.
    """

    train: Sequence[Row]
    selection: Sequence[Row]
    estimate: Sealed
    counts: dict[str, int]


def same(texts: Sequence[str]) -> str:
    """What two copies of a row's texts have in common: letters and their order, not case, not spaces."""
    return "\n".join(" ".join(text.lower().split()) for text in texts)


def copies(rows: Sequence[Row], task: Task) -> list[int]:
    """For each row the number of its text, which copies share; of a question the number of its context."""
    texts = [same(task.said(row)[1:] if task.kind == "answering" else task.said(row)) for row in rows]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return [numbers[text] for text in texts]


def divide(rows: Sequence[Row], task: Task, seed: int = 0) -> Divided:
    """Stratified by class where rows have one, copies together: of up to 1,000 rows 60 % teach, 20 % select and 20 %
    estimate, of up to 10,000 rows 70, 10 and 20 %, of more 85, 5 and 10 %.

    Raises:
        DataError: for too few rows, and for a class that has none to teach.
    """
    if len(rows) < FEWEST:
        raise DataError(
            f"{len(rows)} rows are too few to compare methods on: some must select and some estimate. Expected "
            f"{FEWEST} or more; with fewer, tune one method (`promptuary tune`)."
        )
    classes = task.kind == "classification"
    labels, groups = [task.index(row) if classes else 0 for row in rows], copies(rows, task)
    select, estimate = next((shares for most, *shares in SHARES if len(rows) <= most), LEAST)
    if max(groups) + 1 < FOLDS:
        raise DataError(f"The {len(rows)} rows have only {max(groups) + 1} different texts. Expected {FOLDS} or more.")
    common = Counter(labels).most_common(1)[0][1]
    if common < FOLDS:
        numbers = all(_number(name) for name in task.labels)
        raise DataError(
            f"The largest class has {common} rows, of {len(set(labels)):,} classes in {len(rows):,} rows. Expected "
            f"{FOLDS} or more of one class at least. With fewer, tune one method (`promptuary tune`)"
            + ("; numbers are no classes: name another column (--label), or put them into ranges." if numbers else ".")
        )
    part = _dealt(labels, groups, random.Random(f"divide/{seed}"))
    sealed = [row for row, fold in zip(rows, part, strict=True) if fold < estimate]
    selection = [row for row, fold in zip(rows, part, strict=True) if estimate <= fold < estimate + select]
    train = [row for row, fold in zip(rows, part, strict=True) if fold >= estimate + select][:MOST]
    missing = sorted(set(range(len(task.values))) - {task.index(row) for row in train}) if classes else []
    if missing:
        name = task.labels[missing[0]]
        raise DataError(
            f"Class {name!r} has {labels.count(missing[0])} rows, none of which is left to teach. Leave the class out, "
            "or join it with another one."
        )
    counts = {"train": len(train), "selection": len(selection), "estimate": len(sealed)}
    return Divided(train, selection, Sealed(lambda: sealed), counts)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _dealt(labels: Sequence[int], groups: Sequence[int], draw: random.Random) -> list[int]:
    """A fold for each row: the largest groups first, each to the fold that has least of its class, then of all."""
    members: list[list[int]] = [[] for _ in range(max(groups) + 1)]
    for row, group in enumerate(groups):
        members[group].append(row)
    draw.shuffle(members)
    members.sort(key=len, reverse=True)
    held, whole, fold_of = defaultdict[int, list[int]](lambda: [0] * FOLDS), [0] * FOLDS, [0] * len(labels)
    for own in members:
        of_class = held[Counter(labels[row] for row in own).most_common(1)[0][0]]
        *_, fold = min((of_class[fold], whole[fold], draw.random(), fold) for fold in range(FOLDS))
        whole[fold] += len(own)
        of_class[fold] += len(own)
        for row in own:
            fold_of[row] = fold
    return fold_of


def warnings(rows: Sequence[Row], task: Task) -> list[str]:
    """What looks wrong with the rows, each as a sentence: copies, and with classes copies with different labels, tiny
    classes, texts that give the label away.
    """
    texts, said = [same(task.said(row)) for row in rows], list[str]()
    repeated = len(rows) - len(set(texts))
    if repeated:
        said.append(
            f"{repeated:,} of {len(rows):,} rows are copies of another one. Copies were kept on one side of every "
            "division, else they would be learned by heart and praised for it."
        )
    return said + _of_classes(rows, task, texts) if task.kind == "classification" else said


def _of_classes(rows: Sequence[Row], task: Task, texts: Sequence[str]) -> list[str]:
    classes, said = [task.index(row) for row in rows], list[str]()
    labels = defaultdict[str, list[int]](list)
    for text, own in zip(texts, classes, strict=True):
        labels[text].append(own)
    torn = [own for own in labels.values() if len(set(own)) > 1]
    if torn:
        said.append(
            f"{len(torn):,} texts stand there with different labels ({sum(map(len, torn)):,} rows): no method can "
            "answer all of them. Look at the labels."
        )
    counts = Counter(classes)
    for number, name in enumerate(task.labels):
        if counts[number] < TINY:
            said.append(f"Class {name!r} has {counts[number]} rows: too few to learn it, or to say how well.")
    return said + _give_away(task.labels, texts, classes)


def _give_away(names: Sequence[str], texts: Sequence[str], classes: Sequence[int]) -> list[str]:
    """Classes whose name stands in nearly all of their texts and in hardly any other: the label has leaked."""
    said = []
    for number, name in enumerate(names):
        word = name.lower().replace("_", " ")
        if len(word) < 3:
            continue
        inside = [word in text for text in texts]
        own = [there for there, own in zip(inside, classes, strict=True) if own == number]
        others = len(texts) - len(own)
        if len(own) >= TINY and sum(own) > 0.9 * len(own) and sum(inside) - sum(own) < 0.1 * max(1, others):
            said.append(f"The name {name!r} stands in nearly every text of its class: is the label part of the text?")
    return said
