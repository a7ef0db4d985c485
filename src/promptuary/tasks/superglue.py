"""SuperGLUE (Wang et al. 2019): eight tasks, read from the official JSONL files or as the Hugging Face hub has them.

The text-to-text wordings are those of Lester et al. 2021: what T5's preprocessors write (`t5.data.preprocessors`, keys
in alphabetical order but for MultiRC and WiC) without the task's name in front. Runs of white space may differ, which
T5's vocabulary does not see; texts lose the spaces around them. Decoding is free, and a text that is no label is wrong.

The clozes are those of PET (Schick and Schütze 2021) where label words can fill them. Where the answer is chosen among
candidates (COPA, ReCoRD) clozes and classifiers are asked about one candidate a row; the likeliest is the answer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from promptuary.errors import DataError
from promptuary.metrics import (
    binary_f1,
    exact_match,
    group_match,
    mean_over_tasks,
    referent_accuracy,
    token_f1,
)
from promptuary.tasks.named import Fields, NamedTask, Wording, label_of, with_label, without

TRUTH = ("False", "True")
YES_NO = {"False": "no", "True": "yes"}
INFERENCE = ("entailment", "contradiction", "neutral")  # in the order of the hub's indices
ENTAILED = ("entailment", "not_entailment")
CHOICES = ("choice1", "choice2")


def average(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The SuperGLUE average of the scores of all eight tasks: of each the mean of its official metrics, then the mean.

    Arguments:
        scores: by task, as `promptuary evaluate --json` prints them; what is not official (`loss`) does not count.

    Raises:
        DataError: where a task or a metric is missing: an average of fewer is another number.
    """
    official = {task.name: task.metrics for task in TASKS}
    missing = [f"{name}: {m}" for name, own in official.items() for m in own if m not in scores.get(name, {})]
    if missing:
        raise DataError(f"The SuperGLUE average is that of all eight tasks; {missing[0]!r} is missing.")
    return mean_over_tasks({name: {m: scores[name][m] for m in own} for name, own in official.items()})


def group_choices(rows: Sequence[Fields], said: Sequence[Fields]) -> list[Fields]:
    """Of each group of candidates the row that is most probably true, the first of equals."""
    best: dict[Any, tuple[float, Fields]] = {}
    for row, answer in zip(rows, said, strict=True):
        probability = float(answer.get("probability", 1.0))
        true = probability if answer["label"] == "True" else 1 - probability
        if row["group"] not in best or true > best[row["group"]][0]:
            best[row["group"]] = true, row
    return [row for _, row in best.values()]


def _truth(label: object) -> int:
    return TRUTH.index(str(label)) if label in TRUTH else -1


def _multirc(row: Fields, teaching: bool) -> Iterator[dict[str, Any]]:
    """A row for each answer, without T5's markup. The official files have a passage a row, the hub an answer a row."""
    match row:
        case {"passage": {"text": text, "questions": questions}}:
            found = [
                (f"{row['idx']}/{q['idx']}", text, q["question"], a["text"], a) for q in questions for a in q["answers"]
            ]
        case _:
            place = row["idx"]
            group = f"{place['paragraph']}/{place['question']}"
            found = [(group, row["paragraph"], row["question"], row["answer"], row)]
    for group, paragraph, question, answer, labelled in found:
        texts = {"paragraph": paragraph, "question": question, "answer": answer}
        bare = {name: re.sub("</?b>", "", value.replace("<br>", " ")) for name, value in texts.items()}
        yield {**bare, "asked": f"{bare['question']} {bare['answer']}", "group": group, **label_of(labelled, *TRUTH)}


def _multirc_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    gold = [_truth(row["label"]) for row in rows]
    answers = [_truth(answer["label"]) for answer in said]
    return {"f1a": binary_f1(gold, answers), "em": group_match([row["group"] for row in rows], gold, answers)}


def _queries(row: Fields) -> Iterator[dict[str, Any]]:
    """The queries of a row of ReCoRD: entities and answers once each and sorted, `@highlight` read as T5 reads it."""
    match row:
        case {"passage": {"text": text, "entities": spans}, "qas": qas}:
            entities = {text[span["start"] : span["end"] + 1] for span in spans}
            queries = [(q["query"], {a["text"] for a in q.get("answers", ())}, f"{row['idx']}/{q['idx']}") for q in qas]
        case _:
            text, entities, place = row["passage"], set(row["entities"]), row["idx"]
            queries = [(row["query"], set(row["answers"]), f"{place['passage']}/{place['query']}")]
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text).replace("\n@highlight\n", ". ")
    for query, answers, group in queries:
        yield {
            "query": query, "passage": passage, "names": sorted(entities), "answers": sorted(answers), "group": group
        }  # fmt: skip


def _record(row: Fields, teaching: bool) -> Iterator[dict[str, Any]]:
    """A row for each query with its first answer; where it teaches, one for each answer."""
    for query in _queries(row):
        written = {**without(query, "names"), "entities": ", ".join(query["names"])}
        for answer in query["answers"] if teaching else query["answers"][:1]:
            yield {**written, "target": answer}
        if not query["answers"]:
            yield written


def _record_candidates(row: Fields, teaching: bool) -> Iterator[dict[str, Any]]:
    """A row for each entity, which stands in the query."""
    for query in _queries(row):
        for name in query["names"]:
            asked = {**without(query, "names", "query"), "candidate": name}
            label = label_of({"label": name in query["answers"]}, *TRUTH) if query["answers"] else {}
            yield {**asked, "query": query["query"].replace("@placeholder", name), **label}


def _record_scores(rows: Sequence[Fields], texts: Sequence[str]) -> dict[str, float]:
    """Each query once: the files may ask one again for each of its answers."""
    first: dict[str, tuple[list[str], str]] = {}
    for row, text in zip(rows, texts, strict=True):
        first.setdefault(row["group"], (row["answers"], text))
    gold, said = zip(*first.values(), strict=True)
    return {"f1": token_f1(gold, said), "em": exact_match(gold, said)}


def _record_chosen(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    chosen = group_choices(rows, said)
    return _record_scores(chosen, [row["candidate"] for row in chosen])


def _copa_candidates(row: Fields, teaching: bool) -> Iterator[dict[str, Any]]:
    """A row for each choice."""
    right = label_of(row, *CHOICES).get("label")
    for choice in CHOICES:
        joined = {"cause": "because", "effect": "so"}[row["question"]]
        asked = {"premise": row["premise"], "choice": row[choice], "joined": joined, "group": str(row["idx"])}
        yield {**asked, **({} if right is None else label_of({"label": choice == right}, *TRUTH))}


def _copa_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    chosen = group_choices(rows, said)
    return {"accuracy": sum(row["label"] == "True" for row in chosen) / len(chosen)}


def marked(text: str, pronoun: str, index: int) -> str:
    """The text with `*pronoun*` at the word `index`; what stands behind the pronoun there is a word of its own.

    In four published rows the index is one off, or the word ends in quotes: the nearest word that is the pronoun, but
    for punctuation, is taken. T5 names these texts one by one and comes to the same.

    Raises:
        ValueError: where no word is the pronoun.
    """
    words = text.split()
    pattern = re.compile(rf"{re.escape(pronoun)}(\W*)")
    for place in sorted(range(len(words)), key=lambda i: abs(i - index)):
        if found := pattern.fullmatch(words[place]):
            return " ".join([*words[:place], f"*{pronoun}*", *filter(None, [found[1]]), *words[place + 1 :]])
    raise ValueError(f"no word of the text is the pronoun {pronoun!r}")


def _wsc(row: Fields, teaching: bool) -> Iterator[dict[str, Any]]:
    """The row with its pronoun marked; the spans as the public data set builders mend them (case, full stop)."""
    spans = row.get("target", row)  # the official files nest them, the hub does not
    noun, text = spans["span1_text"].replace("\n", " ").rstrip("."), row["text"]
    first = text.split()[spans["span1_index"]][0]
    noun = (noun[0].lower() if first.islower() else noun[0].upper()) + noun[1:]
    pronoun = spans["span2_text"].replace("\n", " ").rstrip(".")
    yield {
        "text": marked(text, pronoun, spans["span2_index"]),
        "pronoun": pronoun,
        "noun": noun,
        **label_of(row, *TRUTH),
    }


def _wsc_referents(row: Fields, teaching: bool) -> Iterable[dict[str, Any]]:
    """The row with its noun as the text to write; where rows teach, only if the noun is the referent."""
    return [{**own, "target": own["noun"]} for own in _wsc(row, teaching) if not teaching or own["label"] == "True"]


def _wsc_scores(rows: Sequence[Fields], said: Sequence[Fields]) -> dict[str, float]:
    gold = [row["label"] == "True" for row in rows]
    return {"accuracy": referent_accuracy(gold, [r["target"] for r in rows], [a["prediction"] for a in said])}


def _asked(cloze: Mapping[str, Any], classifier: Mapping[str, Any], **shared: Any) -> dict[str, Wording]:
    """The cloze and the classifier of rows that are true or false."""
    return {
        "cloze": Wording(settings={**cloze, "readout": "verbalizer", "words": YES_NO}, classes=TRUTH, **shared),
        "classifier": Wording(settings={**classifier, "readout": "classifier"}, classes=TRUTH, **shared),
    }


def inference(classes: tuple[str, ...], words: Mapping[str, str]) -> dict[str, Wording]:
    """The wordings of a task on a premise and a hypothesis."""
    columns = {"text": "premise", "text_pair": "hypothesis"}
    given: dict[str, Any] = {"rows": with_label(*classes), "classes": classes}
    exact = {name: name for name in classes}  # else underscores would become spaces
    return {
        "text-to-text": Wording(
            settings={**columns, "template": "hypothesis: {hypothesis} premise: {premise}", "words": exact},
            **given,
        ),
        "cloze": Wording(
            settings={
                **columns, "template": '"{hypothesis}"? | <mask>, "{premise}"', "words": words, "readout": "verbalizer"
            },
            **given,
        ),
        "classifier": Wording(settings={**columns, "readout": "classifier"}, **given),
    }  # fmt: skip


def _written(text_to_text: Mapping[str, Any], **shared: Any) -> dict[str, Wording]:
    """The text-to-text wording of rows that are true or false."""
    return {
        "text-to-text": Wording(
            settings={**text_to_text, "words": {name: name for name in TRUTH}}, classes=TRUTH, **shared
        )
    }


_PASSAGE = {"text": "passage", "text_pair": "question"}
BOOLQ = {
    **_written({**_PASSAGE, "template": "passage: {passage} question: {question}"}, rows=with_label(*TRUTH)),
    **_asked(
        {**_PASSAGE, "template": "{passage} Question: {question}? Answer: <mask>."}, _PASSAGE, rows=with_label(*TRUTH)
    ),
}
COPA = {
    "text-to-text": Wording(
        with_label(*CHOICES),
        {
            "text": "premise",
            "template": "choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
            "words": dict(zip(CHOICES, CHOICES, strict=True)),
        },
        classes=CHOICES,
    ),
    **_asked(
        {"text": "premise", "template": "{premise} {joined} {choice} Is that right? <mask>."},
        {"text": "premise", "template": "{premise} {joined} {choice}"},
        rows=_copa_candidates,
        score=_copa_scores,
        unit="group",
    ),
}
MULTIRC = {
    **_written(
        {"text": "paragraph", "template": "question: {question} answer: {answer} paragraph: {paragraph}"},
        rows=_multirc,
        score=_multirc_scores,
        unit="group",
    ),
    **_asked(
        {"text": "paragraph", "template": "{paragraph} Question: {question} Is it {answer}? <mask>."},
        {"text": "paragraph", "text_pair": "asked"},
        rows=_multirc,
        score=_multirc_scores,
        unit="group",
    ),
}
RECORD = {
    "text-to-text": Wording(
        _record,
        {"text": "passage", "label": "target", "template": "query: {query} entities: {entities} passage: {passage}"},
        kind="text",
        score=lambda rows, said: _record_scores(rows, [answer["prediction"] for answer in said]),
        unit="group",
    ),
    **_asked(
        {"text": "passage", "template": "{passage} {query} Is that right? <mask>."},
        {"text": "passage", "text_pair": "query"},
        rows=_record_candidates,
        score=_record_chosen,
        unit="group",
    ),
}
_SENTENCES = {"text": "sentence1", "text_pair": "sentence2"}
WIC = {
    **_written(
        {**_SENTENCES, "template": "sentence1: {sentence1} sentence2: {sentence2} word: {word}"},
        rows=with_label(*TRUTH),
    ),
    **_asked(
        {**_SENTENCES, "template": '"{sentence1}" / "{sentence2}" Similar sense of "{word}"? <mask>.'},
        {**_SENTENCES, "template": "{word}: {sentence1} / {sentence2}"},
        rows=with_label(*TRUTH),
    ),
}
WSC = {
    "text-to-text": Wording(_wsc_referents, {"label": "target", "template": "{text}"}, kind="text", score=_wsc_scores),
    **_asked(
        {"template": '{text} In the previous sentence, does the pronoun "*{pronoun}*" refer to {noun}? <mask>.'},
        {"text_pair": "noun"},
        rows=_wsc,
    ),
}

TASKS = tuple(
    NamedTask(name, summary, metrics, wordings, (name, folder), f"aps/super_glue/{name}")
    for name, folder, summary, metrics, wordings in (
        ("boolq", "BoolQ", "a passage answers a question by yes or no (Clark et al. 2019)", ("accuracy",), BOOLQ),
        (
            "cb", "CB", "a clause follows, is denied or is left open (CommitmentBank, de Marneffe et al. 2019)",
            ("macro_f1", "accuracy"),
            inference(INFERENCE, {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}),
        ),
        ("copa", "COPA", "the likelier cause or effect of two (Roemmele et al. 2011)", ("accuracy",), COPA),
        (
            "multirc", "MultiRC", "each answer to a question on a paragraph is true or not (Khashabi et al. 2018)",
            ("f1a", "em"), MULTIRC,
        ),
        (
            "record", "ReCoRD", "the entity that fills a query on a news text (Zhang et al. 2018)", ("f1", "em"),
            RECORD,
        ),
        (
            "rte", "RTE", "a text entails a sentence or not (Dagan et al. 2005 and later)", ("accuracy",),
            inference(ENTAILED, {"entailment": "yes", "not_entailment": "no"}),
        ),
        (
            "wic", "WiC", "a word means the same in two sentences (Pilehvar and Camacho-Collados 2019)",
            ("accuracy",), WIC,
        ),
        ("wsc", "WSC", "what a pronoun refers to (Levesque et al. 2012)", ("accuracy",), WSC),
    )
)  # fmt: skip
