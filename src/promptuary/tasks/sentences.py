"""One class for a sentence or for two: SST, TREC, MR, MPQA, sentiment in other domains, MRPC, QQP, SNLI.

The text-to-text wordings are those of T5 for GLUE (keys in alphabetical order, no name of the task in front); for tasks
that T5 does not know, `sentence: ...`. The clozes are those of LM-BFF (Gao et al. 2021) where it has one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from promptuary.metrics import binary_f1
from promptuary.tasks.named import Fields, NamedTask, Rows, Wording, label_of, with_label, without
from promptuary.tasks.superglue import inference

POLARITY = ("negative", "positive")
OPINION = {"negative": "terrible", "positive": "great"}
SHADES = ("very negative", "negative", "neutral", "positive", "very positive")
QUESTIONS = ("abbreviation", "description", "entity", "human", "location", "number")
INFERRED = ("entailment", "neutral", "contradiction")  # in the order of the hub's indices
DOMAINS = ("imdb_cad", "amazon_books", "amazon_dvd", "amazon_electronics", "sentences_amazon", "sentences_imdb")


def _sentence(*classes: str) -> Rows:
    """Rows with `text` (on the hub also `sentence`) and a class by number, or by name in `label_text`."""

    def rows(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
        text = {} if "text" in row else {"text": row["sentence"]}
        return [{**without(row, "label", "sentence"), **text, **label_of(row, *classes)}]

    return rows


def _single(classes: tuple[str, ...], cloze: str, words: Mapping[str, str]) -> dict[str, Wording]:
    rows, exact = _sentence(*classes), dict(zip(classes, classes, strict=True))
    return {
        "text-to-text": Wording(rows, {"template": "sentence: {text}", "words": exact}, classes=classes),
        "cloze": Wording(rows, {"template": cloze, "words": words, "readout": "verbalizer"}, classes=classes),
        "classifier": Wording(rows, {"readout": "classifier"}, classes=classes),
    }


def _paraphrase(first: str, second: str, classes: tuple[str, str], words: Sequence[str], cloze: str) -> Any:
    def rows(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
        return [{**without(row, "label"), **label_of(row, *classes)}]

    def score(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
        number = {name: i for i, name in enumerate(classes)}
        return {"f1": binary_f1([number[r["label"]] for r in rows], [number.get(a["label"], -1) for a in said])}

    columns, exact = {"text": first, "text_pair": second}, dict(zip(classes, classes, strict=True))
    written = {**columns, "template": f"{first}: {{{first}}} {second}: {{{second}}}", "words": exact}
    blank = {**columns, "template": cloze, "words": dict(zip(classes, words, strict=True)), "readout": "verbalizer"}
    return {
        "text-to-text": Wording(rows, written, classes=classes, score=score),
        "cloze": Wording(rows, blank, classes=classes, score=score),
        "classifier": Wording(rows, {**columns, "readout": "classifier"}, classes=classes, score=score),
    }


def _decided(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
    """The row of SNLI, but for those whose judges did not agree (-1 on the hub, in all splits), which nobody scores."""
    return () if row.get("label") == -1 else with_label(*INFERRED)(row, teaching)


def _snli() -> dict[str, Wording]:
    worded = inference(INFERRED, {"entailment": "yes", "neutral": "maybe", "contradiction": "no"})
    return {how: replace(wording, rows=_decided) for how, wording in worded.items()}


SENTIMENT = _single(POLARITY, "{text} It was <mask>.", OPINION)
ONE = (
    ("sst2", "a sentence of a film review is positive or negative (Socher et al. 2013)", SENTIMENT, "stanfordnlp/sst2"),
    (
        "sst5", "the same, in five shades (Socher et al. 2013)",
        _single(
            SHADES, "{text} It was <mask>.",
            dict(zip(SHADES, ("terrible", "bad", "okay", "good", "great"), strict=True)),
        ),
        None,
    ),
    (
        "trec", "what a question asks for, in six classes (Li and Roth 2002)",
        _single(
            QUESTIONS, "<mask>: {text}",
            dict(
                zip(QUESTIONS, ("expression", "description", "entity", "human", "location", "number"), strict=True)
            ),
        ),
        None,
    ),
    (
        "mr", "a sentence of a film review is positive or negative (Pang and Lee 2005)", SENTIMENT,
        "cornell-movie-review-data/rotten_tomatoes",
    ),
    ("mpqa", "a phrase is positive or negative (Wiebe et al. 2005)", SENTIMENT, None),
    *((name, f"a review is positive or negative: {name.replace('_', ' ')}", SENTIMENT, None) for name in DOMAINS),
)  # fmt: skip

TASKS = (
    *(NamedTask(name, summary, ("accuracy",), wordings, (name,), hub) for name, summary, wordings, hub in ONE),
    NamedTask(
        "mrpc", "two sentences say the same or not (Dolan and Brockett 2005)", ("f1", "accuracy"),
        _paraphrase(
            "sentence1", "sentence2", ("not_equivalent", "equivalent"), ("no", "yes"),
            "{sentence1} <mask>, {sentence2}",
        ),
        ("mrpc", "MRPC"), "nyu-mll/glue/mrpc",
    ),
    NamedTask(
        "qqp", "two questions ask the same or not (Quora question pairs)", ("f1", "accuracy"),
        _paraphrase(
            "question1", "question2", ("not_duplicate", "duplicate"), ("no", "yes"),
            "{question1} <mask>, {question2}",
        ),
        ("qqp", "QQP"), "nyu-mll/glue/qqp",
    ),
    *(
        NamedTask(
            name, f"a sentence follows from another, is denied or left open (Bowman et al. 2015){more}", ("accuracy",),
            _snli(), (name,), hub,
        )
        for name, more, hub in (
            ("snli", "", "stanfordnlp/snli"), ("snli_cad", ", the rows that Kaushik et al. 2020 revised", None)
        )
    ),
)  # fmt: skip
