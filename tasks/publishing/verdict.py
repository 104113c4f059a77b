"""What the gate says of a build, and what differs from the live snapshot."""

from __future__ import annotations

from typing import NamedTuple

from indexmill.storage.metrics_file import Rule, Since
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.checks.gate import Candidate, judged, objections
from indexmill.tasks.evaluation.comparing import since
from indexmill.tasks.publishing.build import Build, Served


class Verdict(NamedTuple):
    """rules: all that were asked; objections: those that were broken, as sentences; since: None for the first snapshot."""

    rules: tuple[Rule, ...]
    objections: tuple[str, ...]
    since: Since | None


def verdict(build: Build, served: Served, snapshot_id: str) -> Verdict:
    """Ask the gate. A build that is the live snapshot again is compared with nothing."""
    live = build.live if build.live and build.live.snapshot_id != snapshot_id else None
    gate = build.config.publish.gate
    changed = _since(build, live.snapshot_id, live.rejected) if live else None
    rules = judged(Candidate(build.evaluation.metrics, served.items, build.rejected, changed), live.metrics if live else None, gate)
    return Verdict(rules, objections(rules), changed)


def _since(build: Build, snapshot_id: str, rejected: int) -> Since:
    folder, root = Snapshots(build.root, build.config.name).path(snapshot_id), build.root
    now = (root.file(build.evaluation.per_query), root.file(build.embeddings.items))
    named = (*build.config.publish.gate.significant_drop, *build.config.publish.gate.maximum_drop)
    then = (folder / "report" / "per_query.parquet", folder / "items.parquet")
    return since(snapshot_id, then, now, build.rejected - rejected, named, spill=root.tmp)
