"""What the routes ask for, without HTTP: rows and texts to answers, within a caller's rights and a limit of time.

Every task answers in one way here: with pieces of text. A task that writes has many of them; one that labels, tags or
finds has one, which is what it says. So chats and completions, streamed or not, are the same few lines for all kinds.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from promptuary.backbones.generation import Generation, Sampling
from promptuary.data.source import Row
from promptuary.data.task import named
from promptuary.data.tokens import Tokens
from promptuary.errors import BackboneError, CheckpointError, MissingError, SettingError, nearest
from promptuary.kinds.kind import causal
from promptuary.serve.answering import Answering
from promptuary.serve.engine import Piece
from promptuary.serve.faults import Fault
from promptuary.serve.keys import Caller
from promptuary.serve.logs import note
from promptuary.store import BASE, Store
from promptuary.tuned import Tuned

T = TypeVar("T")
BARE_TOKENS = 128  # of the longest text of the bare model, unless the request says otherwise
GREEDY = 1e-3  # a lower temperature than this is none: scores divided by it are no numbers any more


@dataclass(frozen=True)
class Wish:
    """How a text is asked for; `None` where the request says nothing."""

    tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1

    def sampling(self, number: int) -> Sampling | None:
        """How the tokens of one of its texts are drawn; each has a seed of its own."""
        if self.temperature is None or self.temperature < GREEDY:
            return None
        seed = None if self.seed is None else (self.seed + number + 2**63) % 2**64 - 2**63
        return Sampling(temperature=self.temperature, top_p=1.0 if self.top_p is None else self.top_p, seed=seed)


class Service:
    """An engine and its store, for callers.

    Arguments:
        timeout_s: for an answer, or a whole text. imports: the folder whose folders may be added by name.
    """

    def __init__(self, engine: Answering, store: Store, *, timeout_s: float = 60.0, imports: Path | None = None) -> None:
        self.engine, self.store, self.timeout_s, self.imports = engine, store, timeout_s, imports
        backbone = store.backbone
        self.writes = backbone.shape.decodes and backbone.has_head
        self._tokens = Tokens(backbone.tokenizer, causal=causal(backbone))
        self._described: WeakKeyDictionary[Tuned, dict[str, Any]] = WeakKeyDictionary()
        self._describing = asyncio.Lock()

    def names(self, caller: Caller) -> list[str]:
        """The tasks that the caller may ask."""
        return [name for name in self.store.names() if caller.may(name)]

    def bases(self, caller: Caller) -> list[str]:
        """The bare model's name, where it writes and the caller may ask it."""
        return [BASE] if self.writes and caller.may(BASE) else []

    def check(self, caller: Caller, name: str) -> None:
        """Refuse a task that is not there.

        Raises:
            Fault: 404, with the nearest name that the caller may ask.
        """
        if name != BASE and name not in self.store:
            known = [*self.names(caller), *self.bases(caller)]
            near = nearest(name, known) if known else "The store is empty."
            raise Fault(404, f"There is no task {name!r}. {near}", code="model_not_found", param="model")

    async def tuned(self, caller: Caller, name: str) -> Tuned:
        """The prompt of a task.

        Raises:
            Fault: 404 for one that is not there, 500 for one that is damaged.
        """
        self.check(caller, name)
        try:
            return await asyncio.to_thread(self.store.get, name)
        except MissingError as error:  # taken out in between
            raise Fault(404, str(error), code="model_not_found", param="model") from error
        except CheckpointError as error:
            note("damaged", task=name, error=str(error))
            sentence = f"The prompt of the task {name!r} is damaged on the server, or belongs to another model."
            raise Fault(500, sentence, code="task_damaged") from error

    async def predict(self, caller: Caller, asked: Sequence[tuple[str, str | list[str] | dict[str, Any]]]) -> list[Any]:
        """The fields of the answer to each row, in order; rows of all tasks share the model's batches.

        Arguments:
            asked: a task with a text for its text column, or with a row's fields.
        """
        with caller.asking([name for name, _ in asked]):
            own = {name: await self.tuned(caller, name) for name in dict.fromkeys(name for name, _ in asked)}
            rows = [(name, _row(own[name], given, f"rows.{i}")) for i, (name, given) in enumerate(asked)]
            answers = await self._within(_all([self.engine.predict(name, row) for name, row in rows]))
        return [{"task": name, **vars(answer)} for (name, _), answer in zip(rows, answers, strict=True)]

    async def write(
        self, caller: Caller, name: str, texts: Sequence[Sequence[str]], wish: Wish
    ) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of `wish.n` answers to each of `texts` as they come, with the number of their answer.

        Arguments:
            texts: the texts of each row: one, or two for tasks that have two.
        """
        self.check(caller, name)
        with caller.asking([name] * len(texts) * wish.n):
            say = await self._says(caller, name)
            numbered = [(text, i) for text in texts for i in range(wish.n)]
            streams = [say(text, wish, i) for text, i in numbered]
            async with aclosing(_together(streams, self._deadline())) as pieces:
                async for piece in pieces:
                    yield piece

    async def embed(self, caller: Caller, name: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in order."""
        self.check(caller, name)
        with caller.asking([name] * len(texts)):
            return await self._within(_all([self.engine.embed(None if name == BASE else name, t) for t in texts]))

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the texts are, without soft tokens, template and special tokens."""
        return sum(len(written.ids) for written in self._tokens.write(texts))

    async def describe(self, caller: Caller, name: str) -> tuple[Tuned, dict[str, Any]]:
        """A prompt, and what `promptuary show` says of it; made once for each version, one at a time."""
        from promptuary.show import describe

        tuned = await self.tuned(caller, name)
        async with self._describing:
            if tuned not in self._described:
                self._described[tuned] = await asyncio.to_thread(describe, tuned)
        return tuned, self._described[tuned]

    async def add(self, name: str, files: Mapping[str, bytes] | None, folder: str | None) -> None:
        """Put a prompt into the store: its files, or a folder of the server's `imports` by name.

        Raises:
            Fault: 400 for what is no prompt of this model.
        """
        source = files if folder is None else self._import(folder)
        try:
            await asyncio.to_thread(self.store.add, name, source)
        except CheckpointError as error:
            raise Fault(400, str(error), code="not_a_prompt") from error

    async def change(self, change: Callable[..., None], *names: str) -> None:
        """Remove or reload tasks.

        Raises:
            Fault: 404 for one that is not there, 409 for one that cannot be read now.
        """
        try:
            await asyncio.to_thread(change, *names)
        except MissingError as error:
            raise Fault(404, str(error), code="task_not_found") from error
        except CheckpointError as error:
            raise Fault(409, str(error), code="task_damaged") from error

    def chat(self, name: str, messages: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
        """The texts of a row that a chat is for a task.

        The bare model hears its tokenizer's chat template, or where there is none lines `role: text` with `assistant:`
        behind them. A tuned prompt knows texts, not chats: each message is a text, system messages first among them,
        and a task with one text gets them joined by an empty line.
        """
        if name != BASE:
            return tuple(message["content"] for message in messages)
        tokenizer = self.store.backbone.tokenizer
        if tokenizer.chat_template is None:
            return ("\n".join([*(f"{m['role']}: {m['content']}" for m in messages), "assistant:"]),)
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise SettingError(f"The model's chat template refuses these messages: {error}.") from error
        return (str(text),)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _says(
        self, caller: Caller, name: str
    ) -> Callable[[Sequence[str], Wish, int], AsyncIterator[Piece]]:
        """How a task answers a row of texts in pieces."""
        if name == BASE:
            if not self.writes:
                raise BackboneError(f"{BASE!r}: {self.store.backbone.name!r} is an encoder, which writes no text.")
            return lambda texts, wish, i: self._written(None, _one(texts), wish, i, BARE_TOKENS)
        tuned = await self.tuned(caller, name)
        writing = tuned.reading.writing(self.store.backbone)
        if writing is None or tuned.task.text_pair is not None:
            return lambda texts, wish, i: self._told(name, tuned, texts)
        return lambda texts, wish, i: self._written(name, _one(texts), wish, i, writing.how.max_new_tokens)

    def _written(self, name: str | None, text: str, wish: Wish, i: int, most: int) -> AsyncIterator[Piece]:
        how = Generation(max_new_tokens=wish.tokens or most, sampling=wish.sampling(i))
        return self.engine.write(name, text, how, stop=wish.stop)

    async def _told(self, name: str, tuned: Tuned, texts: Sequence[str]) -> AsyncIterator[Piece]:
        """What a task that does not write says, as one piece."""
        own = [_one(texts)] if tuned.task.text_pair is None else texts
        answer = await self.engine.predict(name, tuned.reading.row(tuned.task, own, "texts"))
        yield Piece(_spoken(tuned.reading.output(answer)), (), "stop")

    def _import(self, folder: str) -> Path:
        if self.imports is None:
            raise Fault(400, "Folders are not added here: the server was started without --imports.", code="no_imports")
        known = sorted(p.name for p in self.imports.iterdir() if p.is_dir())
        if folder not in known:
            near = nearest(folder, known) if known else "It holds none."
            raise Fault(404, f"There is no folder {folder!r} to import. {near}", code="no_folder", param="folder")
        return self.imports / folder

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.timeout_s

    async def _within(self, work: Any) -> Any:
        async with asyncio.timeout(self.timeout_s):
            return await work


def _row(tuned: Tuned, given: str | list[str] | dict[str, Any], place: str) -> Row:
    """A row of the task; a text, or a list of words to tag, is for its text column."""
    match given:
        case dict():
            return Row(given, place)
        case list():
            return Row({tuned.task.text: given}, place)
        case _:
            return tuned.reading.row(tuned.task, [given], place)


def _one(texts: Sequence[str]) -> str:
    return "\n\n".join(texts)


def _spoken(fields: Mapping[str, Any]) -> str:
    """The first field of an answer, which is what it says, as text."""
    said = next(iter(fields.values()))
    each = said if isinstance(said, list) else [said]
    return " ".join("_" if value is None else named(value) for value in each)


async def _all(work: Sequence[Any]) -> list[Any]:
    """The results of coroutines that run together; the first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _together(streams: Sequence[AsyncIterator[T]], deadline: float) -> AsyncIterator[tuple[int, T]]:
    """The items of several streams as they come, each with the number of its stream.

    Raises:
        TimeoutError: at `deadline` of the loop's clock.
    """
    loop = asyncio.get_running_loop()
    waiting = {asyncio.ensure_future(_next(stream)): i for i, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(
                waiting, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise TimeoutError
            for task in sorted(done, key=waiting.__getitem__):
                i = waiting.pop(task)
                found = task.result()
                if found is not None:
                    waiting[asyncio.ensure_future(_next(streams[i]))] = i
                    yield i, found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            with contextlib.suppress(Exception):
                await stream.aclose()  # type: ignore[attr-defined]


async def _next(stream: AsyncIterator[T]) -> T | None:
    return await anext(stream, None)
