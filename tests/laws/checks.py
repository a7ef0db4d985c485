"""The core laws as questions to one model, for the tests and for the table of what is supported."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from promptuary.checkpoint import flat
from promptuary.errors import BackboneError
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from tests.answers import EXACT, Answer, answers, distance, prompted
from tests.backbones import FAMILIES
from tests.strategies import SIDES, ragged

TEXTS = ragged(6, 2, 4)
DRAWS = 40
FIVE = ("bert", "roberta", "gpt2", "llama", "t5")


def trainable(model: SoftPrompted) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_of(found: list[Answer]) -> torch.Tensor:
    """Some scalar that depends on every token and every continuation, and on each differently."""
    pieces = [piece for answer in found for piece in (answer.tokens, *answer.choices)]
    return torch.stack([(p * torch.linspace(-1, 1, p.numel()).cos().view(p.shape)).mean() for p in pieces]).sum()


def heard(model: SoftPrompted) -> None:
    """The output moves when the prompt moves."""
    with torch.no_grad():
        before = answers(model, TEXTS)
        for parameter in trainable(model).values():
            parameter.add_(torch.linspace(0, parameter.numel(), parameter.numel()).sin().view(parameter.shape))
        after = answers(model, TEXTS)
    for one, other in zip(before, after, strict=True):
        assert distance(one, other) > 1e-2


def alone(model: SoftPrompted) -> None:
    """A row's answer is the same alone and in a batch, whatever the padding."""
    with torch.no_grad():
        singly = [answers(model, [text])[0] for text in TEXTS]
        for side in SIDES:
            for one, other in zip(answers(model, TEXTS, side, extra=2), singly, strict=True):
                assert distance(one, other) <= EXACT


def taught(model: SoftPrompted) -> None:
    """Every trainable tensor gets a gradient, and the backbone none. A choice takes one option a pass: some passes."""
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(DRAWS):
            loss_of(answers(model, TEXTS)).backward()
            missing = [n for n, p in trainable(model).items() if p.grad is None or not p.grad.abs().max() > 0]
            if not missing:
                break
    model.eval()
    assert not missing
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.model.parameters())


CHECKS: Mapping[str, Callable[[SoftPrompted], None]] = MappingProxyType(
    {"heard": heard, "alone": alone, "taught": taught}
)


def refusal(family: str, method: str) -> str | None:
    """What a method says when it cannot work on a family; `None` where it can."""
    try:
        prompted(family, method)
    except BackboneError as error:
        return str(error)
    return None


REFUSED = MappingProxyType({(f, m): why for f in FAMILIES for m in METHODS if (why := refusal(f, m)) is not None})
# A prompt that is made from the input meets the backbone through the same injections as one that is not: the laws of
# these hold them to every family, and every method meets five families here and all of them in `tests/matrix.py`.
STATIC = tuple(m for m, p in ((m, prompted("bert", m)) for m in METHODS) if flat(p.generator, p.injection) is not None)
# For tests that tune: one of each way to make or choose a prompt beside the static ones.
TYPICAL = (*STATIC, "ipt-lstm", "ipt-prefix", "dp-position-instance", "dp-length", "dp-vector", "idpg")
PAIRS = tuple((f, m) for f in FAMILIES for m in METHODS if (f, m) not in REFUSED and (m in STATIC or f in FIVE))
PROMPTED = tuple((f, m) for f, m in PAIRS if m != "frozen")
