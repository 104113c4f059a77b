"""The figures of a report: each with its interval, what changed since the live snapshot, and how it went from build to build."""

from __future__ import annotations

from dataclasses import dataclass

from indexmill.storage.metrics_file import Compared, MetricsFile
from indexmill.tasks.reports.contents import Contents
from indexmill.tasks.reports.formats import UNSEEN, count, probability, signed
from indexmill.tasks.reports.glossary import Meaning, meaning, over

HEADLINES = (
    "map", "precision_at_1", "precision_at_10", "recall_at_10", "ndcg_at_10", "mrr",
    "text_to_image_recall_at_1", "text_to_image_recall_at_10", "image_to_text_recall_at_1", "image_to_text_recall_at_10",
    "ann_recall_at_10",
)  # fmt: skip
SURE = 0.05


@dataclass(frozen=True)
class Change:
    """One measure against the live snapshot. tone: `better` or `worse` where that is sure, else `even`; sign: ▲, ▼ or =."""

    difference: float
    sign: str
    tone: str
    words: str

    def __str__(self) -> str:
        return f"{self.sign} {signed(self.difference)}, {self.words}"


@dataclass(frozen=True)
class Figure:
    """One measure as it is shown. trend: the values of earlier builds that have one and this, oldest first."""

    name: str
    meaning: Meaning
    value: float
    interval: tuple[float, float] | None
    over: str
    change: Change | None
    trend: list[float]


def headlines(contents: Contents) -> list[Figure]:
    """The measures that come first on the page, as far as they were measured."""
    return [figure_of(contents, name) for name in HEADLINES if name in contents.figures.metrics]


def figure_of(contents: Contents, name: str) -> Figure:
    """One measure with all that is known of it. KeyError where it was not measured."""
    figures = contents.figures
    trend = [past.metrics[name] for past in contents.history if name in past.metrics]
    value = figures.metrics[name]
    return Figure(name, meaning(name), value, figures.intervals.get(name), over(contents, name), change(contents, name), [*trend, value])


def change(contents: Contents, name: str) -> Change | None:
    """Since the live snapshot: over the queries of both with a paired test, or of the two means alone; None without either."""
    since, larger = contents.figures.since, meaning(name).larger
    if since is None:
        return None
    compared = since.measures.get(name)
    if compared and compared.difference is not None:
        return _tested(compared, compared.difference, larger)
    before = live(contents)
    if before is None or name not in before.metrics or name not in contents.figures.metrics:
        return None
    difference = contents.figures.metrics[name] - before.metrics[name]
    return Change(difference, _sign(difference), "even", "not tested")


def live(contents: Contents) -> MetricsFile | None:
    """The figures of the snapshot that this build is compared with, if they are remembered."""
    since = contents.figures.since
    return next((past for past in reversed(contents.history) if since and past.snapshot_id == since.snapshot_id), None)


def summed(contents: Contents) -> str:
    """What changed since the live snapshot, in one sentence without its end; nothing for a first snapshot."""
    since = contents.figures.since
    if since is None:
        return ""
    told = {name: change(contents, name) for name in since.measures}
    parts = []
    for tone in ("better", "worse"):
        names = [meaning(name).label for name, one in told.items() if one and one.tone == tone]
        if names:
            parts.append(f"{', '.join(names)} significantly {tone}")
    moved = [f"{count(since.items[kind])} {kind}" for kind in ("added", "changed", "removed") if since.items.get(kind)]
    return "; ".join([*(parts or ["no figure significantly different"]), f"items: {', '.join(moved)}" if moved else "the same items"])


def significant(compared: Compared) -> bool:
    """Whether the paired bootstrap tells the change from chance at the level SURE."""
    return compared.p_bootstrap is not None and compared.p_bootstrap < SURE and bool(compared.difference)


def _tested(compared: Compared, difference: float, larger: bool) -> Change:
    if not significant(compared):
        words = "no change" if difference == 0 else f"not significant ({probability(compared.p_bootstrap)})"
        return Change(difference, _sign(difference), "even", words)
    better = (difference > 0) == larger
    words = f"significantly {'better' if better else 'worse'} ({probability(compared.p_bootstrap)})"
    return Change(difference, _sign(difference), "better" if better else "worse", words)


def _sign(difference: float) -> str:
    """An arrow where the difference shows in the figures at all."""
    return "=" if signed(difference) == UNSEEN else "▲" if difference > 0 else "▼"
