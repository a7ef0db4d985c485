"""Read-outs against loops over rows, words and tokens, on outputs made by hand."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError
from promptuary.readouts import (
    Classifier,
    LanguageModel,
    Likelihood,
    Prediction,
    Span,
    Tagger,
    WordsAsContinuation,
    WordsAtBlanks,
    log_prior,
)
from promptuary.values import Output, Targets
from tests.strategies import SIDES, places, seeds

HIDDEN, VOCABULARY = 6, 17
TABLE = torch.randn(HIDDEN, VOCABULARY, generator=torch.Generator().manual_seed(3))
MISSING = float("nan")  # what stands at padding must not matter, whatever it is


def number(one: Tensor) -> float:
    return float(one.detach())


def scored(states: Tensor) -> Tensor:
    return states.float() @ TABLE


def output(rows: Sequence[Tensor], columns: list[list[int]], width: int, targets: Tensor | None = None) -> Output:
    """Each row's states at its columns, rubbish elsewhere."""
    hidden = torch.full((len(rows), width, HIDDEN), MISSING)
    for row, (states, at) in enumerate(zip(rows, columns, strict=True)):
        hidden[row, at] = states
    return Output(hidden, targets, scored)


def batch(columns: list[list[int]], width: int, **more: Any) -> Batch:
    mask = torch.zeros(len(columns), width, dtype=torch.bool)
    for row, at in enumerate(columns):
        mask[row, at] = True
    ids, task = torch.zeros(mask.shape, dtype=torch.long), torch.arange(len(columns))
    return Batch(ids, mask, ids, task * 0, task, **more)


def at_columns(values: Sequence[Sequence[int]], columns: list[list[int]], width: int, empty: int) -> Tensor:
    laid = torch.full((len(columns), width), empty)
    for row, at in enumerate(columns):
        laid[row, at] = torch.tensor(values[row])
    return laid


def states(lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(n, HIDDEN, generator=source) for n in lengths]


lengths_of = st.lists(st.integers(1, 6), min_size=1, max_size=4)


# Classifier

POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
    "mean": lambda row: torch.stack(list(row)).sum(0) / len(row),
}


@pytest.mark.parametrize("pool", POOLED)
@given(lengths=lengths_of, side=st.sampled_from(SIDES), seed=seeds)
def test_classifier_reads_each_rows_own_tokens_wherever_they_stand(
    pool: Any, lengths: list[int], side: Any, seed: int
) -> None:
    readout, rows = Classifier(3, HIDDEN, pool=pool, seed=seed), states(lengths, seed)
    columns, width = places(lengths, side, extra=2, seed=seed), max(lengths) + 2
    assert readout.targets(batch(columns, width)) is None
    found = readout.predict(output(rows, columns, width), batch(columns, width))
    for i, row in enumerate(rows):
        scores = [number(readout.head.weight[c] @ POOLED[pool](row) + readout.head.bias[c]) for c in range(3)]
        total = sum(math.exp(s) for s in scores)
        assert found.label[i] == max(range(3), key=lambda c: scores[c])
        assert found.probability[i].tolist() == pytest.approx([math.exp(s) / total for s in scores], abs=1e-5)


def test_classifier_loss_is_the_mean_over_rows_with_a_label_and_its_gradient_is_finite() -> None:
    for pool in POOLED:
        readout, rows = Classifier(3, HIDDEN, pool=pool), states([2, 4, 3])  # type: ignore[arg-type]
        columns = places([2, 4, 3], "left")
        given_labels = batch(columns, 4, labels=torch.tensor([2, -1, 0]))
        out = output(rows, columns, 4)
        loss = readout.loss(out, given_labels)
        p = readout.predict(out, given_labels).probability.detach()
        assert number(loss) == pytest.approx(-(math.log(p[0, 2]) + math.log(p[2, 0])) / 2, abs=1e-5)
        loss.backward()
        for parameter in readout.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())


def test_a_batch_without_any_known_label_has_loss_zero_and_no_nan_gradient() -> None:
    readout, columns = Classifier(2, HIDDEN), [[0, 1]]
    loss = readout.loss(output(states([2]), columns, 2), batch(columns, 2, labels=torch.tensor([-1])))
    loss.backward()
    assert number(loss) == 0.0
    assert readout.head.weight.grad is not None
    assert number(readout.head.weight.grad.abs().max()) == 0.0


def test_classifier_stays_in_float32_under_bfloat16_states_and_autocast() -> None:
    readout, columns = Classifier(2, HIDDEN), [[0, 1, 2]]
    row = states([3])[0]
    out = Output(row[None].bfloat16(), None, scored)
    exact = readout.scores(Output(row[None].bfloat16().float(), None, scored), batch(columns, 3))
    with torch.autocast("cpu", torch.bfloat16):
        found = readout.scores(out, batch(columns, 3))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_classifier_starts_small_and_equal_for_equal_seeds_and_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = Classifier(4, 64, seed=1), Classifier(4, 64, seed=1), Classifier(4, 64, seed=2)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert 0.01 < number(one.head.weight.std()) < 0.03
    assert number(one.head.bias.abs().max()) == 0.0
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_acts_in_training_only() -> None:
    readout, columns = Classifier(2, HIDDEN, dropout=0.9), [[0]]
    out, b = output(states([1]), columns, 1), batch(columns, 1)
    training = torch.cat([readout.scores(out, b) for _ in range(20)])
    evaluated = torch.cat([readout.eval().scores(out, b) for _ in range(20)])
    assert len(training.unique(dim=0)) > 1
    assert len(evaluated.unique(dim=0)) == 1


# Label words

WORDS = [[[3, 4], [5]], [[6]], [[7, 8, 9], [1], [2, 2]]]


def naive_label_scores(
    tokens_of: Callable[[list[int]], list[float]], words: Any, tokens: str, combine: str
) -> list[float]:
    """`tokens_of` gives the log-probability of every token of a word."""
    scores = []
    for label in words:
        each = [sum(tokens_of(w)) / (len(w) if tokens == "mean" else 1) for w in label]
        scores.append(math.log(sum(map(math.exp, each))) if combine == "sum" else sum(each) / len(each))
    return scores


@pytest.mark.parametrize("tokens", ["sum", "mean"])
@pytest.mark.parametrize("combine", ["sum", "mean"])
@given(lengths=st.lists(st.integers(4, 8), min_size=1, max_size=3), side=st.sampled_from(SIDES), seed=seeds)
def test_words_at_blanks_score_as_a_loop_over_labels_words_and_tokens(
    tokens: Any, combine: Any, lengths: list[int], side: Any, seed: int
) -> None:
    readout = WordsAtBlanks(WORDS, blanks=4, tokens=tokens, words=combine)
    columns, rows = places(lengths, side, extra=1, seed=seed), states(lengths, seed)
    blanks = [sorted(torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:4].tolist()) for n in lengths]
    where = torch.tensor([[at[b] for b in chosen] for at, chosen in zip(columns, blanks, strict=True)])
    width = max(lengths) + 1
    out, b = output(rows, columns, width), batch(columns, width, blanks=where, labels=torch.arange(len(rows)) % 3)
    scores, found = readout.scores(out, b), readout.predict(out, b)
    losses = []
    for i, row in enumerate(rows):

        def tokens_of(word: list[int], row: Tensor = row, chosen: list[int] = blanks[i]) -> list[float]:
            return [number(scored(row[at]).log_softmax(0)[t]) for at, t in zip(chosen, word, strict=False)]

        naive = naive_label_scores(tokens_of, WORDS, tokens, combine)
        assert scores[i].tolist() == pytest.approx(naive, abs=1e-4)
        restricted = [math.exp(s) / sum(map(math.exp, naive)) for s in naive]
        assert found.probability[i].tolist() == pytest.approx(restricted, abs=1e-4)
        losses.append(-math.log(restricted[i % 3]))
    assert number(readout.loss(out, b)) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_one_word_of_one_token_a_label_is_a_softmax_restricted_to_these_tokens() -> None:
    readout, columns = WordsAtBlanks([[[4]], [[9]]], blanks=1), [[0, 1]]
    row = states([2])[0]
    found = readout.predict(output([row], columns, 2), batch(columns, 2, blanks=torch.tensor([[1]])))
    assert torch.allclose(found.probability[0], scored(row[1])[[4, 9]].softmax(0), atol=1e-6)
    assert not list(readout.parameters())
    assert not readout.state_dict()


def state_after(row: int, said: Sequence[int], seed: int) -> Tensor:
    """What a causal model has in mind of a row, after what it was forced to say."""
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(hash((seed, row, *said)) % 2**31))


def forced(targets: Targets, seed: int) -> Tensor:
    predicting = torch.full((*targets.ids.shape, HIDDEN), MISSING)
    for row, choice, step in targets.mask.nonzero().tolist():
        predicting[row, choice, step] = state_after(row, targets.ids[row, choice, :step].tolist(), seed)
    return predicting


def spelled(row: int, word: Sequence[int], seed: int) -> list[float]:
    """The log-probability of every token of a word, each from a state of its own."""
    return [number(scored(state_after(row, word[:s], seed)).log_softmax(0)[t]) for s, t in enumerate(word)]


@pytest.mark.parametrize("tokens", ["sum", "mean"])
@pytest.mark.parametrize("words", [WORDS, [[[3, 4]], [[3], [3, 4, 5]], [[3, 6], [7]]], [[[3]], [[4]], [[5], [6]]]])
@given(rows=st.integers(1, 3), seed=seeds)
def test_words_as_continuation_score_as_a_loop_over_teacher_forced_tokens(
    tokens: Any, words: list[list[list[int]]], rows: int, seed: int
) -> None:
    readout, columns = WordsAsContinuation(words, tokens=tokens), [[0]] * rows
    b = batch(columns, 1, labels=torch.arange(rows) % 3)
    out = output(states([1] * rows), columns, 1, forced(readout.targets(b), seed))
    scores, losses = readout.scores(out, b), []
    for i in range(rows):
        naive = naive_label_scores(lambda word, i=i: spelled(i, word, seed), words, tokens, "sum")  # type: ignore[misc]
        assert scores[i].tolist() == pytest.approx(naive, abs=1e-4)
        losses.append(math.log(sum(map(math.exp, naive))) - naive[i % 3])
    assert number(readout.loss(out, b)) == pytest.approx(sum(losses) / rows, abs=1e-4)


def test_the_backbone_is_asked_for_each_beginning_and_no_more() -> None:
    def asked(words: list[list[list[int]]]) -> list[list[int]]:
        targets = WordsAsContinuation(words).choices(2)
        assert torch.equal(targets.ids[0], targets.ids[1])
        return [t[m].tolist() for t, m in zip(targets.ids[1], targets.mask[1], strict=True)]

    assert asked(WORDS) == [[3, 4], [7, 8, 9], [2, 2]]  # 5, 6 and 1 need no state but the row's own
    assert asked([[[3, 4]], [[3], [3, 4, 5]], [[3, 6]]]) == [[3, 4, 5]]
    assert list(map(len, asked([[[3]], [[4]]]))) == [1]  # one token, whichever: what it would say next is not asked


def test_calibration_divides_by_the_probabilities_on_an_input_without_content() -> None:
    words, columns = [[[4]], [[9]], [[2]]], [[0]]
    plain, blank = WordsAtBlanks(words), torch.tensor([[0]])
    contentless = [output([s], columns, 1) for s in states([1, 1], seed=5)]
    said = [plain.predict(o, batch(columns, 1, blanks=blank)).probability[0] for o in contentless]
    prior = log_prior(torch.cat([plain.scores(o, batch(columns, 1, blanks=blank)) for o in contentless]))
    assert torch.allclose(prior.exp(), (said[0] + said[1]) / 2, atol=1e-6)
    calibrated = WordsAtBlanks(words, prior=prior)
    row = states([1], seed=6)
    b = batch(columns, 1, blanks=blank)
    p, raw = (r.predict(output(row, columns, 1), b).probability[0] for r in (calibrated, plain))
    divided = raw / prior.exp()
    assert torch.allclose(p, divided / divided.sum(), atol=1e-6)
    one = WordsAtBlanks(words, prior=log_prior(plain.scores(contentless[0], b)))
    assert torch.allclose(one.predict(contentless[0], b).probability, torch.full((1, 3), 1 / 3), atol=1e-6)


# Text

TEXTS = [[3, 4, 5], [6], [7, 1]]


def padded(texts: Sequence[Sequence[int]], side: Any = "right", seed: int = 0) -> Targets:
    """One target text a row, padded on any side."""
    columns = places([len(t) for t in texts], side, extra=1, seed=seed)
    width = max(map(len, texts)) + 1
    mask = at_columns([[1] * len(t) for t in texts], columns, width, 0).bool()
    return Targets(at_columns(texts, columns, width, 0)[:, None], mask[:, None])


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@given(side=st.sampled_from(SIDES), seed=seeds)
def test_text_loss_is_the_mean_over_all_target_tokens(z_loss: float, smoothing: float, side: Any, seed: int) -> None:
    targets = padded(TEXTS, side, seed)
    predicting = torch.randn(*targets.ids.shape, HIDDEN, generator=torch.Generator().manual_seed(seed))
    predicting[~targets.mask] = MISSING
    columns = [[0]] * len(TEXTS)
    readout = LanguageModel(z_loss=z_loss, smoothing=smoothing)
    b, out = batch(columns, 1, targets=targets), output(states([1] * 3), columns, 1, predicting)
    losses, own = [], [0.0] * 3
    for row, choice, step in targets.mask.nonzero().tolist():
        logits = scored(predicting[row, choice, step])
        log_p = [number(v) for v in logits - logits.exp().sum().log()]
        wanted = int(targets.ids[row, choice, step])
        own[row] += log_p[wanted]
        spread = [(1 - smoothing) * (v == wanted) + smoothing / VOCABULARY for v in range(VOCABULARY)]
        entropy = -sum(s * p for s, p in zip(spread, log_p, strict=True))
        losses.append(entropy + z_loss * number(logits.exp().sum().log()) ** 2)
    assert readout.targets(b) is targets
    assert number(readout.loss(out, b)) == pytest.approx(sum(losses) / 6, abs=1e-4)
    said = readout.predict(out, b)
    assert isinstance(said, Likelihood)
    assert said.log_probability.tolist() == pytest.approx(own, abs=1e-4)
    assert said.tokens.tolist() == [3, 1, 2]


def test_text_with_labels_learns_its_own_text_and_is_evaluated_by_ranking_all_of_them() -> None:
    readout, columns = LanguageModel(TEXTS), [[0], [0]]
    b = batch(columns, 1, targets=padded([TEXTS[2], TEXTS[0]]), labels=torch.tensor([2, 0]))
    assert readout.targets(b) is b.targets
    readout.eval()
    choices = readout.targets(b)
    assert choices is not None
    out = output(states([1, 1]), columns, 1, forced(choices, seed=1))
    sums = [[sum(spelled(r, TEXTS[c], seed=1)) for c in range(3)] for r in range(2)]
    found = readout.predict(out, b)
    assert isinstance(found, Prediction)
    assert found.label.tolist() == [max(range(3), key=lambda c: row[c]) for row in sums]
    assert torch.allclose(found.probability, torch.tensor(sums).softmax(1), atol=1e-5)
    # The loss is that of the row's own text: 2 + 3 tokens.
    assert number(readout.loss(out, b)) == pytest.approx(-(sums[0][2] + sums[1][0]) / 5, abs=1e-5)


def test_ranking_per_token_divides_by_the_length() -> None:
    columns = [[0]]
    summed, per_token = LanguageModel([[3, 3, 3], [6]]).eval(), LanguageModel([[3, 3, 3], [6]], per_token=True).eval()
    flat = Output(torch.zeros(1, 1, HIDDEN), torch.zeros(1, 2, 3, HIDDEN), scored)  # every token is equally probable
    by_sum, by_mean = summed.predict(flat, batch(columns, 1)), per_token.predict(flat, batch(columns, 1))
    assert isinstance(by_sum, Prediction)
    assert isinstance(by_mean, Prediction)
    assert by_sum.label.tolist() == [1]
    assert by_mean.probability[0].tolist() == pytest.approx([0.5, 0.5])


# Tags and spans


@given(lengths=lengths_of, side=st.sampled_from(SIDES), seed=seeds)
def test_tagger_reads_words_at_their_first_token_and_learns_tagged_ones_only(
    lengths: list[int], side: Any, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    readout, rows = Tagger(3, HIDDEN, seed=seed), states(lengths, seed)
    columns, width = places(lengths, side, extra=1, seed=seed), max(lengths) + 1
    begins = [torch.randint(0, 2, (n,), generator=source).tolist() for n in lengths]
    words = [[sum(b[:i]) if b[i] else -1 for i in range(len(b))] for b in begins]
    tags = [[int(torch.randint(-1, 3, (), generator=source)) if w >= 0 else -1 for w in row] for row in words]
    b = batch(
        columns,
        width,
        words=at_columns(words, columns, width, -1),
        tags=at_columns(tags, columns, width, -1),
    )
    out = output(rows, columns, width)
    found, losses, sequences = readout.predict(out, b), [], []
    for i, row in enumerate(rows):
        best = []
        for place, state in enumerate(row):
            scores = readout.head.weight @ state + readout.head.bias
            if words[i][place] >= 0:
                best.append(int(scores.argmax()))
                assert torch.allclose(found.probability[i, columns[i][place]], scores.softmax(0), atol=1e-5)
            if tags[i][place] != -1:
                losses.append(number(-scores.log_softmax(0)[tags[i][place]]))
        sequences.append(best)
    assert found.sequences() == sequences
    assert number(found.probability.sum()) == pytest.approx(sum(map(len, sequences)), abs=1e-4)
    loss = readout.loss(out, b)
    assert number(loss) == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-5)
    loss.backward()
    assert readout.head.weight.grad is not None
    assert bool(readout.head.weight.grad.isfinite().all())


@given(lengths=lengths_of, side=st.sampled_from(SIDES), longest=st.integers(1, 4), seed=seeds, empty=st.booleans())
def test_span_is_the_best_of_all_pairs_within_the_context(
    lengths: list[int], side: Any, longest: int, seed: int, empty: bool
) -> None:
    source = torch.Generator().manual_seed(seed)
    readout, rows = Span(HIDDEN, longest=longest, seed=seed), states(lengths, seed)
    columns, width = places(lengths, side, extra=2, seed=seed), max(lengths) + 2
    inside = [torch.randint(0, 2, (n,), generator=source).tolist() for n in lengths]
    if empty:
        inside[0] = [0] * lengths[0]
    context = at_columns(inside, columns, width, 1).bool()  # true at padding: must not matter
    out, b = output(rows, columns, width), batch(columns, width, context=context)
    found = readout.predict(out, b)
    for i, row in enumerate(rows):
        scores = row @ readout.head.weight.T
        pairs = {
            (s, e): number(scores[s, 0] + scores[e, 1])
            for s in range(len(row))
            for e in range(s, min(s + longest, len(row)))
            if inside[i][s] and inside[i][e]
        }
        if not pairs:
            assert found.columns[i].tolist() == [-1, -1]
            assert number(found.score[i]) == -math.inf
            continue
        s, e = max(pairs, key=lambda pair: pairs[pair])
        assert found.columns[i].tolist() == [columns[i][s], columns[i][e]]
        assert number(found.score[i]) == pytest.approx(pairs[s, e], abs=1e-5)


@given(lengths=lengths_of, side=st.sampled_from(SIDES), seed=seeds)
def test_span_loss_is_over_the_context_and_ignores_rows_without_an_answer(
    lengths: list[int], side: Any, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    readout, rows = Span(HIDDEN, seed=seed), states(lengths, seed)
    columns, width = places(lengths, side, extra=1, seed=seed), max(lengths) + 1
    inside = [torch.randint(0, 2, (n,), generator=source).tolist() for n in lengths]
    ends = []
    for marks in inside:
        there = [i for i, yes in enumerate(marks) if yes]
        ends.append((there[0], there[-1]) if len(there) > 1 else (-1, -1))
    spans = [[-1 if p == -1 else at[p] for p in pair] for pair, at in zip(ends, columns, strict=True)]
    b = batch(columns, width, context=at_columns(inside, columns, width, 0).bool(), spans=torch.tensor(spans))
    losses = []
    for row, there, pair in zip(rows, inside, ends, strict=True):
        scores = row @ readout.head.weight.T
        for which, place in enumerate(pair):
            if place != -1:
                total = sum(math.exp(number(scores[i, which])) for i, yes in enumerate(there) if yes)
                losses.append(math.log(total) - number(scores[place, which]))
    loss = readout.loss(output(rows, columns, width), b)
    assert number(loss) == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-4)
    loss.backward()
    assert readout.head.weight.grad is not None
    assert bool(readout.head.weight.grad.isfinite().all())


# What cannot work is refused

ONE = [[0]]
OUT = output(states([1]), ONE, 1)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Classifier(1, 4), "2 or more"),
        (lambda: Classifier(2, 4, pool="frist"), "first"),  # type: ignore[arg-type]
        (lambda: Classifier(2, 4, dropout=1.0), "dropout"),
        (lambda: WordsAtBlanks([[[1, 2]], [[3]]], blanks=1), "2 blanks"),
        (lambda: WordsAtBlanks([[[1]]]), "2 labels"),
        (lambda: WordsAtBlanks([[[1]], []]), "Label 1"),
        (lambda: WordsAsContinuation([[[1]], [[]]]), "Label 1"),
        (lambda: WordsAsContinuation([[[1]], [[2]]], tokens="avg"), "tokens='avg'"),  # type: ignore[arg-type]
        (lambda: WordsAsContinuation([[[1]], [[2]]], prior=torch.zeros(3)), "prior"),
        (lambda: LanguageModel(z_loss=-1.0), "z_loss"),
        (lambda: LanguageModel(smoothing=1.0), "smoothing"),
        (lambda: LanguageModel([[1]]), "2 labels"),
        (lambda: Tagger(1, 4), "2 or more"),
        (lambda: Tagger(2, 4, dropout=-0.1), "dropout"),
        (lambda: Span(4, longest=0), "longest"),
        (lambda: Span(4, dropout=2.0), "dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        build()


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: Classifier(2, HIDDEN).loss(OUT, batch(ONE, 1)), "labels"),
        (lambda: WordsAtBlanks([[[1]], [[2]]]).predict(OUT, batch(ONE, 1)), "0 blanks"),
        (
            lambda: WordsAtBlanks([[[1]], [[2]]]).predict(OUT, batch(ONE, 1, blanks=torch.tensor([[0, 0]]))),
            "2 blanks",
        ),
        (lambda: LanguageModel().loss(OUT, batch(ONE, 1)), "targets"),
        (lambda: LanguageModel().predict(OUT, batch(ONE, 1)), "targets"),
        (
            lambda: (
                LanguageModel(TEXTS)
                .eval()
                .loss(output(states([1]), ONE, 1, torch.zeros(1, 3, 3, HIDDEN)), batch(ONE, 1))
            ),
            "labels",
        ),
        (lambda: Tagger(2, HIDDEN).loss(OUT, batch(ONE, 1)), "tags"),
        (lambda: Tagger(2, HIDDEN).predict(OUT, batch(ONE, 1)), "words"),
        (lambda: Span(HIDDEN).predict(OUT, batch(ONE, 1)), "context"),
        (lambda: Span(HIDDEN).loss(OUT, batch(ONE, 1, context=torch.ones(1, 1, dtype=torch.bool))), "spans"),
        (
            lambda: Span(HIDDEN).loss(
                OUT, batch(ONE, 1, context=torch.zeros(1, 1, dtype=torch.bool), spans=torch.tensor([[0, 0]]))
            ),
            "outside",
        ),
    ],
)
def test_batches_that_lack_what_is_needed_are_refused(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        ask()
