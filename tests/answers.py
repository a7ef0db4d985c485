"""What a model answers to each text by itself: ours out of any batch, and the bare model's, one text at a time.

The bare model is called with token ids and nothing else; no code of the library is on that side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from promptuary.generators import Generator
from promptuary.injections import Injection
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.values import Instance, Prompt
from tests.backbones import FAMILIES, backbone
from tests.strategies import Side, Text, pad, pad_targets

EXACT = 3e-5  # of the largest number: float32 through two layers, whatever the order of summation
BFLOAT16 = 2**-7  # one unit in the last place of the largest number
LENGTH = 3


@dataclass(frozen=True)
class Answer:
    """Scores at a text's own tokens (an encoder-decoder: the encoder's states), and of each continuation's tokens."""

    tokens: Tensor
    choices: list[Tensor]


def answers(
    model: SoftPrompted,
    texts: Sequence[Text],
    side: Side = "right",
    *,
    extra: int = 0,
    seed: int = 0,
    scored: bool = True,
) -> list[Answer]:
    """Our answers to `texts` in one batch, taken out of it row by row; the continuations too, if `scored`."""
    kind = FAMILIES[model.backbone.name].kind
    batch = pad(texts, side, extra=extra, seed=seed)
    scored = scored and kind != "encoder"
    targets, steps = pad_targets(texts, side, extra=extra, seed=seed) if scored else (None, [])
    out = model(model.instance(batch.ids, batch.mask, batch.types), targets)
    tokens = out.hidden if kind == "encoder_decoder" else out.logits(out.hidden)
    assert tokens.shape[:2] == batch.ids.shape  # the caller's length, never longer by a prompt
    if targets is None:
        assert out.targets is None
        return [Answer(tokens[row, columns], []) for row, columns in enumerate(batch.columns)]
    assert out.targets is not None
    scores = out.logits(out.targets)
    assert scores.shape[:3] == targets.ids.shape
    return [
        Answer(tokens[row, columns], [scores[row, i, at] for i, at in enumerate(steps[row])])
        for row, columns in enumerate(batch.columns)
    ]


@torch.no_grad()
def bare_answer(model: PreTrainedModel, text: Text) -> Answer:
    """The bare model's answer to one text, from its ids."""
    ids = torch.tensor([text.ids])
    if model.config.is_encoder_decoder:
        states = model.get_encoder()(input_ids=ids).last_hidden_state[0]
        start = model.config.decoder_start_token_id
        return Answer(
            states,
            [model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *c[:-1]]])).logits[0] for c in text.choices],
        )
    segments = {}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        segments["token_type_ids"] = torch.tensor([text.types])
    tokens = model(input_ids=ids, **segments).logits[0]
    if FAMILIES_OF_TYPE[model.config.model_type] == "encoder":
        return Answer(tokens, [])
    n = len(text.ids)
    whole = [model(input_ids=torch.tensor([[*text.ids, *c]])).logits[0] for c in text.choices]
    return Answer(tokens, [scores[n - 1 : n - 1 + len(c)] for scores, c in zip(whole, text.choices, strict=True)])


FAMILIES_OF_TYPE = {f.config.model_type: f.kind for f in FAMILIES.values()}


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest number of `other`."""
    assert one.shape == other.shape
    one, other = one.float(), other.float()
    if not other.numel():
        return 0.0
    assert bool(one.isfinite().all())
    assert bool(other.isfinite().all())
    return float(((one - other).abs().max() / other.abs().max().clamp(min=1.0)).detach())


def distance(one: Answer, other: Answer) -> float:
    """The largest gap of two answers."""
    assert len(one.choices) == len(other.choices)
    return max(
        gap(one.tokens, other.tokens), *(gap(a, b) for a, b in zip(one.choices, other.choices, strict=True)), 0.0
    )


def small(method: str) -> dict[str, Any]:
    """A method's settings at test size: few soft tokens, small networks."""
    known = METHODS[method].settings()
    return {name: value for name, value in (("length", LENGTH), ("middle", 16)) if name in known}


def parts(family: str, method: str, **settings: Any) -> tuple[Generator, Injection]:
    """A method's parts at test size."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        return METHODS[method].parts(backbone(family).shape, **small(method), **settings)


def prompted(family: str, method: str, **settings: Any) -> SoftPrompted:
    """A method on a family, ready for evaluation."""
    return SoftPrompted(backbone(family), *parts(family, method, **settings)).eval()


class Given(Generator):
    """A prompt said outright, the same for every row, or row by row."""

    def __init__(self, values: Tensor, keep: Tensor | None = None) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(values.float())
        self.keep = torch.ones(values.shape[:-1]) if keep is None else keep.float()
        self.length, self.width = values.shape[-2:]

    def forward(self, x: Instance) -> Prompt:
        batch = x.ids.shape[0]
        values, keep = self.values.expand(batch, -1, -1), self.keep.expand(batch, -1)
        return Prompt(values * keep[..., None], keep)
