"""One backbone, many prompts at once: threads and compiled calls see their own prompt and no other."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from promptuary.injections import KeyValues
from promptuary.methods import METHODS
from promptuary.model import SoftPrompted
from promptuary.values import Output
from tests.answers import EXACT, Answer, Given, answers, distance, gap, prompted
from tests.backbones import HOOKED, backbone
from tests.laws.checks import PAIRS
from tests.strategies import pad, pad_targets, ragged

TEXTS = ragged(6, 2, 4)


def meanwhile(*tasks: Callable[[], None]) -> None:
    """Run the tasks in threads that take turns as often as possible; raise what any of them raised."""
    raised: list[BaseException] = []
    together = threading.Barrier(len(tasks))

    def begin(task: Callable[[], None]) -> None:
        together.wait()
        try:
            task()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=begin, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.fixture
def _hasty() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("method", ["p-tuning-v2", "deep-prompt-tuning"])
@pytest.mark.parametrize("family", ["bert", "albert", "llama", "t5"])
def test_threads_do_not_see_one_anothers_prompts(family: str, method: str) -> None:
    models = [prompted(family, method, seed=seed) for seed in range(2)]
    with torch.no_grad():
        wanted = [answers(model, TEXTS) for model in models]
    assert distance(wanted[0][0], wanted[1][0]) > 1e-2

    def ask(model: SoftPrompted, known: list[Answer]) -> None:
        with torch.no_grad():
            for _ in range(8):
                for one, other in zip(answers(model, TEXTS), known, strict=True):
                    assert distance(one, other) <= EXACT

    meanwhile(*(lambda m=m, w=w: ask(m, w) for m, w in zip(models, wanted, strict=True)))


@pytest.mark.usefixtures("_hasty")
def test_a_thread_that_reads_keys_and_values_disturbs_no_other() -> None:
    b = backbone("llama")
    words = list(range(10, 40))
    known = b.keys_values(words, frozenset({"decoder"}))
    model = prompted("llama", "p-tuning-v2")
    with torch.no_grad():
        wanted = answers(model, TEXTS)

    def ask() -> None:
        with torch.no_grad():
            for _ in range(20):
                for one, other in zip(answers(model, TEXTS), wanted, strict=True):
                    assert distance(one, other) <= EXACT

    def read() -> None:
        for _ in range(40):
            assert torch.equal(b.keys_values(words, frozenset({"decoder"})), known)

    meanwhile(ask, read)


@pytest.mark.parametrize("family", HOOKED)
@torch.no_grad()
def test_a_call_that_failed_leaves_nothing_behind(family: str) -> None:
    b = backbone(family)
    plain = prompted(family, "frozen")
    before = answers(plain, TEXTS)
    injection = KeyValues(b.shape)
    broken = SoftPrompted(b, Given(torch.randn(5, 3, injection.width)), injection)  # five rows for a batch of three
    with pytest.raises(Exception, match=r"size|expand|shape|batch"):
        answers(broken, TEXTS)
    for one, other in zip(answers(plain, TEXTS), before, strict=True):
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize(("family", "method"), [p for p in PAIRS if p[0] in ("bert", "gpt2", "bart")])
@torch.no_grad()
def test_the_wrapped_model_is_itself_again_after_a_call(family: str, method: str) -> None:
    wrapped = backbone(family).model
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    more = {"decoder_input_ids": ids} if wrapped.config.is_encoder_decoder else {}
    before = wrapped(input_ids=ids, **more).logits
    answers(prompted(family, method), TEXTS)
    assert torch.equal(wrapped(input_ids=ids, **more).logits, before)


ONE_LAYER: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 1},
    "llama": {"num_hidden_layers": 1},
    "t5": {"num_layers": 1, "num_decoder_layers": 1},
}


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", "prompt-tuning"),
        pytest.param("llama", "p-tuning-v2", marks=pytest.mark.slow),
        pytest.param("bert", "deep-prompt-tuning", marks=pytest.mark.slow),
        pytest.param("t5", "p-tuning-v2", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
@pytest.mark.long
def test_a_compiled_model_says_the_same(family: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checks of shapes cannot be compiled
    b = backbone(family, **ONE_LAYER[family])
    model = SoftPrompted(b, *METHODS[method].parts(b.shape, length=3)).eval()
    batch = pad(TEXTS, "left", extra=1)
    targets = None if family == "bert" else pad_targets(TEXTS, "right")[0]

    def said(run: Callable[..., Output]) -> Tensor:
        out = run(model.instance(batch.ids, batch.mask, batch.types), targets)
        return out.hidden if out.targets is None else out.targets

    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    before = said(model)
    assert gap(said(compiled), before) <= EXACT
    for parameter in model.parameters():
        parameter.mul_(-1.5)
    assert gap(said(compiled), said(model)) <= EXACT  # the prompt is an input of the compiled code, no constant
    assert gap(said(model), before) > 1e-2
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@torch.no_grad()
def test_a_copy_of_the_model_answers_with_its_own_weights(family: str) -> None:
    wrapped = backbone(family).model
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": ids} if wrapped.config.is_encoder_decoder else {}
    before = wrapped(input_ids=ids, **more).logits
    copied = copy.deepcopy(wrapped)
    assert torch.equal(copied(input_ids=ids, **more).logits, before)
    for weight in copied.parameters():
        weight.zero_()
    assert not torch.equal(copied(input_ids=ids, **more).logits, before)
    assert torch.equal(wrapped(input_ids=ids, **more).logits, before)
    blocks = [m for m in copied.modules() if isinstance(m, torch.nn.Linear)]
    assert not any(p.any() for m in blocks for p in m.parameters())
    hidden = copied(input_ids=ids, **more, output_hidden_states=True)
    states = hidden.encoder_hidden_states if more else hidden.hidden_states
    assert not states[-1].any(), "every layer of the copy is the copy's"
