"""Coroutines and streams that run side by side, and how they end.

Whoever waits may be cancelled again and again (frameworks do so until a task is over), and in the middle of an answer.
What runs here hears of it once: then it may close what it holds, a connection to another server say, undisturbed.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def every(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run together; the first error ends the others and is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() for task in tasks if task.done()]  # of two that failed at once the first one is told
    finally:
        await ended(tasks)


async def together(streams: Sequence[AsyncGenerator[T, None]], deadline: float) -> AsyncGenerator[tuple[int, T], None]:
    """The items of several streams as they come, each with the number of its stream; all are closed at the end.

    Raises:
        TimeoutError: at `deadline` of the loop's clock.
    """
    loop = asyncio.get_running_loop()
    waiting = {asyncio.create_task(_next(stream)): i for i, stream in enumerate(streams)}
    try:
        while waiting:
            left = deadline - loop.time()
            done, _ = await asyncio.wait(waiting, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not done or left <= 0:
                raise TimeoutError
            for task in sorted(done, key=waiting.__getitem__):
                i = waiting.pop(task)
                found = task.result()
                if found is not None:
                    waiting[asyncio.create_task(_next(streams[i]))] = i
                    yield i, found
    finally:
        await asyncio.wait([asyncio.create_task(_closed(streams, list(waiting)))])


async def ended(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel tasks, once each, and wait until they are over; who is cancelled meanwhile waits no longer."""
    for task in tasks:
        task.add_done_callback(_heard)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _closed(streams: Sequence[AsyncGenerator[Any, None]], waiting: Collection["asyncio.Task[Any]"]) -> None:
    await ended(waiting)
    for stream in streams:
        with contextlib.suppress(Exception):
            await stream.aclose()


def _heard(task: "asyncio.Task[Any]") -> None:
    """An error that comes after nobody waits any more is nobody's."""
    if not task.cancelled():
        task.exception()


async def _next(stream: AsyncIterator[T]) -> T | None:
    return await anext(stream, None)
