"""Who is let in, who is next, and what is kept free for texts that are being written."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from promptuary.backbones.generation import Generation, Sampling
from promptuary.backbones.picking import Pen, pen, picked
from promptuary.errors import BusyError, SettingError
from promptuary.serve.jobs import Job, Writing
from promptuary.serve.limits import Limits, Load
from promptuary.serve.queues import Queues, Room, Round


def asked(columns: int, precision: str = "fp32") -> Any:
    return SimpleNamespace(columns=columns, positions=columns, tuned=SimpleNamespace(precision=precision))


def text(columns: int, new: int, **more: Any) -> Writing:
    return Writing(asked(columns), how=Generation(new, **more))


def queues(**limits: Any) -> Queues:
    return Queues(Limits(**{"wait_s": 0.0, **limits}), lambda: Load(rows=10, seconds=5.0))


def following(some: Queues, room: Room | None = None) -> Round:
    found = some.next(room or Room())
    assert found is not None
    return found


def test_texts_join_in_their_order_while_rows_and_cache_last() -> None:
    some = queues(rows=4, cache=100)
    jobs = [text(10, 10), text(10, 15), text(10, 30), text(1, 1)]
    for job in jobs:
        some.write(job)
    assert following(some).texts == jobs[:2]  # three rows of 40 are 120
    assert following(some, Room(2, 25)).texts == []
    assert following(some, Room(1, 20)).texts == [jobs[2]]
    assert following(some, Room(4, 5)).texts == []
    assert following(some, Room(3, 5)).texts == [jobs[3]]
    alone = text(90, 90)
    some.write(alone)
    assert following(some, Room(1, 5)).texts == []
    assert following(some).texts == [alone]


def test_texts_that_join_at_once_are_read_within_the_tokens_of_a_batch() -> None:
    some = queues(tokens=50)
    jobs = [text(n, 5) for n in (10, 20, 30, 3)]
    for job in jobs:
        some.write(job)
    assert [following(some).texts for _ in range(3)] == [jobs[:2], jobs[2:3], jobs[3:]]


def test_beams_of_one_kind_go_together_and_draws_by_themselves() -> None:
    some = queues(rows=8)
    drawn = Sampling(seed=1)
    jobs = [text(3, 5, beams=3), text(4, 5, beams=3), text(5, 5, beams=3), text(3, 6, beams=3)]
    jobs += [text(3, 5, beams=2, sampling=drawn), text(3, 5, beams=2, sampling=drawn)]
    for job in jobs:
        some.write(job)
    assert [following(some).beams for _ in range(5)] == [jobs[:2], jobs[2:3], jobs[3:4], jobs[4:5], jobs[5:]]


def test_rows_wait_for_company_as_long_as_agreed_and_no_longer_when_there_is_enough() -> None:
    some = queues(rows=2, wait_s=1000.0)
    jobs = [Job(asked(3)) for _ in range(3)]
    some.read(jobs[0])
    assert not following(some, Room(1, 1)).rows  # a text is being written: nobody waits idly
    some.read(jobs[1])
    some.read(jobs[2])
    assert following(some).rows == jobs[:2]
    late = threading.Timer(0.05, some.close)
    late.start()
    assert following(some).rows == jobs[2:]
    assert some.next(Room()) is None


def test_rows_of_two_precisions_have_a_pass_each_the_first_one_first() -> None:
    some = queues()
    jobs = [Job(asked(3, ("bf16", "fp32")[n % 2])) for n in range(4)]
    for job in jobs:
        some.read(job)
    assert [following(some).rows for _ in range(2)] == [jobs[::2], jobs[1::2]]


def test_who_has_gone_makes_room() -> None:
    some = queues(queue=3)
    rows, writing = Job(asked(3)), text(3, 3)
    some.read(rows)
    some.write(writing)
    with some.accepted():
        assert len(some) == 3
        with pytest.raises(BusyError, match=r"Ask again in 1\.5 seconds") as caught, some.accepted():
            pass
        assert caught.value.retry_after_s == 1.5
    some.dismiss(rows)
    assert following(some).texts == [writing]
    assert len(some) == 0


def test_rows_of_a_request_are_let_in_together_or_not_at_all() -> None:
    some = queues(queue=4)
    some.admit(4)
    with pytest.raises(SettingError, match=r"5 rows at once, and 4 may wait here \(--queue\)"):
        some.admit(5)
    some.read(Job(asked(3)))
    some.admit(3)
    with pytest.raises(BusyError, match="1 requests wait already, and there is room for 4"):
        some.admit(4)
    some.close()
    with pytest.raises(BusyError, match="shutting down"):
        some.admit(1)


def test_a_pen_writes_one_text() -> None:
    for how in (Generation(beams=2), Generation(sampling=Sampling(), sequences=2)):
        with pytest.raises(SettingError, match="one text and no beam"):
            Pen(how, None)


def test_scores_that_are_no_numbers_fail_their_own_row() -> None:
    scores = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [2.0, 1.0]])
    pens = [pen(Generation(sampling=Sampling(temperature=0.01, seed=n)), torch.device("cpu")) for n in range(3)]
    one, broken, other = picked(scores, pens, [[], [], []])
    assert (one, other) == (1, 0)
    assert isinstance(broken, RuntimeError)
