"""All parts a method can be put together from, under one roof.

A method imports them where it builds, not at the top of its file: so methods are listed, and their settings checked,
without the seconds that torch takes.
"""

from promptuary.choices import Choice, Read, embedding_max, embedding_mean, encoding_mean, schedule
from promptuary.controls import asked, held, read, spread
from promptuary.generators import (
    Concatenated,
    Free,
    Generator,
    Mapped,
    Multiplied,
    Pool,
    Queried,
    RankOne,
    Shortened,
    Summed,
    Weighted,
)
from promptuary.initial import Initial, from_file, matched, normal, uniform
from promptuary.injections import Embeddings, HiddenStates, Injection, KeyValues, Late
from promptuary.lookups import Dense, Hashed, Lookup, LowRank, Table, Window
from promptuary.placements import Adaptive, Placement, Slots, Split
from promptuary.pooling import ConvMax, MaskedMean, Recurrent, Unfolded
from promptuary.transforms import AtLayers, BiLSTM, Elementwise, Residual, Scaled, Slotwise, Transform, seeded
from promptuary.values import Shape

Built = tuple[Generator, Injection]

__all__ = [
    "Adaptive",
    "AtLayers",
    "BiLSTM",
    "Built",
    "Choice",
    "Concatenated",
    "ConvMax",
    "Dense",
    "Elementwise",
    "Embeddings",
    "Free",
    "Generator",
    "Hashed",
    "HiddenStates",
    "Initial",
    "Injection",
    "KeyValues",
    "Late",
    "Lookup",
    "LowRank",
    "Mapped",
    "MaskedMean",
    "Multiplied",
    "Placement",
    "Pool",
    "Queried",
    "RankOne",
    "Read",
    "Recurrent",
    "Residual",
    "Scaled",
    "Shape",
    "Shortened",
    "Slots",
    "Slotwise",
    "Split",
    "Summed",
    "Table",
    "Transform",
    "Unfolded",
    "Weighted",
    "Window",
    "asked",
    "embedding_max",
    "embedding_mean",
    "encoding_mean",
    "from_file",
    "held",
    "matched",
    "normal",
    "read",
    "schedule",
    "seeded",
    "spread",
    "uniform",
]
