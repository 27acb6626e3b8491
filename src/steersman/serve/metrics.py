"""What ``/metrics`` says, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters of one server; several may live in one process."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("steersman_requests", "Requests answered.", ["method", "route", "status"], registry=own)
        self.latency = Histogram(
            "steersman_request_seconds", "Seconds from a request to the end of its answer.", ["route"], registry=own,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )  # fmt: skip
        self.first = Histogram(
            "steersman_first_token_seconds", "Seconds from a request to its first text.", registry=own,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.prompts = Counter("steersman_prompt_tokens", "Prompt tokens run.", registry=own)
        self.produced = Counter("steersman_generated_tokens", "Tokens generated.", registry=own)
        self.joined = Histogram(
            "steersman_joined_rows", "Rows that joined the batch together.", registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        self.steered = Counter("steersman_steered_rows", "Rows by whether they were steered.", ["steered"],
                               registry=own)  # fmt: skip
        self.refused = Counter("steersman_refused_requests", "Requests refused, the queue being full.", registry=own)
        self.running = Gauge("steersman_running_rows", "Rows in the batch.", registry=own)
        self.waiting = Gauge("steersman_waiting_rows", "Rows in the queue.", registry=own)
        self.jobs = Gauge("steersman_jobs", "Jobs by state.", ["state"], registry=own)

    def batch(self, rows: int, tokens: int) -> None:
        """Take note of rows that joined together."""
        self.joined.observe(rows)
        self.prompts.inc(tokens)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
