"""What the routes ask for, without HTTP: rows and texts to answers, within a caller's rights and a limit of time.

Every task answers in one way here: with pieces of text. A task that writes has many of them; one that labels, tags or
finds has one, which is what it says. So chats and completions, streamed or not, are the same few lines for all kinds.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from promptuary.backbones.generation import Generation, Sampling
from promptuary.data.source import Row
from promptuary.data.task import named
from promptuary.data.tokens import Tokens
from promptuary.errors import BackboneError, CheckpointError, MissingError, nearest
from promptuary.kinds.kind import causal
from promptuary.serve.answering import Answering
from promptuary.serve.chats import Chats
from promptuary.serve.engine import Piece
from promptuary.serve.faults import Fault
from promptuary.serve.keys import Caller
from promptuary.serve.streams import every, together
from promptuary.store import BASE, Store
from promptuary.tuned import Tuned

T = TypeVar("T")
Pieces = AsyncGenerator[Piece, None]
Given = tuple[str, ...] | list[int]  # the texts of a row, or for the bare model token ids
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

    def __init__(
        self, engine: Answering, store: Store, *, timeout_s: float = 60.0, imports: Path | None = None
    ) -> None:
        self.engine, self.store, self.timeout_s, self.imports = engine, store, timeout_s, imports
        backbone = store.backbone
        self.writes = backbone.shape.decodes and backbone.has_head
        self._tokens = Tokens(backbone.tokenizer, causal=causal(backbone))
        self._chats = Chats(backbone.tokenizer)
        self._described: WeakKeyDictionary[Tuned, dict[str, Any]] = WeakKeyDictionary()
        self._describing = asyncio.Lock()

    def names(self, caller: Caller) -> list[str]:
        """The tasks that the caller may ask; with many of them it takes a while."""
        return [name for name in self.store.names() if caller.may(name)]

    def bases(self, caller: Caller) -> list[str]:
        """The bare model's name, where it writes and the caller may ask it."""
        return [BASE] if self.writes and caller.may(BASE) else []

    async def check(self, caller: Caller, name: str) -> None:
        """Refuse a task that is not there, and one that is not the caller's whether it is there or not.

        The nearest name that the caller may ask is told, which costs as much as a row.

        Raises:
            Fault: 404, or 403 for one that is not the caller's.
        """
        if caller.may(name) and (name == BASE or name in self.store):
            return
        with caller.asking(1):
            known = [*await asyncio.to_thread(self.names, caller), *self.bases(caller)]
            near = await asyncio.to_thread(nearest, name, known) if known else "There is none to ask."
            if not caller.may(name):
                raise Fault(403, f"This key is not for {name!r}. {near}", code="task_not_allowed", param="model")
            raise Fault(404, f"There is no task {name!r}. {near}", code="model_not_found", param="model")

    async def tuned(self, caller: Caller, name: str) -> Tuned:
        """The prompt of a task.

        Raises:
            Fault: as `check`; 400 for the model without one.
        """
        await self.check(caller, name)
        if name == BASE:
            sentence = (
                f"{BASE!r} is the model without a prompt, which writes texts and nothing else: ask /v1/completions."
            )
            raise Fault(400, sentence, code="no_prompt", param="task")
        return await asyncio.to_thread(self.store.get, name)

    async def predict(self, caller: Caller, asked: Sequence[tuple[str, str | list[str] | dict[str, Any]]]) -> list[Any]:
        """The fields of the answer to each row, in order; rows of all tasks share the model's batches.

        Arguments:
            asked: a task with a text for its text column, or with a row's fields.
        """
        for name in (names := dict.fromkeys(name for name, _ in asked)):
            await self.check(caller, name)
        with caller.asking(len(asked)):
            own = {name: await self.tuned(caller, name) for name in names}
            rows = [(name, _row(own[name], given, f"rows.{i}")) for i, (name, given) in enumerate(asked)]
            self.engine.admit(len(rows))
            each = [self.engine.predict(name, row, version=own[name]) for name, row in rows]
            answers = await self._within(every(each))
        return [{"task": name, **vars(answer)} for (name, _), answer in zip(asked, answers, strict=True)]

    async def write(
        self, caller: Caller, name: str, texts: Sequence[Given], wish: Wish
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of `wish.n` answers to each of `texts` as they come, with the number of their answer.

        Arguments:
            texts: of each row: one, or two for tasks that have two.
        """
        await self.check(caller, name)
        with caller.asking(len(texts) * wish.n):
            say = await self._says(caller, name)
            numbered = [(text, i) for text in texts for i in range(wish.n)]
            self.engine.admit(len(numbered))
            streams = [say(text, wish, i) for text, i in numbered]
            async with aclosing(together(streams, self._deadline())) as pieces:
                async for piece in pieces:
                    yield piece

    async def embed(self, caller: Caller, name: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in order."""
        await self.check(caller, name)
        with caller.asking(len(texts)):
            task, tuned = (None, None) if name == BASE else (name, await self.tuned(caller, name))
            self.engine.admit(len(texts))
            return await self._within(every([self.engine.embed(task, text, version=tuned) for text in texts]))

    async def tokens(self, texts: Sequence[str] | list[int]) -> int:
        """How many tokens texts are, without soft tokens, template and special tokens; or token ids."""
        if texts and isinstance(texts[0], int):
            return len(texts)
        written = await asyncio.to_thread(self._tokens.write, cast("Sequence[str]", texts))
        return sum(len(own.ids) for own in written)

    async def describe(self, caller: Caller, name: str) -> tuple[Tuned, dict[str, Any]]:
        """A prompt, and what `promptuary show` says of it; made once for each version, one at a time."""
        from promptuary.show import describe

        await self.check(caller, name)
        with caller.asking(1):
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
        source = self._import(folder) if folder is not None else files or {}
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

    def chat(self, name: str, messages: Sequence[Mapping[str, str]]) -> Given:
        """What a chat is for a task; a long one takes a moment.

        The bare model hears it as `Chats` says. A tuned prompt knows texts, not chats: each message is a text, and a
        task with one text gets them joined by an empty line.

        Raises:
            SettingError: for messages that the model's template refuses.
        """
        return self._chats(messages) if name == BASE else tuple(message["content"] for message in messages)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _says(self, caller: Caller, name: str) -> Callable[[Given, Wish, int], Pieces]:
        """How a task answers rows of texts in pieces, all by the same version of its prompt."""
        if name == BASE:
            if not self.writes:
                raise BackboneError(f"{BASE!r}: {self.store.backbone.name!r} is an encoder, which writes no text.")
            return lambda texts, wish, i: self._written(None, None, _one(texts), wish, i, BARE_TOKENS)
        tuned = await self.tuned(caller, name)
        writing = tuned.reading.writing(self.store.backbone)
        if writing is None or tuned.task.text_pair is not None:
            return lambda texts, wish, i: self._told(name, tuned, texts)
        return lambda texts, wish, i: self._written(name, tuned, _one(texts), wish, i, writing.how.max_new_tokens)

    def _written(
        self, name: str | None, tuned: Tuned | None, text: str | list[int], wish: Wish, i: int, most: int
    ) -> Pieces:
        how = Generation(max_new_tokens=wish.tokens or most, sampling=wish.sampling(i))
        return cast("Pieces", self.engine.write(name, text, how, stop=wish.stop, version=tuned))  # it can be closed

    async def _told(self, name: str, tuned: Tuned, texts: Given) -> Pieces:
        """What a task that does not write says, as one piece."""
        own = [_one(texts)] if tuned.task.text_pair is None else texts
        row = tuned.reading.row(tuned.task, cast("Sequence[str]", own), "texts")
        answer = await self.engine.predict(name, row, version=tuned)
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

    async def _within(self, work: Awaitable[T]) -> T:
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


def _one(given: Given) -> str | list[int]:
    return given if isinstance(given, list) else "\n\n".join(given)


def _spoken(fields: Mapping[str, Any]) -> str:
    """The first field of an answer, which is what it says, as text."""
    said = next(iter(fields.values()))
    each = said if isinstance(said, list) else [said]
    return " ".join("_" if value is None else named(value) for value in each)
