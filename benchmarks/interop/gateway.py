"""`promptuary gateway` before a real vLLM server on loopback, asked by the official `openai` client.

    python benchmarks/interop/gateway.py --engine VENV/bin/python

VENV is an environment with vLLM (see `bridge.py`). Two tasks on a tiny random Llama, one with soft tokens in the row,
one with a deep prefix, are asked whole, as a chat, in parts, many at once, beside what this library writes by itself;
then clients leave, texts are too long, and the vLLM is killed. Writes `results/gateway.json` and `.md`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
from bridge import HERE, RESULTS, TEXTS, saved

from promptuary import Run, open_prompt, tune
from promptuary.data.source import Row, rows
from promptuary.train.record import surroundings

AT_ONCE = 32
CONNECTOR = {"kv_connector": "PrefixConnector", "kv_role": "kv_consumer",
             "kv_connector_module_path": "promptuary.interop.connector"}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "in the row": {"method": "prompt-tuning", "settings": {"length": 8}},
    "deep": {"method": "p-tuning-v2", "settings": {"length": 8}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="The Python of an environment with vLLM.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        texts, expected = stocked(place)
        there, here = free(), free()
        with engine(options.engine, place, there) as vllm, gateway(place, there, here) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
            found = answers(client, texts, expected) | leaving(client, there) | wrong(client, vllm)
    write({"checks": found, "engine": known(options.engine), **surroundings()})


def stocked(place: Path) -> tuple[list[str], dict[str, list[str]]]:
    """A store with the tasks, some texts, and what each task writes for them here."""
    saved("llama", place / "model")
    given = [row.fields["text"] for row in rows("sample:intents/train")][:64]
    data = place / "notes.jsonl"
    data.write_text("".join(json.dumps({"text": t, "target": t.split()[0]}) + "\n" for t in given))
    texts, expected = given[:TEXTS], {}
    for name, settings in TASKS.items():
        out = place / "store" / name.replace(" ", "-")
        recipe = {"steps": 20, "batch": 8, "rate": 0.5 if name == "in the row" else 0.05}
        run = Run(
            backbone=str(place / "model"), task="text", train=str(data), validation=str(data), recipe=recipe,
            max_new_tokens=16, out=str(out), **settings,
        )  # fmt: skip
        tune(run)
        tuned = open_prompt(out, device="cpu")
        expected[out.name] = [a.prediction for a in tuned.predict([Row({"text": t}, t) for t in texts])]
    return texts, expected


def answers(client: openai.OpenAI, texts: list[str], expected: dict[str, list[str]]) -> dict[str, Any]:
    """Whether every way to ask says what this library writes."""
    found: dict[str, Any] = {"models": sorted(m.id for m in client.models.list())}
    for task, own in expected.items():
        whole = client.completions.create(model=task, prompt=texts)
        found[f"{task}: completions"] = same([c.text.strip() for c in whole.choices], own)
        found[f"{task}: chat"] = same([chatted(client, task, text) for text in texts], own)
        found[f"{task}: predict"] = same(predicted(client, task, texts), own)
        found[f"{task}: streamed"] = same([streamed(client, task, text) for text in texts], own)
    tasks = list(expected)
    asked = [(tasks[i % len(tasks)], i // len(tasks) % len(texts)) for i in range(8 * AT_ONCE)]
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda own: streamed(client, own[0], texts[own[1]]), asked))
    key = f"{len(asked)} streams, {AT_ONCE} at once"
    found[key] = same(said, [expected[task][i] for task, i in asked])
    found["their seconds"] = round(time.perf_counter() - began, 2)
    return found


def chatted(client: openai.OpenAI, task: str, text: str) -> str:
    made = client.chat.completions.create(model=task, messages=[{"role": "user", "content": text}])
    return str(made.choices[0].message.content).strip()


def streamed(client: openai.OpenAI, task: str, text: str) -> str:
    parts = client.completions.create(model=task, prompt=text, stream=True)
    return "".join(part.choices[0].text for part in parts if part.choices).strip()


def predicted(client: openai.OpenAI, task: str, texts: list[str]) -> list[str]:
    body = json.dumps({"task": task, "rows": [{"text": text} for text in texts]}).encode()
    url = str(client.base_url).removesuffix("v1/") + "predict"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return [own["prediction"] for own in json.load(answer)["answers"]]


def same(said: list[str], expected: list[str]) -> str:
    return f"{sum(a == b for a, b in zip(said, expected, strict=True))} of {len(expected)} the same"


def leaving(client: openai.OpenAI, there: int) -> dict[str, Any]:
    """How soon vLLM drops a text whose reader left."""
    parts = client.completions.create(model="base", prompt="the", max_tokens=240, stream=True)
    next(iter(parts))
    written = counted(there, "vllm:generation_tokens_total")
    parts.close()
    began = time.perf_counter()
    until(lambda: counted(there, "vllm:num_requests_running") == 0)
    seconds = time.perf_counter() - began
    more = counted(there, "vllm:generation_tokens_total") - written
    aborted = counted(there, "vllm:request_success_total", 'finished_reason="abort"')
    return {"a reader leaves": f"vLLM writes {more:.0f} of 240 tokens more, in {seconds:.1f} s; aborted: {aborted:.0f}"}


def wrong(client: openai.OpenAI, vllm: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Texts that are too long, and a vLLM that dies while it writes."""
    found = {"too long": refused(lambda: client.completions.create(model="in-the-row", prompt="the " * 400))}
    found["longer than vLLM takes"] = refused(
        lambda: client.completions.create(model="base", prompt="the " * 100, max_tokens=250)
    )
    parts = client.completions.create(model="base", prompt="the", max_tokens=240, stream=True)
    next(iter(parts))
    vllm.kill()
    found["vLLM is killed in a stream"] = refused(lambda: list(parts))
    found["asked again"] = refused(lambda: client.completions.create(model="base", prompt="the"))
    return found


def refused(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except openai.APIStatusError as error:
        waits = error.response.headers.get("retry-after")
        return f"{error.status_code}, {error.code}" + ("" if waits is None else f", Retry-After: {waits}")
    except openai.APIError as error:
        return f"an event, {error.code}"
    return "answered"


@contextmanager
def engine(python: str, place: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A vLLM server with the connector."""
    transfer = {**CONNECTOR, "kv_connector_extra_config": {"prefixes": str(place / "prefixes")}}
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(place / "model"), "--port", str(port),
        "--enable-prompt-embeds", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager",
        "--kv-cache-memory-bytes", str(256 << 20), "--kv-transfer-config", json.dumps(transfer),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src")}
    with (place / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    with ended(process):
        if not until(lambda: answers_at(f"http://127.0.0.1:{port}/health"), 600):
            raise SystemExit((place / "vllm.log").read_text()[-4000:])
        yield process


@contextmanager
def gateway(place: Path, there: int, here: int) -> Iterator[str]:
    command = [
        sys.executable, "-m", "promptuary", "gateway", str(place / "store"), "--backbone", str(place / "model"),
        "--upstream", f"http://127.0.0.1:{there}", "--prefixes", str(place / "prefixes"), "--port", str(here),
        "--device", "cpu",
    ]  # fmt: skip
    with (place / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{here}"
    with ended(process):
        if not until(lambda: answers_at(f"{url}/readyz"), 300):
            raise SystemExit((place / "gateway.log").read_text()[-4000:])
        yield url


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Whatever happens, the process and those it started are gone afterwards."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, 15)
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def counted(port: int, name: str, label: str = "") -> float:
    """One of vLLM's own counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{") and label in line)


def answers_at(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    ends = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < ends:
        time.sleep(0.1)
    return now


def free() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def known(python: str) -> str:
    names = "import vllm, torch, transformers as t; print(vllm.__version__, torch.__version__, t.__version__)"
    made = subprocess.run([python, "-c", names], capture_output=True, text=True, check=True)
    vllm, torch, transformers = made.stdout.split()[-3:]
    return f"vLLM {vllm} (torch {torch}, transformers {transformers})"


def write(found: dict[str, Any]) -> None:
    (RESULTS / "gateway.json").write_text(json.dumps(found, indent=1) + "\n")
    table = "\n".join(f"| {name} | {value} |" for name, value in found["checks"].items())
    (RESULTS / "gateway.md").write_text(
        "# The gateway before a real vLLM\n\nA tiny random Llama in float32 on a CPU; *the same* is the text that "
        f"`open_prompt(...).predict` writes.\n\n| what | found |\n|---|---|\n{table}\n\n"
        f"{found['engine']}; here transformers {found['versions']['transformers']}, torch {found['versions']['torch']}"
        f", commit {found['commit']}. By `benchmarks/interop/gateway.py`.\n"
    )


if __name__ == "__main__":
    main()
