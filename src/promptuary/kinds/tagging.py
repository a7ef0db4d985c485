"""A tag for each word: entities, parts of speech."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.tagging import TagWording, entity, tag_index
from promptuary.data.task import Label, Task, named, tagging, tags, words
from promptuary.kinds.kind import Kind
from promptuary.metrics import entity_f1

if TYPE_CHECKING:
    from promptuary import readouts
    from promptuary.backbones.backbone import Backbone
    from promptuary.specs import Run


@dataclass(frozen=True)
class Tags:
    """The tag of each word of a row, `None` where the word was cut off."""

    prediction: list[Label | None]


class Tagging(Kind):
    """Rows with a list of words and a list of as many tags; a linear layer reads each word's first token.

    Scores: `accuracy` of words, and `entity_f1` (CoNLL) where all tags are `O`, `B-kind` or `I-kind`. A word that was
    cut off counts as wrong, and belongs to no entity. `untrained` is the share of words with a tag that no training row
    has, where there are some: they count as wrong too.
    """

    name = "tagging"
    defaults = MappingProxyType({"text": "tokens", "label": "tags", "metric": "entity_f1"})
    encoder = TagWording
    metrics = ("entity_f1", "accuracy", "loss")

    @classmethod
    def task(cls, rows: Iterable[Row], name: str, run: "Run") -> Task:
        return tagging(rows, name=name, text=run.text, label=run.label)

    @classmethod
    def look(cls, task: Task, row: Row) -> None:
        for tag in tags(row, str(task.label), len(words(row, task.text))):
            tag_index(task, tag, row.place)

    @classmethod
    def commonest(cls, task: Task, rows: Sequence[Row]) -> Callable[[Row], Tags]:
        """The commonest tag for every word."""
        known = Counter(tag for row in rows for tag in tags(row, str(task.label), len(words(row, task.text))))
        most = known.most_common(1)[0][0]
        return lambda row: Tags([most] * len(words(row, task.text)))

    def row(self, task: Task, texts: Sequence[str], place: str) -> Row:
        """A text is split into words at its spaces."""
        made = super().row(task, texts, place)
        return Row({task.text: made.fields[task.text].split()}, place)

    def reader(self, backbone: "Backbone", wording: Encoder, *, seed: int = 0) -> "readouts.Tagger":
        from promptuary.readouts import Tagger

        return Tagger(len(wording.task.values), backbone.shape.output, seed=seed)

    def answers(
        self, said: "readouts.Tagging", wording: Encoder, rows: Sequence[Row], examples: Sequence[Example]
    ) -> list[Tags]:
        answers = []
        for row, example, tag in zip(rows, examples, said.label.tolist(), strict=True):
            found: list[Label | None] = [None] * len(words(row, wording.task.text))
            for column, word in enumerate(example.words or ()):
                if word >= 0:
                    found[word] = wording.task.values[tag[column]]
            answers.append(Tags(found))
        return answers

    def scores(self, task: Task, rows: Sequence[Row], answers: Sequence[Tags]) -> Mapping[str, float]:
        said = [answer.prediction for answer in answers]
        gold = [tags(row, str(task.label), len(own)) for row, own in zip(rows, said, strict=True)]
        pairs = [pair for g, s in zip(gold, said, strict=True) for pair in zip(g, s, strict=True)]
        scores = {"accuracy": sum(g == s for g, s in pairs) / len(pairs)}
        if all(map(entity, task.labels)):
            written = [["O" if tag is None else named(tag) for tag in own] for own in said]
            scores = {"entity_f1": entity_f1([list(map(named, g)) for g in gold], written), **scores}
        unseen = sum(task.position(tag) < 0 for own in gold for tag in own) / len(pairs)
        return {**scores, "untrained": unseen} if unseen else scores
