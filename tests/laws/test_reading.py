"""Whatever reads the output, every number of the prompt that is trained can change what is read."""

from collections.abc import Callable
from types import MappingProxyType

import pytest
import torch

from promptuary.assembly import prompted
from promptuary.data.batch import Batch
from promptuary.errors import SettingError
from promptuary.readouts import (
    Classifier,
    LanguageModel,
    Readout,
    Span,
    Tagger,
    WordsAsContinuation,
    WordsAtBlanks,
)
from promptuary.values import Shape
from tests.answers import small
from tests.backbones import ENCODER_DECODERS, FAMILIES, backbone
from tests.laws.checks import PROMPTED, STATIC, TEXTS, trainable
from tests.strategies import Text, pad, pad_targets

ALL = ("encoder", "decoder", "encoder_decoder")
READOUTS: MappingProxyType[str, tuple[tuple[str, ...], Callable[[Shape], Readout]]] = MappingProxyType(
    {
        "classifier": (ALL, lambda shape: Classifier(2, shape.output)),
        "tagger": (ALL, lambda shape: Tagger(2, shape.output)),
        "span": (ALL, lambda shape: Span(shape.output)),
        "words at blanks": (("encoder",), lambda _: WordsAtBlanks([[[5]], [[6]]])),
        "words as continuation": (ALL[1:], lambda _: WordsAsContinuation([[[5, 8]], [[6]]])),
        "text": (ALL[1:], lambda _: LanguageModel()),
    }
)


def read(family: str) -> Batch:
    """A batch in which every read-out finds what it compares with."""
    rows, count = pad(TEXTS, "right"), len(TEXTS)
    first = torch.zeros(rows.ids.shape, dtype=torch.long).where(torch.arange(rows.ids.shape[1]) == 0, -1)
    targets, _ = pad_targets([Text(text.ids, text.types, text.choices[:1]) for text in TEXTS], "right")
    return Batch(
        rows.ids, rows.mask, rows.types, torch.zeros(count, dtype=torch.long), torch.arange(count),
        labels=torch.arange(count) % 2, targets=targets, blanks=torch.zeros(count, 1, dtype=torch.long),
        words=first, tags=first, spans=torch.zeros(count, 2, dtype=torch.long), context=rows.mask,
    )  # fmt: skip


@pytest.mark.parametrize("name", READOUTS)
@pytest.mark.parametrize(("family", "method"), [(f, m) for f, m in PROMPTED if m in STATIC])
def test_every_number_of_the_prompt_gets_a_gradient_from_what_is_read(family: str, method: str, name: str) -> None:
    kinds, build = READOUTS[name]
    if FAMILIES[family].kind not in kinds:
        return
    b, batch = backbone(family), read(family)
    readout = build(b.shape)
    model = prompted(b, method, small(method), init=None, seed=0, readout=readout).train()
    seen: list[torch.Tensor] = []
    model.injection.register_forward_pre_hook(
        lambda _, given: (given[0].values.retain_grad(), seen.append(given[0].values))[0]
    )
    x = model.instance(batch.ids, batch.mask, batch.types)
    readout.loss(model(x, readout.targets(batch)), batch).backward()
    (values,) = seen
    assert values.grad is not None
    assert bool((values.grad.abs().sum((0, 1)) > 0).all())
    for parameter in (*trainable(model).values(), *readout.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("part", ["decoder", "cross"])
@pytest.mark.parametrize("method", ["p-tuning-v2", "prefix-tuning"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_part_asked_for_by_name_that_nothing_reads_is_refused(family: str, method: str, part: str) -> None:
    b = backbone(family)
    settings = {**small(method), "parts": [part]}
    with pytest.raises(SettingError, match=rf"parts=\['{part}'\].*\['encoder'\].*read"):
        prompted(b, method, settings, init=None, seed=0, readout=Classifier(2, b.shape.output))
    for readout in (LanguageModel(), None):
        model = prompted(b, method, settings, init=None, seed=0, readout=readout)
        assert model.generator.width == b.shape.key_value_width(frozenset({part}))
