"""Steps, answers and mixed batches on a GPU, at the shapes one has a GPU for: T5-large and XL, and a causal 7B.

    python benchmarks/speed/gpu.py                  # all, to benchmarks/results/gpu.json and gpu.md
    python benchmarks/speed/gpu.py steps            # one part; the results of the others stay
    python benchmarks/speed/gpu.py --smoke          # does it run? Tiny shapes, on the CPU, nothing is written

Weights are random, in bfloat16. Ways of a line take turns in one process; times are medians of what the clock says when
the GPU is done. Memory is the most that a step allocates beside the loaded model. `floor` is the plain model, forward
and backward to the row of embeddings; PEFT runs as its user gets it (`all.py`). Tokens a second count soft tokens too.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from all import interleaved
from contenders import Kind, Way, batch, causal, floor, made, ours, quietly, seeded, text_to_text, theirs
from mixed import PEERS, bank, by_peft, mixed, peers, texts, timed

from promptuary.files import write
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results"
PRECISION = "bf16"
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 64}


@dataclass(frozen=True)
class Asked:
    """What is measured, and where.

    Arguments:
        kinds: text-to-text and causal models. rows, tokens: of a training step. prompts: lengths of prompts.
        answered: rows and tokens of an inference behind a prompt of the longest of these lengths.
        tasks: of a mixed batch. mixed: its rows. turns: of each line.
    """

    device: torch.device
    kinds: Mapping[str, Kind]
    rows: int
    tokens: int
    prompts: tuple[int, ...]
    answered: tuple[tuple[int, int], ...]
    tasks: int
    mixed: tuple[int, ...]
    turns: int

    @property
    def causal(self) -> tuple[str, Kind]:
        return next((name, kind) for name, kind in self.kinds.items() if kind.task == "CAUSAL_LM")

    def now(self) -> float:
        """Seconds, when everything that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def took(self, way: Way) -> float | None:
        """MiB that a way allocates at most, beside what is there; only a GPU knows."""
        if self.device.type != "cuda":
            return None
        way()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


LARGE = {
    "t5-large": text_to_text(d_model=1024, d_ff=2816, num_layers=24, num_heads=16, vocab_size=32_128, **GATED),
    "t5-xl": text_to_text(d_model=2048, d_ff=5120, num_layers=24, num_heads=32, vocab_size=32_128, **GATED),
    "llama-7b": causal(),
}
TINY = {
    "t5": text_to_text(d_model=32, d_ff=32, num_layers=1, num_heads=2, vocab_size=1100),
    "llama": causal(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=1100
    ),
}  # fmt: skip
REAL = Asked(
    torch.device("cuda"), LARGE, rows=16, tokens=128, prompts=(20, 100),
    answered=((1, 32), (8, 32), (32, 32), (1, 128), (8, 128), (32, 128)), tasks=16, mixed=(16, 64), turns=9,
)  # fmt: skip
SMOKE = Asked(
    torch.device("cpu"), TINY, rows=2, tokens=8, prompts=(3,), answered=((2, 5),), tasks=2, mixed=(4,), turns=1
)  # fmt: skip


def steps(asked: Asked) -> Iterator[dict[str, Any]]:
    """A training step of prompts at the input and of prefixes, beside the floor and PEFT."""
    configs = {"prompt-tuning": "PromptTuningConfig", "p-tuning-v2": "PrefixTuningConfig"}
    for (name, kind), length, (method, config) in product(asked.kinds.items(), asked.prompts, configs.items()):
        backbone = kind.backbone(PRECISION, asked.device)
        given = batch(asked.rows, asked.tokens, backbone.shape.vocabulary).to(asked.device)
        model, readout = made(kind, backbone, method, length=length)
        ways: dict[str, Way] = {"ours": ours(model, readout, given, PRECISION)}
        if method == "prompt-tuning":
            ways["floor"] = floor(kind, given, model, readout, PRECISION)
        if not (kind.task == "SEQ_2_SEQ_LM" and method == "p-tuning-v2"):  # PEFT's is in the decoder alone
            ways["PEFT"] = theirs(kind, config, length, given, training=True, precision=PRECISION)
        at = interleaved(ways, asked.turns, asked.now)
        columns = asked.tokens + model.injection.occupies(length)
        yield {
            "shape": name, "method": method, "prompt": length, **{f"{way}, ms": ms for way, ms in at.items()},
            **{f"ours / {way}": at["ours"] / at[way] for way in at if way != "ours"},
            "ours, tokens/s": 1000 * asked.rows * columns / at["ours"],
            **{f"{way}, MiB": asked.took(ways[way]) for way in ways},
        }  # fmt: skip
        del ways, model, backbone
        gc.collect()
        torch.cuda.empty_cache()


def answers(asked: Asked) -> Iterator[dict[str, Any]]:
    """The score of one token behind a long prompt: compiled, in the row, and PEFT's, beside the bare model."""
    (name, kind), length = asked.causal, asked.prompts[-1]
    backbone, plain = kind.backbone(PRECISION, asked.device), seeded(kind.build, asked.device).to(torch.bfloat16)
    (row,), (none,) = (bank(backbone, "prompt-tuning", 1, n) for n in (length, 0))
    short, loop = row.compiled(), peers(plain, "prompt-tuning", 1, length).to(asked.device)
    for number, tokens in asked.answered:
        rows = [(0, ids) for ids in texts([tokens] * number, backbone.shape.vocabulary)]
        ways = {
            "bare": partial(mixed, [none], rows),
            "compiled": partial(mixed, [short], rows),
            "in the row": partial(mixed, [row], rows),
            **by_peft(loop, rows),
        }
        at = timed(ways, asked.turns, "bare", "compiled", asked.now)
        yield {"shape": name, "prompt": length, "rows": number, "tokens": tokens, **at}


def together(asked: Asked) -> Iterator[dict[str, Any]]:
    """Rows of many tasks in one pass, beside as many of one task, and PEFT's loop over tasks."""
    name, kind = asked.causal
    backbone, plain = kind.backbone(PRECISION, asked.device), seeded(kind.build, asked.device).to(torch.bfloat16)
    for method in PEERS:
        loop = peers(plain, method, asked.tasks).to(asked.device)
        prompts = [prompt.compiled() for prompt in bank(backbone, method, asked.tasks)]
        for number in asked.mixed:
            given = texts([asked.tokens] * number, backbone.shape.vocabulary)
            rows = [(i % asked.tasks, ids) for i, ids in enumerate(given)]
            ways = {
                "mixed": partial(mixed, prompts, rows),
                "one task": partial(mixed, prompts, [(0, ids) for ids in given]),
                **by_peft(loop, rows),
            }
            at = timed(ways, asked.turns, "one task", "mixed", asked.now)
            speed = 1000 * number / max(at["mixed, ms"], 1e-9)
            yield {"shape": name, "method": method, "rows": number, "tasks": asked.tasks, **at, "rows/s": speed}
        plain = loop.get_base_model()


PARTS: Mapping[str, Callable[[Asked], Iterator[dict[str, Any]]]] = {
    "steps": steps, "answers": answers, "together": together,
}  # fmt: skip


def page(found: Mapping[str, Any]) -> str:
    """All results as tables."""
    text = ["# On a GPU", "", (__doc__ or "").split("\n\n", 2)[2].strip()]
    for part, own in found.items():
        heads = list(dict.fromkeys(head for line in own["lines"] for head in line))
        text += ["", f"## {part}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        text += [f"| {' | '.join(_told(line.get(head)) for head in heads)} |" for line in own["lines"]]
        versions = ", ".join(f"{name} {version}" for name, version in own["versions"].items() if version)
        hardware = ", ".join(f"{name} {value}" for name, value in own["hardware"].items() if value)
        text += ["", f"{versions}; {hardware}; commit {own['commit']}."]
    return "\n".join(text) + "\n"


def _told(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """Measure, print, write, line by line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args(arguments)
    if unknown := {*given.parts} - {*PARTS}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}. Known: {', '.join(PARTS)}.")
    if not given.smoke and not torch.cuda.is_available():
        print("There is no GPU here. --smoke tries the script out on the CPU.", file=sys.stderr)
        return 2
    asked, path = SMOKE if given.smoke else REAL, RESULTS / "gpu.json"
    found = json.loads(path.read_text())["parts"] if path.is_file() and not given.smoke else {}
    for part in given.parts or PARTS:
        found[part] = {"lines": [], **record.surroundings()}
        for line in PARTS[part](asked):
            print(json.dumps(line), flush=True)
            found[part]["lines"].append(line)
            if not given.smoke:
                write(path, (json.dumps({"parts": found}, indent=1) + "\n").encode())
                write(path.with_suffix(".md"), page(found).encode())
    return 0


if __name__ == "__main__":
    with quietly():
        sys.exit(main(sys.argv[1:]))
