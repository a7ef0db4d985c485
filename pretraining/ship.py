"""From finished and scored stages to folders that anyone can load, each with its card.

    python pretraining/ship.py OUT MODELS ladder-1m-span ladder-1m     # OUT/<stage> -> MODELS/<stage>

A folder has the weights in bf16 (`model.safetensors`), the configuration, the tokenizer, the record of the training
(`record.jsonl`), the picture of its losses (`losses.svg`) and the card (`README.md`), every number of which is read
from the record, `summary.json` and `scores.json`.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from ladder import STAGES, Stage
from matplotlib import pyplot
from objectives import LanguageModel, PrefixLanguageModel, SpanCorruption
from score import TOKENIZERS
from train import restored
from transformers import AutoTokenizer

LARGEST = 20e6  # bytes of a file
OBJECTIVES: Mapping[type, str] = {
    SpanCorruption: "span corruption (15 %, spans of 3)",
    PrefixLanguageModel: "prefix language model",
    LanguageModel: "the next token",
}


def ship(name: str, out: Path, models: Path) -> Path:
    """Write one model's folder."""
    stage, source, place = STAGES[name], out / name, models / name
    model = restored(stage, source)
    shutil.rmtree(place, ignore_errors=True)
    model.bfloat16().save_pretrained(place)
    kind = "text-to-text" if stage.config.is_encoder_decoder else "causal"
    AutoTokenizer.from_pretrained(TOKENIZERS / kind).save_pretrained(place)
    shutil.copy(source / "record.jsonl", place)
    record = [json.loads(line) for line in (source / "record.jsonl").read_text().splitlines()]
    scores = json.loads((source / "scores.json").read_text())
    chain = [name]
    while (before := STAGES[chain[0]].after) is not None:
        chain.insert(0, before)
    summaries = {one: json.loads((out / one / "summary.json").read_text()) for one in chain}
    _picture(record, place / "losses.svg")
    (place / "README.md").write_text(card(name, stage, record, summaries, scores))
    for file in place.iterdir():
        if file.stat().st_size > LARGEST:
            raise SystemExit(f"{file} has {file.stat().st_size / 1e6:.1f} MB. Expected at most {LARGEST / 1e6:.0f}.")
    return place


def _picture(record: list[dict[str, Any]], file: Path) -> None:
    """Losses over tokens: of training batches, and of held-out windows."""
    matplotlib.rcParams["svg.hashsalt"] = "losses"
    start = next(line for line in record if line["event"] == "start")
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for event, field, said in (("loss", "loss", "training"), ("validation", "validation_loss", "held-out")):
        lines = [line for line in record if line["event"] == event]
        millions = [line["step"] * start["tokens_per_step"] / 1e6 for line in lines]
        axes.plot(millions, [line[field] for line in lines], label=said, marker="." if event == "validation" else "")
    axes.set(xlabel="million tokens", ylabel="nats a token", ylim=(None, 7.0))
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def card(
    name: str,
    stage: Stage,
    record: list[dict[str, Any]],
    summaries: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Any],
) -> str:
    """The model card, as Markdown with the hub's header.

    Arguments:
        summaries: of the stages that led to the model, the first one first.
    """
    spans, both = isinstance(stage.objective, SpanCorruption), stage.config.is_encoder_decoder
    start = next(line for line in record if line["event"] == "start")
    summary, shape = summaries[name], stage.config.to_dict()
    width, layers = shape.get("d_model") or shape["hidden_size"], shape.get("num_layers") or shape["num_hidden_layers"]
    inner = shape.get("d_ff") or shape["intermediate_size"]
    body = summary["parameters"] - summary["embedding"]
    towers = f"{layers} + {layers} layers" if both else f"{layers} layers"
    stages = "\n".join(_row(one, STAGES[one], its) for one, its in summaries.items())
    use = (
        "Filling gaps; the model before LM adaptation, for comparisons. Its answers start with sentinels."
        if spans
        else "Prompt tuning, demonstrations and tests without a download."
    )
    rows = "\n".join(
        f"| {who} | {s['loss']:.3f} | {s['perplexity']:.1f} | {s['bits_per_byte']:.3f} | {100 * s['accuracy']:.1f} % |"
        for who, s in ((f"`{name}`", scores["model"]), ("5-gram, Kneser-Ney", scores["5-gram"]))
    )
    written = "\n".join(f"- {sample['given']!r} → {sample['written']!r}" for sample in scores["samples"])
    return f"""\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: {"text2text-generation" if both else "text-generation"}
---

# {name}

A small English {"text-to-text model (T5 v1.1 in shape)" if both else "causal language model (Llama in shape)"}, trained
from nothing by the scripts in `pretraining/`: width {width}, inner width {inner}, {towers},
{summary["parameters"] / 1e6:.1f} M weights, {body / 1e6:.1f} M of them outside the embedding table (16,384 tokens, tied
with the output).

## How much it was trained

| stage | objective | steps | tokens | hours | tokens a second | TFLOP/s | held-out loss |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
{stages}

The corpus holds 94.6 M tokens; its core is read twice as often as the rest. Held-out losses are of each stage's own
objective. TFLOP/s are of matrix products. Hardware: {start["hardware"] or "a CPU"}, {start["threads"]} thread(s).
PyTorch {start["torch"]}, transformers {start["transformers"]}, seed {start["seed"]}. The last stage:

![losses](losses.svg)

## What it knows

On {scores["model"]["tokens"]:,} tokens of held-out text ({scores["what"]}), beside a 5-gram model counted on the same
training text. The 5-gram model sees the four true tokens before each one it is asked for.

| | nats a token | perplexity | bits a byte | first guess right |
| --- | ---: | ---: | ---: | ---: |
{rows}

It writes ({"the likeliest of four beams" if spans else "drawn with top-p 0.9, temperature 0.8, seed 0"}; not selected):

{written}

## Data and licences

416 MB of English text: books of all periods, textbooks, short fiction, government pages, Wikipedia, dialogues, blogs,
questions and answers. By bytes: public domain or CC0 70 %, CC BY 17 %, CC BY-SA 8 %, permissive (MIT, Apache, WordNet)
3 %, other open licences 2 %. It was cleared of texts that stand in the evaluation data of this project. The weights are
under Apache 2.0.

## Intended use and limits

{use} A model of this size knows little of the world: what it writes is not true but for chance, it repeats the views of
old books, and nothing was done to make it harmless. It is not made for use by people who want answers.
"""


def _row(name: str, stage: Stage, summary: Mapping[str, Any]) -> str:
    """A stage in the card's table."""
    told = f"{OBJECTIVES[type(stage.objective)]}, windows of {stage.objective.width}"
    cells = (
        f"`{name}`", told, f"{summary['steps']:,}", f"{summary['tokens'] / 1e6:.1f} M",
        f"{summary['seconds'] / 3600:.1f}", f"{summary['tokens_per_second']:,.0f}",
        f"{summary['operations_per_second'] / 1e12:.2f}{_share(summary)}", f"{summary['validation_loss']:.3f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _share(summary: Mapping[str, Any]) -> str:
    """Of the machine's peak in bf16, where it is known."""
    return f" ({100 * summary['mfu']:.0f} % of the peak)" if summary["mfu"] else ""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Make folders that anyone can load.")
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("stages", nargs="+", choices=list(STAGES), metavar="STAGE")
    chosen = parser.parse_args(arguments)
    for name in chosen.stages:
        place = ship(name, chosen.out, chosen.models)
        print(place, f"{sum(f.stat().st_size for f in place.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
