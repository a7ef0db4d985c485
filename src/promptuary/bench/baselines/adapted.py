"""Baselines that change the model: a copy of it is the read-out's own, and the one loop trains what is free in it.

Before the read-out stands a prompt of length 0 on a backbone that does nothing (`backbones/idle.py`). So fine-tuning,
BitFit, LoRA, IA3 and adapters have the loop, the loader, the schedule, the wording and the read-out that prompts have,
on any family; a baseline says only which numbers of the copy are free (`Adapted.free`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.idle import Idle
from promptuary.backbones.load import load
from promptuary.bench.baselines.answers import Reader
from promptuary.bench.contender import Contender, Learned, fitted
from promptuary.bench.grounds import Ground
from promptuary.bench.space import around
from promptuary.data.batch import Batch
from promptuary.data.encoder import Encoder
from promptuary.data.kept import kept
from promptuary.data.loader import Loader
from promptuary.errors import SettingError, nearest
from promptuary.kinds import KINDS
from promptuary.model import SoftPrompted
from promptuary.readouts import Readout
from promptuary.specs import Run
from promptuary.train.fit import fit
from promptuary.train.groups import trained
from promptuary.train.progress import Progress
from promptuary.train.recipe import FIELDS, Recipe
from promptuary.values import Output


class Whole(Readout):
    """A read-out that owns the model it reads.

    Arguments:
        own: a copy of the backbone, some of whose numbers are free. inner: reads its output.
    """

    def __init__(self, own: Backbone, inner: Readout) -> None:
        super().__init__()
        self.model, self.inner = own.model, inner
        self._plain = (prompted(own, "frozen", {}, init=None, seed=0),)  # in a tuple: its prompt is nothing to train

    @property
    def plain(self) -> SoftPrompted:
        """The model it owns, without a prompt."""
        return self._plain[0]

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        return self.inner.loss(out.once(self._said, batch), batch)

    def count(self, batch: Batch) -> int:
        return self.inner.count(batch)

    def predict(self, out: Output, batch: Batch) -> Any:
        return self.inner.predict(out.once(self._said, batch), batch)

    def _said(self, out: Output, batch: Batch) -> Output:
        said: Output = self.plain(self.plain.instance_of(batch), self.inner.targets(batch))
        return said


class Adapted(Contender):
    """A baseline that trains numbers of a copy of the model, beside the read-out that prompts have too.

    The copy is in float32 (with the budget's precision as its arithmetic), and its own dropout is on while it trains,
    as is usual for these methods.

    Class attributes:
        recipe: its defaults; what a run may spend is the budget's.
    """

    kinds = frozenset(KINDS)
    recipe: ClassVar[Recipe]
    own: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # further settings, with their defaults

    def __init__(self) -> None:
        self.space = around("rate", self.recipe.rate)
        fields = ("rate", "head_rate", "decay", "schedule", "warmup", "clip", "optimizer")
        self.default = MappingProxyType({**{f: getattr(self.recipe, f) for f in fields}, **self.own})

    @abstractmethod
    def free(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Free those numbers of the model that are to be trained, or hang new ones into it; all others are frozen.

        Whatever is drawn comes from torch's generator, which is seeded.

        Raises:
            BackboneError: for a family that this baseline does not know.
        """

    def readout(self, ground: Ground, settings: Mapping[str, Any], *, seed: int) -> tuple[Whole, Encoder]:
        """The read-out with its copy of the model before training, and how rows are written for it."""
        own = load(ground.backbone.name, dropout=True, device=ground.backbone.device)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            self.free(own.model, {**self.own, **settings})
        nn.Module.to(own.model, ground.backbone.device)
        reading = ground.reading()
        wording = reading.wording(own, ground.task, own.shape.positions)
        inner = reading.reader(own, wording, seed=seed)
        if list(inner.parameters()):  # it reads states by a layer of its own
            _freeze_unheard(own, inner)
        return Whole(own, inner), wording

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        readout, wording = self.readout(ground, settings, seed=seed)
        reading, own = ground.reading(), ground.backbone
        model = prompted(Idle(own.shape, own.device), "frozen", {}, init=None, seed=seed)
        recipe = replace(
            self.recipe, **{k: v for k, v in settings.items() if k in FIELDS}, **ground.budget.recipe(), patience=0
        )
        pad, held = int(own.tokenizer.pad_token_id or 0), list(ground.selection)
        examples, chosen = (
            kept(reading.taught(chunk, wording) for chunk in wording.chunks(rows)) for rows in (ground.train, held)
        )
        result = fit(
            model, readout, Loader(examples, recipe.batch, pad=pad, seed=seed, shuffle=True),
            Loader(chosen, 2 * recipe.batch, pad=pad), recipe,
            seed=seed, folder=folder, settings={"method": self.name, **settings}, metric=ground.run().metric,
            rates={"readout.model": recipe.rate}, names={ground.task.name: ground.task.labels}, progress=progress,
            measure=reading.measure(readout.plain, readout.inner, wording, held, chosen, metric=ground.run().metric),
            audit=False,
        )  # fmt: skip
        answer = Reader(
            readout.plain, readout.inner, reading, wording, size=2 * recipe.batch, precision=recipe.precision
        )
        stored = sum(p.numel() * p.element_size() for p in trained(model, readout).values())
        return fitted(result, answer, stored=stored, recipe={**asdict(recipe), "settings": {**self.own, **settings}})

    def check(self, settings: Mapping[str, Any]) -> None:
        self.available()
        for name in settings:
            if name not in self.default:
                raise SettingError(f"{self.name!r} has no setting {name!r}. {nearest(name, self.default)}")
        Run(train="-", out="-", recipe={k: v for k, v in settings.items() if k in FIELDS}).full_recipe()


def _freeze_unheard(own: Backbone, readout: Readout) -> None:
    """Freeze what a trained layer never reads: the vocabulary's head, and a tower behind the one that is read."""
    heard = readout.reads(own.shape)
    kept = {id(p) for tower, part in own.towers(own.model) if part in heard for p in tower.parameters()}
    for p in own.model.parameters():
        if id(p) not in kept:
            p.requires_grad_(False)
