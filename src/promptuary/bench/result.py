"""What a search on a user's own rows found, in plain values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from promptuary.bench.contender import Answers, Learned
from promptuary.bench.grounds import Ground, probabilities
from promptuary.bench.own_rows import copies, warnings
from promptuary.bench.question import Question
from promptuary.bench.records import packed
from promptuary.bench.store import Entry
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.train import record

SURE = 0.95  # probability of a wrong answer, from where the label is doubtful


def result_of(
    question: Question,
    ground: Ground,
    entries: Iterable[Entry],
    rivals: Mapping[str, Entry],
    rows: Sequence[Row],
    answers: Mapping[str, Answers],
) -> dict[str, Any]:
    """The result: what was tried, and what the choice and its rivals say of the rows that estimate.

    Arguments:
        rivals: by name; `prompt` is the choice. answers: theirs to `rows`, by the same names.
    """
    classes, texts = question.task.kind == "classification", copies(rows, question.task)

    def told(answers: Answers) -> dict[str, Any]:
        if classes:
            return {"said": packed(probabilities(question.task, answers).argmax(1).tolist())}
        return {"contributions": ground.contributions(rows, answers, texts)}

    return {
        "backbone": question.backbone,
        "labels": list(question.task.labels),
        "metric": ground.metric,
        "warnings": warnings(question.rows, question.task),
        "budget_s": question.budget_s,
        "tried": [
            {
                **_told(e),
                "sentence": (e.record or {}).get("sentence"),
                "curve": (e.record or {}).get("curve", []),
                "trial": e.job.name,
            }
            for e in entries
            if e.finished and not e.job.final
        ],
        "true": packed(question.task.index(row) for row in rows) if classes else None,
        "texts": texts,
        "estimates": {
            name: {
                **_told(entry),
                "alarms": (entry.record or {}).get("alarms"),
                **told(answers[name]),
                "scores": ground.scores(rows, answers[name]),
            }
            for name, entry in rivals.items()
        },
        **record.surroundings(),
    }


def _told(entry: Entry) -> dict[str, Any]:
    """A run: its method, its settings, its steps, its score on the rows that select, its cost."""
    return {
        "method": entry.job.about["method"],
        "settings": dict(entry.job.settings),
        "steps": entry.job.number,
        "selection": entry.score,
        "cost": (entry.record or {}).get("cost"),
    }


def doubtful(task: Task, rows: Sequence[Row], learned: Learned) -> list[dict[str, Any]]:
    """The rows whose class is denied with certainty, the surest first: often the label is wrong."""
    if task.kind != "classification":
        return []
    shares = probabilities(task, learned.answer(rows))
    true, said = np.array([task.index(row) for row in rows]), shares.argmax(1)
    sure = np.flatnonzero((said != true) & (shares.max(1) >= SURE)).tolist()
    return [
        {
            "place": rows[i].place,
            "label": task.labels[true[i]],
            "said": task.labels[said[i]],
            "probability": round(float(shares[i].max()), 4),
            "texts": list(task.texts(rows[i])),
        }
        for i in sorted(sure, key=lambda i: -shares[i].max())
    ]
