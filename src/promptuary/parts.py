"""All parts a method can be put together from, under one roof.

A method imports them where it builds, not at the top of its file: so methods are listed, and their settings checked,
without the seconds that torch takes.
"""

from promptuary.generators import Concatenated, Free, Generator, Mapped, Summed
from promptuary.initial import Initial, matched, normal, uniform
from promptuary.injections import Embeddings, HiddenStates, Injection, KeyValues
from promptuary.placements import Slots, Split
from promptuary.transforms import BiLSTM, Scaled, Slotwise, Transform, seeded
from promptuary.values import Shape

Built = tuple[Generator, Injection]

__all__ = [
    "BiLSTM",
    "Built",
    "Concatenated",
    "Embeddings",
    "Free",
    "Generator",
    "HiddenStates",
    "Initial",
    "Injection",
    "KeyValues",
    "Mapped",
    "Scaled",
    "Shape",
    "Slots",
    "Slotwise",
    "Split",
    "Summed",
    "Transform",
    "matched",
    "normal",
    "seeded",
    "uniform",
]
