"""What many tasks in one batch cost, and what a compiled prompt costs.

    OMP_NUM_THREADS=1 python benchmarks/speed/mixed.py            # all, to benchmarks/results/mixed.json and mixed.md
    OMP_NUM_THREADS=1 python benchmarks/speed/mixed.py compiled   # one part; the results of the others stay

- `minilm`, `gpt2-like`: 16 and 64 rows of 16 tasks in one mixed batch, beside as many rows of one task, and beside
  PEFT, which loops over `set_adapter`. Rows of 32 tokens; in float32 and in bfloat16.
- `requests`: 128 requests of 8 tasks whose mean lengths go from 12 to 200, as they come. Mixed: sorted by length into
  batches of 1,024 tokens, as a `Bank` does, and of 4,096. PEFT: first come, first served in batches of 32, each split
  by task; what it computes for a token, padding counted, is what packing could save of its products at most.
- `compiled`: a prompt of 100 tokens before a causal model's input: in the row, compiled, and PEFT's.

One process, one thread. The ways of a cell take turns; what counts is CPU time, since other work may share the machine.
A time is the median, a ratio the median over the turns. Compiled prompts are what a server asks. `minilm` is the
bundled model; the GPT-2-like one is random, 6 layers of width 768 and 50,257 tokens. PEFT runs models as transformers
builds them, in evaluation mode; "one token" hands the head a slice, which PyTorch multiplies row by row in bfloat16.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Bool, Int
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.utils import logging

from promptuary.assembly import prompted
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import SHORT_NAMES, load, wrap
from promptuary.bank import TOKENS
from promptuary.data.collate import within
from promptuary.files import write
from promptuary.mixing import Share, run
from promptuary.model import SoftPrompted
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results"
TASKS, LENGTH, TOKENS_A_ROW = 16, 20, 32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS = {"prompt-tuning": PromptTuningConfig, "p-tuning-v2": PrefixTuningConfig}
Row = tuple[int, list[int]]  # a task, and the ids of a text
Way = Callable[[], object]


def gpt2_like() -> PreTrainedModel:
    """A random GPT-2 of half its depth."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(n_layer=6)).eval()


def models(name: str, precision: str) -> tuple[Backbone, PreTrainedModel]:
    """The model as this library drives it, and as transformers builds it."""
    dtype = DTYPES[precision]
    if name == "minilm":
        return load(name, dtype=dtype), AutoModel.from_pretrained(SHORT_NAMES[name].path(), dtype=dtype).eval()
    return wrap(gpt2_like().to(dtype), name), gpt2_like().to(dtype)


def bank(backbone: Backbone, method: str, tasks: int, length: int = LENGTH) -> list[SoftPrompted]:
    """A prompt for each task."""
    settings = {"length": length}
    return [prompted(backbone, method, settings, init=None, seed=seed).eval() for seed in range(tasks)]


def peers(model: PreTrainedModel, method: str, tasks: int, length: int = LENGTH) -> PeftModel:
    """PEFT around the model, with an adapter for each task, `0`, `1`, ..."""
    kind = "CAUSAL_LM" if hasattr(model, "lm_head") else "FEATURE_EXTRACTION"
    made = get_peft_model(model, PEERS[method](task_type=kind, num_virtual_tokens=length), adapter_name="0")
    for task in range(1, tasks):
        made.add_adapter(str(task), PEERS[method](task_type=kind, num_virtual_tokens=length))
    return made.eval()


def padded(
    rows: Sequence[Row], device: torch.device
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Ids and mask, padded on the right."""
    longest = max(len(ids) for _, ids in rows)
    mask = torch.tensor([[i < len(ids) for i in range(longest)] for _, ids in rows], device=device)
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for _, ids in rows], device=device), mask


def by_task(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of each task."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return found


def mixed(prompts: Sequence[SoftPrompted], rows: Sequence[Row]) -> None:
    """All rows in one pass; a causal model scores the token behind each row."""
    own, device = by_task(rows), prompts[0].backbone.device
    shares = [Share(prompts[task], prompts[task].instance(*padded(some, device))) for task, some in own.items()]
    outs = run(shares)
    if not prompts[0].backbone.shape.encodes:
        last = [
            out.hidden[range(len(out.hidden)), share.x.mask.sum(1) - 1] for share, out in zip(shares, outs, strict=True)
        ]
        outs[0].logits(torch.cat(last))


def looped(model: PeftModel, rows: Sequence[Row], **how: Any) -> None:
    """PEFT's way: one adapter after the other, each on its own rows."""
    for task, own in by_task(rows).items():
        model.set_adapter(str(task))
        ids, mask = padded(own, model.device)
        model(input_ids=ids, attention_mask=mask.long(), **how)


def by_peft(model: PeftModel, rows: Sequence[Row]) -> dict[str, Way]:
    """PEFT as it is called by default, where a causal model scores every token; and asked for one of each row."""
    ways: dict[str, Way] = {"PEFT": partial(looped, model, rows)}
    if hasattr(model.get_base_model(), "lm_head"):
        ways["PEFT, one token"] = partial(looped, model, rows, logits_to_keep=1)
    return ways


def timed(
    ways: Mapping[str, Way], turns: int, base: str, ours: str, now: Callable[[], float] = time.process_time
) -> dict[str, Any]:
    """Median milliseconds of each way; median ratios over the turns, after one that does not count.

    Our ways to `base`, PEFT's ways to `ours`.
    """
    spent: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        for turn in range(turns + 1):
            for name, way in ways.items():
                began = now()
                way()
                if turn:
                    spent[name].append(1000 * (now() - began))

    def ratio(one: str, other: str) -> dict[str, float]:
        return {f"{one} / {other}": round(median(a / b for a, b in zip(spent[one], spent[other], strict=True)), 3)}

    found: dict[str, Any] = {f"{name}, ms": round(median(own), 1) for name, own in spent.items()}
    for name in ways:
        found |= ratio(name, ours) if "PEFT" in name else ratio(name, base) if name != base else {}
    return found


def each(way: Callable[[Sequence[Row]], None], parts: Sequence[Sequence[Row]]) -> None:
    """The parts of a batch one after the other."""
    for part in parts:
        way(part)


def texts(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Random ids."""
    draw = random.Random(seed)
    return [[draw.randrange(1000, vocabulary) for _ in range(n)] for n in lengths]


def batches(name: str, turns: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """16 and 64 rows over 16 tasks: mixed, of one task, PEFT's loop. `turns` by the number of rows."""
    for precision, method in product(DTYPES, PEERS):
        backbone, plain = models(name, precision)
        theirs, prompts = peers(plain, method, TASKS), bank(backbone, method, TASKS)
        kinds = {method: prompts}
        short = [prompt.compiled() for prompt in prompts]
        if short[0] is not prompts[0]:
            kinds[f"{method}, compiled"] = short
        for (kind, own), number in product(kinds.items(), turns):
            given = texts([TOKENS_A_ROW] * number, backbone.shape.vocabulary)
            rows = [(i % TASKS, ids) for i, ids in enumerate(given)]
            ways = {
                "mixed": partial(mixed, own, rows),
                "one task": partial(mixed, own, [(0, ids) for ids in given]),
                **by_peft(theirs, rows),
            }
            spent = timed(ways, turns[number], "one task", "mixed")
            yield {"precision": precision, "method": kind, "rows": number, **spent}


def requests() -> Iterator[dict[str, Any]]:
    """128 requests of 8 tasks with mean lengths 12 to 200."""
    tasks, number = 8, 128
    draw = random.Random(0)
    means = [round(12 + (200 - 12) * task / (tasks - 1)) for task in range(tasks)]
    asked = [draw.randrange(tasks) for _ in range(number)]
    lengths = [max(4, round(draw.gauss(means[task], means[task] / 4))) for task in asked]
    for precision in DTYPES:
        backbone, plain = models("minilm", precision)
        rows = list(zip(asked, texts(lengths, backbone.shape.vocabulary), strict=True))
        fifo = [rows[i : i + 32] for i in range(0, number, 32)]
        for method in PEERS:
            prompts, theirs = bank(backbone, method, tasks), peers(plain, method, tasks)
            columns = [n + prompts[0].injection.occupies(LENGTH) for n in lengths]
            packed, large = (
                [[rows[i] for i in one] for one in within(columns, tokens)] for tokens in (TOKENS, 4 * TOKENS)
            )
            ways = {
                "mixed": partial(each, partial(mixed, prompts), packed),
                "mixed, large": partial(each, partial(mixed, prompts), large),
                "mixed as they come": partial(each, partial(mixed, prompts), fifo),
                "PEFT": partial(each, partial(looped, theirs), fifo),
            }
            yield {
                "precision": precision, "method": method, **timed(ways, 3, "mixed", "mixed"),
                "PEFT, columns / tokens": round(padding(fifo), 3),
            }  # fmt: skip
            plain = theirs.get_base_model()


def padding(parts: Sequence[Sequence[Row]]) -> float:
    """How many columns PEFT's loop computes for each token, soft ones in the row: what packing could save at most."""
    lengths = [[[LENGTH + len(ids) for _, ids in own] for own in by_task(part).values()] for part in parts]
    shared = [own for part in lengths for own in part]
    return sum(len(own) * max(own) for own in shared) / sum(map(sum, shared))


def compiled() -> Iterator[dict[str, Any]]:
    """A prompt of 100 tokens before the input of a causal model; one token is scored, by PEFT's default all."""
    backbone, plain = models("gpt2-like", "fp32")
    (row,), (none,) = bank(backbone, "prompt-tuning", 1, 100), bank(backbone, "prompt-tuning", 1, 0)
    short, theirs = row.compiled(), peers(plain, "prompt-tuning", 1, 100)
    for tokens, (number, turns) in product((32, 128), {1: 9, 8: 5, 32: 2}.items()):
        rows = [(0, ids) for ids in texts([tokens] * number, backbone.shape.vocabulary)]
        ways = {
            "bare": partial(mixed, [none], rows),
            "compiled": partial(mixed, [short], rows),
            "in the row": partial(mixed, [row], rows),
            **by_peft(theirs, rows),
        }
        yield {"input": tokens, "rows": number, **timed(ways, turns, "bare", "compiled")}


PARTS: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "minilm": partial(batches, "minilm", {16: 7, 64: 3}),
    "gpt2-like": partial(batches, "gpt2-like", {16: 3, 64: 2}),
    "requests": requests,
    "compiled": compiled,
}


def page(found: Mapping[str, Any]) -> str:
    """All results as tables."""
    text = ["# Many tasks in one batch, and compiled prompts", "", (__doc__ or "").split("\n\n", 2)[2].strip()]
    for part, lines in found.items():
        heads = list(lines[0])
        text += ["", f"## {part}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        text += ["| " + " | ".join(str(line[head]) for head in heads) + " |" for line in lines]
    return "\n".join(text) + "\n"


def main(*parts: str) -> None:
    """Measure, print, write, line by line."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    path = RESULTS / "mixed.json"
    found = json.loads(path.read_text())["parts"] if path.is_file() else {}
    for part in parts or PARTS:
        found[part] = {"lines": [], **record.surroundings()}
        for line in PARTS[part]():
            print(json.dumps(line), flush=True)
            found[part]["lines"].append(line)
            write(path, (json.dumps({"parts": found}, indent=1) + "\n").encode())
            write(RESULTS / "mixed.md", page({part: found[part]["lines"] for part in PARTS if part in found}).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
