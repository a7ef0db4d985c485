"""One frozen model that answers requests of many prompts at once: rows in, answers out. It knows nothing of HTTP.

Three places do the work. The event loop takes requests and hands answers back; it never waits for anything else. A
*reader* thread opens prompts and turns text into token ids. A *worker* thread runs the model: it takes turns between a
batch of rows to be read (`waiting.py` says which) and the next token of all texts that are being written (`desk.py`).
Rows of different prompts, methods and kinds of task share every pass (`mixing.py`); soft tokens that say the same to
every row are read once and not with each of them (`Store.compiled`).

What a request is answered does not depend on its company: neither the numbers (to rounding), nor greedy texts, nor
texts drawn with a seed. It has one version of its prompt from beginning to end. A row that cannot be answered fails by
itself; of a batch that fails each row is asked again alone. Beams are no stream: such a text comes in one piece, when
it is written, and has a pass of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from promptuary.backbones.generation import Generation, fits
from promptuary.data.batch import Batch
from promptuary.data.source import Row
from promptuary.errors import BackboneError, DataError, SettingError
from promptuary.readouts.classifier import mean
from promptuary.serve.base import base
from promptuary.serve.jobs import Job, Piece, Post, Writing
from promptuary.serve.limits import Limits, Load
from promptuary.serve.worker import Worker
from promptuary.sharing import ANSWER, Asked, Question
from promptuary.store import BASE, Store
from promptuary.tuned import Tuned
from promptuary.values import Output

__all__ = ["Engine", "Limits", "Load", "Piece"]


def _means(tuned: Tuned, out: Output, batch: Batch, rows: object, examples: object) -> list[list[float]]:
    found: list[list[float]] = mean(out.hidden, batch.mask & (batch.ids >= 0)).tolist()
    return found


MEAN = Question(lambda tuned, batch: None, lambda tuned, batch: None, _means)


class Engine:
    """Answers requests while its context is entered; leaving it finishes what was accepted and refuses what is new.

    Its methods belong to the event loop on which it was entered.

    Arguments:
        store: the prompts, and the model they share.
        limits: how much is done at once.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self.store, self.limits = store, limits or Limits()
        self._base = base(store.backbone)
        self._worker: Worker | None = None

    async def __aenter__(self) -> "Engine":
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(1, "promptuary-reader")
        self._worker = Worker(self.store.backbone, self.limits, Post(self._loop))
        self._worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        worker = self._running
        worker.queues.close()
        await asyncio.to_thread(worker.finish)
        self._reader.shutdown(wait=False)

    @property
    def load(self) -> Load:
        """What there is to do, and what was done."""
        return Load() if self._worker is None else self._worker.load

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._worker is not None and self._worker.alive

    def admit(self, rows: int) -> None:
        """Refuse a request of so many rows where they have no room together; whoever asks for them does so at once.

        Raises:
            SettingError: for more rows than may ever wait.
            BusyError, StoppedError: as `predict`.
        """
        self._running.queues.admit(rows)

    async def predict(self, task: str, row: Row, *, version: Tuned | None = None) -> Any:
        """The answer of the task's kind to a row (`Answer` for classes; see `promptuary.kinds`).

        Arguments:
            version: the prompt as it was got from the store, so that several rows have the same; `None` is today's.

        Raises:
            MissingError, CheckpointError: for the prompt, as `Store.get`.
            DataError: for a row without its columns, or one that is too long.
            BusyError: where too many requests wait, or the engine is leaving.
            StoppedError: where it has broken down.
        """
        asked, answers = await self._submitted(task, version, lambda _: row, ANSWER, self._answering)
        async with contextlib.aclosing(answers):
            writing = asked.tuned.reading.writing(self.store.backbone)
            if writing is None:
                return await anext(answers)
            ids = [token async for piece in answers for token in piece.ids]
        said = writing.said(torch.tensor([ids], dtype=torch.long))
        return asked.tuned.reading.answers(said, asked.tuned.wording, [row], [asked.example])[0]

    async def write(
        self,
        task: str | None,
        text: str | list[int],
        how: Generation,
        *,
        stop: Sequence[str] = (),
        version: Tuned | None = None,
    ) -> AsyncIterator[Piece]:
        """The text that the model goes on with under a task's prompt, piece by piece; `None` is no prompt.

        The last piece says why it is the last. Closing the iterator gives up the text, and its place at once.

        Arguments:
            text: the task's text; tasks with two texts, or with further columns, have `predict`. Without a prompt it
                may be token ids, which are read as they are.
            how: one text (`sequences=1`). Its `pad` and `cache` are of no account here.
            stop: strings that end the text and do not belong to it.
            version: as `predict`.

        Raises:
            BackboneError: for a model that does not write.
            SettingError: where the text might run past the last position, or past `Limits.cache`.
            MissingError, CheckpointError, DataError, BusyError: as `predict`.
        """
        _, pieces = await self._submitted(
            task, version, lambda tuned: Row({tuned.task.text: text}, "the text"), ANSWER,
            lambda asked: self._written(asked, how, tuple(stop)),
        )  # fmt: skip
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def embed(self, task: str | None, text: str, *, version: Tuned | None = None) -> list[float]:
        """The mean of the last states of a text's tokens under a task's prompt; of an encoder-decoder, the encoder's.

        Raises:
            MissingError, CheckpointError, DataError, BusyError: as `predict`.
        """
        _, answers = await self._submitted(
            task, version, lambda tuned: Row({tuned.task.text: text}, "the text"), MEAN, self._read
        )
        async with contextlib.aclosing(answers):
            found: list[float] = await anext(answers)
            return found

    @property
    def _running(self) -> Worker:
        if self._worker is None:
            raise SettingError("The engine is not running. Write `async with Engine(store) as engine:`.")
        return self._worker

    async def _submitted(
        self,
        task: str | None,
        version: Tuned | None,
        row: Callable[[Tuned], Row],
        question: Question,
        queued: Callable[[Asked], Job],
    ) -> tuple[Asked, AsyncGenerator[Any, None]]:
        """A request in its queue, and its answers."""
        with self._running.queues.accepted():
            asked = await self._loop.run_in_executor(self._reader, self._asked, task, version, row, question)
            job = queued(asked)
        return asked, self._told(job)

    def _asked(self, task: str | None, version: Tuned | None, row: Callable[[Tuned], Row], question: Question) -> Asked:
        """A row under its prompt, as token ids. It runs in the reader's thread."""
        tuned = self._base if task is None else self.store.compiled(version or self.store.get(task))
        own = row(tuned)
        [example] = tuned.wording.encode([own], labelled=False)
        asked = Asked(0, task or BASE, tuned, own, example, question)
        if asked.columns > self.limits.tokens:
            raise DataError(
                f"{own.place}: it has {asked.columns} tokens with its prompt, and a batch has room for "
                f"{self.limits.tokens}. Shorten the text, or raise Limits(tokens)."
            )
        return asked

    def _answering(self, asked: Asked) -> Job:
        writing = asked.tuned.reading.writing(self.store.backbone)
        return self._read(asked) if writing is None else self._written(asked, writing.how, ())

    def _read(self, asked: Asked) -> Job:
        job = Job(asked)
        self._running.queues.read(job)
        return job

    def _written(self, asked: Asked, how: Generation, stop: tuple[str, ...]) -> Job:
        backbone, learned = self.store.backbone, asked.tuned.reading
        if not backbone.shape.decodes:
            raise BackboneError(f"{backbone.name!r} is an encoder and does not write. Use predict, or another model.")
        if how.end is None and asked.tuned is not self._base and (own := learned.writing(backbone)) is not None:
            how = replace(how, end=own.how.end)  # its texts learned to end so
        job = Writing(asked, how=how, stop=stop)
        if how.sequences > 1:
            raise SettingError(f"Generation(sequences={how.sequences}): a request has one text. Ask several times.")
        in_row = 0 if backbone.shape.encodes else asked.positions
        fits(in_row + how.max_new_tokens, backbone.shape.positions, backbone.name)
        if job.tokens > self.limits.cache:
            raise SettingError(
                f"The row may come to {job.tokens} tokens, and there is room for {self.limits.cache}. "
                "Lower max_new_tokens, or raise Limits(cache)."
            )
        self._running.queues.write(job)
        return job

    async def _told(self, job: Job) -> AsyncGenerator[Any, None]:
        """What a request is told; who stops listening gives it up."""
        over = False
        try:
            while not over:
                what = await job.answers.get()
                over = isinstance(what, Exception) or job.over(what)
                if isinstance(what, Exception):
                    raise what
                yield what
        finally:
            if not over:
                self._running.queues.dismiss(job)
