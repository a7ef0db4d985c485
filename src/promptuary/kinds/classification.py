"""One class a row, read by a trained layer, by label words, or written out as text."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Label, Task, classification
from promptuary.data.tokens import Tokens
from promptuary.data.wording import Wording
from promptuary.errors import BackboneError, CheckpointError, SettingError
from promptuary.kinds.kind import Kind, Rule, causal, check_writes, known_way
from promptuary.metrics import accuracy, f1, illegal_rate

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone
    from promptuary.decoding import Labels
    from promptuary.model import SoftPrompted
    from promptuary.readouts import Prediction, Readout
    from promptuary.specs import Run
    from promptuary.values import Instance

CONTENTLESS = "N/A"


@dataclass(frozen=True)
class Answer:
    """What a prompt says of one text.

    Arguments:
        label: the class as it stood in the training data (text, number or boolean).
        probability: of that class, 0 to 1. probabilities: of every class, by its name.
    """

    label: Label
    probability: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Written:
    """What the backbone wrote for one text, and its class: `None` where that is none of the labels."""

    label: Label | None
    written: str


class Classification(Kind):
    """Rows with a text (or two) and the class they belong to.

    Scores: `accuracy`, `macro_f1`; beside them `majority`, the accuracy of always naming the most frequent class.

    Arguments:
        readout: `classifier` (reads the state `pool`), `verbalizer` or `text`. words: label words by class.
        template: see `data/template.py`. columns: what else it may name. blanks: how many mask tokens it has.
        z_loss: see `LanguageModel`; 0 where no text is learned.
    """

    name = "classification"
    defaults = MappingProxyType({"metric": "accuracy"})
    metrics = ("accuracy", "macro_f1")
    takes = frozenset({"text_pair", "template", "readout", "pool", "words", "z_loss"})
    stratified = True

    readout: Literal["classifier", "verbalizer", "text"]
    pool: Literal["first", "mean", "last"]
    words: tuple[tuple[str, ...], ...]
    template: str | None
    columns: tuple[str, ...]
    blanks: int
    z_loss: float = 0.0

    @classmethod
    def task(cls, rows: Iterable[Row], name: str, run: "Run") -> Task:
        return classification(
            rows, name=name, text=run.text, text_pair=run.text_pair, label=run.label, classes=run.classes
        )

    @classmethod
    def look(cls, task: Task, row: Row) -> None:
        task.texts(row)
        task.index(row)

    @classmethod
    def commonest(cls, task: Task, rows: Sequence[Row]) -> Callable[[Row], Answer]:
        """The probabilities are the shares of the classes."""
        counts = Counter(task.index(row) for row in rows)
        shares = [counts[c] / len(rows) for c in range(len(task.values))]
        most = shares.index(max(shares))
        answer = Answer(task.values[most], shares[most], dict(zip(task.labels, shares, strict=True)))
        return lambda row: answer

    @classmethod
    def begin(cls, run: "Run", backbone: "Backbone", task: Task, *, soft: int, columns: Sequence[str]) -> Self:
        kind = run.readout if run.readout != "auto" or soft else "classifier"  # then it is all there is to train
        readout = _readout(backbone, kind)
        pool = ("last" if causal(backbone) else "mean") if run.pool == "auto" else run.pool
        words = _words(task, run.words, readout)
        plain = Wording(backbone.tokenizer, task, template=run.template, columns=columns, causal=causal(backbone))
        return cls(
            max_length=run.max_length, readout=readout, pool=pool, words=words, template=run.template,
            columns=tuple(columns), blanks=plain.blanks, z_loss=run.z_loss if readout == "text" else 0.0,
            named=run.named,
        )  # fmt: skip

    @classmethod
    def kept(cls, run: Mapping[str, Any], task: Task) -> Self:
        found = super().kept(run, task)
        if len(found.words) != len(task.labels):
            raise CheckpointError(f"It has words for {len(found.words)} labels, and the task has {len(task.labels)}.")
        return found

    def wording(self, backbone: "Backbone", task: Task, room: int | None) -> Wording:
        if room is not None and causal(backbone) and self.readout != "classifier":
            tokens = Tokens(backbone.tokenizer, causal=True)  # the classes' words continue the input, in the same row
            room -= max(len(ids) for words in self.words for ids in tokens.targets(words))
        return Wording(
            backbone.tokenizer, task, template=self.template, columns=self.columns, max_length=self.max_length,
            room=room, causal=causal(backbone),
        )  # fmt: skip

    def reader(self, backbone: "Backbone", wording: Any, *, seed: int = 0) -> "Readout":
        from promptuary.readouts import Classifier, LanguageModel, WordsAsContinuation, WordsAtBlanks

        if self.readout == "classifier":
            return Classifier(len(self.words), backbone.shape.output, pool=self.pool, seed=seed)
        if self.readout == "text":
            return LanguageModel(wording.targets(self._texts), z_loss=self.z_loss)
        if backbone.shape.decodes:
            return WordsAsContinuation(self._continuations(backbone, wording))
        if not self.blanks:
            raise SettingError(
                "readout='verbalizer' on a masked language model needs a template with a <mask>, "
                "for example template='{text} It was <mask> .'"
            )
        return WordsAtBlanks([wording.label_tokens(list(w)) for w in self.words], blanks=self.blanks)

    def taught(self, examples: Sequence[Example], wording: Any) -> list[Example]:
        if self.readout != "text":
            return list(examples)
        texts = wording.targets(self._texts)
        return [e if e.label in (None, -1) else replace(e, target=texts[e.label]) for e in examples]

    def answers(
        self, said: "Prediction", wording: Encoder, rows: Sequence[Row], examples: Sequence[Example]
    ) -> list[Answer]:
        names, values = wording.task.labels, wording.task.values
        return [
            Answer(values[label], row[label], dict(zip(names, row, strict=True)))
            for label, row in zip(said.label.tolist(), said.probability.float().tolist(), strict=True)
        ]

    def combined(self, task: Task, answers: Sequence[Answer], rule: Rule) -> Answer:
        label, row = rule([[a.probabilities[name] for name in task.labels] for a in answers])
        return Answer(task.values[label], row[label], dict(zip(task.labels, row, strict=True)))

    def output(self, answer: Answer) -> dict[str, Any]:
        return {"label": answer.label, "probability": answer.probability}

    def scores(self, task: Task, rows: Sequence[Row], answers: Sequence[Answer]) -> Mapping[str, float]:
        said = [task.known(answer.label, row.place) for row, answer in zip(rows, answers, strict=True)]
        return _scored([task.index(row) for row in rows], said, len(task.values))

    def beside(self, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        counts = [sum(e.label == c for e in examples) for c in range(len(task.values))]
        return {"majority": max(counts) / len(examples)}

    def written(self, mode: str, model: "SoftPrompted", wording: Any, rows: Sequence[Row], size: int) -> list[Written]:
        values = {-1: None, **dict(enumerate(wording.task.values))}
        return [Written(values[label], text) for label, text in self._decoded(mode, model, wording, rows, size)]

    def decode(self, mode: str, model: "SoftPrompted", wording: Any, rows: Sequence[Row], size: int) -> dict[str, Any]:
        task, gold = wording.task, [wording.task.index(row) for row in rows]
        said = [label for label, _ in self._decoded(mode, model, wording, rows, size)]
        answers = [{"label": None if label == -1 else task.values[label]} for label in said]
        scores = self.scored(_scored(gold, said, len(task.values)), rows, answers)
        return {**scores, "illegal": illegal_rate(said), "n": len(gold)}

    def _decoded(
        self, mode: str, model: "SoftPrompted", wording: Any, rows: Sequence[Row], size: int
    ) -> list[tuple[int, str]]:
        """The number of each row's class, -1 where what was written is none, and what was written."""
        from promptuary.data.loader import Loader
        from promptuary.decoding import MODES, calibrated

        known_way(mode)
        if self.readout != "text":
            raise SettingError(
                f"decode={mode!r}: this prompt reads its classes by {self.readout!r}. "
                "Tune with readout='text' on a model that writes."
            )
        backbone, labels = model.backbone, self._labels(model.backbone, wording)
        pad, said = backbone.tokenizer.pad_token_id or 0, dict[int, tuple[int, str]]()

        def instances(rows: Iterable[Row]) -> Iterator["tuple[Instance, list[int]]"]:
            for batch in Loader(wording.encode(rows, labelled=False), size, pad=pad).epoch(0):
                yield model.instance_of(batch.to(backbone.device)), batch.rows.tolist()

        if mode == "calibrated":
            empty = dict.fromkeys((*wording.task.columns, *self.columns), CONTENTLESS)
            [(x, _)] = instances([Row(empty, CONTENTLESS)])
            labels = calibrated(model, x, labels)
        for x, own in instances(rows):
            found = MODES[mode](model, x, labels)
            said.update(zip(own, zip(found.label.tolist(), found.texts, strict=True), strict=True))
        return [said[n] for n in range(len(rows))]

    def _continuations(self, backbone: "Backbone", wording: Wording) -> list[list[list[int]]]:
        """The token ids of each class's words, as the backbone writes them: with their end where a text has one.

        A causal model's words have none, unless a class's word begins another's and so would always be the likelier.

        Raises:
            SettingError: where one begins another, and the tokenizer has no token that ends it.
        """
        ids = [wording.label_tokens(list(w)) for w in self.words]
        if backbone.shape.encodes or _begun(ids) is not None:
            ids = [wording.targets(list(w)) for w in self.words]
        if found := _begun(ids):
            first, second = (wording.task.labels[label] for label in found)
            raise SettingError(
                f"words: a word of {first!r} begins one of {second!r} and would always be the likelier, since the "
                f"tokenizer of {backbone.name!r} has no token that ends it. Name other words, set tokenizer.eos_token "
                "and save it with the model, or use readout='classifier'."
            )
        return ids

    @property
    def _texts(self) -> list[str]:
        """The text of each class, for read-outs that write it."""
        return [own[0] for own in self.words]

    def _labels(self, backbone: "Backbone", wording: Wording) -> "Labels":
        from promptuary.decoding import Labels

        tokenizer = backbone.tokenizer
        return Labels(
            tuple(self._texts),
            tuple(tuple(ids) for ids in wording.targets(self._texts)),
            end=int(tokenizer.eos_token_id),
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)).strip(),
        )


def _scored(gold: Sequence[int], said: Sequence[int], classes: int) -> dict[str, float]:
    return {"accuracy": accuracy(gold, said), "macro_f1": f1(gold, said, classes=classes)}


def _begun(ids: Sequence[Sequence[Sequence[int]]]) -> tuple[int, int] | None:
    """Two labels, where a word of the first begins one of the second: of all their words the token ids."""
    owner = {tuple(word): label for label, own in enumerate(ids) for word in own}
    for label, own in enumerate(ids):
        for beginning in (tuple(word[:n]) for word in own for n in range(1, len(word))):
            if owner.get(beginning, label) != label:
                return owner[beginning], label
    return None


def _readout(backbone: "Backbone", kind: str) -> Any:
    """What `auto` means on this backbone; any other read-out as it is, where the backbone can serve it."""
    shape = backbone.shape
    if kind == "auto":
        kind = "classifier" if not shape.decodes else "text" if shape.encodes else "verbalizer"
    if kind == "text":
        check_writes(backbone, "readout='text'", instead="'classifier', or 'verbalizer' with a <mask>")
    if kind == "verbalizer" and not backbone.has_head:
        raise BackboneError(
            f"readout='verbalizer' on {backbone.name!r}: it has no trained language-model head that could score words. "
            "Use readout='classifier'."
        )
    return kind


def _words(task: Task, words: Mapping[str, str | list[str]], kind: str) -> tuple[tuple[str, ...], ...]:
    """The words of each class: those that were named, or the class's own name."""
    unknown = sorted(set(words) - set(task.labels))
    if unknown:
        raise SettingError(f"words: there is no label {unknown[0]!r}; the labels are {', '.join(task.labels)}.")
    named = dict(zip(task.labels, task.words, strict=True)) | dict(words)
    by_label = {k: (w,) if isinstance(w, str) else tuple(w) for k, w in ((k, named[k]) for k in task.labels)}
    owner: dict[str, str] = {}
    for label, own in by_label.items():
        if not own or not all(w.strip() for w in own):
            raise SettingError(f"words: label {label!r} has {list(own)}. Expected one or more, none of them empty.")
        if kind == "text" and len(own) > 1:
            raise SettingError(f"words: label {label!r} has {list(own)}, and readout='text' writes one. Name one.")
        for word in own:
            if owner.setdefault(word, label) != label:
                raise SettingError(f"words: {word!r} stands for {owner[word]!r} and for {label!r}. Expected one label.")
    return tuple(by_label.values())
