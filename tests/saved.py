"""Tiny models with tiny tokenizers as folders, and tiny data files: what a user names on the command line."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tests.backbones import FAMILIES
from tests.unit.data.vocabularies import bert, gpt2, t5

Row = Mapping[str, Any]

VOCABULARIES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"bert": bert, "deberta": bert, "gpt2": gpt2, "t5": t5}
)
PROMPT = ("--length", "3")
QUICK = ("--epochs", "1", "--batch", "4")


def save(family: str, folder: Path, *, seed: int = 20, **changes: Any) -> Path:
    """A random model of the family and its tokenizer, as save_pretrained leaves them."""
    tokenizer, known = VOCABULARIES[family](), FAMILIES[family]
    special = {
        f"{k}_token_id": v for k in ("pad", "bos", "eos") if (v := getattr(tokenizer, f"{k}_token_id")) is not None
    }
    made = known.config(**known.settings | special | {"vocab_size": len(tokenizer)} | changes)
    made.architectures = [known.model.__name__]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = known.model(made)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def opinions(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Rows of two classes; the column `id` says which row it is."""
    texts = {"good": ("I like this box", "the best flat I had"), "bad": ("the glass lid broke", "I want my money back")}
    labels = sorted(texts)
    return [
        {"id": i, "text": f"{texts[labels[i % 2]][i // 2 % 2]} {'very ' * (i % 5)}much", "label": labels[i % 2]}
        for i in range(start, start + count)
    ]
