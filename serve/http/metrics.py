"""Prometheus metrics of the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service, in a separate registry. The client library appends `_total` to counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("indexmill_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "indexmill_request_duration_seconds",
            "Time from the first byte of a request to the end of its response.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.searches_in_progress = Gauge("indexmill_searches_in_progress", "Searches being answered.", registry=registry)
        self.batch_requests = Histogram(
            "indexmill_batch_requests",
            "Requests that shared one call, by stage (encode or search).",
            ["stage"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.queries = Counter("indexmill_queries", "Queries answered.", ["index"], registry=registry)
        self.items = Gauge("indexmill_items", "Items in the snapshot being served.", ["index"], registry=registry)
        self.snapshot_info = Gauge("indexmill_snapshot_info", "1 for the snapshot being served.", ["index", "snapshot"], registry=registry)
        self.snapshots_opened = Counter(
            "indexmill_snapshots_opened", "Snapshots opened and put into service.", ["index"], registry=registry
        )
        self.open_failures = Counter(
            "indexmill_snapshot_open_failures", "Failed attempts to open a snapshot.", ["index"], registry=registry
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
