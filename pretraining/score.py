"""What a finished stage knows of text it has never read, beside a 5-gram model of the same corpus.

    python pretraining/score.py TOKENS OUT ladder-1m-span ladder-1m     # writes OUT/<stage>/scores.json

The 5-gram model is counted once, for `OUT/5-gram.json` (ten minutes and 13 GB).

Every model answers on the same held-out windows, as wide as those it was trained on: hidden spans (models that were
trained with them), and the rest of a text behind its beginning (adapted models and causal ones; the same tokens for
all). The 5-gram model sees the four true tokens before the one it is asked for, also where they are hidden from the
model: an advantage it is left with.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from ladder import PREFIX, SPAN, STAGES, Stage
from ngram import ORDER, Ngram
from objectives import END, IGNORED, SENTINELS, SIZE, Mixture, PrefixLanguageModel, SpanCorruption
from torch import Tensor
from train import restored
from transformers import AutoTokenizer, PreTrainedModel

WINDOWS, ROWS, SEED = 256, 16, 2
SPANS, REST = "hidden spans", "what follows a beginning"
TOKENIZERS = Path(__file__).parent / "tokenizer"
OPENINGS = (
    "The old man looked out at the sea and",
    "Once there was a little girl who",
    "Water boils when",
    "The president said on Monday that",
)
GAPS = (
    "She opened the <extra_id_0> and walked into the house.",
    "The capital of France is <extra_id_0>.",
    "He was very <extra_id_0>, so he went to bed.",
)


@dataclass(frozen=True)
class Asked:
    """A batch, and which of its labels count.

    Arguments:
        batch: what the model is called with.
        counts: (rows, labels) whether a label counts.
        contexts: (counted, 4) the true tokens before each counted label. tokens: (counted,) the labels themselves.
    """

    batch: dict[str, Tensor]
    counts: Tensor
    contexts: np.ndarray
    tokens: np.ndarray


def hidden(tokens: Path, objective: SpanCorruption) -> Iterator[Asked]:
    """Spans of held-out windows that the model fills in; sentinels and end tokens do not count."""
    for windows, drawn in _windows(tokens, objective.width):
        found = objective.batch(windows, drawn)
        labels, inputs = found["labels"], found["input_ids"]
        counts = (labels < SENTINELS) & (labels != END)
        contexts, told = [], []
        for window, row, label, counted in zip(windows, inputs, labels, counts, strict=True):
            places = np.array(_hidden_places(row, label))
            places = places[window[places] != END]  # where a document ends inside of a window
            assert (window[places] == label[counted]).all()
            late = places >= ORDER - 1
            counted[np.flatnonzero(counted)[~late]] = False
            contexts += [window[place - ORDER + 1 : place] for place in places[late]]
            told += window[places[late]].tolist()
        yield Asked(_tensors(found), torch.from_numpy(counts), np.array(contexts), np.array(told))


def _hidden_places(inputs: np.ndarray, labels: np.ndarray) -> list[int]:
    """Where in the window the hidden tokens stood, in order."""
    lengths = [len(span) for span in np.split(labels[:-1], np.flatnonzero(labels[:-1] >= SENTINELS))[1:]]
    places, at, spans = list[int](), 0, iter(lengths)
    for token in inputs[:-1]:
        size = next(spans) - 1 if token >= SENTINELS else 0
        places += range(at, at + size)
        at += size or 1
    return places


def following(tokens: Path, objective: PrefixLanguageModel, causal: bool) -> Iterator[Asked]:
    """What comes behind the beginning of held-out windows; the same tokens for both kinds of model."""
    for windows, drawn in _windows(tokens, objective.width):
        found = objective.batch(windows, drawn)
        labels, cuts = found["labels"], found["attention_mask"].sum(1) - 1
        counts = (labels != IGNORED) & (labels != END)
        rows, steps = np.nonzero(counts)
        places = cuts[rows] + steps
        contexts = np.stack([windows[rows, places - back] for back in range(ORDER - 1, 0, -1)], axis=1)
        told = windows[rows, places]
        if causal:
            found = {"input_ids": windows, "labels": windows}
            counts = np.zeros_like(windows, dtype=bool)
            counts[rows, places] = True
        yield Asked(_tensors(found), torch.from_numpy(counts), contexts, told)


def _windows(tokens: Path, width: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    mixture = Mixture(corpus.tokens(tokens, (corpus.VALIDATION,)), [1], SEED)
    for step in range(WINDOWS // ROWS):
        yield mixture.windows(step, ROWS, width), np.random.default_rng((SEED, step))


def _tensors(found: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}


@torch.no_grad()
def answered(model: PreTrainedModel, asked: Sequence[Asked]) -> dict[str, float]:
    """Scores of a model on the labels that count."""
    costs, right = [], []
    for one in asked:
        logits = model(**one.batch).logits.float()
        counts = one.counts
        if not model.config.is_encoder_decoder:
            logits, counts = logits[:, :-1], counts[:, 1:]
        told = torch.from_numpy(one.tokens)
        costs.append(torch.nn.functional.cross_entropy(logits[counts], told, reduction="none"))
        right.append(logits[counts].argmax(-1) == told)
    return _scores(torch.cat(costs).numpy(), torch.cat(right).numpy(), asked)


def counted(tokens: Path, file: Path) -> dict[str, dict[str, float]]:
    """Scores of the 5-gram model of all training text, by what is asked; kept in a file."""
    if not file.exists():
        questions = {SPANS: list(hidden(tokens, SPAN)), REST: list(following(tokens, PREFIX, causal=False))}
        model, found = Ngram(corpus.tokens(tokens, corpus.CORE + corpus.EXTRA)), {}
        for what, asked in questions.items():
            contexts = np.concatenate([one.contexts for one in asked])
            told = np.concatenate([one.tokens for one in asked])
            costs, right = -np.log(model.probabilities(contexts, told)), model.best(contexts) == told
            found[what] = _scores(costs, right, asked)
        file.write_text(json.dumps(found, indent=2))
    return dict(json.loads(file.read_text()))


def _scores(costs: np.ndarray, right: np.ndarray, asked: Sequence[Asked]) -> dict[str, float]:
    told = np.concatenate([one.tokens for one in asked])
    loss = float(costs.mean())
    bits = float(costs.sum()) / math.log(2) / int(_bytes()[told].sum())
    return {
        "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits, "accuracy": float(right.mean()),
        "tokens": len(told),
    }  # fmt: skip


@cache
def _bytes() -> np.ndarray:
    """UTF-8 bytes of each token's text."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "causal")
    pieces = tokenizer.convert_ids_to_tokens(list(range(SIZE)))
    single = [piece.startswith("<0x") for piece in pieces]
    return np.array([1 if s else len(p.replace("▁", " ").encode()) for p, s in zip(pieces, single, strict=True)])


@torch.no_grad()
def samples(model: PreTrainedModel, stage: Stage) -> list[dict[str, str]]:
    """What a model writes: the likeliest text of gaps, or a drawn continuation (top 0.9, a fixed seed)."""
    spans = isinstance(stage.objective, SpanCorruption)
    kind = "text-to-text" if model.config.is_encoder_decoder else "causal"
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / kind)
    torch.manual_seed(0)
    found = []
    for text in GAPS if spans else OPENINGS:
        given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        how: dict[str, Any] = {"num_beams": 4} if spans else {"do_sample": True, "top_p": 0.9, "temperature": 0.8}
        out = model.generate(**given, max_new_tokens=12 if spans else 50, **how)[0]
        out = out[given.input_ids.shape[1] :] if kind == "causal" else out
        found.append({"given": text, "written": tokenizer.decode(out, skip_special_tokens=not spans)})
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Score finished stages on held-out text.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("stages", nargs="+", choices=list(STAGES), metavar="STAGE")
    chosen = parser.parse_args(arguments)
    for name in chosen.stages:
        stage = STAGES[name]
        model = restored(stage, chosen.out / name).eval()
        spans, causal = isinstance(stage.objective, SpanCorruption), not stage.config.is_encoder_decoder
        asked = list(hidden(chosen.tokens, SPAN) if spans else following(chosen.tokens, PREFIX, causal))
        what = SPANS if spans else REST
        found = {
            "what": what,
            "model": answered(model, asked),
            "5-gram": counted(chosen.tokens, chosen.out / "5-gram.json")[what],
            "samples": samples(model, stage),
        }
        (chosen.out / name / "scores.json").write_text(json.dumps(found, indent=2, ensure_ascii=False))
        print(name, json.dumps(found, indent=2, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
