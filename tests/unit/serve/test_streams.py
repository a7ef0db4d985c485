"""What runs side by side ends together, and is told so once, however often whoever waits is cancelled."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from promptuary.serve.streams import every, together


class Connection:
    """Something that takes a while to be closed, and stays open where that is disturbed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.closed = True

    async def silent(self) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            await self.close()
        return 0

    async def stream(self, items: int) -> AsyncGenerator[int, None]:
        try:
            for i in range(items):
                yield i
            await asyncio.sleep(60)
        finally:
            await self.close()


async def read(streams: list[AsyncGenerator[int, None]]) -> None:
    async with aclosing(together(streams, asyncio.get_running_loop().time() + 60)) as items:
        async for _ in items:
            await asyncio.sleep(0)  # whoever takes them has something to do


async def hounded(work: Awaitable[Any], after: int) -> None:
    """Some work that is cancelled after so many turns of the loop, and in every one that follows, until it is over."""
    task = asyncio.ensure_future(work)
    for _ in range(after):
        await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    await asyncio.sleep(0.01)


Work = Callable[[list[Connection]], Awaitable[Any]]
WORK: dict[str, Work] = {
    "coroutines": lambda own: every([connection.silent() for connection in own]),
    "silent streams": lambda own: read([connection.stream(0) for connection in own]),
    "streams with much to say": lambda own: read([connection.stream(1000) for connection in own]),
}


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("after", range(3, 9))
def test_who_is_cancelled_again_and_again_disturbs_nobody_who_closes_a_connection(what: str, after: int) -> None:
    async def run() -> list[bool]:
        own = [Connection() for _ in range(4)]
        await hounded(WORK[what](own), after)
        return [connection.closed for connection in own]

    assert asyncio.run(run()) == [True] * 4


def test_the_first_error_ends_the_others_and_nothing_is_heard_of_theirs(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(number: int) -> int:
        try:
            await asyncio.sleep(0 if number == 2 else 60)
        finally:
            raise ArithmeticError(f"{number}")

    async def run() -> None:
        with pytest.raises(ArithmeticError, match="2"):
            await every([failing(number) for number in range(4)])

    asyncio.run(run())
    assert caplog.records == []


def test_results_stand_in_their_order_and_items_have_the_number_of_their_stream() -> None:
    async def late(number: int) -> int:
        for _ in range(9 - number):
            await asyncio.sleep(0)
        return number

    async def counting(items: int) -> AsyncGenerator[int, None]:
        for i in range(items):
            yield await late(i)

    async def run() -> tuple[list[int], list[tuple[int, int]]]:
        streams = [counting(n) for n in (3, 0, 2)]
        items = [item async for item in together(streams, asyncio.get_running_loop().time() + 60)]
        return await every([late(n) for n in range(5)]), items

    results, items = asyncio.run(run())
    assert results == [0, 1, 2, 3, 4]
    assert sorted(items) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    assert asyncio.run(every([])) == []


def test_at_the_deadline_all_streams_are_closed() -> None:
    async def run() -> bool:
        connection = Connection()
        with pytest.raises(TimeoutError):
            [item async for item in together([connection.stream(2)], asyncio.get_running_loop().time() + 0.01)]
        return connection.closed

    assert asyncio.run(run())
