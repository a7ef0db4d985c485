"""Replicas of the engine in processes of their own, on one machine or many, by Ray Serve.

They stand in for `Engine` before the same application, in a process that runs no model; Ray's own HTTP proxy is left
out. A task has a home: requests carry its name as Ray's multiplexed model id, and go to a replica that has its prompt
warm; a task that no replica has goes to the one with the fewest, and one whose home is full for a second goes to
another. Each replica reads the same folder and sees changes in it by itself (`store.py`); a request is answered by the
version that the application had when it came, or told to ask again.

A replica that dies takes the requests in its hands with it, at most `Limits.rows`: each of them is told 503 with
Retry-After. Those that wait for a replica wait on, and Ray starts another one. Ray's processes talk to one another in
pickles: keep its ports private.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import ray
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from promptuary.backbones.generation import Generation
from promptuary.data.source import Row
from promptuary.errors import BusyError, CheckpointError, StoppedError
from promptuary.precision import Asked, dtype_of
from promptuary.serve.faults import Fault
from promptuary.serve.jobs import Piece
from promptuary.serve.limits import Limits, Load
from promptuary.store import HELD_BYTES
from promptuary.tuned import Tuned

WARM = 1024  # prompts that a replica says it has; its store may have let go of some (`Store(held_bytes)`)
LOST = (RayActorError, ObjectLostError, DeploymentUnavailableError)


class Replica:
    """One engine with its model, in a process of Ray's."""

    def __init__(
        self, folder: str, backbone: str, device: str, limits: Limits, precision: Asked, int8: str | None,
        held_bytes: int = HELD_BYTES,
    ) -> None:  # fmt: skip
        from promptuary.backbones.load import device_of, load
        from promptuary.serve.engine import Engine
        from promptuary.store import Store

        loaded = load(backbone, device=device, dtype=dtype_of(precision, device_of(device)))
        if int8 is not None:
            loaded.to_int8(int8)
        self.store = Store(folder, loaded, held_bytes=held_bytes)
        self.engine = Engine(self.store, limits)
        self._warm: set[str] = set()
        self._entering: asyncio.Task[Any] | None = None

    async def predict(self, task: str, row: Row, version: str | None) -> Any:
        """As `Engine.predict`; `version` is the digest of its manifest."""
        return await self.engine.predict(task, row, version=await self._ready(task, version))

    async def write(
        self, task: str | None, text: str | list[int], how: Generation, stop: Sequence[str], version: str | None
    ) -> AsyncGenerator[Piece, None]:
        """As `Engine.write`; `version` is the digest of its manifest."""
        tuned = await self._ready(task, version)
        async for piece in self.engine.write(task, text, how, stop=stop, version=tuned):
            yield piece

    async def embed(self, task: str | None, text: str, version: str | None) -> list[float]:
        """As `Engine.embed`; `version` is the digest of its manifest."""
        return await self.engine.embed(task, text, version=await self._ready(task, version))

    async def state(self) -> tuple[int, list[str]]:
        """The replica's process, and the tasks whose prompts it has warm."""
        return os.getpid(), sorted(self._warm)

    def check_health(self) -> None:
        """Ray asks it again and again, and starts another replica where it raises."""
        if self._entering is not None and self._entering.done() and not self.engine.alive:
            raise StoppedError("The engine of this replica has stopped.")

    @serve.multiplexed(max_num_models_per_replica=WARM)  # type: ignore[untyped-decorator]
    async def warm(self, task: str) -> str:
        """Open a task's prompt, and let Ray know that it is open here."""
        await asyncio.to_thread(self.store.get, task)
        self._warm.add(task)
        return task

    async def _ready(self, task: str | None, version: str | None) -> Tuned | None:
        """The prompt of a task, and an engine that has begun."""
        if self._entering is None:  # the engine belongs to the loop that asks it
            self._entering = asyncio.ensure_future(self.engine.__aenter__())
        await asyncio.shield(self._entering)
        if task is None:
            return None
        await self.warm(task)
        return await asyncio.to_thread(self._held, task, version)

    def _held(self, task: str, version: str | None) -> Tuned:
        """The prompt of a task in a version; `None` is any.

        Raises:
            Fault: 503 with Retry-After where the files here are another version, also when they are read again.
        """
        tuned = self.store.get(task)
        if version in (None, tuned.manifest.digest):
            return tuned
        with suppress(CheckpointError):  # files that change now
            self.store.reload(task)
        tuned = self.store.get(task)
        if version != tuned.manifest.digest:
            sentence = f"The prompt of {task!r} was changed while this request was on its way. Ask again."
            raise Fault(503, sentence, code="version_changed", retry_after_s=1)
        return tuned


class Replicas:
    """Answers requests by replicas; raises what `Engine` does, and 503 for what a replica took with it.

    A version goes along as its digest: a replica that has another one, and finds no other in the folder, says 503.
    """

    def __init__(self, handle: Any, limits: Limits) -> None:
        self._handle, self._limits, self._running = handle, limits, 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to leave: requests are finished when the application is."""

    @property
    def load(self) -> Load:
        """How many requests are with the replicas or on their way."""
        return Load(running=self._running)

    @property
    def alive(self) -> bool:
        """Always: Ray starts another replica for one that is gone."""
        return True

    def admit(self, rows: int) -> None:
        """Refuse more rows than may ever wait for a replica."""
        self._limits.check(rows)

    async def predict(self, task: str, row: Row, *, version: Tuned | None = None) -> Any:
        """As `Engine.predict`."""
        with self._told():
            return await self._home(task).predict.remote(task, row, _digest(version))

    async def write(
        self,
        task: str | None,
        text: str | list[int],
        how: Generation,
        *,
        stop: Sequence[str] = (),
        version: Tuned | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """As `Engine.write`."""
        with self._told():
            pieces = self._home(task).options(stream=True).write.remote(task, text, how, tuple(stop), _digest(version))
            over = False
            try:
                async for piece in pieces:
                    over = piece.ended is not None
                    yield piece
            finally:
                if not over:
                    pieces.cancel()

    async def embed(self, task: str | None, text: str, *, version: Tuned | None = None) -> list[float]:
        """As `Engine.embed`."""
        with self._told():
            found: list[float] = await self._home(task).embed.remote(task, text, _digest(version))
            return found

    def _home(self, task: str | None) -> Any:
        return self._handle if task is None else self._handle.options(multiplexed_model_id=task)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What Ray raises, as what the application knows.

        Raises:
            Fault: 503 with Retry-After for a request that was lost with its replica.
        """
        self._running += 1
        try:
            yield
        except RayTaskError as error:
            raise error.cause from None
        except BackPressureError as error:
            raise BusyError("Too many requests wait for a replica. Ask again later.", 1.0) from error
        except LOST as error:
            sentence = "The process that had this request is gone. Ask again: another one takes it."
            raise Fault(503, sentence, code="replica_lost", retry_after_s=1) from error
        finally:
            self._running -= 1


def _digest(version: Tuned | None) -> str | None:
    return None if version is None else version.manifest.digest


@contextmanager
def replicas(
    folder: Path, backbone: str, count: int, *, device: str = "auto", cpus: float = 1.0, gpus: float = 0.0,
    limits: Limits | None = None, precision: Asked = "fp32", int8: str | None = None, held_bytes: int = HELD_BYTES,
) -> Iterator[Replicas]:  # fmt: skip
    """Replicas of an engine while the context lasts; on the cluster at RAY_ADDRESS, else on this machine.

    Arguments:
        folder, backbone: of the store and its model, by names that hold on every machine.
        cpus, gpus: what Ray sets aside for each replica.
        limits: of each replica; no more than `rows` requests are in its hands, and `queue` wait for any.
        precision, int8: of each replica's model; `auto` is the faster one on its machine. int8: see `Backbone.to_int8`.
        held_bytes: of prompts that each replica keeps in memory (`Store`).
    """
    limits = limits or Limits()
    deployed = serve.deployment(Replica).options(
        num_replicas=count,
        max_ongoing_requests=limits.rows,
        max_queued_requests=limits.queue,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=1.0,
    )
    began = not ray.is_initialized()
    if began:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(proxy_location="Disabled")
    try:
        model = str(Path(backbone).resolve()) if Path(backbone).is_dir() else backbone
        bound = deployed.bind(str(folder.resolve()), model, device, limits, precision, int8, held_bytes)
        handle = serve.run(bound, route_prefix=None)
        yield Replicas(handle, limits)
    finally:
        serve.shutdown()
        if began:
            ray.shutdown()
