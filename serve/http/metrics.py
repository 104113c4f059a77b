"""Prometheus metrics of the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One service's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("indexmill_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("indexmill_request_seconds", "Seconds a request took.", ["route"], buckets=SECONDS, registry=self.registry)
        self.running_searches = Gauge("indexmill_searches_running", "Searches being answered now.", registry=self.registry)
        self.batches = Histogram(
            "indexmill_batch_requests", "Requests that shared one call.", ["what"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )  # fmt: skip
        self.queries = Counter("indexmill_queries", "Queries answered.", ["index"], registry=self.registry)
        self.snapshot = Gauge("indexmill_snapshot_info", "1 for the snapshot that answers.", ["index", "snapshot"], registry=self.registry)
        self.items = Gauge("indexmill_items", "Items in the snapshot that answers.", ["index"], registry=self.registry)
        self.snapshots_opened = Counter(
            "indexmill_snapshot_opened", "Snapshots that were opened to answer.", ["index"], registry=self.registry
        )
        self.open_failures = Counter("indexmill_snapshot_refused", "Snapshots that could not be opened.", ["index"], registry=self.registry)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
