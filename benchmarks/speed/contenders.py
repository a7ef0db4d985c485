"""Who is timed in `all.py` and `gpu.py`: steps and answers of random models of known shapes, as promptuary, PEFT and
plain PyTorch make them. Equal names have equal weights, rows and precision; each is a function without arguments, and
runs where its rows are.
"""

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier, LanguageModel, Readout
from promptuary.train.evaluation import arithmetic
from promptuary.values import Targets

Way = Callable[[], object]
CLASSES, STEPS = 2, 2  # classes of a classifier; tokens of a text that is learned
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def seeded(build: Callable[[], hf.PreTrainedModel], device: torch.device | str = "cpu") -> hf.PreTrainedModel:
    """The same weights whoever asks for them on a device."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return build().eval()


@dataclass(frozen=True)
class Kind:
    """A shape of models.

    Arguments:
        build: the model that promptuary and the floor run. theirs: the one PEFT takes. task: PEFT's name for its task.
        readout: what reads promptuary's output, given the width of the states.
        loss: of the plain model, from the row of embeddings; `head` is the read-out's own, where it has one.
    """

    build: Callable[[], hf.PreTrainedModel]
    theirs: Callable[[], hf.PreTrainedModel]
    task: str
    readout: Callable[[int], Readout]
    loss: Callable[[Any, Tensor, int, Batch, Readout], Tensor]

    def backbone(self, precision: str = "fp32", device: torch.device | str = "cpu") -> Backbone:
        return wrap(seeded(self.build, device).to(TYPES[precision]))


def _bert() -> hf.BertConfig:
    return hf.BertConfig(num_hidden_layers=6, num_labels=CLASSES)


def _class_loss(model: Any, row: Tensor, length: int, batch: Batch, readout: Readout) -> Tensor:
    states = model(inputs_embeds=row).last_hidden_state[:, length]
    return F.cross_entropy(readout.head(states.float()), batch.labels)  # type: ignore[operator, arg-type]


def _text_loss(model: Any, row: Tensor, length: int, batch: Batch, readout: Readout) -> Tensor:
    assert batch.targets is not None
    loss: Tensor = model(inputs_embeds=row, labels=batch.targets.ids[:, 0]).loss
    return loss


def _next_loss(model: Any, row: Tensor, length: int, batch: Batch, readout: Readout) -> Tensor:
    assert batch.targets is not None
    texts = batch.targets.ids[:, 0]
    row = torch.cat([row, model.get_input_embeddings()(texts[:, :-1])], 1)
    logits = model.lm_head(model.model(inputs_embeds=row).last_hidden_state[:, -texts.shape[1] :])
    return F.cross_entropy(logits.float().flatten(0, 1), texts.flatten())


def text_to_text(**shape: Any) -> Kind:
    """T5, with some shape."""

    def build() -> hf.PreTrainedModel:
        return hf.T5ForConditionalGeneration(hf.T5Config(decoder_start_token_id=0, **shape))

    return Kind(build, build, "SEQ_2_SEQ_LM", lambda _: LanguageModel(), _text_loss)


def causal(**shape: Any) -> Kind:
    """Llama, with some shape."""

    def build() -> hf.PreTrainedModel:
        return hf.LlamaForCausalLM(hf.LlamaConfig(**shape))

    return Kind(build, build, "CAUSAL_LM", lambda _: LanguageModel(), _next_loss)


KINDS: Mapping[str, Kind] = {
    "bert-6l": Kind(
        lambda: hf.BertModel(_bert(), add_pooling_layer=False),
        lambda: hf.BertForSequenceClassification(_bert()),
        "SEQ_CLS",
        lambda width: Classifier(CLASSES, width),
        _class_loss,
    ),
    "t5-small": text_to_text(),
}


def batch(rows: int, tokens: int, vocabulary: int) -> Batch:
    """Rows of equal length, so that nobody pays for padding."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, vocabulary, (rows, tokens), generator=draw)
    texts = torch.randint(1000, vocabulary, (rows, 1, STEPS), generator=draw)
    number = torch.arange(rows)
    targets = Targets(texts, torch.ones_like(texts, dtype=torch.bool))
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Batch(ids, mask, ids * 0, number * 0, number, labels=number % CLASSES, targets=targets)


def floor(
    kind: Kind,
    given: Batch,
    model: SoftPrompted,
    readout: Readout,
    precision: str = "fp32",
    build: Callable[[], hf.PreTrainedModel] | None = None,
) -> Callable[[], Tensor]:
    """The unprepared model, forward and backward to the row of embeddings; its gradient at the soft tokens' rows.

    Arguments:
        build: the same model with something done to it.
    """
    device = given.ids.device
    plain = (seeded(kind.build, device) if build is None else build()).to(device, TYPES[precision])
    plain.requires_grad_(False)
    table: Tensor = model.generator.table.detach()
    with torch.no_grad():
        embeds = plain.get_input_embeddings()(given.ids)  # type: ignore[no-untyped-call, misc]
    row = torch.cat([table.to(embeds).expand(len(embeds), -1, -1), embeds], 1).requires_grad_()

    def step() -> Tensor:
        row.grad = None
        kind.loss(plain, row, len(table), given, readout).backward()  # type: ignore[no-untyped-call]
        assert row.grad is not None
        return row.grad[:, : len(table)].sum(0)

    return step


def ours(model: SoftPrompted, readout: Readout, given: Batch, precision: str = "fp32") -> Callable[[], Tensor]:
    """A step of promptuary, without the optimizer's part; the prompt's gradient, of plain tables."""
    weights = [p for part in (model, readout) for p in part.parameters() if p.requires_grad]
    model.train()
    readout.train()  # the frozen model stays in evaluation mode: `load` takes its dropout out

    def step() -> Tensor:
        for weight in weights:
            weight.grad = None
        with arithmetic(model.backbone.device, precision):
            out = model(model.instance_of(given, step=1), readout.targets(given), readout.columns(given))
            loss = readout.loss(out, given).float()
        loss.backward()  # type: ignore[no-untyped-call]
        grad = weights[0].grad
        assert grad is not None
        return grad

    return step


def made(kind: Kind, backbone: Backbone, method: str, **settings: Any) -> tuple[SoftPrompted, Readout]:
    """One of promptuary's methods and the kind's read-out."""
    readout = kind.readout(backbone.shape.output).to(backbone.device)
    return prompted(backbone, method, settings, init=None, seed=0, readout=readout), readout


def theirs(kind: Kind, config: str, length: int, given: Batch, *, training: bool, precision: str = "fp32") -> Way:
    """A step of PEFT: as its user gets it (dropout on), or in evaluation mode, which is the fastest honest one."""
    settings = getattr(peft, config)(task_type=kind.task, num_virtual_tokens=length)
    model: Any = peft.get_peft_model(seeded(kind.theirs, given.ids.device).to(TYPES[precision]), settings)
    model.train(training)
    assert given.targets is not None
    texts = given.targets.ids[:, 0]
    ids, labels = given.ids, given.labels if kind.task == "SEQ_CLS" else texts
    if kind.task == "CAUSAL_LM":
        ids, labels = torch.cat([ids, texts], 1), torch.cat([torch.full_like(ids, -100), texts], 1)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def step() -> None:
        model.zero_grad()
        model(**asked).loss.backward()

    return step


def tuned(kind: Kind, given: Batch) -> tuple[nn.Module, Way]:
    """A step of full fine-tuning."""
    model: Any = seeded(kind.theirs).train()

    def step() -> None:
        model(input_ids=given.ids, attention_mask=given.mask.long(), labels=given.labels).loss.backward()

    return model, step


def texts(rows: int, shortest: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Rows of different lengths."""
    draw = random.Random(0)
    lengths = [draw.randint(shortest, longest) for _ in range(rows)]
    return [[draw.randrange(1000, vocabulary) for _ in range(length)] for length in lengths]


def generating() -> hf.PreTrainedModel:
    """A causal model of GPT-2's shape."""
    return seeded(lambda: hf.GPT2LMHeadModel(hf.GPT2Config()))


def answering(backbone: Backbone, method: str, rows: int, tokens: int, **settings: Any) -> Way:
    """The scores of the next token, under a prompt."""
    model = prompted(backbone, method, settings, init=None, seed=0).eval()
    given = batch(rows, tokens, backbone.shape.vocabulary)
    last = torch.full((rows, 1), tokens - 1)

    def answer() -> Tensor:
        with torch.no_grad():
            out = model(model.instance_of(given), None, last)
            return out.logits(out.hidden[:, -1])

    return answer


def answering_theirs(length: int, rows: int, tokens: int) -> Way:
    """The same by PEFT, as its user gets it."""
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    model: Any = peft.get_peft_model(generating(), settings).eval()
    given = batch(rows, tokens, model.config.vocab_size)

    def answer() -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(input_ids=given.ids, attention_mask=given.mask.long()).logits[:, -1]
            return scores

    return answer


@contextlib.contextmanager
def quietly() -> Any:
    """Without the libraries' notes on new heads."""
    hf.logging.set_verbosity_error()
    yield
