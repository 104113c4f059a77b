"""Where time and memory go: a query's encoding beside its search, the stages of the build, the bytes of a vector."""

from __future__ import annotations

from dataclasses import dataclass

from indexmill.storage.metrics_file import MetricsFile
from indexmill.tasks.measures.timing import encode_share


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one query: search, and encoding where it was timed. share: of encoding in the median of both."""

    search: dict[int, float]
    encode: dict[int, float]
    share: float | None


@dataclass(frozen=True)
class Stage:
    """Seconds of one stage; part: of the longest one."""

    name: str
    seconds: float
    part: float


def latency(figures: MetricsFile) -> Latency | None:
    """None where no query was timed."""
    timings = figures.timings
    search, encode = (
        {at: timings[f"{name}_p{at}_ms"] for at in (50, 95, 99) if f"{name}_p{at}_ms" in timings}
        for name in ("single_query", "encode_query")
    )
    return Latency(search, encode, encode_share(timings)) if search or encode else None


def stages(figures: MetricsFile) -> list[Stage]:
    """In the order in which they ran."""
    longest = max(figures.stages.values(), default=0.0) or 1.0
    return [Stage(name, seconds, seconds / longest) for name, seconds in figures.stages.items()]
