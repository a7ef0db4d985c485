"""Whatever else an engine does meanwhile, a request is answered as its row is by itself.

The oracles are `Tuned.predict` and `Backbone.generate` of one row, without batches of several, drafts or queues.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from promptuary.backbones.generation import Generation, Sampling
from promptuary.backbones.load import load
from promptuary.data.collate import collate
from promptuary.data.source import Row
from promptuary.decoding import ended
from promptuary.errors import BackboneError, BusyError, DataError, MissingError, SettingError, StoppedError
from promptuary.generators import Generator
from promptuary.model import SoftPrompted
from promptuary.serve.base import base
from promptuary.serve.engine import Engine, Limits, Piece
from promptuary.store import Store
from promptuary.tuned import Tuned
from promptuary.values import Instance, Prompt
from tests.kept import every, keep, rows
from tests.saved import save

WRITING: Any = ("gpt2", "llama", "t5", pytest.param("bart", marks=pytest.mark.slow))
NO_WAIT = Limits(wait_s=0.0)
STATIC = ("prompt", "longer", "prefix", "deep", "words", "named", "reply", "short", "plain")  # whatever the input is


@cache
def store(family: str) -> Store:
    """A store with prompts of every kind; tests leave it as it is."""
    place = Path(mkdtemp(prefix=f"promptuary-{family}-"))
    filled = Store(place / "store", load(str(save(family, place / "model"))))
    for number, (name, made) in enumerate(every(family).items()):
        filled.add(name, keep(place / "made" / name, filled.backbone, made, seed=number))
    return filled


@cache
def bare(family: str) -> Tuned:
    return base(store(family).backbone)


def running(work: Callable[[Engine], Awaitable[Any]], of: Store, limits: Limits = NO_WAIT) -> Any:
    """The result of some work with an engine."""

    async def inside() -> Any:
        async with Engine(of, limits) as engine:
            return await asyncio.wait_for(work(engine), 600)

    return asyncio.run(inside())


def same(one: Any, other: Any) -> None:
    """Answers agree, their numbers to rounding."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if isinstance(value, float | dict):
            assert value == pytest.approx(vars(other)[name], abs=2e-5)
        else:
            assert value == vars(other)[name]


def agree(one: Any, other: Any) -> bool:
    try:
        same(one, other)
    except AssertionError:
        return False
    return True


@torch.no_grad()
def alone(tuned: Tuned, text: str, how: Generation) -> tuple[int, ...]:
    """The token ids that `Backbone.generate` goes on with, up to the end."""
    [example] = tuned.wording.encode([Row({tuned.task.text: text}, "text")], labelled=False)
    x = tuned.model.instance_of(collate([example], [0], tuned.pad))
    [ids] = tuned.backbone.generate(tuned.model.call(x), how).tolist()
    end = how.end if how.end is not None else ends(tuned)
    return ended(torch.tensor([ids]), end[0])[0] if end else tuple(ids)


def ends(tuned: Tuned) -> tuple[int, ...]:
    own = tuned.backbone.model.generation_config.eos_token_id
    return () if own is None else (own,)


async def written(engine: Engine, task: str | None, text: str, how: Generation, **more: Any) -> list[Piece]:
    return [piece async for piece in engine.write(task, text, how, **more)]


def ids(pieces: Sequence[Piece]) -> tuple[int, ...]:
    return tuple(token for piece in pieces for token in piece.ids)


def told(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def asked(names: Sequence[str], count: int) -> list[tuple[str, Row]]:
    return list(zip(itertools.cycle(names), rows(count), strict=False))


@pytest.mark.parametrize("family", ["bert", *WRITING])
def test_rows_of_every_kind_and_method_are_answered_as_by_themselves(family: str) -> None:
    names = store(family).names()
    given = asked(names, 2 * len(names))
    expected = [next(store(family).get(name).predict([row])) for name, row in given]

    async def work(engine: Engine) -> Any:
        return await asyncio.gather(*(engine.predict(name, row) for name, row in given)), engine.load

    for limits in (NO_WAIT, Limits(rows=7, tokens=120)):
        said, load = running(work, store(family), limits)
        for answer, own in zip(said, expected, strict=True):
            same(answer, own)
        assert load.waiting == load.running == 0
        assert load.batches < load.rows / 2


def test_prompts_that_have_no_room_in_memory_answer_as_ever() -> None:
    kept = store("gpt2")
    given = asked(kept.names(), 2 * len(kept.names()))
    expected = [next(kept.get(name).predict([row])) for name, row in given]

    async def work(engine: Engine) -> Any:
        return await asyncio.gather(*(engine.predict(name, row) for name, row in given))

    for answer, own in zip(running(work, Store(kept.folder, kept.backbone, held_bytes=1)), expected, strict=True):
        same(answer, own)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_soft_tokens_that_say_the_same_to_every_row_are_read_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = Store(store(family).folder, store(family).backbone), asked(STATIC, 3 * len(STATIC))
    expected = [next(own.get(name).predict([row])) for name, row in given]
    tokens = sum(len(own.get(name).wording.encode([row], labelled=False)[0].ids) for name, row in given)
    compiled: list[Tuned] = []
    plain = Tuned.compiled
    monkeypatch.setattr(Tuned, "compiled", lambda tuned: compiled.append(tuned) or plain(tuned))

    async def work(engine: Engine) -> Any:
        said = await asyncio.gather(*(engine.predict(name, row) for name, row in given))
        await asyncio.gather(*(engine.embed(name, row.fields["text"]) for name, row in given))
        return said, engine.load

    said, load = running(work, own)
    for answer, one in zip(said, expected, strict=True):
        same(answer, one)
    assert load.tokens == 2 * tokens + load.rows - 2 * len(given)  # what is written goes on with one token a row
    assert compiled == [own.get(name) for name in STATIC]


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_greedy_texts_are_those_of_the_row_alone_whoever_joins_and_leaves_meanwhile(family: str) -> None:
    names = [None, *(n for n in store(family).names() if n not in ("spans", "tags"))]
    how = [Generation(max_new_tokens=3 + 4 * (n % 3), end=()) for n in range(2 * len(names))]
    given = list(zip(itertools.cycle(names), (row.fields["text"] for row in rows(len(how))), how, strict=False))

    async def work(engine: Engine) -> Any:
        async def late(number: int, one: tuple[Any, ...]) -> list[Piece]:
            await asyncio.sleep(0.004 * (number % 9))
            return await written(engine, *one)

        async def leaving(text: str) -> None:
            async with contextlib.aclosing(engine.write("prompt", text, Generation(max_new_tokens=40, end=()))) as some:
                async for _ in some:
                    return

        texts = [late(n, one) for n, one in enumerate(given)]
        found, *_ = await asyncio.gather(asyncio.gather(*texts), *(leaving(text) for _, text, _ in given[:6]))
        return found, engine.load

    found, load = running(work, store(family), Limits(wait_s=0.0, rows=20))
    for (name, text, rules), pieces in zip(given, found, strict=True):
        tuned = bare(family) if name is None else store(family).get(name)
        assert ids(pieces) == alone(tuned, text, rules)
        assert [piece.ended for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert load.batches < load.rows / 3  # they were written together


@pytest.mark.parametrize("family", WRITING)
def test_what_is_drawn_with_a_seed_does_not_depend_on_company(family: str) -> None:
    rules = [
        Sampling(seed=5),
        Sampling(temperature=0.7, top_k=20, seed=6),
        Sampling(temperature=1.5, top_p=0.9, seed=-7),
        Sampling(top_k=9, top_p=0.8, seed=2**40),
        None,
    ]
    given = [
        (("reply", "prefix", "short")[n % 3], rows(n + 1)[n].fields["text"], Generation(12, sampling=drawn, end=()))
        for n, drawn in enumerate(rules * 3)
    ]
    before = torch.get_rng_state()
    found = running(lambda engine: asyncio.gather(*(written(engine, *one) for one in given)), store(family))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, text, how), pieces in zip(given, found, strict=True):
        assert ids(pieces) == alone(store(family).get(name), text, how)
    assert len({ids(pieces) for pieces in found}) > len(given) / 2


def test_without_a_seed_two_draws_differ() -> None:
    how = Generation(12, sampling=Sampling(temperature=2.0), end=())
    one, two = running(lambda e: asyncio.gather(*(written(e, "reply", "a box", how) for _ in "ab")), store("gpt2"))
    assert ids(one) != ids(two)


@pytest.mark.parametrize("family", WRITING)
def test_beams_are_those_of_the_row_alone_in_one_piece(family: str) -> None:
    how = [Generation(6, beams=3, end=()), Generation(6, beams=2, sampling=Sampling(seed=3), end=()), Generation(6)]
    given = [(name, row.fields["text"], how[n % 3]) for n, (name, row) in enumerate(asked(["reply", "prefix"], 9))]
    found = running(lambda engine: asyncio.gather(*(written(engine, *one) for one in given)), store(family))
    for (name, text, rules), pieces in zip(given, found, strict=True):
        if rules.beams > 1:
            assert len(pieces) == 1
            assert ids(pieces) == alone(store(family).get(name), text, rules)


@pytest.mark.parametrize("family", WRITING)
def test_pieces_joined_are_the_text_and_stop_strings_end_it(family: str) -> None:
    tokenizer, how = store(family).backbone.tokenizer, Generation(14, end=())
    texts = [row.fields["text"] for row in rows(6)]

    async def work(engine: Engine) -> Any:
        whole = await asyncio.gather(*(written(engine, None, text, how) for text in texts))
        stops = [told(pieces)[3:6] for pieces in whole]
        cut = await asyncio.gather(
            *(written(engine, None, t, how, stop=("", stop, "never")) for t, stop in zip(texts, stops, strict=True))
        )
        return whole, stops, cut

    whole, stops, cut = running(work, store(family))
    for pieces, stop, short in zip(whole, stops, cut, strict=True):
        assert told(pieces) == tokenizer.decode(ids(pieces), skip_special_tokens=True)
        assert told(short) == told(pieces)[: told(pieces).index(stop)]
        assert short[-1].ended == "stop"
        assert ids(pieces)[: len(ids(short))] == ids(short)
        assert len(ids(short)) < len(ids(pieces)) or told(pieces).endswith(stop)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_end_token_ends_a_text_and_is_no_part_of_it(family: str) -> None:
    text, tuned = rows(1)[0].fields["text"], store(family).get("reply")
    whole = alone(tuned, text, Generation(10, end=()))
    end = whole[-1]
    [pieces, learned] = running(
        lambda e: asyncio.gather(*(written(e, "reply", text, Generation(10, end=own)) for own in ((end,), None))),
        store(family),
    )
    assert ids(pieces) == whole[: whole.index(end)]
    assert pieces[-1].ended == "stop"
    assert ids(learned) == alone(tuned, text, Generation(10, end=(tuned.backbone.tokenizer.eos_token_id,)))


def test_only_allowed_tokens_are_written_and_a_rule_that_fails_fails_alone() -> None:
    def odd(so_far: Sequence[int]) -> list[int]:
        return [9 + 2 * len(so_far), 301]

    def broken(so_far: Sequence[int]) -> list[int]:
        if len(so_far) == 3:
            raise ZeroDivisionError
        return odd(so_far)

    hows = [Generation(6, end=(), allowed=odd), Generation(6, end=(), allowed=broken), Generation(6, end=())]

    async def work(engine: Engine) -> Any:
        some = (written(engine, "reply", "a box", how) for how in hows)
        return await asyncio.gather(*some, return_exceptions=True)

    bound, failed, free = running(work, store("gpt2"))
    assert ids(bound) == alone(store("gpt2").get("reply"), "a box", hows[0])
    assert set(ids(bound)) <= {*range(9, 21), 301}
    assert isinstance(failed, ZeroDivisionError)
    assert ids(free) == alone(store("gpt2").get("reply"), "a box", hows[2])


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_an_embedding_is_the_mean_of_the_states_of_the_text(family: str) -> None:
    texts = [row.fields["text"] for row in rows(8)]
    names = [None, "prompt", "prefix", "ipt"]

    async def work(engine: Engine) -> Any:
        others = asyncio.gather(*(engine.predict("prompt", row) for row in rows(4)))
        found = await asyncio.gather(*(engine.embed(n, t) for n, t in zip(names * 2, texts, strict=True)))
        return found, await others

    found, _ = running(work, store(family))
    for name, text, embedding in zip(names * 2, texts, found, strict=True):
        tuned = bare(family) if name is None else store(family).get(name)
        [example] = tuned.wording.encode([Row({"text": text}, "text")], labelled=False)
        with torch.no_grad():
            x = tuned.model.instance(torch.tensor([example.ids]), torch.ones(1, len(example.ids), dtype=torch.bool))
            states = tuned.model(x).hidden[0]
        assert embedding == pytest.approx(states.mean(0).tolist(), abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_bad_row_fails_by_itself(family: str) -> None:
    bad = [
        ("prompt", Row({"txt": "a box"}, "bad"), DataError, "no column 'text'"),
        ("prompt", Row({"text": "box " * 600}, "bad"), DataError, "bad"),
        ("promt", Row({"text": "a box"}, "bad"), MissingError, "Did you mean 'prompt'"),
        ("prompt", Row({"text": 3}, "bad"), DataError, "a number"),
    ]
    good = asked(["prompt", "prefix"], 8)

    async def work(engine: Engine) -> Any:
        given = [
            pair for both in zip(good, itertools.cycle((n, row) for n, row, *_ in bad), strict=False) for pair in both
        ]
        return await asyncio.gather(*(engine.predict(n, row) for n, row in given), return_exceptions=True)

    said = running(work, store(family))
    for (name, row), answer in zip(good, said[::2], strict=True):
        same(answer, next(store(family).get(name).predict([row])))
    for (_, _, kind, message), error in zip(itertools.cycle(bad), said[1::2], strict=False):
        assert isinstance(error, kind)
        assert message in str(error)


class Spoiled(Generator):
    """A prompt that cannot be made for rows of one length."""

    def __init__(self, inner: Generator, tokens: int) -> None:
        super().__init__()
        self.inner, self.tokens, self.length, self.width = inner, tokens, inner.length, inner.width

    def forward(self, x: Instance) -> Prompt:
        if self.tokens in x.mask.sum(1).tolist():
            raise ArithmeticError("spoiled")
        made: Prompt = self.inner(x)
        return made


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_of_a_batch_that_fails_only_those_fail_that_are_to_blame(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, texts = store(family), [row.fields["text"] for row in rows(12)]
    sizes = [len(plain.get("prompt").wording.encode([row], labelled=False)[0].ids) for row in rows(12)]
    kept = {name: plain.get(name) for name in plain.names()}
    whole = kept["prompt"].model
    spoiled = SoftPrompted(plain.backbone, Spoiled(whole.generator, sizes[2]), whole.injection)
    kept["prompt"] = replace(kept["prompt"], model=spoiled)
    monkeypatch.setattr(plain, "get", kept.__getitem__)
    given = asked(["prompt", "prefix"], 12)

    async def work(engine: Engine) -> Any:
        read = [engine.predict(name, row) for name, row in given]
        how = Generation(5, end=())
        asking = list(enumerate(texts)) if family != "bert" else []
        some = [written(engine, ("prompt", "prefix")[n % 2], text, how) for n, text in asking]
        return await asyncio.gather(*read, *some, return_exceptions=True)

    said = running(work, plain)
    guilty = [n for n, size in enumerate(sizes) if size == sizes[2] and n % 2 == 0]
    for n, answer in enumerate(said):
        assert isinstance(answer, ArithmeticError) == (n % 12 in guilty), (n, answer)


def test_of_a_step_that_fails_only_those_fail_that_are_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, texts = store("gpt2").backbone, [row.fields["text"] for row in rows(7)]
    how = Generation(9, end=())
    expected = [alone(store("gpt2").get("reply"), text, how) for text in texts]
    spoiled = expected[3][4]
    plain = backbone.advance

    def advance(draft: Any, tokens: Sequence[int]) -> Any:
        if spoiled in tokens:
            raise ArithmeticError("spoiled")
        return plain(draft, tokens)

    monkeypatch.setattr(backbone, "advance", advance)

    async def work(engine: Engine) -> Any:
        return await asyncio.gather(*(written(engine, "reply", t, how) for t in texts), return_exceptions=True)

    for own, found in zip(expected, running(work, store("gpt2")), strict=True):
        if spoiled in own[:-1]:  # nothing is computed after the last token
            assert isinstance(found, ArithmeticError)
        else:
            assert ids(found) == own


def test_cancelled_requests_leave_nothing_behind() -> None:
    async def work(engine: Engine) -> None:
        long = Generation(max_new_tokens=50, end=())
        texts = [asyncio.create_task(written(engine, "reply", "a box", long)) for _ in range(6)]
        some = [asyncio.create_task(engine.predict("prompt", row)) for row in rows(6)]
        while engine.load.running < 6:
            await asyncio.sleep(0)
        for task in (*texts, *some):
            task.cancel()
        await asyncio.gather(*texts, *some, return_exceptions=True)
        while engine.load.running or engine.load.waiting:
            await asyncio.sleep(0.001)
        assert engine.load.rows < 6 * 50
        same(await engine.predict("prompt", rows(1)[0]), next(store("gpt2").get("prompt").predict(rows(1))))

    running(work, store("gpt2"))


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_search_that_nobody_waits_for_ends(family: str) -> None:
    model, seen, dismissed = store(family).backbone.model, list[int](), threading.Event()

    def step(*_: object) -> None:
        seen.append(1)
        if len(seen) > 3:
            assert dismissed.wait(60)

    async def work(engine: Engine) -> None:
        long = Generation(max_new_tokens=40, end=(), beams=2)
        texts = [asyncio.create_task(written(engine, "reply", "a box", long)) for _ in range(2)]
        while len(seen) <= 3:
            await asyncio.sleep(0.001)
        for task in texts:
            task.cancel()
        await asyncio.gather(*texts, return_exceptions=True)
        dismissed.set()
        while engine.load.running or engine.load.waiting:
            await asyncio.sleep(0.001)
        ended = len(seen)
        short = Generation(max_new_tokens=5, end=(), beams=2)
        assert ids(await written(engine, "reply", "a box", short)) == alone(store(family).get("reply"), "a box", short)
        assert ended < 10

    hook = model.get_output_embeddings().register_forward_pre_hook(step)
    try:
        running(work, store(family))
    finally:
        hook.remove()


def test_leaving_finishes_what_was_accepted_and_refuses_what_is_new() -> None:
    how = Generation(max_new_tokens=12, end=())

    async def inside() -> Any:
        engine = Engine(store("gpt2"), Limits(wait_s=10.0))
        with pytest.raises(SettingError, match="async with Engine"):
            await engine.predict("prompt", rows(1)[0])
        async with engine:
            texts = [asyncio.create_task(written(engine, "reply", row.fields["text"], how)) for row in rows(5)]
            read = [asyncio.create_task(engine.predict("prompt", row)) for row in rows(5)]
            await asyncio.sleep(0)
            leaving = asyncio.create_task(engine.__aexit__())
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="shutting down"):
                await engine.predict("prompt", rows(1)[0])
            found = await asyncio.gather(*texts), await asyncio.gather(*read)
            await leaving
        return found

    texts, read = asyncio.run(asyncio.wait_for(inside(), 600))
    for row, pieces, answer in zip(rows(5), texts, read, strict=True):
        assert ids(pieces) == alone(store("gpt2").get("reply"), row.fields["text"], how)
        same(answer, next(store("gpt2").get("prompt").predict([row])))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", ["queues.chosen", "worker.read", "memory.Keeper.give_back"])
def test_nobody_waits_for_an_engine_that_has_stopped(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def failing(*_: object, **__: object) -> Any:
        raise SystemExit("spoiled")

    async def work(engine: Engine) -> Any:
        assert engine.alive
        pieces = engine.write("reply", "a box", Generation(max_new_tokens=55, end=()))
        await anext(pieces)  # it is on the desk
        monkeypatch.setattr(f"promptuary.serve.{broken}", failing)
        texts = [written(engine, "reply", "a box", Generation(max_new_tokens=50, end=())) for _ in range(3)]
        read = [engine.predict("prompt", row) for row in rows(9)]
        all_told = asyncio.gather(*read, *texts, told(pieces), return_exceptions=True)
        said = await asyncio.wait_for(all_told, 30)
        while engine.alive:
            await asyncio.sleep(0.001)
        return [*said, *await asyncio.gather(engine.predict("prompt", rows(1)[0]), return_exceptions=True)]

    async def told(pieces: Any) -> list[Piece]:
        return [piece async for piece in pieces]

    said = running(work, store("gpt2"))
    stopped = [one for one in said if isinstance(one, StoppedError) and "has stopped" in str(one)]
    assert len(stopped) == len(said) if broken != "memory.Keeper.give_back" else stopped[-2:] == said[-2:]


def test_more_requests_than_may_wait_are_refused_and_told_when_to_come_again() -> None:
    async def work(engine: Engine) -> Any:
        return await asyncio.gather(*(engine.predict("prompt", row) for row in rows(30)), return_exceptions=True)

    said = running(work, store("bert"), Limits(wait_s=0.02, queue=10))
    refused = [answer for answer in said if isinstance(answer, BusyError)]
    assert len(refused) == 20
    assert all(0 < one.retry_after_s <= 60 and "10 requests wait" in str(one) for one in refused)
    for row, answer in zip(rows(10), said[:10], strict=True):
        same(answer, next(store("bert").get("prompt").predict([row])))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_request_has_one_version_of_its_prompt_from_beginning_to_end(family: str, tmp_path: Path) -> None:
    backbone, name = store(family).backbone, "prompt" if family == "bert" else "reply"
    made = every(family)[name]
    versions = [keep(tmp_path / str(seed), backbone, made, seed=seed) for seed in (1, 2)]
    changing = Store(tmp_path / "store", backbone)
    row, how = rows(3)[2], Generation(10, end=())

    def offline(version: Path) -> Any:
        changing.add("changing", version)
        tuned = changing.get("changing")
        return alone(tuned, row.fields["text"], how) if family != "bert" else next(tuned.predict([row]))

    expected = [offline(version) for version in versions]

    async def work(engine: Engine) -> Any:
        found: list[Any] = []

        async def client() -> None:
            for _ in range(7):
                if family == "bert":
                    found.append(await engine.predict("changing", row))
                else:
                    found.append(ids(await written(engine, "changing", row.fields["text"], how)))

        async def changer() -> None:
            for n in itertools.count():
                await asyncio.to_thread(changing.add, "changing", versions[n % 2])
                await asyncio.sleep(0.002)

        change = asyncio.create_task(changer())
        await asyncio.gather(*(client() for _ in range(6)))
        change.cancel()
        return found

    seen = {
        next(n for n, own in enumerate(expected) if (agree(own, one) if family == "bert" else own == one))
        for one in running(work, changing)
    }
    assert seen == {0, 1}


def test_prompts_of_another_precision_have_passes_of_their_own(tmp_path: Path) -> None:
    backbone = store("gpt2").backbone
    mixed = Store(tmp_path / "store", backbone)
    for name, precision in (("half", "bf16"), ("whole", "fp32")):
        mixed.add(name, keep(tmp_path / name, backbone, every("gpt2")["reply"], precision=precision))
    how, text = Generation(8, end=()), rows(1)[0].fields["text"]
    given = [("half", text, how), ("whole", text, how)] * 2
    found = running(lambda engine: asyncio.gather(*(written(engine, *one) for one in given)), mixed)
    with torch.autocast("cpu", torch.bfloat16):
        half = alone(mixed.get("half"), text, how)
    assert [ids(pieces) for pieces in found] == [half, alone(mixed.get("whole"), text, how)] * 2


def test_what_an_engine_cannot_do_is_refused_with_a_sentence() -> None:
    def refused(of: str, kind: type[Exception], match: str, *given: Any, limits: Limits = NO_WAIT) -> None:
        with pytest.raises(kind, match=match):
            running(lambda engine: written(engine, *given), store(of), limits)

    refused("bert", BackboneError, "does not write", None, "a box", Generation())
    refused("gpt2", SettingError, "one text", None, "a box", Generation(beams=2, sequences=2))
    refused("gpt2", SettingError, "positions", None, "a box", Generation(max_new_tokens=500))
    refused("gpt2", SettingError, "room for 20", None, "a box", Generation(30), limits=Limits(cache=20))
    refused(
        "gpt2", DataError, "a batch has room for 4", None, "a box is here now", Generation(3), limits=Limits(tokens=4)
    )
    refused("gpt2", DataError, "no column", "spans", "a box", Generation(3))
    for wrong in ({"rows": 0}, {"tokens": 0}, {"queue": 0}, {"cache": 0}, {"wait_s": -1.0}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]
