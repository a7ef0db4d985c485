"""Three small data sets that come with the library, so that everything can be tried without a download."""

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType

from promptuary.errors import SettingError, nearest

SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "intents": "messages to a shop, ten intents (columns text, label)",
        "opinions": "opinions on things bought and places visited, positive or negative (columns text, label)",
        "passages": "a passage and a question about it, yes or no (columns passage, question, label)",
    }
)
SPLITS = ("train", "validation", "test")


def path(name: str, split: str | None = None) -> Path:
    """The file of one split: `path("intents/train")` or `path("intents", "train")`.

    Raises:
        SettingError: for an unknown sample or split, with the nearest known one.
    """
    sample, slash, named = name.partition("/")
    if slash and split is not None and named != split:
        raise SettingError(f"sample {name!r} with split={split!r}: two different splits. Write one of them.")
    chosen = named if slash else split
    if sample not in SAMPLES:
        raise SettingError(f"There is no sample {sample!r}. {nearest(sample, SAMPLES)}")
    if chosen is None:
        raise SettingError(f"sample {sample!r} without a split. Write 'sample:{sample}/train' (or /validation, /test).")
    if chosen not in SPLITS:
        raise SettingError(f"Sample {sample!r} has no split {chosen!r}. {nearest(chosen, SPLITS)}")
    with as_file(files(__name__) / sample / f"{chosen}.jsonl") as place:
        return place
