"""What a kind of task is: everything in which labelling, writing, tagging and answering differ, and nothing else.

A kind is a class: which columns, settings and metrics a run of it has, and how its task is made from rows. A value of
that class is the *reading* of one task on one backbone: how rows are written, what reads the output, how an answer
looks and is scored. It holds plain values only, decided once when a run starts and kept in the prompt's manifest.

What needs torch is imported where it is used, so that a run can be described and checked without it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task
from promptuary.errors import BackboneError, CheckpointError, DataError, SettingError, nearest
from promptuary.tasks import NamedTask, Wording, chosen

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone
    from promptuary.data.batch import Batch
    from promptuary.decoding import Writing
    from promptuary.model import SoftPrompted
    from promptuary.readouts import Readout
    from promptuary.specs import Run
    from promptuary.train.evaluation import Measure, Pairs
    from promptuary.train.team import Team


WAYS = ("free", "rank", "calibrated", "constrained")  # from what is written to a class (`promptuary.decoding`)

# From what several prompts say of a row (a probability for each class) to a class and what is said of each class.
Rule = Callable[[Sequence[Sequence[float]]], tuple[int, list[float]]]


class Kind(BaseModel, ABC):
    """One kind of task, with what was decided for one run of it.

    Class attributes:
        name: as `Run.task` and `Task.kind` say it.
        defaults: of those settings of a run whose default is another in each kind (columns, metric).
        metrics: what may choose the best checkpoint (`loss`: the smallest).
        takes: those settings of a run that only some kinds have.
        encoder: what writes the rows, unless `wording` says more.
        stratified: whether rows are held out class by class.
        slow: whether answers take time: where the loss chooses the checkpoint, they are then not made while tuning.

    Arguments:
        max_length: cut longer texts to so many tokens; `None` never cuts.
        named: the named task and its wording (`promptuary.tasks`), which say what else is measured.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, str]]
    metrics: ClassVar[tuple[str, ...]]
    takes: ClassVar[frozenset[str]] = frozenset()
    encoder: ClassVar[type[Encoder]]
    stratified: ClassVar[bool] = False
    slow: ClassVar[bool] = False

    max_length: int | None
    named: str | None = None

    @classmethod
    @abstractmethod
    def task(cls, rows: Iterable[Row], name: str, run: "Run") -> Task:
        """The task that the training rows and the columns of `run` describe.

        Raises:
            DataError: for rows that do not hold what the columns promise.
        """

    @classmethod
    @abstractmethod
    def look(cls, task: Task, row: Row) -> None:
        """Look at a row that has its answer, as far as that needs no tokenizer.

        Raises:
            DataError: where a column does not hold what the task promises.
        """

    @classmethod
    @abstractmethod
    def commonest(cls, task: Task, rows: Sequence[Row]) -> Callable[[Row], Any]:
        """What knows nothing of the input answers to any row: the answer that these labelled rows have most often."""

    @classmethod
    def begin(cls, run: "Run", backbone: "Backbone", task: Task, *, soft: int, columns: Sequence[str]) -> Self:
        """Decide, when a run starts, what its settings leave open.

        Arguments:
            soft: how many soft tokens the prompt has; without any, only a read-out can be trained.
            columns: those of the training rows but for the answer.

        Raises:
            SettingError: for settings that do not fit the task.
            BackboneError: for what the backbone cannot serve.
        """
        return cls(max_length=run.max_length, named=run.named)

    @classmethod
    def kept(cls, run: Mapping[str, Any], task: Task) -> Self:
        """The reading that a manifest keeps.

        Raises:
            ValidationError: where a value is missing or of another type.
            CheckpointError: where it does not fit the task, or names one that is not known here.
        """
        found = cls.model_validate_json(json.dumps(dict(run)))
        try:
            found.known()
        except SettingError as error:
            raise CheckpointError(str(error)) from error
        return found

    def known(self) -> tuple[NamedTask, Wording] | None:
        """The named task and its wording, or `None` for a task of the user's own."""
        return None if self.named is None else chosen(self.named)

    def wording(self, backbone: "Backbone", task: Task, room: int | None) -> Encoder:
        """How rows are written for the backbone, in the room that the prompt leaves."""
        return self.encoder(backbone.tokenizer, task, max_length=self.max_length, room=room, causal=causal(backbone))

    def row(self, task: Task, texts: Sequence[str], place: str) -> Row:
        """The row that these texts are, for whoever has texts and knows no columns.

        Raises:
            DataError: for one text where the task has two, or two where it has one.
        """
        columns = [c for c in (task.text, task.text_pair) if c is not None]
        if len(columns) != len(texts):
            own = f"{len(columns)} ({', '.join(columns)})"
            raise DataError(f"{place}: the number of texts is {len(texts)}, and this task reads {own}.")
        return Row(dict(zip(columns, texts, strict=True)), place)

    @abstractmethod
    def reader(self, backbone: "Backbone", wording: Encoder, *, seed: int = 0) -> "Readout":
        """The read-out; `seed` is of its first weights."""

    def taught(self, examples: Sequence[Example], wording: Encoder) -> list[Example]:
        """Examples of labelled rows with all that the read-out's loss compares with."""
        return list(examples)

    def writing(self, backbone: "Backbone") -> "Writing | None":
        """How the backbone writes the answers; `None` where the read-out reads them off its states."""
        return None

    def predict(self, model: "SoftPrompted", readout: "Readout", batch: "Batch") -> Any:
        """What model and read-out say of a batch, both being in evaluation mode."""
        x, writing = model.instance_of(batch), self.writing(model.backbone)
        if writing is None:
            return readout.predict(model(x, readout.targets(batch), readout.columns(batch)), batch)
        return writing.said(model.backbone.generate(model.call(x), writing.how))

    def said(self, model: "SoftPrompted", readout: "Readout", pairs: "Pairs", team: "Team") -> "Pairs":
        """Labelled batches with what counts as said of them: what the read-out predicted when it took the loss.

        Arguments:
            team: the processes that all ask this, and all get the whole of it in any order.
        """
        return pairs

    @abstractmethod
    def answers(self, said: Any, wording: Any, rows: Sequence[Row], examples: Sequence[Example]) -> list[Any]:
        """What was said of a batch as answers to its rows."""

    def output(self, answer: Any) -> dict[str, Any]:
        """The fields of an answer that are written beside the input's."""
        return dict(vars(answer))

    def combined(self, task: Task, answers: Sequence[Any], rule: Rule) -> Any:
        """One answer of those that several prompts gave to a row; for the rules see `promptuary.ensembles`.

        Raises:
            SettingError: where answers cannot be combined.
        """
        raise SettingError(f"task={self.name!r}: only classes can be combined. Ask each prompt by itself.")

    @abstractmethod
    def scores(self, task: Task, rows: Sequence[Row], answers: Sequence[Any]) -> Mapping[str, float]:
        """Scores of answers to labelled rows, from 0 to 1, by the names of `metrics`."""

    def scored(
        self, found: Mapping[str, float], rows: Sequence[Row], said: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, float]:
        """The scores that were found, with what a named task measures of the same rows and answers."""
        known = self.known()
        if known is None:
            return found
        task, wording = known
        return task.scores({**found, **wording.score([row.fields for row in rows], said)})

    def measure(
        self,
        model: "SoftPrompted",
        readout: "Readout",
        wording: Encoder,
        rows: Sequence[Row],
        examples: Sequence[Example],
        *,
        metric: str | None = None,
        team: "Team | None" = None,
    ) -> "Measure":
        """How predictions of `examples`, encoded from `rows`, are scored.

        Arguments:
            metric: the only score that is needed, so that slow others may be left out; `None` for all of them.
            team: processes that all measure the same, and share out what is yet to be written.
        """
        if metric == "loss" and self.slow:
            return lambda pairs: {}

        def measured(pairs: "Pairs") -> Mapping[str, float]:
            from promptuary.train.team import ALONE

            answers, asked = [], []
            for batch, said in self.said(model, readout, pairs, team or ALONE):
                own = batch.rows.tolist()
                answers += self.answers(said, wording, [rows[i] for i in own], [examples[i] for i in own])
                asked += own
            order = sorted(range(len(asked)), key=asked.__getitem__)
            given, answers = [rows[asked[i]] for i in order], [answers[i] for i in order]
            return self.scored(self.scores(wording.task, given, answers), given, [self.output(a) for a in answers])

        return measured

    def beside(self, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        """What scores on these labelled examples are to be compared with."""
        return {}

    def written(self, mode: str, model: "SoftPrompted", wording: Any, rows: Sequence[Row], size: int) -> list[Any]:
        """What the backbone writes for each row, `size` rows at a time (`kinds.classification.Written`); see
        `promptuary.decoding`.

        Raises:
            SettingError: for an unknown mode, and where no class is written.
        """
        raise SettingError(self._no_class(mode))

    def decode(self, mode: str, model: "SoftPrompted", wording: Any, rows: Sequence[Row], size: int) -> dict[str, Any]:
        """Scores of what is `written` for labelled rows.

        Raises:
            SettingError: as `written`.
        """
        raise SettingError(self._no_class(mode))

    def _no_class(self, mode: str) -> str:
        return f"decode={mode!r}: a prompt of task={self.name!r} writes no class. Leave it out (--decode)."


def known_way(decode: str) -> None:
    """Raise `SettingError` for a way to decode that there is not (`promptuary.decoding`), with the nearest one."""
    if decode not in WAYS:
        raise SettingError(f"decode={decode!r}. {nearest(decode, WAYS)}")


def causal(backbone: "Backbone") -> bool:
    """Whether the backbone goes on where its input ends."""
    return backbone.shape.decodes and not backbone.shape.encodes


def check_writes(backbone: "Backbone", asked: str, *, instead: str) -> None:
    """Refuse a backbone that cannot write a text and end it; `asked` is the setting that wants one.

    Raises:
        BackboneError: naming what to use instead.
    """
    if not backbone.shape.decodes:
        raise BackboneError(f"{asked} on {backbone.name!r}: an encoder writes no text. Use {instead}.")
    if backbone.tokenizer.eos_token_id is None:
        raise BackboneError(
            f"{asked} on {backbone.name!r}: its tokenizer has no token that ends a text. "
            "Set tokenizer.eos_token and save it with the model."
        )
