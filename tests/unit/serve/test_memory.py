"""What is freed goes back, now and then."""

import platform
from pathlib import Path

import pytest

from promptuary.serve import memory
from promptuary.serve.memory import EVERY_S, Keeper


def test_it_is_given_back_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    given, now = list[float](), [100.0]
    monkeypatch.setattr(memory, "_trim", lambda: lambda _: given.append(now[0]))
    keeper = Keeper(lambda: now[0])
    for now[0] in (100.0, 100.0 + EVERY_S / 2, 101.0 + EVERY_S, 102.0 + EVERY_S, 102.0 + 2 * EVERY_S):
        keeper.give_back()
    assert given == [101.0 + EVERY_S, 102.0 + 2 * EVERY_S]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told to give back")
def test_holes_between_blocks_in_use_go_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    blocks = [bytearray(64_000) for _ in range(1_600)]
    kept = blocks[::16]
    del blocks
    before, now = resident(), [0.0]
    keeper = Keeper(lambda: now[0])
    now[0] = EVERY_S
    keeper.give_back()
    assert (before - resident()) * 4096 > 40_000_000
    assert len(kept) == 100
