"""What the engine adds to the frozen model: 64 clients and 50 tasks of two methods, beside the bare model.

    OMP_NUM_THREADS=1 python benchmarks/speed/engine.py    # minutes; writes benchmarks/results/engine.json and .md

Rows of `sample:intents/test` on the bundled `minilm`. The bare model is transformers' own, on as many tokens as the
rows have in the engine, soft ones in the row counted: in the engine's own batches with their padding (`same batches`),
and sorted by length in batches of 64, which nobody who must answer at once can do (`same tokens`); and once more on the
texts without soft tokens, sorted (`texts alone`). All run in turns in one process; what holds are the ratios, medians
over the turns. Processor time is of all threads: event loop, tokenizer, model. Time is disturbed by what else runs.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from promptuary.backbones.load import SHORT_NAMES, load
from promptuary.data.source import Row, rows
from promptuary.serve import worker
from promptuary.serve.engine import Engine
from promptuary.sharing import Asked
from promptuary.specs import Run
from promptuary.store import Store
from promptuary.train import record
from promptuary.tuning import tune

RESULTS = Path(__file__).resolve().parent.parent / "results" / "engine"
METHODS, TASKS, CLIENTS, ROWS, TURNS, BATCH = ("prompt-tuning", "p-tuning-v2"), 50, 64, 256, 7, 64
SIDES = ("same batches", "same tokens", "texts alone")


def filled(place: Path) -> Store:
    """A store of many tasks, opened; what they say is of no account here, so they are tuned for one epoch."""
    sources = {}
    for method in METHODS:
        sources[method] = place / method
        data = {"train": "sample:intents/train", "validation": "sample:intents/validation"}
        tune(Run(backbone="minilm", method=method, recipe={"epochs": 1}, out=str(sources[method]), **data))
    store = Store(place / "store", load("minilm"))
    for n in range(TASKS):
        store.add(f"task-{n}", sources[METHODS[n % len(METHODS)]])
        store.get(f"task-{n}")
    return store


def questions(store: Store, seed: int) -> list[tuple[str, Row]]:
    """Rows of tasks drawn at random."""
    draw, names = random.Random(seed), store.names()
    texts = [row.fields["text"] for row in rows("sample:intents/test")]
    return [(draw.choice(names), Row({"text": draw.choice(texts)}, f"row {n}")) for n in range(ROWS)]


async def served(engine: Engine, asked: Sequence[tuple[str, Row]]) -> None:
    """All rows, by clients that wait for one answer each."""
    waiting = iter(asked)

    async def client(own: Iterator[tuple[str, Row]]) -> None:
        for name, row in own:
            await engine.predict(name, row)

    await asyncio.gather(*(client(waiting) for _ in range(CLIENTS)))


def tokens(store: Store, asked: Sequence[tuple[str, Row]], *, soft: bool) -> list[int]:
    """How many each row has in the model."""
    found = []
    for name, row in asked:
        tuned = store.get(name)
        [example] = tuned.wording.encode([row], labelled=False)
        found.append(Asked(0, name, tuned, row, example).columns if soft else len(example.ids))
    return found


@torch.no_grad()
def bare(model: PreTrainedModel, batches: Sequence[Sequence[int]]) -> None:
    """Forward passes of batches of rows of these lengths."""
    for lengths in batches:
        own = torch.tensor(lengths)
        mask = (torch.arange(int(own.max()))[None] < own[:, None]).long()
        model(input_ids=mask * 2000, attention_mask=mask)


def ordered(lengths: Sequence[int]) -> list[list[int]]:
    """The lengths sorted, in batches."""
    return [own.tolist() for own in torch.tensor(sorted(lengths)).split(BATCH)]


class Clock:
    """Milliseconds of processor and of time since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def per(self, rows: int) -> dict[str, float]:
        """Of each row."""
        return {
            "cpu": 1000 * (time.process_time() - self.cpu) / rows,
            "wall": 1000 * (time.perf_counter() - self.wall) / rows,
        }


def alone(model: PreTrainedModel) -> float:
    """What a pass costs by itself, in tokens: a row of 8 tokens beside 32 rows of 32."""
    spent: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(15):
        for name, batch in (("one", [8]), ("many", [32] * 32)):
            clock = Clock()
            bare(model, [batch])
            spent[name].append(clock.per(1)["cpu"])
    token = (median(spent["many"]) - median(spent["one"])) / (32 * 32 - 8)
    return round(median(spent["one"]) / token - 8, 1)


async def measured(store: Store, model: PreTrainedModel) -> dict[str, Any]:
    """Medians over the turns, the first of which is thrown away."""
    turns, batches, plain = [], list[list[int]](), worker.read

    def noted(held: Sequence[Asked]) -> list[tuple[Asked, Any]]:
        batches.append([one.columns for one in held])
        return plain(held)

    worker.read = noted
    async with Engine(store) as engine:
        for turn in range(TURNS + 1):
            asked = questions(store, turn)
            given = {soft: ordered(tokens(store, asked, soft=soft)) for soft in (True, False)}
            batches.clear()
            clock = Clock()
            await served(engine, asked)
            spent = {"engine": clock.per(ROWS)}
            for side, lengths in zip(SIDES, (batches, given[True], given[False]), strict=True):
                clock = Clock()
                bare(model, lengths)
                spent[side] = clock.per(ROWS)
            turns.append(spent)
            print(json.dumps(spent), flush=True)
        load_of = engine.load
    kept = turns[1:]
    found: dict[str, Any] = {"load": {**vars(load_of), "seconds": round(load_of.seconds, 3)}}
    for clock_name in ("cpu", "wall"):
        found[f"{clock_name}_ms_per_row"] = {
            side: round(median(t[side][clock_name] for t in kept), 3) for side in kept[0]
        }
        found[f"{clock_name}_ratio"] = {
            side: round(median(t["engine"][clock_name] / t[side][clock_name] for t in kept), 3) for side in SIDES
        }
    return {**found, "alone_tokens": alone(model)}


def page(found: dict[str, Any], where: dict[str, Any]) -> str:
    """The result for readers."""
    lines = ["# The engine beside the bare model", "", *str(__doc__).strip().split("\n"), ""]
    lines += ["| engine / bare model | processor time | time |", "|---|---:|---:|"]
    lines += [f"| {side} | {found['cpu_ratio'][side]} | {found['wall_ratio'][side]} |" for side in SIDES]
    load_of = found["load"]
    share = load_of["padding"] / (load_of["tokens"] + load_of["padding"])
    lines += ["", f"{load_of['rows'] / load_of['batches']:.1f} rows a pass, {share:.0%} of its columns are padding."]
    lines += [f"A pass costs as much by itself as {found['alone_tokens']} tokens in it."]
    return "\n".join([*lines, "", f"```json\n{json.dumps(where, indent=1)}\n```", ""])


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder))
        path = SHORT_NAMES["minilm"].path()
        assert path is not None, "pip install '.[demo]'"
        found = asyncio.run(measured(store, AutoModel.from_pretrained(path).eval()))
    setting = {"tasks": TASKS, "methods": METHODS, "clients": CLIENTS, "rows": ROWS, "turns": TURNS}
    where = {"setting": setting, **record.surroundings()}
    print(json.dumps(found, indent=1))
    RESULTS.with_suffix(".json").write_text(json.dumps({**found, **where}, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(found, where))


if __name__ == "__main__":
    main()
