"""Three ways from text to classes, against loops over labels and tokens on tiny models of both kinds."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptuary.decoding import MODES, Labels, calibrated, constrained, free, rank
from promptuary.errors import SettingError
from promptuary.injections import Embeddings, KeyValues
from promptuary.kinds.kind import WAYS
from promptuary.model import SoftPrompted
from promptuary.values import Instance, Targets
from tests.answers import Given
from tests.backbones import backbone
from tests.strategies import SIDES, Side, pad, ragged, seeds

END = 1
FAMILIES = ["gpt2", "llama", "t5", "bart"]
TEXTS = ragged(5, 2, 3, 4, seed=9)
IDS = ((20, 21), (20, 22, 23), (20, 22), (30,), (31, END))  # a label within a label, one with its end token


def spelled(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def labels(ids: Sequence[Sequence[int]] = IDS) -> Labels:
    whole = tuple(tuple(one) for one in ids)
    return Labels(tuple(spelled([i for i in one if i != END]) for one in whole), whole, END, spelled)


def prompted(family: str) -> SoftPrompted:
    b = backbone(family) if family in ("t5", "bart") else backbone(family, tie_word_embeddings=False)
    noise = torch.Generator().manual_seed(4)
    if family == "llama":
        inject = KeyValues(b.shape)
        return SoftPrompted(b, Given(torch.randn(2, inject.width, generator=noise)), inject).eval()
    return SoftPrompted(b, Given(torch.randn(2, b.shape.dim, generator=noise)), Embeddings(b.shape)).eval()


def instance(model: SoftPrompted, side: Side = "right", seed: int = 0) -> Instance:
    batch = pad(TEXTS, side, extra=1, seed=seed)
    return model.instance(batch.ids.clamp(min=0), batch.mask)


@torch.no_grad()
def log_probabilities(model: SoftPrompted, row: int, so_far: Sequence[int]) -> list[float]:
    """Of the token after `so_far`, for one text alone."""
    ids = torch.tensor([[[*so_far, 0]]])
    x = model.instance(torch.tensor([TEXTS[row].ids]), torch.ones(1, len(TEXTS[row].ids), dtype=torch.bool))
    out = model(x, Targets(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert out.targets is not None
    scores: list[float] = out.logits(out.targets[0, 0, -1]).float().log_softmax(0).tolist()
    return scores


def log_probability(model: SoftPrompted, row: int, ids: Sequence[int]) -> float:
    return sum(log_probabilities(model, row, ids[:n])[token] for n, token in enumerate(ids))


def greedy(
    model: SoftPrompted, row: int, steps: int, allowed: Callable[[list[int]], Sequence[int]], end: int | None = END
) -> list[int]:
    said: list[int] = []
    while len(said) < steps:
        scores = log_probabilities(model, row, said)
        best = max(allowed(said), key=lambda token: scores[token])
        if best == end:
            break
        said.append(best)
    return said


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_rank_is_the_argmax_over_labels_of_their_summed_log_probability(family: str, per_token: bool) -> None:
    model, known = prompted(family), labels()
    found = rank(model, instance(model), known, per_token=per_token)
    assert found.probability is not None
    for row in range(len(TEXTS)):
        scores = [log_probability(model, row, ids) / (len(ids) if per_token else 1) for ids in IDS]
        best = max(range(len(IDS)), key=lambda i: scores[i])
        assert int(found.label[row]) == best
        assert found.texts[row] == known.texts[best]
        assert torch.allclose(found.probability[row], torch.tensor(scores).softmax(0), atol=1e-4)
    assert found.illegal == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrated_labels_are_ranked_by_how_much_likelier_an_input_makes_them(family: str) -> None:
    model, known = prompted(family), labels()
    x = instance(model)
    empty = model.instance(x.ids[2:], x.mask[2:])  # the last two texts stand for inputs without content
    found = rank(model, x, calibrated(model, empty, known))
    assert found.probability is not None
    scores = torch.tensor([[log_probability(model, row, ids) for ids in IDS] for row in range(len(TEXTS))])
    shares = scores.softmax(1)
    wanted = shares / shares[2:].mean(0)
    assert torch.allclose(found.probability, wanted / wanted.sum(1, keepdim=True), atol=1e-4)
    assert torch.equal(found.label, wanted.argmax(1))
    assert not torch.equal(found.label, rank(model, x, known).label)
    alone = model.instance(x.ids[:1], x.mask[:1])
    even = rank(model, alone, calibrated(model, alone, known)).probability
    assert even is not None
    assert torch.allclose(even, torch.full((1, len(IDS)), 1 / len(IDS)), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_free_decoding_takes_the_model_at_its_word(family: str) -> None:
    model = prompted(family)
    said = [greedy(model, row, 3, lambda _: range(99)) for row in range(len(TEXTS))]
    # The second text is a label letter by letter; the first is one token short of a label.
    known = labels([said[1], [*said[0], 50], (97, 98)])
    found = free(model, instance(model), known, max_new_tokens=3)
    assert found.texts == tuple(map(spelled, said))
    assert found.label.tolist() == [0 if one == said[1] else -1 for one in said]
    assert found.illegal == pytest.approx(sum(one != said[1] for one in said) / len(said))
    assert found.probability is None


def test_a_label_that_a_tokenizer_does_not_give_back_is_known_by_its_tokens() -> None:
    model = prompted("t5")
    said = [greedy(model, row, 3, lambda _: range(99)) for row in range(len(TEXTS))]
    known = Labels(("{yes}", "no"), (tuple(said[1]), (97, 98)), END, lambda ids: "yes")
    found = free(model, instance(model), known, max_new_tokens=3)
    assert found.label.tolist() == [0 if one == said[1] else -1 for one in said]


@pytest.mark.parametrize("family", FAMILIES)
def test_free_decoding_reads_up_to_the_end_token(family: str) -> None:
    model = prompted(family)
    whole = [greedy(model, row, 6, lambda _: range(99), None) for row in range(len(TEXTS))]
    end = whole[1][-1]
    before = [one[: one.index(end)] if end in one else one for one in whole]
    found = free(model, instance(model), Labels(("x", "y"), ((96,), (97,)), end, spelled), max_new_tokens=6)
    assert found.texts == tuple(map(spelled, before))


@pytest.mark.parametrize("family", FAMILIES)
def test_constrained_decoding_is_greedy_over_what_can_still_become_a_label(family: str) -> None:
    model, known = prompted(family), labels()
    bare = [[i for i in ids if i != END] for ids in IDS]

    def allowed(said: list[int]) -> list[int]:
        return [[*ids, END][len(said)] for ids in bare if ids[: len(said)] == said]

    found = constrained(model, instance(model), known)
    expected = [greedy(model, row, 9, allowed) for row in range(len(TEXTS))]
    assert [bare[i] for i in found.label.tolist()] == expected
    assert found.texts == tuple(map(spelled, expected))
    assert found.illegal == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_constrained_decoding_with_as_many_beams_as_labels_is_ranking_with_the_end_token(family: str) -> None:
    model = prompted(family)
    ids = [(20, 21), (20, 22), (30, 31), (40, 41)]  # of one length: beams are compared per token
    ended = labels([(*one, END) for one in ids])
    found = constrained(model, instance(model), labels(ids), beams=len(ids))
    assert torch.equal(found.label, rank(model, instance(model), ended).label)


@pytest.mark.parametrize("way", [free, rank, constrained])
@given(side=st.sampled_from(SIDES), seed=seeds, order=st.permutations(range(len(IDS))))
def test_neither_padding_nor_the_order_of_the_labels_matters(
    way: Callable[..., object], side: Side, seed: int, order: list[int]
) -> None:
    model = prompted("gpt2")
    plain = way(model, instance(model), labels())
    turned = way(model, instance(model, side, seed), labels([IDS[i] for i in order]))
    assert turned.texts == plain.texts  # type: ignore[attr-defined]
    assert [order[i] if i >= 0 else -1 for i in turned.label.tolist()] == plain.label.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("texts", "ids", "says"),
    [
        (("a",), ((1,),), "two classes"),
        (("a", "b"), ((5,),), "2 texts and 1 lists"),
        (("a", "a"), ((5,), (6,)), "texts=...): 'a' is there twice"),
        (("a", "b"), ((5,), (5, END)), "ids=..."),
        (("a", "b"), ((5,), (END,)), "label 1 has no token"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    texts: tuple[str, ...], ids: tuple[tuple[int, ...], ...], says: str
) -> None:
    with pytest.raises(SettingError) as caught:
        Labels(texts, ids, END, spelled)
    assert says in str(caught.value)


def test_every_way_to_decode_has_its_name() -> None:
    assert set(WAYS) == set(MODES)
