"""What the engine adds to the frozen model: 64 clients and 50 tasks of two methods, beside the bare model.

    OMP_NUM_THREADS=1 python benchmarks/speed/engine.py    # minutes; writes benchmarks/results/engine.json and .md

Rows of `sample:intents/test` on the bundled `minilm`. The bare model is transformers' own, of the same rows sorted by
length in batches of 64: each row with as many tokens as it has in the engine, soft ones in the row counted, and once
more with its text alone. Both run in turns in one process; what holds are the ratios, medians over the turns. `cpu` is
processor time of all threads per row, `wall` the time per row, which a busy machine disturbs.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModel, PreTrainedModel

from promptuary.backbones.load import SHORT_NAMES, load
from promptuary.data.source import Row, rows
from promptuary.serve.engine import Engine
from promptuary.sharing import Asked
from promptuary.specs import Run
from promptuary.store import Store
from promptuary.train import record
from promptuary.tuning import tune

RESULTS = Path(__file__).resolve().parent.parent / "results" / "engine"
METHODS, TASKS, CLIENTS, ROWS, TURNS, BATCH = ("prompt-tuning", "p-tuning-v2"), 50, 64, 384, 9, 64


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
def bare(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    """A forward pass of rows of these lengths."""
    order = torch.tensor(sorted(lengths))
    for own in order.split(BATCH):
        mask = (torch.arange(int(own.max()))[None] < own[:, None]).long()
        model(input_ids=mask * 2000, attention_mask=mask)


def spent(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds per row of processor and of time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {
        "cpu": 1000 * (time.process_time() - cpu) / ROWS,
        "wall": 1000 * (time.perf_counter() - wall) / ROWS,
    }


async def measured(store: Store, model: PreTrainedModel) -> dict[str, object]:
    """Medians over the turns, the first of which is thrown away."""
    turns = []
    async with Engine(store) as engine:
        for turn in range(TURNS + 1):
            asked = questions(store, turn)
            lengths = {soft: tokens(store, asked, soft=soft) for soft in (True, False)}
            cpu, wall = time.process_time(), time.perf_counter()
            await served(engine, asked)
            own = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            turns.append(
                {
                    "engine": {name: 1000 * value / ROWS for name, value in own.items()},
                    "same_tokens": spent(lambda given=lengths[True]: bare(model, given)),
                    "text_alone": spent(lambda given=lengths[False]: bare(model, given)),
                }
            )
            print(json.dumps(turns[-1]), flush=True)
        load_of = replace(engine.load, seconds=round(engine.load.seconds, 3))
    kept = turns[1:]
    found: dict[str, object] = {"load": vars(load_of)}
    for clock in ("cpu", "wall"):
        found[f"{clock}_ms_per_row"] = {side: round(median(t[side][clock] for t in kept), 3) for side in kept[0]}
        for side in ("same_tokens", "text_alone"):
            ratios = [t["engine"][clock] / t[side][clock] for t in kept]
            found[f"{clock}_ratio_{side}"] = round(median(ratios), 3)
    return found


def page(found: dict[str, object], where: dict[str, object]) -> str:
    """The result for readers."""
    lines = ["# The engine beside the bare model", "", f"{__doc__}", "", "| | processor time | time |", "|---|---|---|"]
    for side, said in (("same_tokens", "same tokens"), ("text_alone", "the texts alone")):
        lines.append(f"| engine / bare model, {said} | {found[f'cpu_ratio_{side}']} | {found[f'wall_ratio_{side}']} |")
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
