"""What every check shares: the two sides of a finding, tiny models, and the references that belong to neither side."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from tests.backbones import VOCABULARY, config
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.generators import Free
from promptuary.initial import from_prompt
from promptuary.injections import Embeddings, Injection
from promptuary.model import SoftPrompted

P = 5  # soft tokens
STEPS = 8  # generated tokens
SEED = 0
EXACT = 1e-4  # two float32 routes to one number differ by less


@dataclass(frozen=True)
class Side:
    """What one library did: the figure as the table shows it, the numbers behind it, and whether it is right."""

    figure: str
    values: dict[str, float]
    right: bool


@dataclass(frozen=True)
class Finding:
    """One row of the table. `reference` says what both sides are held against."""

    name: str
    compared: str
    reference: str
    peft: Side
    ours: Side


def gaps(values: dict[str, float], unit: str = "") -> Side:
    """A side whose figures are distances from the reference: right where all are nearly 0."""
    shown = ", ".join(f"{name} {value:.2g}" if name else f"{value:.2g}" for name, value in values.items())
    return Side(f"{shown}{unit}", values, all(v < EXACT for v in values.values()))


def counts(values: dict[str, int], of: int) -> Side:
    """A side whose figures are counts of wrong rows: right where all are 0."""
    shown = ", ".join(f"{name} {value}/{of}" if name else f"{value}/{of}" for name, value in values.items())
    return Side(shown, {name: float(value) for name, value in values.items()}, not any(values.values()))


def tiny(
    kind: type[PreTrainedModel], family: str, *, seed: int = SEED, scale: float = 0.3, **changes: Any
) -> PreTrainedModel:
    """A small random model with enlarged weights that never stops early. Equal arguments give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config(family, **changes)).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, scale)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = None
    return model.requires_grad_(False)


def like(kind: type[PreTrainedModel], other: PreTrainedModel) -> PreTrainedModel:
    """A model of another kind (with a head of its own) around the same base weights."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = kind(copy.deepcopy(other.config)).eval()
    model.base_model.load_state_dict(other.base_model.state_dict(), strict=False)  # BERT's pooler comes with the head
    return model.requires_grad_(False)


def random(*shape: int, seed: int = SEED, scale: float = 0.7) -> Tensor:
    """Numbers for a prompt that stands for a trained one."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def rows(number: int, low: int, high: int, *, seed: int = SEED) -> list[Tensor]:
    """Token ids of `number` random texts of `low` to `high` tokens."""
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high + 1, (number,), generator=source).tolist()
    return [torch.randint(5, VOCABULARY, (n,), generator=source) for n in lengths]


def padded(texts: Sequence[Tensor], length: int, *, left: bool, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask of all rows, with padding on one side."""
    ids = torch.full((len(texts), length), pad)
    mask = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        where = slice(length - len(text), length) if left else slice(0, len(text))
        ids[row, where], mask[row, where] = text, 1
    return ids, mask


def theirs(model: PreTrainedModel, settings: PeftConfig, table: Tensor | None = None) -> PeftModel:
    """PEFT around a copy of `model`, with the numbers of `table` as its prompt."""
    # PEFT writes into the settings it is given, so each model gets settings of its own.
    prompted = get_peft_model(copy.deepcopy(model), copy.deepcopy(settings)).eval()
    if table is not None:
        weight = prompted.prompt_encoder["default"].embedding.weight
        assert weight.shape == table.shape, (weight.shape, table.shape)
        weight.data.copy_(table)
    return prompted


def backbone(model: PreTrainedModel, name: str = "tiny") -> Backbone:
    """Our backbone around a copy of `model`."""
    return wrap(copy.deepcopy(model), name)


def ours(to: Backbone, table: Tensor, injection: Injection | None = None) -> SoftPrompted:
    """Promptuary on `to`, with the numbers of `table` as its prompt."""
    generator = Free(table.shape[0], table.shape[1], from_prompt(table))
    return SoftPrompted(to, generator, Embeddings(to.shape) if injection is None else injection).eval()


class Heard(LogitsProcessor):
    """Notes the scores of each generated step and changes nothing."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.clone())
        return scores


GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0}


def write(model: SoftPrompted, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Our greedy continuation and the scores of its first token."""
    heard = Heard()
    call = model.call(model.instance(ids, mask.bool()))
    how = Generation(max_new_tokens=STEPS, end=(), pad=0)
    written = model.backbone.generate(call, how, logits_processor=LogitsProcessorList([heard]))
    return written, heard.steps[0]


def peft_write(model: PeftModel, ids: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """PEFT's greedy continuation and the scores of its first token."""
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            output_logits=True,  # PEFT copies a logits processor on some ways, so that it hears nothing
            return_dict_in_generate=True,
            **GREEDY,
            **options,
        )
    return out.sequences[:, -STEPS:], out.logits[0]


def embedded(model: PreTrainedModel, table: Tensor, text: Tensor) -> Tensor:
    """Reference: one unpadded row, the prompt's numbers before the text's embeddings."""
    return torch.cat([table, model.get_input_embeddings()(text)])[None]


@torch.no_grad()
def stepwise(model: PreTrainedModel, embeds: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Reference: the bare model's greedy continuation, one full pass a step, no cache; first scores."""
    written, first = [], None
    for _ in range(steps):
        scores = model(inputs_embeds=embeds, use_cache=False).logits[:, -1]
        first = scores if first is None else first
        written.append(scores.argmax(-1))
        embeds = torch.cat([embeds, model.get_input_embeddings()(written[-1])[:, None]], 1)
    return torch.cat(written), first[0]


def cached(model: PreTrainedModel, table: Tensor) -> DynamicCache:
    """A prefix as a cache of the bare model: `table` is `[prompt, layers * 2 * heads * size]`."""
    c = model.config
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    whole = table.view(1, len(table), c.num_hidden_layers, 2, heads, -1)
    cache = DynamicCache()
    for layer in range(c.num_hidden_layers):
        key, value = (whole[:, :, layer, i].transpose(1, 2) for i in (0, 1))
        cache.update(key.contiguous(), value.contiguous(), layer)
    return cache


@torch.no_grad()
def prefixed(model: PreTrainedModel, table: Tensor, text: Tensor, *, start: int) -> Tensor:
    """Reference: the bare model's scores on one unpadded text behind a prefix; its positions begin at `start`."""
    return model(
        input_ids=text[None],
        past_key_values=cached(model, table),
        attention_mask=torch.ones(1, len(table) + len(text), dtype=torch.long),
        position_ids=torch.arange(start, start + len(text))[None],
    ).logits[0]


def furthest(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The largest distance between any two numbers that should be equal."""
    return max(float((a - b).abs().max()) for a, b in pairs)


def batch(ids: Tensor, mask: Tensor, **more: Tensor) -> Batch:
    """A batch of ours without segments and tasks."""
    number = len(ids)
    return Batch(
        ids, mask.bool(), torch.zeros_like(ids), torch.zeros(number, dtype=torch.long), torch.arange(number), **more
    )
