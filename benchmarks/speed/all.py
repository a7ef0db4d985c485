"""What a step and an answer cost beside what physics and PEFT take, at known shapes, in one go.

    make bench-speed                                   # the quick form: fewer rows and turns
    OMP_NUM_THREADS=2 python benchmarks/speed/all.py --rows 16 --turns 7

Everything of one line is interleaved in one process: one turn runs each contender once, and what is told are ratios of
medians over the turns. Models have random weights, rows are of equal length; steps are in float32 and in bfloat16, the
rest in float32. Writes benchmarks/results/speed.json and speed.md (shown in docs/speed.md); the last line printed is a
JSON object of all ratios.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contenders import (
    KINDS,
    Kind,
    Way,
    answering,
    answering_theirs,
    batch,
    floor,
    generating,
    made,
    ours,
    quietly,
    theirs,
    tuned,
)

from promptuary import activations
from promptuary.backbones.load import wrap
from promptuary.data.batch import Batch
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.files import write
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results"
Clock = Callable[[], float]
TOKENS, PROMPTS, LAYERS = 32, (20, 100), 6
PRECISIONS = ("fp32", "bf16")
ANSWERED = ((1, 32), (8, 32), (1, 128), (8, 128))  # rows and tokens of an inference
MEMORY = ("prompt-tuning", "p-tuning-v2", "dp-position", "fine-tuning")


@dataclass(frozen=True)
class Line:
    """One ratio: `ours` over `other`, in milliseconds or MiB, and the bound it is to stay below, if any."""

    name: str
    ours: float
    other: float
    target: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.other


def interleaved(ways: Mapping[str, Way], turns: int, now: Clock = time.process_time) -> dict[str, float]:
    """Median milliseconds of each (CPU time, or another clock) over `turns` turns after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            began = now()  # by CPU time: what else runs on the machine bears little on it
            way()
            if turn:
                spent[name].append(1000 * (now() - began))
    return {name: median(found) for name, found in spent.items()}


def steps(rows: int, turns: int) -> Iterator[Line]:
    """A training step of an input prompt: against the floor, and PEFT as it is and at its best."""
    for name, length, precision in product(KINDS, PROMPTS, PRECISIONS):
        kind = KINDS[name]
        backbone = kind.backbone(precision)
        given = batch(rows, TOKENS, backbone.shape.vocabulary)
        model, readout = made(kind, backbone, "prompt-tuning", length=length)
        ways = {
            "floor": floor(kind, given, model, readout, precision),
            "ours": ours(model, readout, given, precision),
        }
        plain, found = (way().float() for way in ways.values())
        gap = float((found - plain).abs().max() / plain.abs().max())
        at = interleaved({**ways, **_peft(kind, "PromptTuningConfig", length, given, precision)}, turns)
        where = f"step {name} P{length} {precision}"
        yield Line(f"{where} / floor", at["ours"], at["floor"], 0.60)
        yield Line(f"{where} / peft", at["ours"], at["peft"], 0.50)
        yield Line(f"{where} / peft at its best", at["ours"], at["peft at its best"], 0.50)
        if precision == "fp32":
            yield Line(f"{where}, gradient's gap x 1e4", gap * 1e4, 1.0, 1.0)
        gc.collect()


def _peft(kind: Kind, config: str, length: int, given: Batch, precision: str) -> dict[str, Way]:
    """PEFT as its user gets it, and in evaluation mode."""
    return {
        name: theirs(kind, config, length, given, training=name == "peft", precision=precision)
        for name in ("peft", "peft at its best")
    }


def prefixes(rows: int, turns: int) -> Iterator[Line]:
    """A training step of keys and values in all layers, against PEFT's."""
    kind = KINDS["bert-6l"]
    for length, precision in product(PROMPTS, PRECISIONS):
        backbone = kind.backbone(precision)
        given = batch(rows, TOKENS, backbone.shape.vocabulary)
        step = ours(*made(kind, backbone, "p-tuning-v2", length=length), given, precision)
        peft = _peft(kind, "PrefixTuningConfig", length, given, precision)
        at = interleaved({"ours": step, **peft}, turns)
        for name in peft:
            yield Line(f"prefix bert-6l P{length} {precision} / {name}", at["ours"], at[name], 0.60)


def blind(rows: int, turns: int) -> Iterator[Line]:
    """A training step of soft tokens that do not see the input, against those that do, and a prefix as long."""
    for name, kind in KINDS.items():
        for length in PROMPTS:
            backbone = kind.backbone()
            given = batch(rows, TOKENS, backbone.shape.vocabulary)
            chosen: dict[str, tuple[str, dict[str, Any]]] = {
                "blind": ("prompt-tuning", {"sees_input": False}),
                "input prompt": ("prompt-tuning", {}),
                "prefix": ("p-tuning-v2", {}),
            }
            models = {n: made(kind, backbone, method, length=length, **more) for n, (method, more) in chosen.items()}
            at = interleaved({n: ours(*model, given) for n, model in models.items()}, turns)
            for other in ("input prompt", "prefix"):
                yield Line(f"blind prompt {name} P{length} / {other}", at["blind"], at[other])


def late(rows: int, turns: int) -> Iterator[Line]:
    """A step whose frozen layers' states are kept, as from the second epoch on, against one that makes them."""
    kind = KINDS["bert-6l"]
    backbone = kind.backbone()
    given = batch(rows, TOKENS, backbone.shape.vocabulary)
    examples = [Example(row, [0] * len(row), label=n % 2) for n, row in enumerate(given.ids.tolist())]
    given = collate(examples, range(rows), 0)
    length, half = PROMPTS[0], LAYERS // 2
    chosen: dict[str, dict[str, Any]] = {
        "late prompt": {"method": "lpt", "length": length, "layer": half},
        "late prompt, a table": {"method": "lpt", "length": length, "layer": half, "instance": False},
        "frozen control": {"method": "frozen"},
        "a query of the encoder": {"method": "dp-vector", "length": length, "query": "encoder"},
    }
    plain = ours(*made(kind, backbone, "prompt-tuning", length=length), given)
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in chosen.items():
            fresh, kept = (made(kind, backbone, **settings) for _ in range(2))
            found = activations.keep(
                *kept, [examples], pad=0, precision="fp32", folder=Path(folder), limit_bytes=1 << 30
            )  # fmt: skip
            assert found is not None
            later = ours(kept[0].asking(found.encode), kept[1], given)
            ways = {"first": ours(*fresh, given), "later": later, "input prompt": plain}
            at = interleaved(ways, turns)
            target = None if name == "a query of the encoder" else 0.25
            yield Line(f"{name}: later epochs / first", at["later"], at["first"], target)
            yield Line(f"{name}: later epochs / input prompt", at["later"], at["input prompt"])
    above = 2.0 * (LAYERS - half) * (TOKENS + length)  # forward and backward; below, the text goes forward only
    yield Line("late prompt: later epochs / first, by tokens counted", above, above + half * TOKENS)


def answers(turns: int) -> Iterator[Line]:
    """A prefix of constant keys and values on a causal model, against the bare prepared model and PEFT."""
    length, backbone = PROMPTS[-1], wrap(generating())
    for rows, tokens in ANSWERED:
        ways = {
            "bare": answering(backbone, "frozen", rows, tokens),
            "ours": answering(backbone, "p-tuning-v2", rows, tokens, length=length),
            "peft": answering_theirs(length, rows, tokens),
        }
        at = interleaved(ways, turns)
        where = f"answer gpt2 P{length} B{rows} S{tokens}"
        yield Line(f"{where} / bare", at["ours"], at["bare"], 1.12)
        yield Line(f"{where} / peft", at["ours"], at["peft"], 0.40)


def memories(rows: int) -> Iterator[Line]:
    """MiB that steps take above the loaded model, each in a process of its own."""
    took = {}
    for name in MEMORY:
        command = [sys.executable, __file__, "--memory", name, "--rows", str(rows)]
        took[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name in MEMORY[:2]:
        yield Line(f"memory bert-6l {name} / fine-tuning", took[name], took["fine-tuning"], 0.50)
    yield Line("memory bert-6l dp-position / prompt-tuning", took["dp-position"], took["prompt-tuning"], 1.10)


def memory(name: str, rows: int) -> float:
    """MiB that three steps of AdamW raise this process's memory by (Linux)."""
    kind = KINDS["bert-6l"]
    given = batch(rows, 4 * TOKENS, 30_000)
    if name == "fine-tuning":
        model, step = tuned(kind, given)
        weights = list(model.parameters())
    else:
        prompted, readout = made(kind, kind.backbone(), name, length=PROMPTS[0])
        step = ours(prompted, readout, given)
        weights = [p for part in (prompted, readout) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is that of now
    for _ in range(3):
        step()
        optimizer.step()
        optimizer.zero_grad()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A figure of this process, in kibibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def page(lines: Sequence[Line], told: Mapping[str, Any]) -> str:
    """The results as a table, with what they were measured on."""
    heads = ["| ours / other | ours | other | ratio | target | |", "|---|---:|---:|---:|---:|---|"]
    rows = []
    for line in lines:
        bound = "" if line.target is None else f"{line.target:.2f}"
        verdict = "" if line.target is None else "hit" if line.ratio <= line.target else "**miss**"
        rows.append(f"| {line.name} | {line.ours:.1f} | {line.other:.1f} | {line.ratio:.3f} | {bound} | {verdict} |")
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    hardware = ", ".join(f"{name} {value}" for name, value in told["hardware"].items() if value)
    caption = (
        f"{told['rows']} rows of {TOKENS} tokens (memory: {4 * TOKENS}), medians of {told['turns']} interleaved turns, "
        f"milliseconds of CPU time (memory: MiB). {versions}; {hardware}; commit {told['commit']}."
    )
    return "\n".join([*heads, *rows, "", caption, ""])


def main() -> None:
    """Measure everything, print it, write it."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--rows", type=int, default=8)
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--memory", choices=MEMORY)
    given = asked.parse_args()
    if given.memory is not None:
        print(memory(given.memory, given.rows))
        return
    lines = []
    sections = (steps(given.rows, given.turns), prefixes(given.rows, given.turns),
                blind(given.rows, given.turns), late(given.rows, given.turns),
                answers(given.turns), memories(given.rows))  # fmt: skip
    for section in sections:
        for line in section:
            lines.append(line)
            print(f"{line.ratio:8.3f}  {line.name}", flush=True)
    told = {"rows": given.rows, "turns": given.turns, **record.surroundings()}
    ratios = {line.name: round(line.ratio, 4) for line in lines}
    kept = [{**asdict(line), "ratio": line.ratio} for line in lines]
    write(RESULTS / "speed.json", (json.dumps({"lines": kept, **told}, indent=1) + "\n").encode())
    write(RESULTS / "speed.md", page(lines, told).encode())
    print(json.dumps(ratios))


if __name__ == "__main__":
    with quietly():
        main()
