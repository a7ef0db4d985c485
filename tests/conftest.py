"""What holds for every test: one thread, known seeds, a quiet transformers; and what the default tier holds."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import zlib
from collections import defaultdict
from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
import transformers
import transformers.modeling_utils  # before jaxtyping imports it: it would compile all of it anew each time
from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("laws")
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


CASES, SHARE = 1, 10  # of a test with more cases than so many, one in ten is in the default tier


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="all cases of all tests, all held to their tensors' axes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what takes long, and most cases of wide tests (a law on all families and methods), into the slow tier."""
    if config.getoption("--thorough"):
        return
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("slow"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for wide in cases.values():
        for item in sorted(wide, key=_drawn)[max(CASES, -(-len(wide) // SHARE)) :]:
            item.add_marker(pytest.mark.slow)


def _drawn(item: pytest.Item) -> int:
    return zlib.crc32(item.nodeid.encode())


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _known_seeds() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is the one to pin
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` keeps a stack for each device that is not there
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _shapes(request: pytest.FixtureRequest) -> None:
    """Hold one test in four to its tensors' axes (`tests/shapes.py`): that makes small models half as slow again."""
    held = request.config.getoption("--thorough") or _drawn(request.node) % SHARE == 0
    jaxtyping.config.update("jaxtyping_disable", not held)
