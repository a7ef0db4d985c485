"""A text for each row: summaries, translations, replies, whatever a model that writes can be asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from promptuary.data.encoder import Encoder
from promptuary.data.example import Example
from promptuary.data.source import Row
from promptuary.data.task import Task, text_to_text, written
from promptuary.data.wording import Wording
from promptuary.errors import SettingError
from promptuary.kinds.kind import Kind, causal, check_writes
from promptuary.metrics import bleu, chrf, exact_match, token_f1

if TYPE_CHECKING:
    from torch import Tensor

    from promptuary.backbones.backbone import Backbone
    from promptuary.decoding import Writing
    from promptuary.model import SoftPrompted
    from promptuary.readouts import LanguageModel, Readout
    from promptuary.specs import Run
    from promptuary.train.evaluation import Pairs
    from promptuary.train.team import Team


@dataclass(frozen=True)
class Reply:
    """The text that was written for a row."""

    prediction: str


class Text(Kind):
    """Rows with a text and the text that is to be written; the model learns it token by token, and writes greedily.

    Scores: `exact_match` and `token_f1` (in SQuAD's normal form), `bleu` and `chrf` (sacrebleu's, from 0 to 1). While
    tuning, the loss chooses the checkpoint unless one of these is asked for, since writing takes time.

    Arguments:
        template: see `data/template.py`. columns: what else it may name.
        max_new_tokens: of the longest text that is written.
        z_loss: see `LanguageModel`.
    """

    name = "text"
    defaults = MappingProxyType({"label": "target", "metric": "loss"})
    metrics = ("loss", "exact_match", "token_f1", "bleu", "chrf")
    takes = frozenset({"text_pair", "template", "max_new_tokens", "z_loss"})
    slow = True

    template: str | None
    columns: tuple[str, ...]
    max_new_tokens: int
    z_loss: float = 0.0

    @classmethod
    def task(cls, rows: Iterable[Row], name: str, run: "Run") -> Task:
        return text_to_text(name=name, text=run.text, text_pair=run.text_pair, label=run.label)

    @classmethod
    def look(cls, task: Task, row: Row) -> None:
        task.texts(row)
        written(row, str(task.label))

    @classmethod
    def commonest(cls, task: Task, rows: Sequence[Row]) -> Callable[[Row], Reply]:
        answer = Reply(Counter(written(row, str(task.label)) for row in rows).most_common(1)[0][0])
        return lambda row: answer

    @classmethod
    def begin(cls, run: "Run", backbone: "Backbone", task: Task, *, soft: int, columns: Sequence[str]) -> Self:
        check_writes(backbone, "task='text'", instead="a text-to-text or a causal model")
        if soft == 0:
            raise SettingError(f"task='text' with method={run.method!r}: without soft tokens there is nothing to tune.")
        return cls(
            max_length=run.max_length, template=run.template, columns=tuple(columns),
            max_new_tokens=run.max_new_tokens, z_loss=run.z_loss, named=run.named,
        )  # fmt: skip

    def wording(self, backbone: "Backbone", task: Task, room: int | None) -> Wording:
        return Wording(
            backbone.tokenizer, task, template=self.template, columns=self.columns, max_length=self.max_length,
            room=room, reserved=self.max_new_tokens, longest=backbone.shape.positions, causal=causal(backbone),
        )  # fmt: skip

    def reader(self, backbone: "Backbone", wording: Encoder, *, seed: int = 0) -> "LanguageModel":
        from promptuary.readouts import LanguageModel

        return LanguageModel(z_loss=self.z_loss)

    def writing(self, backbone: "Backbone") -> "Writing":
        from promptuary.backbones.generation import Generation
        from promptuary.decoding import Writing, ended

        tokenizer = backbone.tokenizer
        end = int(tokenizer.eos_token_id)

        def said(ids: "Tensor") -> list[str]:
            return [str(tokenizer.decode(own, skip_special_tokens=True)).strip() for own in ended(ids, end)]

        return Writing(Generation(max_new_tokens=self.max_new_tokens, end=(end,)), said)

    def said(self, model: "SoftPrompted", readout: "Readout", pairs: "Pairs", team: "Team") -> "Pairs":
        from promptuary.train.evaluation import evaluating

        device = model.backbone.device
        with evaluating(model, readout):  # the read-out saw the row's own text: what counts is what is written
            mine = pairs[team.rank :: team.size]
            own = [(batch, self.predict(model, readout, batch.to(device))) for batch, _ in mine]
        return list(chain.from_iterable(team.all(own)))

    def answers(
        self, said: list[str], wording: Encoder, rows: Sequence[Row], examples: Sequence[Example]
    ) -> list[Reply]:
        return [Reply(text) for text in said]

    def scores(self, task: Task, rows: Sequence[Row], answers: Sequence[Reply]) -> Mapping[str, float]:
        gold, said = [written(row, str(task.label)) for row in rows], [answer.prediction for answer in answers]
        accepted = [[text] for text in gold]
        return {
            "exact_match": exact_match(accepted, said),
            "token_f1": token_f1(accepted, said),
            "bleu": bleu(gold, said),
            "chrf": chrf(gold, said),
        }
