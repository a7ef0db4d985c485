"""`promptuary serve` under load: fifty tasks, mixed traffic, many clients; every answer compared with offline ones.

    python benchmarks/serve_load.py    # 64 clients, 3 minutes a model; writes results/serve_load.json, .md
    python benchmarks/serve_load.py --minutes 1 --models minilm

A store of fifty prompts (five methods and kinds of task, each tuned for one epoch on a few rows and ten times varied by
noise: what they say does not matter, that it is the same does) is served by a process of its own on the loopback; the
clients are threads of this one, so they share the machine. Each client asks again as soon as it has its answer: one
row, several rows of mixed tasks, chats, and on the causal model texts, whole and streamed; one request in fifty names
no task and must be told so. Before that, the same answers were made one task at a time without the server. Afterwards,
10,000 rows are asked at once: each is answered or refused with 429 and the time to wait.

The causal model is GPT-2's architecture with random weights and the tokenizer of `pretraining`: its texts mean nothing.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from promptuary import checkpoint
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.data.source import Row, rows
from promptuary.manifests import MANIFEST
from promptuary.specs import Run
from promptuary.store import Store
from promptuary.train.record import surroundings
from promptuary.tuning import tune

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
TOKENIZER = ROOT.parent / "pretraining" / "tokenizer" / "causal"
EACH, TEXTS, FLOOD = 10, 8, 10_000
CLOSE = 1e-4  # between a probability in a mixed batch and alone, in float32


@dataclass(frozen=True)
class Stock:
    """A kind of prompt, of which there are `EACH`: what sets its run apart."""

    name: str
    sample: str
    settings: Mapping[str, Any]


READ = (
    Stock("intents-deep", "intents", {"method": "p-tuning-v2"}),
    Stock("intents-input", "intents", {"method": "prompt-tuning"}),
    Stock("opinions-made", "opinions", {"method": "ipt-cnn"}),
    Stock("opinions-placed", "opinions", {"method": "dp-position-instance"}),
)
STOCKS = {
    "minilm": (*READ, Stock("words", "words", {"method": "p-tuning-v2", "task": "tagging"})),
    "causal": (*READ, Stock("titles", "titles", {"method": "prompt-tuning", "task": "text", "max_new_tokens": 16})),
}


# --- what is served ---------------------------------------------------------------------------------------------------


def causal(place: Path) -> str:
    """A GPT-2 of 4 layers and width 256 with random weights, large enough that its scores are not flat."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=256, n_layer=4, n_head=4, n_positions=512,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.08)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def taught(stock: Stock, place: Path) -> Path:
    """A few rows to tune on."""
    file = place / f"{stock.sample}.jsonl"
    source = {"words": "opinions", "titles": "opinions"}.get(stock.sample, stock.sample)
    found = list(rows(f"sample:{source}/train"))
    if stock.sample == "words":
        made = [{"tokens": r.fields["text"].split()[:30]} for r in found[:16]]
        made = [{**r, "tags": ["B-long" if len(word) > 4 else "O" for word in r["tokens"]]} for r in made]
    elif stock.sample == "titles":
        made = [{"text": r.fields["text"], "target": " ".join(r.fields["text"].split()[:4])} for r in found[:16]]
    else:
        made = [dict(r.fields) for r in by_class(found)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return file


def by_class(found: Sequence[Row]) -> list[Row]:
    """Two rows of each class."""
    kept: dict[str, list[Row]] = {}
    for row in found:
        kept.setdefault(row.fields["label"], []).append(row)
    return [row for own in kept.values() for row in own[:2]]


def stocked(backbone: Backbone, stocks: Sequence[Stock], place: Path) -> Path:
    """A store of prompts, `EACH` of each stock."""
    folder = place / "store"
    store = Store(folder, backbone)
    for stock in stocks:
        data, out = str(taught(stock, place)), place / stock.name
        run = Run(
            backbone=backbone.name, train=data, validation=data, max_length=128, recipe={"epochs": 1, "batch": 16},
            out=str(out), **stock.settings,
        )  # fmt: skip
        tune(run, backbone=backbone)
        for number in range(EACH):
            store.add(f"{stock.name}-{number}", varied(out, number))
    return folder


def varied(folder: Path, number: int) -> dict[str, bytes]:
    """The files of a prompt whose numbers are those of another one and some noise."""
    manifest = checkpoint.read_manifest(folder)
    source = torch.Generator().manual_seed(number)
    tensors = checkpoint.read_tensors(folder, manifest)
    for name, value in tensors.items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=source)
            tensors[name] = value + 0.3 * value.abs().mean() * noise
    prompt = checkpoint.pack(tensors)
    own = replace(manifest, hashes={checkpoint.PROMPT: hashlib.sha256(prompt).hexdigest()})
    return {MANIFEST: json.dumps(vars(own), default=dict).encode(), checkpoint.PROMPT: prompt}


@dataclass(frozen=True)
class Question:
    """A row of a task, and what the prompt says of it by itself."""

    task: str
    fields: dict[str, Any]
    answer: dict[str, Any]
    writes: bool


def questions(backbone: Backbone, folder: Path) -> list[Question]:
    """Rows of every task with their answers, one task at a time and a row at a time."""
    store, found = Store(folder, backbone), []
    texts = [row.fields["text"] for row in rows("sample:intents/test")]
    for number, name in enumerate(store.names()):
        tuned = store.get(name)
        for text in texts[number % 40 : number % 40 + TEXTS]:
            row = tuned.reading.row(tuned.task, [text], "benchmark")
            [answer] = tuned.predict([row], batch=1)
            writes = tuned.reading.writing(backbone) is not None
            found.append(Question(name, row.fields, dict(vars(answer)), writes))
    return found


@contextmanager
def server(model: str, folder: Path, *options: str) -> Iterator[int]:
    """`promptuary serve` on a free port."""
    command = [sys.executable, "-m", "promptuary", "serve", str(folder), "--backbone", model, "--port", "0", *options]
    with subprocess.Popen([*command, "--log-level", "info"], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                break
        heard = threading.Thread(target=lambda: [None for _ in running.stderr or ()], daemon=True)
        heard.start()
        try:
            yield int(event["url"].rpartition(":")[2])
        finally:
            running.terminate()
            assert running.wait(90) == 0, "the server did not end well"


# --- what is asked ----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What happened: seconds of each request by kind, answers by status, and what was wrong with some."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    different: list[str] = field(default_factory=list)

    def joined(self, other: "Seen") -> "Seen":
        for kind, own in other.seconds.items():
            self.seconds.setdefault(kind, []).extend(own)
        self.statuses.update(other.statuses)
        self.rows += other.rows
        self.different.extend(other.different)
        return self


class Client:
    """One connection that asks, checks, and asks again."""

    def __init__(self, port: int, asked: Sequence[Question], seed: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._asked, self._draw, self.seen = asked, random.Random(seed), Seen()
        self._writing = [q for q in asked if q.writes]

    def run(self, ends: float) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._one, 60), (self._several, 20), (self._chat, 12), (self._unknown, 2),
        ]  # fmt: skip
        if self._writing:
            kinds += [(self._text, 6), (self._stream, 6)]
        calls, weights = zip(*kinds, strict=True)
        while time.perf_counter() < ends:
            self._draw.choices(calls, weights)[0]()
        self._connection.close()

    def _post(self, kind: str, path: str, body: Any) -> tuple[int, bytes]:
        began = time.perf_counter()
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        self.seen.seconds.setdefault(kind, []).append(time.perf_counter() - began)
        self.seen.statuses[f"{kind} {answer.status}"] += 1
        return answer.status, content

    def _check(self, question: Question, said: Any) -> None:
        self.seen.rows += 1
        if not same(question.answer, said):
            self.seen.different.append(f"{question.task}: {said} for {question.answer}")

    def ask(self, asked: Sequence[Question]) -> None:
        """Rows in one request."""
        kind = "one row" if len(asked) == 1 else "2 to 8 rows of mixed tasks"
        status, content = self._post(kind, "/predict", {"rows": [{"task": q.task, "fields": q.fields} for q in asked]})
        if status == 200:
            for question, said in zip(asked, json.loads(content)["answers"], strict=True):
                self._check(question, {name: said[name] for name in question.answer})

    def _one(self) -> None:
        self.ask([self._draw.choice(self._asked)])

    def _several(self) -> None:
        self.ask(self._draw.sample(self._asked, self._draw.randint(2, 8)))

    def _chat(self) -> None:
        question = self._draw.choice(self._asked)
        given = next(iter(question.fields.values()))
        text = given if isinstance(given, str) else " ".join(given)
        body = {"model": question.task, "messages": [{"role": "user", "content": text}]}
        status, content = self._post("chat", "/v1/chat/completions", body)
        if status == 200:
            self._check_text(question, json.loads(content)["choices"][0]["message"]["content"])

    def _text(self) -> None:
        question = self._draw.choice(self._writing)
        body = {"model": question.task, "prompt": question.fields["text"]}
        status, content = self._post("text", "/v1/completions", body)
        if status == 200:
            self._check_text(question, json.loads(content)["choices"][0]["text"])

    def _stream(self) -> None:
        question = self._draw.choice(self._writing)
        body = {"model": question.task, "prompt": question.fields["text"], "stream": True}
        status, content = self._post("streamed text", "/v1/completions", body)
        if status == 200:
            *parts, last = [line.removeprefix("data: ") for line in content.decode().split("\n\n") if line]
            said = "".join(json.loads(part)["choices"][0]["text"] for part in parts)
            self._check_text(question, said if last == "[DONE]" else f"no end: {last}")

    def _unknown(self) -> None:
        status, _ = self._post("no such task", "/predict", {"rows": [{"task": "intentz", "text": "hi"}]})
        if status != 404:
            self.seen.different.append(f"an unknown task was answered with {status}")

    def _check_text(self, question: Question, said: str) -> None:
        first = next(iter(question.answer.values()))
        expected = " ".join(map(str, first)) if isinstance(first, list) else str(first)
        self.seen.rows += 1
        if said.strip() != expected:
            self.seen.different.append(f"{question.task}: {said!r} for {expected!r}")


def same(expected: Any, said: Any) -> bool:
    """Whether an answer is the offline one, its numbers to rounding."""
    if isinstance(expected, dict):
        return set(expected) == set(said) and all(same(expected[name], said[name]) for name in expected)
    if isinstance(expected, float):
        return abs(expected - said) <= CLOSE * max(1.0, abs(expected))
    return bool(expected == said)


def flood(port: int, asked: Sequence[Question]) -> dict[str, int]:
    """`FLOOD` rows at once, 100 in a request: how many requests ended how; refusals must say when to come again."""
    found: Counter[str] = Counter()
    given = [{"task": q.task, "fields": q.fields} for q in asked if not q.writes]
    body = json.dumps({"rows": (given * 100)[:100]})

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        wait = answer.getheader("Retry-After")
        found[f"{answer.status}{'' if wait is None else ' with Retry-After'}"] += 1
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(FLOOD // 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(found)


# --- what is measured -------------------------------------------------------------------------------------------------


def counted(port: int) -> dict[str, float]:
    """The server's own metrics without labels."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] not in "#")}


def load_on(port: int, asked: Sequence[Question], clients: int, seconds: float) -> dict[str, Any]:
    """Everything that is measured of one server, in plain values."""
    warm = Client(port, asked, -1)
    for question in asked[::TEXTS]:  # every task is opened
        warm.ask([question])
    before, began = counted(port), time.perf_counter()
    ends = began + seconds
    own = [Client(port, asked, seed) for seed in range(clients)]
    threads = [threading.Thread(target=client.run, args=(ends,)) for client in own]
    for thread in threads:
        thread.start()
    memory: list[tuple[float, float]] = []
    while (now := time.perf_counter()) < ends:
        memory.append((now - began, counted(port)["process_resident_memory_bytes"]))
        time.sleep(1.0)
    for thread in threads:
        thread.join()
    took, after = time.perf_counter() - began, counted(port)
    seen = Seen()
    for client in own:
        seen.joined(client.seen)
    did = {name: after[f"promptuary_{name}_total"] - before[f"promptuary_{name}_total"] for name in BATCHES}
    cpu = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    minute, load_average = min(60.0, seconds / 3), os.getloadavg()[0]
    first = [size for at, size in memory if at <= minute]
    last = [size for at, size in memory if at >= seconds - minute]
    requests = sum(map(len, seen.seconds.values()))
    return {
        "seconds": took, "requests": requests, "requests_per_s": requests / took, "rows_checked": seen.rows,
        "rows_per_s": seen.rows / took, "different": len(seen.different), "examples": seen.different[:3],
        "statuses": dict(sorted(seen.statuses.items())),
        "ms": {kind: quantiles(own) for kind, own in sorted(seen.seconds.items())},
        "rows_per_batch": did["batch_rows"] / did["batches"],
        "padding": did["batch_padding"] / max(1.0, did["batch_tokens"] + did["batch_padding"]),
        "busy": did["batch_seconds"] / took, "cpu_ms_per_row": 1000 * cpu / max(1, seen.rows),
        "load_average": load_average,
        "memory_bytes": {
            "first": statistics.mean(first), "last": statistics.mean(last), "window_s": minute,
            "every_10_s": [size for _, size in memory[::10]],
        },
    }  # fmt: skip


BATCHES = ("batches", "batch_rows", "batch_tokens", "batch_padding", "batch_seconds")


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds that half, 95 and 99 of a hundred requests took at most, and the number of them."""
    cut = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [seconds[0]] * 99
    return {"p50": 1000 * cut[49], "p95": 1000 * cut[94], "p99": 1000 * cut[98], "count": len(seconds)}


def measure(model: str, clients: int, seconds: float) -> dict[str, Any]:
    """One model: stock its store, ask offline, serve, ask under load, flood."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        name = causal(place / "model") if model == "causal" else model
        backbone = load(name)
        folder = stocked(backbone, STOCKS[model], place)
        asked = questions(backbone, folder)
        print(f"{model}: {len(list(folder.iterdir()))} tasks, {len(asked)} questions", flush=True)
        with server(name, folder) as port:
            found = load_on(port, asked, clients, seconds)
            found["flood"] = flood(port, asked)
        return {"tasks": len(list(folder.iterdir())), **found}


def report(results: Mapping[str, Any]) -> str:
    """The results as a page."""
    lines = ["# `promptuary serve` under load", "", "From `benchmarks/serve_load.py`; see there for what is asked.", ""]
    where = results["surroundings"]
    lines += [
        f"{results['clients']} clients on the same machine ({where['hardware']['processors']} processors), "
        f"{results['seconds']:.0f} s a model; commit {where['commit']}, torch {where['versions']['torch']}.",
        "",
    ]
    for model, own in results["models"].items():
        memory = own["memory_bytes"]
        lines += [
            f"## {model}, {own['tasks']} tasks", "",
            f"{own['requests_per_s']:.0f} requests and {own['rows_per_s']:.0f} rows a second; "
            f"{own['rows_per_batch']:.1f} rows a batch, {own['padding']:.1%} padding; the model was at work "
            f"{own['busy']:.0%} of the time, and a row took {own['cpu_ms_per_row']:.1f} ms of a processor "
            f"(load average of the machine: {own['load_average']:.0f}). "
            f"{own['rows_checked']:,} answers were compared with offline ones, {own['different']} differed. Memory: "
            f"{memory['first'] / 2**20:.0f} MiB in the first {memory['window_s']:.0f} s, "
            f"{memory['last'] / 2**20:.0f} MiB in the last.",
            "", "| request | count | p50 ms | p95 ms | p99 ms |", "|---|---:|---:|---:|---:|",
            *(
                f"| {kind} | {ms['count']:,} | {ms['p50']:.0f} | {ms['p95']:.0f} | {ms['p99']:.0f} |"
                for kind, ms in own["ms"].items()
            ),
            "", "Statuses: " + ", ".join(f"{name}: {count:,}" for name, count in own["statuses"].items()) + ".",
            f"{FLOOD:,} rows at once, 100 a request: "
            + ", ".join(f"{count} requests {name}" for name, count in sorted(own["flood"].items())) + ".", "",
        ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--models", nargs="+", choices=sorted(STOCKS), default=["minilm", "causal"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    models = {model: measure(model, given.clients, 60 * given.minutes) for model in given.models}
    results = {
        "clients": given.clients, "seconds": 60 * given.minutes, "models": models, "surroundings": surroundings(),
    }  # fmt: skip
    (given.out / "serve_load.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (given.out / "serve_load.md").write_text(report(results), encoding="utf-8")
    print(report(results))
    if any(own["different"] for own in models.values()):
        sys.exit("Some answers differ from the offline ones.")


if __name__ == "__main__":
    main()
