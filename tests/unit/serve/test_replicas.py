"""A request to replicas has one version of its prompt: the one that its server pinned, or it is told to ask again.

Ray stands aside: what it would carry between processes is pickled here, and what it would raise is raised here.
"""

import asyncio
import contextlib
import importlib
import itertools
import pickle
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import promptuary.serve
from promptuary.backbones.generation import Generation
from promptuary.data.source import Row
from promptuary.serve.faults import Fault
from promptuary.serve.keys import Guard
from promptuary.serve.limits import Limits
from promptuary.serve.service import Service, Wish
from promptuary.store import Store
from promptuary.tuned import Tuned
from tests.kept import every, keep
from tests.saved import Shelf

TEXTS = ("I like this box", "the glass lid broke", "the best flat I had", "I want my money back")
ANYONE = Guard().caller(None)


class RayTaskError(Exception):
    """What a caller gets of an exception in a replica."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = pickle.loads(pickle.dumps(cause))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`promptuary.serve.ray` as it is imported on as much of Ray as it names."""
    ray, serve, errors, own = (ModuleType(name) for name in ("ray", "serve", "exceptions", "own"))
    ray.serve, errors.RayTaskError = serve, RayTaskError  # type: ignore[attr-defined]
    serve.multiplexed = lambda **_: lambda work: work  # type: ignore[attr-defined]
    for place, name in (
        (errors, "RayActorError"), (errors, "ObjectLostError"), (own, "BackPressureError"),
        (own, "DeploymentUnavailableError"),
    ):  # fmt: skip
        setattr(place, name, type(name, (Exception,), {}))
    modules = {"ray": ray, "ray.serve": serve, "ray.exceptions": errors, "ray.serve.exceptions": own}
    with monkeypatch.context() as patched:
        for name, made in modules.items():
            patched.setitem(sys.modules, name, made)
        patched.delitem(sys.modules, "promptuary.serve.ray", raising=False)
        patched.delattr(promptuary.serve, "ray", raising=False)
        yield importlib.import_module("promptuary.serve.ray")
        sys.modules.pop("promptuary.serve.ray")
        del promptuary.serve.ray


@dataclass
class Carrier:
    """A handle that gives requests to replicas in turns.

    Arguments:
        before: what happens elsewhere before a replica begins with a request, by the request's number.
    """

    replicas: list[Any]
    before: dict[int, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def options(self, **_: Any) -> "Carrier":
        return self

    def __getattr__(self, name: str) -> "Method":
        if name.startswith("_"):
            raise AttributeError(name)
        return Method(self, name)

    def next(self) -> Any:
        number = next(self._numbers)
        self.before.get(number, lambda: None)()
        return self.replicas[number % len(self.replicas)]


@dataclass
class Method:
    """A replica's method as a handle has it."""

    carrier: Carrier
    name: str

    def remote(self, *given: Any) -> Any:
        work = getattr(self.carrier.next(), self.name)(*pickle.loads(pickle.dumps(given)))
        return Stream(work) if isinstance(work, AsyncGenerator) else _carried(work)


class Stream:
    """Pieces that come from a replica."""

    def __init__(self, pieces: AsyncGenerator[Any, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        try:
            return await _carried(anext(self._pieces))
        except RayTaskError as error:
            if type(error.cause) is StopAsyncIteration:
                raise error.cause from None
            raise

    def cancel(self) -> None: ...


async def _carried(work: Awaitable[Any]) -> Any:
    try:
        return pickle.loads(pickle.dumps(await work))
    except Exception as error:
        raise RayTaskError(error) from None


@dataclass
class Place:
    """A folder with one task, two versions of it, and two replicas that read the folder."""

    store: Store
    versions: list[Path]
    carrier: Carrier
    engine: Any

    def change(self) -> None:
        """Somebody puts the second version in, not by this process's store."""
        Store(self.store.folder, self.store.backbone).add("mood", self.versions[1])


Make = Callable[..., contextlib.AbstractAsyncContextManager[Place]]


@pytest.fixture
def make(module: Any, store: Store, shelf: Shelf, tmp_path: Path) -> Make:
    @contextlib.asynccontextmanager
    async def place(kind: str = "prompt") -> AsyncIterator[Place]:
        made = every("gpt2")[kind]
        versions = [keep(tmp_path / str(seed), store.backbone, made, seed=seed) for seed in (1, 2)]
        own = Store(tmp_path / "store", store.backbone)
        own.add("mood", versions[0])
        given = str(own.folder), str(shelf.model("gpt2")), "cpu", Limits(wait_s=0.0), "fp32", None
        replicas = [module.Replica(*given) for _ in range(2)]
        for replica in replicas:
            await replica.embed(None, "box", None)  # it enters its engine when it is first asked
        carrier = Carrier(replicas)
        yield Place(own, versions, carrier, module.Replicas(carrier, Limits()))
        for replica in replicas:
            await replica.engine.__aexit__()

    return place


def told(tuned: Tuned) -> list[float]:
    """What a version says to the rows by itself."""
    return [answer.probability for answer in tuned.predict([Row({"text": text}, "row") for text in TEXTS])]


@contextlib.contextmanager
def to_ask_again() -> Iterator[None]:
    with pytest.raises(Fault) as caught:
        yield
    assert (caught.value.status_code, caught.value.code) == (503, "version_changed")
    assert int((caught.value.headers or {})["Retry-After"]) >= 1
    assert "Ask again" in caught.value.detail


def test_rows_of_one_request_are_never_answered_by_two_versions(make: Make) -> None:
    async def work() -> None:
        async with make() as place:
            service, rows = Service(place.engine, place.store), [("mood", text) for text in TEXTS]
            first = place.store.get("mood")
            said = await service.predict(ANYONE, rows)
            assert [one["probability"] for one in said] == pytest.approx(told(first), abs=1e-5)
            place.carrier.before = {len(TEXTS) + 1: place.change}  # one row is with a replica already
            with to_ask_again():
                await service.predict(ANYONE, rows)
            said = await service.predict(ANYONE, rows)
            second = told(place.store.get("mood"))
            assert second != pytest.approx(told(first), abs=1e-3)
            assert [one["probability"] for one in said] == pytest.approx(second, abs=1e-5)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_texts_of_one_request_are_never_written_by_two_versions(make: Make) -> None:
    async def work() -> None:
        async with make("reply") as place:
            service = Service(place.engine, place.store)

            async def texts() -> list[int]:
                pieces = service.write(ANYONE, "mood", [(TEXTS[0],)] * 2, Wish(tokens=4))
                numbers = [number async for number, piece in pieces if piece.ended is not None]
                return sorted(numbers)

            assert await texts() == [0, 1]
            place.carrier.before = {3: place.change}
            with to_ask_again():
                await texts()
            assert await texts() == [0, 1]

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_version_that_no_replica_has_any_more_is_told_to_whoever_asks(make: Make) -> None:
    async def work() -> None:
        async with make("reply") as place:
            gone, engine = place.store.get("mood"), place.engine
            place.change()
            for _ in place.carrier.replicas:
                with to_ask_again():
                    await engine.predict("mood", Row({"text": TEXTS[0]}, "row"), version=gone)
                with to_ask_again():
                    async for _ in engine.write("mood", TEXTS[0], Generation(3), version=gone):
                        pass
                with to_ask_again():
                    await engine.embed("mood", TEXTS[0], version=gone)
            await engine.embed("mood", TEXTS[0], version=place.store.get("mood"))
            await engine.embed("mood", TEXTS[0])
            assert engine.load.running == 0

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_replica_that_did_not_see_a_change_reads_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with make() as place:
            row = Row({"text": TEXTS[0]}, "row")
            for replica in place.carrier.replicas:
                await place.engine.predict("mood", row, version=place.store.get("mood"))
                known = replica.store._found("mood")  # a network's disk tells for seconds what it told before
                monkeypatch.setattr(replica.store, "_found", lambda name, known=known: known)
            place.change()
            second = place.store.get("mood")
            for _ in place.carrier.replicas:
                said = await place.engine.predict("mood", row, version=second)
                assert said.probability == pytest.approx(told(second)[0], abs=1e-5)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_replica_that_cannot_read_a_version_does_not_answer_by_another_one(make: Make) -> None:
    async def work() -> None:
        async with make() as place:
            row, first = Row({"text": TEXTS[0]}, "row"), place.store.get("mood")
            for _ in place.carrier.replicas:
                await place.engine.predict("mood", row, version=first)
            place.change()
            second = place.store.get("mood")
            (place.store.folder / "mood" / "prompt.safetensors").write_bytes(b"no")
            for _ in place.carrier.replicas:
                with to_ask_again():
                    await place.engine.predict("mood", row, version=second)
                said = await place.engine.predict("mood", row, version=first)  # which it still has
                assert said.probability == pytest.approx(told(first)[0], abs=1e-5)

    asyncio.run(asyncio.wait_for(work(), 60))
