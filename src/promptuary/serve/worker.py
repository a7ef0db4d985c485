"""The thread that runs the model: in turns a batch of rows that are read, and the next token of all texts."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import ends
from promptuary.errors import StoppedError
from promptuary.mixing import generate
from promptuary.serve.apart import apart
from promptuary.serve.desk import Desk
from promptuary.serve.jobs import Job, Piece, Post, Writing
from promptuary.serve.limits import Limits, Load
from promptuary.serve.memory import Keeper
from promptuary.serve.queues import Queues, Room, Round
from promptuary.serve.spelling import spelled
from promptuary.sharing import alike, batched, read, shares
from promptuary.train.evaluation import arithmetic

LOG = logging.getLogger(__name__)


class Worker:
    """Answers what is in its queues.

    Arguments:
        post: where answers go.
    """

    def __init__(self, backbone: Backbone, limits: Limits, post: Post) -> None:
        self._backbone, self._post = backbone, post
        self._desk = Desk(backbone, post)
        self._done, self._running, self._memory = Load(), 0, Keeper()
        self._turn: Sequence[Job] = ()
        self.queues = Queues(limits, lambda: self._done)
        self._thread = threading.Thread(target=self._work, name="promptuary-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything is answered; the queues must be closed, or be so meanwhile."""
        self._thread.join()

    @property
    def load(self) -> Load:
        """What there is to do, and what was done."""
        return replace(self._done, waiting=len(self.queues), running=self._running)

    @property
    def alive(self) -> bool:
        """Whether it answers, or finishes what it accepted."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            LOG.exception("The engine has stopped")
            stopped = StoppedError(f"The engine has stopped ({type(error).__name__}: {error}).")
            for job in (*self._turn, *self.queues.abandoned()):
                self._post.tell(job, stopped)
            self._desk.clear(stopped)
            self._post.send()
            raise

    @torch.no_grad()
    def _loop(self) -> None:
        while (turn := self.queues.next(Room(len(self._desk), self._desk.longest))) is not None:
            self._turn = (*turn.rows, *turn.beams, *turn.texts)
            self._running = len(self._desk) + len(self._turn)
            try:
                self._do(turn)
            except Exception as error:  # no memory, or a mistake of ours: all who may be concerned are told
                LOG.exception("The engine gives up what it was doing")
                for job in self._turn:
                    self._post.tell(job, error)
                self._desk.clear(error)
            self._turn = ()
            self._running = len(self._desk)
            self._post.send()
            self._memory.give_back()

    def _do(self, turn: Round) -> None:
        if turn.rows:
            tokens = [job.asked.columns for job in turn.rows]
            with self._counted(len(tokens), sum(tokens), padding=len(tokens) * max(tokens) - sum(tokens)):
                self._each(turn.rows, self._read)
        if turn.beams:
            with self._counted(len(turn.beams), sum(job.tokens for job in turn.beams)):
                self._each(turn.beams, self._search)
        self._desk.leave()
        if turn.texts:
            with self._counted(len(turn.texts), sum(job.asked.columns for job in turn.texts)):
                self._desk.join(turn.texts)
        if len(self._desk):
            with self._counted(len(self._desk), len(self._desk)):
                self._desk.step()

    def _each(self, jobs: Sequence[Any], work: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        """Tell each request what the work on all says to it; where that fails, only the one that is to blame fails."""
        for part, said in apart(jobs, work, self._post.tell):
            for job, what in zip(part, said, strict=True):
                self._post.tell(job, what)

    def _read(self, jobs: Sequence[Job]) -> list[Any]:
        """The answers of rows that share a pass."""
        with arithmetic(self._backbone.device, jobs[0].asked.tuned.precision):
            said = {id(asked): answer for asked, answer in read([job.asked for job in jobs])}
        return [said[id(job.asked)] for job in jobs]

    def _search(self, jobs: Sequence[Writing]) -> list[Piece]:
        """Texts that are written with beams, each as one piece; they end early when nobody waits for any of them."""
        groups, how = batched(alike([job.asked for job in jobs])), jobs[0].how

        def left(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return torch.full((len(ids),), all(job.gone for job in jobs), device=ids.device)

        with arithmetic(self._backbone.device, jobs[0].asked.tuned.precision):
            found = generate(shares(groups), how, stopping_criteria=[left])
        end = ends(how, self._backbone.model)
        ids = {
            id(one): row
            for (own, _), rows in zip(groups, found, strict=True)
            for one, row in zip(own, rows.tolist(), strict=True)
        }
        return [_whole(self._backbone.tokenizer, ids[id(job.asked)], end, job.stop) for job in jobs]

    @contextmanager
    def _counted(self, rows: int, tokens: int, *, padding: int = 0) -> Iterator[None]:
        began, done = time.perf_counter(), self._done
        yield
        self._done = replace(
            done,
            batches=done.batches + 1,
            rows=done.rows + rows,
            tokens=done.tokens + tokens,
            padding=done.padding + padding,
            seconds=done.seconds + time.perf_counter() - began,
        )
        self._running = len(self._desk)
        self._post.send()


def _whole(tokenizer: Any, ids: Sequence[int], end: Sequence[int], stop: Sequence[str]) -> Piece:
    """A text that was written at once, as its only piece."""
    own = tuple(ids[: next((n for n, token in enumerate(ids) if token in end), len(ids))])
    text, stopped = spelled(tokenizer, own, stop)
    return Piece(text, own, "stop" if stopped or len(own) < len(ids) else "length")
