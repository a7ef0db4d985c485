"""What the server counts, for Prometheus, in a registry of its own.

Labels are few: routes as they are written in the code, and tasks that are in the store; nothing that a caller invents.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from promptuary.serve.engine import Load

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of requests, rows and tokens, and what the engine says of itself (`load`)."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "promptuary_requests", "Requests that were answered.", ["method", "route", "status"], registry=own
        )
        self.seconds = Histogram(
            "promptuary_request_seconds", "From a request's head to the end of its answer.", ["route"],
            buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.open = Gauge("promptuary_open_requests", "Requests under way.", registry=own)
        self.rows = Counter("promptuary_task_rows", "Rows and texts that were answered.", ["task"], registry=own)
        self.tokens = Counter("promptuary_written_tokens", "Tokens that were written.", ["task"], registry=own)
        own.register(_Engine(load))
        ProcessCollector(registry=own)

    def answered(self, told: dict[str, Any], rows: Mapping[str, int], tokens: int = 0) -> None:
        """Count the rows of each task in an answer, and the tokens written; also for the request's line of the log."""
        for task, count in rows.items():
            self.rows.labels(task).inc(count)
        if tokens:
            [task] = rows
            self.tokens.labels(task).inc(tokens)
            told["tokens"] = tokens
        told["rows"], told["tasks"] = sum(rows.values()), list(rows)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Engine(Collector):
    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        now = self._load()
        yield GaugeMetricFamily("promptuary_waiting_rows", "Rows in the queue.", now.waiting)
        yield GaugeMetricFamily("promptuary_running_rows", "Rows in the running batch.", now.running)
        yield CounterMetricFamily("promptuary_batches", "Passes through the model.", now.batches)
        yield CounterMetricFamily("promptuary_batch_rows", "Rows in these passes.", now.rows)
        yield CounterMetricFamily("promptuary_batch_tokens", "Tokens in these passes, padding counted.", now.tokens)
        yield CounterMetricFamily("promptuary_batch_padding", "Padding among these tokens.", now.padding)
        yield CounterMetricFamily("promptuary_batch_seconds", "Time in these passes.", now.seconds)
