"""Tiny models, data files and tuned prompts on the disk, made once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.saved import SHORT, done, lines, opinions, save


@dataclass(frozen=True)
class Shelf:
    """A folder with models by family, `train.jsonl`, `dev.jsonl`, and the prompts tuned so far."""

    place: Path

    @property
    def train(self) -> Path:
        return self.place / "train.jsonl"

    @property
    def dev(self) -> Path:
        return self.place / "dev.jsonl"

    def model(self, family: str) -> Path:
        folder = self.place / family
        return folder if folder.is_dir() else save(family, folder)

    def options(self, family: str, method: str, out: Path) -> list[Any]:
        """A whole `tune` command."""
        data = ["--train", self.train, "--validation", self.dev]
        return ["tune", "--backbone", self.model(family), *data, "--method", method, *SHORT, "--out", out]

    def prompt(self, family: str, method: str) -> Path:
        """A tuned prompt; leave it as it is."""
        out = self.place / "prompts" / family / method
        if not out.is_dir():
            done(*self.options(family, method, out))
        return out


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    place = tmp_path_factory.mktemp("shelf")
    lines(place / "train.jsonl", opinions(16))
    lines(place / "dev.jsonl", opinions(6, start=20))
    return Shelf(place)
