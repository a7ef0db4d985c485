"""Tiny models, data files and tuned prompts on the disk, made once."""

import pytest

from tests.saved import Shelf, lines, opinions


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    place = tmp_path_factory.mktemp("shelf")
    lines(place / "train.jsonl", opinions(16))
    lines(place / "dev.jsonl", opinions(6, start=20))
    return Shelf(place)
