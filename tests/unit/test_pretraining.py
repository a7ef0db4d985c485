"""The pre-training scripts on models of a few thousand weights and random tokens."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "pretraining"))

import corpus
import ladder
import muon
import ngram
import objectives
import score
import ship
import train as training
from objectives import END, IGNORED, PAD, SIZE, LanguageModel, Mixture, PrefixLanguageModel, SpanCorruption, Steps

TINY = replace(
    ladder.STAGES["ladder-1m-begun"],
    config=ladder.text_to_text(16, 16, 1, 2),
    objective=SpanCorruption(40, 6, 2),
    rows=2,
)


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_corrupted_spans_put_back_are_the_text() -> None:
    objective = SpanCorruption(40, 6, 2)
    windows = drawn().integers(300, 16_000, (50, 40))
    found = objective.batch(windows, drawn(1))
    assert found["input_ids"].shape == (50, 40 - 6 + 2 + 1)
    assert found["labels"].shape == (50, 6 + 2 + 1)
    for window, inputs, labels in zip(windows, found["input_ids"], found["labels"], strict=True):
        assert inputs[-1] == labels[-1] == END
        spans: dict[int, list[int]] = {}
        for token in labels[:-1]:
            if token >= SIZE - 100:
                last = spans.setdefault(int(token), [])
            else:
                last.append(int(token))
        assert list(spans) == [SIZE - 1, SIZE - 2]  # told in order, each with something hidden
        assert all(spans.values())
        assert [t for i in inputs[:-1] for t in spans.get(int(i), [int(i)])] == window.tolist()


def test_the_encoder_is_asked_for_the_first_token_of_each_span() -> None:
    windows = drawn().integers(300, 16_000, (50, 40))
    found = {k: torch.from_numpy(v) for k, v in SpanCorruption(40, 6, 2).batch(windows, drawn(1)).items()}
    places, tokens = objectives.first_hidden(found)
    assert (found["input_ids"].gather(1, places) == torch.tensor([SIZE - 1, SIZE - 2])).all()
    for label, told in zip(found["labels"].tolist(), tokens.tolist(), strict=True):
        assert [label[label.index(SIZE - 1 - i) + 1] for i in range(2)] == told


def test_what_is_scored_stands_in_the_text_where_it_is_said_to_stand(tokens: Path) -> None:
    [held] = corpus.tokens(tokens, (corpus.VALIDATION,))
    text = held.tolist()
    fives = {tuple(text[i : i + 5]) for i in range(len(text) - 4)}
    for asked in (
        next(score.hidden(tokens, score.SPAN)), next(score.following(tokens, score.PREFIX, causal=False)),
        next(score.following(tokens, score.PREFIX, causal=True)),
    ):  # fmt: skip
        labels = asked.batch["labels"]
        assert labels[asked.counts].tolist() == asked.tokens.tolist()
        assert len(asked.tokens) > 500
        assert {(*c, t) for c, t in zip(asked.contexts.tolist(), asked.tokens.tolist(), strict=True)} <= fives


def kneser_ney(arrays: list[list[int]], context: list[int], token: int) -> float:
    """The same model, written as the formula stands, one probability at a time."""
    order = len(context) + 1
    seen = [Counter(tuple(a[i : i + n + 1]) for a in arrays for i in range(len(a) - n)) for n in range(order)]
    for n in range(order - 1):
        seen[n] = Counter({gram: sum(longer[1:] == gram for longer in seen[n + 1]) for gram in seen[n]})
    found = 1 / SIZE
    for n, counts in enumerate(seen):
        own = tuple(context[order - 1 - n :])
        values = list(counts.values())
        once, twice = values.count(1), values.count(2)
        discount = once / max(1, once + 2 * twice)
        follow = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == own}
        if total := sum(follow.values()):
            found = (max(follow.get(token, 0) - discount, 0) + discount * len(follow) * found) / total
    return found


def test_the_counting_model_is_kneser_and_neys() -> None:
    source = drawn()
    arrays = [source.integers(0, 6, 200), source.integers(0, 6, 100)]
    model = ngram.Ngram(arrays, 3)
    contexts = source.integers(0, 6, (20, 2))
    found = np.stack([model.probabilities(contexts, np.full(20, t)) for t in range(6)], axis=1)
    wanted = [[kneser_ney([a.tolist() for a in arrays], c, t) for t in range(6)] for c in contexts.tolist()]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    everything = sum(model.probabilities(contexts, np.full(20, t)) for t in range(SIZE))
    np.testing.assert_allclose(everything, 1)
    assert (model.best(contexts) == found.argmax(1)).all()


def test_ways_to_cut_are_equally_likely() -> None:
    parts = objectives._parts(5, 3, 60_000, drawn())
    assert (parts.sum(1) == 5).all()
    assert (parts > 0).all()
    _, counts = np.unique(parts, axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts / 10_000 - 1).max() < 0.05


def test_a_prefix_and_what_follows_it_are_the_text_up_to_its_end() -> None:
    windows = drawn().integers(300, 16_000, (200, 64))
    windows[:100, 50] = END
    found = PrefixLanguageModel(64, 8).batch(windows, drawn(1))
    cuts = found["attention_mask"].sum(1) - 1
    assert cuts.min() >= 8
    assert cuts.max() <= 56
    for row, (window, cut) in enumerate(zip(windows, cuts, strict=True)):
        inputs, labels = found["input_ids"][row], found["labels"][row]
        assert inputs[: cut + 1].tolist() == [*window[:cut], END]
        assert (inputs[cut + 1 :] == PAD).all()
        following = window[cut:].tolist()
        told = following[: following.index(END) + 1] if END in following else following
        assert labels[: len(told)].tolist() == told
        assert (labels[len(told) :] == IGNORED).all()


def test_a_pass_reads_every_window_as_often_as_its_weight_says() -> None:
    first, second = np.arange(0, 1000, dtype=np.uint16), np.arange(5000, 5300, dtype=np.uint16)
    mixture = Mixture([first, second], [2, 1], seed=0)
    counts = [(1000 - 10) // 10, (300 - 10) // 10]
    windows = mixture.windows(0, 2 * counts[0] + counts[1], 10)
    assert (np.diff(windows.astype(int), axis=1) == 1).all()
    _, seen = np.unique(windows[windows[:, 0] < 5000][:, 0], return_counts=True)
    assert (seen == 2).all()
    assert len(seen) == counts[0]


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    steps = [Steps(Mixture([np.arange(3, 5000, dtype=np.uint16)], [1], 0), LanguageModel(32), 4) for _ in range(2)]
    late = steps[0][7]
    for i in range(8):
        again = steps[1][i]
    assert torch.equal(late["input_ids"], again["input_ids"])
    assert not torch.equal(late["input_ids"], steps[0][8]["input_ids"])


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    place = tmp_path / "tokens"
    place.mkdir()
    for name in (*corpus.CORE, *corpus.EXTRA, corpus.VALIDATION):
        text = drawn().integers(300, 16_000, 4000).astype(np.uint16)
        text[::700] = END  # documents end in the middle of windows
        np.save(place / f"{name.split('.')[0]}.npy", text)
    return place


def losses(file: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in map(json.loads, file.read_text().splitlines()) if r["event"] == "loss"]


def test_the_same_seed_gives_the_same_losses_and_a_resumed_run_is_the_uninterrupted_one(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    training.train("tiny", TINY, tokens, one, steps=20, compiled=False)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "LOG", 1)
    saved = training.State.save

    def killed(state: training.State, step: int) -> None:
        saved(state, step)
        if step == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.State, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train("tiny", TINY, tokens, other, steps=20, compiled=False)
    training.train("tiny", TINY, tokens, other, steps=20, compiled=False)
    assert len(losses(one / "tiny" / "record.jsonl")) == 20
    assert losses(one / "tiny" / "record.jsonl") == losses(other / "tiny" / "record.jsonl")
    mine, theirs = (torch.load(out / "tiny" / "weights.pt") for out in (one, other))
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert not (other / "tiny" / "state").exists()


def test_muon_moves_as_the_one_of_pytorch() -> None:
    """Both in bfloat16, step by step; and a float32 run turns in float32."""
    made = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=made) for shape in ((6, 12), (12, 6), (8, 8))]
    mine, theirs = ([torch.nn.Parameter(p.clone()) for p in starts] for _ in range(2))
    ours = muon.Muon([{"params": mine, "lr": 0.02, "weight_decay": 0.1}])
    known = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=made)
            q.grad = p.grad.clone()
        known.step()
        with torch.autocast("cpu", torch.bfloat16):
            ours.step()
    moved = [[p.detach() for p in side] for side in (mine, theirs)]
    for p, q, start in zip(*moved, starts, strict=True):
        assert float((p - q).norm() / (q - start).norm()) < 0.02
    values = torch.linalg.svdvals(muon.orthogonal(starts[0]))
    assert 0.6 < values.min() < values.max() < 1.3


def test_the_tokenizer_keeps_text_and_lines() -> None:
    from transformers import AutoTokenizer

    folder = Path(corpus.__file__).parent / "tokenizer"
    text_to_text, causal = (AutoTokenizer.from_pretrained(folder / name) for name in ("text-to-text", "causal"))
    text = "It's a warm film.\nHe said: “No, 12 times!” 漢字"
    ids = text_to_text(text).input_ids
    assert ids[-1] == text_to_text.eos_token_id == END
    assert causal(text).input_ids == ids[:-1]
    assert text_to_text.decode(ids, skip_special_tokens=True) == text.replace("“", '"').replace("”", '"')
    assert text_to_text.convert_tokens_to_ids("<extra_id_0>") == SIZE - 1
    assert len(text_to_text) == SIZE


@pytest.mark.long
def test_a_shipped_model_is_the_trained_one_and_its_card_says_what_was_measured(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptuary.backbones.load import load

    stages = {
        "tiny-span": TINY,
        "tiny": replace(TINY, objective=PrefixLanguageModel(40, 4), after="tiny-span", guide=0.0),
    }
    for module in (ship, score):
        monkeypatch.setattr(module, "STAGES", stages)
    monkeypatch.setattr(score, "WINDOWS", 16)
    for name, stage in stages.items():
        training.train(name, stage, tokens, tmp_path, steps=4, compiled=False)
        score.main([str(tokens), str(tmp_path), name])
    place = ship.ship("tiny", tmp_path, tmp_path / "models")
    kept = torch.load(tmp_path / "tiny" / "weights.pt")
    loaded = dict(load(str(place)).model.named_parameters())
    assert all(torch.equal(p, kept[name].bfloat16().float()) for name, p in loaded.items())
    found = json.loads((tmp_path / "tiny" / "scores.json").read_text())
    card = (place / "README.md").read_text()
    for who in ("model", "5-gram"):
        assert f"| {found[who]['loss']:.3f} | {found[who]['perplexity']:.1f} |" in card
    assert all(repr(sample["written"]) in card for sample in found["samples"])
    assert "| `tiny-span` | span corruption" in card
    assert "| `tiny` | prefix language model" in card
    assert (place / "losses.svg").stat().st_size > 1000
