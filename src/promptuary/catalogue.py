"""What a method is made of on a backbone, and how many numbers it trains there."""

from dataclasses import dataclass
from itertools import groupby

from torch import nn

from promptuary.backbones.backbone import Backbone
from promptuary.counts import Counts, count
from promptuary.errors import BackboneError
from promptuary.methods import method
from promptuary.model import SoftPrompted


@dataclass(frozen=True)
class Entry:
    """A method on a backbone.

    Arguments:
        parts: its generator and injection as an expression. counts: of the prompt alone, before any training (so
            nothing is touched yet).
        refused: why it does not work there; then there are no parts.
    """

    parts: str = ""
    counts: Counts | None = None
    refused: str | None = None


def entry(name: str, backbone: Backbone, length: int) -> Entry:
    """A method with its own settings, at a length where it has one.

    Raises:
        SettingError: where the length leaves no room for an input, and as the method does.
    """
    chosen = method(name)
    settings = {"length": length} if "length" in chosen.settings() else {}
    try:
        generator, injection = chosen.parts(backbone.shape, **settings)
    except BackboneError as error:
        return Entry(refused=str(error))
    counts = count(SoftPrompted(backbone, generator, injection), nn.Identity())
    return Entry(f"{expression(generator)}, {expression(injection)}", counts)


def expression(part: nn.Module) -> str:
    """A part with the parts inside it, the library's own alone: `Mapped(Free, Slotwise)`, `Pool(Choice, 4 Free)`."""
    inside = [expression(child) for child in _own(part)]
    groups = [(text, len(list(same))) for text, same in groupby(inside)]
    told = ", ".join(text if times == 1 else f"{times} {text}" for text, times in groups)
    return f"{type(part).__name__}({told})" if told else type(part).__name__


def _own(part: nn.Module) -> list[nn.Module]:
    found = []
    for child in part.children():
        ours = type(child).__module__.startswith("promptuary.")
        found += [child] if ours else _own(child)
    return found
