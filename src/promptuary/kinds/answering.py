"""Questions whose answers stand in a context: extractive question answering, as in SQuAD."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from promptuary.data.answering import AnswerWording, accepted, answer_span, answer_text
from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task, answering, written
from promptuary.kinds.kind import Kind
from promptuary.metrics import exact_match, token_f1

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone
    from promptuary.readouts import Span, Spans
    from promptuary.specs import Run


@dataclass(frozen=True)
class Found:
    """The part of a row's context that answers its question.

    `score` has no bounds: it compares what one prompt says of several contexts.
    """

    prediction: str
    score: float


class Answering(Kind):
    """Rows with a question, a context and answers that stand in it; two linear scores a token find the span.

    Scores: `exact_match` and `token_f1`, as SQuAD's script counts them. A span is always said, so rows without an
    answer (`[]`) may be scored but teach nothing.
    """

    name = "answering"
    defaults = MappingProxyType({"text": "question", "text_pair": "context", "label": "answers", "metric": "token_f1"})
    encoder = AnswerWording
    metrics = ("token_f1", "exact_match", "loss")
    takes = frozenset({"text_pair"})

    @classmethod
    def task(cls, rows: Iterable[Row], name: str, run: "Run") -> Task:
        return answering(name=name, question=run.text, context=str(run.text_pair), label=run.label)

    @classmethod
    def look(cls, task: Task, row: Row) -> None:
        _, context = task.texts(row)
        answer_span(row, str(task.label), context)

    @classmethod
    def commonest(cls, task: Task, rows: Sequence[Row]) -> Callable[[Row], Found]:
        known = Counter(text for row in rows for text in accepted(row, str(task.label)))
        answer = Found(known.most_common(1)[0][0], 0.0)
        return lambda row: answer

    def reader(self, backbone: "Backbone", wording: Encoder, *, seed: int = 0) -> "Span":
        from promptuary.readouts import Span

        return Span(backbone.shape.output, seed=seed)

    def answers(self, said: "Spans", wording: Encoder, rows: Sequence[Row], examples: Sequence[Example]) -> list[Found]:
        answers = []
        spans = zip(rows, examples, said.columns.tolist(), said.score.tolist(), strict=True)
        for row, example, (first, last), score in spans:
            context = written(row, str(wording.task.text_pair))
            answers.append(Found("" if first < 0 else answer_text(context, example, first, last), score))
        return answers

    def scores(self, task: Task, rows: Sequence[Row], answers: Sequence[Found]) -> Mapping[str, float]:
        gold = [accepted(row, str(task.label)) for row in rows]
        said = [answer.prediction for answer in answers]
        return {"exact_match": exact_match(gold, said), "token_f1": token_f1(gold, said)}
