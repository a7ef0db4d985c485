"""One store for all tests of the server, which leave it as they found it."""

import pytest

from promptuary.backbones.load import load
from promptuary.store import Store
from tests.saved import Shelf
from tests.serving import stocked


@pytest.fixture(scope="session")
def store(shelf: Shelf) -> Store:
    return Store(stocked(shelf, "gpt2", shelf.place / "store"), load(str(shelf.model("gpt2"))))
