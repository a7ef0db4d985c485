"""A frozen backbone with a prompt in front of it: the three parts, put together and nothing more."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.padding import ends
from promptuary.choices import Choice, PerTask
from promptuary.data.batch import Batch
from promptuary.errors import SettingError
from promptuary.generators import Free, Generator
from promptuary.initial import zeros
from promptuary.injections import Compiled, Injection
from promptuary.placements import bare
from promptuary.values import Call, Columns, Encode, Instance, Output, Prompt, Targets


class SoftPrompted(nn.Module):
    """Backbone, generator and injection. Its parameters are the prompt's alone: the backbone is no module.

    Arguments:
        dropout: share of a prompt's numbers dropped while training, row by row (0.1 to 0.2 in the small tasks of
            P-tuning v2, Liu et al. 2022).
        encode: whom the parts ask for states of the bare input, where it is not the backbone itself: somebody who kept
            them (`promptuary.activations`).

    Raises:
        SettingError: when the generator's soft tokens have another width than the injection takes, cannot be
            placed, or leave no room for an input; when it knows fewer token ids than the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: Generator,
        injection: Injection,
        *,
        dropout: float = 0.0,
        encode: Encode | None = None,
    ) -> None:
        super().__init__()
        if generator.width != injection.width:
            raise SettingError(
                f"The generator makes soft tokens of {generator.width} numbers; {type(injection).__name__} on "
                f"{backbone.name!r} takes {injection.width}. Build the generator with width={injection.width}."
            )
        injection.accepts(generator.length)
        for known in (g.vocabulary for g in generator.modules() if isinstance(g, Generator)):
            if known is not None and known < backbone.shape.vocabulary:
                raise SettingError(
                    f"The generator knows {known} token ids, {backbone.name!r} has {backbone.shape.vocabulary}: it was "
                    f"made for another tokenizer. Build its table with {backbone.shape.vocabulary} rows."
                )
        if not 0.0 <= dropout < 1.0:
            raise SettingError(f"dropout={dropout}: expected a share from 0 up to 1.")
        self._backbone = (backbone,)  # in a tuple: out of reach of module traversal
        self.generator, self.injection, self.dropout, self._kept = generator, injection, dropout, encode
        if self.room is not None and self.room < 1:
            raise SettingError(
                f"{backbone.name!r} has {backbone.shape.positions} positions and the prompt takes "
                f"{injection.occupies(generator.length)}: no room for an input. "
                f"Expected length below {backbone.shape.positions}."
            )

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    @property
    def room(self) -> int | None:
        """How many tokens of input fit beside the prompt, or `None` where nothing limits them."""
        positions = self.backbone.shape.positions
        return None if positions is None else positions - self.injection.occupies(self.generator.length)

    @property
    def reads_fields(self) -> bool:
        """Whether the prompt is made from one text of a row, so that the input must say which token is of which."""
        return any(g.reads_fields for g in self.generator.modules() if isinstance(g, Generator))

    @property
    def marks(self) -> int:
        """How many places for soft tokens the text must mark (`Slots`); 0 where the prompt places itself."""
        return self.injection.marks(self.generator.length)

    @property
    def choices(self) -> dict[str, Choice]:
        """Every choice of the prompt once, by its place in the model (`generator.choice`)."""
        return {name: part for name, part in self.named_modules() if isinstance(part, Choice)}

    def settle(self, task: int) -> None:
        """Make a prompt that several tasks share one task's own: what was learnt for the others is forgotten."""
        for part in self.modules():
            if isinstance(part, PerTask):
                part.settle(task)

    def out_of_sight(self, tokens: int) -> int:
        """How many trailing tokens of an input of `tokens` tokens no soft token before the input can reach.

        A layer with a window of w positions carries information w - 1 positions onwards, so windowed layers reach
        the sum of these; one layer without a window reaches everything. Learned keys and values have no positions and
        are seen from everywhere. The count is for soft tokens that all stand before the input (`Split()`).
        """
        part = "encoder" if self.backbone.shape.encodes else "decoder"
        windows = [a.window for a in self.backbone.shape.attention if a.part == part]
        if not self.injection.occupies(self.generator.length) or not windows or None in windows:
            return 0
        return max(0, tokens - sum(w - 1 for w in windows if w is not None))

    def instance(
        self,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        types: Int[Tensor, "batch tokens"] | None = None,
        task: Int[Tensor, " batch"] | None = None,
        fields: Int[Tensor, "batch tokens"] | None = None,
        step: int = 0,
    ) -> Instance:
        """A batch of token ids as the parts see it; `step` is the optimizer's, while training."""
        return Instance(
            ids,
            mask,
            self.backbone.embed(ids),
            ids.new_zeros(ids.shape) if types is None else types,
            ids.new_zeros(ids.shape[0]) if task is None else task,
            fields,
            step,
            self.encode,
        )

    def instance_of(self, batch: Batch, *, step: int = 0) -> Instance:
        """A batch of a loader as the parts see it; it must be on the backbone's device."""
        return self.instance(batch.ids, batch.mask, batch.types, batch.task, batch.fields, step)

    @torch.no_grad()
    def _encoded(
        self, x: Instance, until: int | None, columns: Columns | None = None
    ) -> Float[Tensor, "batch tokens hidden"]:
        with self.backbone.evaluating():  # what the model says of a text does not depend on its own dropout
            return self.backbone.run(Call(bare(x), until=until, columns=columns)).hidden

    @property
    def encode(self) -> Encode:
        """How states of the bare input are come by."""
        return self._encoded if self._kept is None else self._kept

    def asking(self, encode: Encode) -> "SoftPrompted":
        """The very same parts, which ask `encode` for states of the bare input."""
        model = SoftPrompted(self.backbone, self.generator, self.injection, dropout=self.dropout, encode=encode)
        return model.train(self.training)

    def call(self, x: Instance) -> Call:
        """What the backbone is called with: the prompt made from `x`, laid out with `x`."""
        p: Prompt = self.generator(x)
        if self.training and self.dropout:
            p = Prompt(F.dropout(p.values, self.dropout), p.keep)
        call: Call = self.injection(p, x)
        return call

    @torch.no_grad()
    def compiled(self) -> "SoftPrompted":
        """The same prompt as keys and values of every layer, made once and shared by all rows; for use, in evaluation.

        That takes soft tokens that do not depend on the input, of two kinds. A prefix (`KeyValues`) is cut into its
        layers. Soft tokens that all stand before the input and do not see it (a causal model's, as embeddings or as
        hidden states; `Embeddings(sees_input=False)` of one that reads both ways) are read once: the input goes on from
        there. Everything else is returned as it is: prompts that are made or placed by the input or at marks of a
        template (`Slots`), soft tokens behind an input, and those that see it.
        """
        one = self.generator.fixed()
        if one is None or not bool(one.keep.any()) or not self.injection.leads(self.generator.length):
            return self
        nothing = torch.zeros(1, 0, dtype=torch.long, device=self.backbone.device)
        ahead: Call = self.injection(one, self.instance(nothing, nothing.bool()))
        known = ahead.keys_values or self.backbone.compiled(ahead)
        if known is None:
            return self
        injection = Compiled(known, int(ends(ahead)), self.backbone.dtype)
        return SoftPrompted(self.backbone, Free(0, injection.width, zeros()), injection).eval()

    def forward(self, x: Instance, targets: Targets | None = None, columns: Columns | None = None) -> Output:
        """The backbone's output for `x` under the prompt, aligned with the tokens of `x`.

        Arguments:
            columns: the tokens of `x` whose states are read, where these are few (`Readout.columns`).
        """
        call = replace(self.call(x), columns=columns)
        if call.bare and targets is None and self._kept is not None:  # these states never change
            return Output(self._kept(x, None, columns), None, self.backbone.logits)
        return self.backbone.run(call, targets)
