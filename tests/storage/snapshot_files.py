"""Snapshots with one file, written without a build."""

from __future__ import annotations

from indexmill.storage.index_records import SearchParams, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

UNTUNED = TunedIndex(
    digest="t",
    files=(),
    shards="s",
    params=SearchParams(),
    target=None,
    met=None,
    recall=None,
    recall_bound=None,
    cpu_ms_per_query=None,
    latency_met=None,
    reason="by default",
)


def publish(root: Root, content: str, text: str = "data", *, refused: bool = False, created_at: str = "2026-01-01T00:00:00+00:00") -> str:
    """Write a snapshot of one file, publish it unless it is refused, and return its id."""
    snapshots = Snapshots(root, "name")
    pool_file = root.index("name") / "shards" / f"{content}.faiss"
    root.scratch.write_text(pool_file, text)
    ref = root.make_ref(pool_file)
    manifest = Manifest(
        name="name",
        snapshot_id=snapshots.assign_id(content),
        parent=snapshots.get_live_id(),
        created_at=created_at,
        content=content,
        config={"publish": {"keep": 1}},
        modality="text",
        image_root=None,
        index_modality="text",
        embedding_stores={"f": "items.parquet"},
        fingerprint="f",
        encoder={},
        truncated=0,
        datasets={},
        factory="Flat",
        metric="cosine",
        dim=2,
        items=1,
        database=1,
        query=0,
        rejected=0,
        split={},
        metrics={"map": 0.5},
        timings={},
        search=UNTUNED,
        shards=(),
        files=(FileRef(path="data.bin", size=ref.size, sha256=ref.sha256),),
        sources={"data.bin": ref.path},
        pool_files=(ref.path,),
        verdict="refused" if refused else "published",
        failed_rules=(),
        force_reason=None,
        versions={},
        threads=1,
    )
    snapshots.assemble(manifest, {"data.bin": ref})
    if not refused:
        snapshots.publish(manifest.snapshot_id)
    return manifest.snapshot_id
