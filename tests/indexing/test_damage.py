"""A damaged snapshot never gives wrong results and never crashes: it raises an error.

INDEXMILL_DAMAGED=1000 tries a thousand cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import IndexmillError
from indexmill.storage.index_records import SearchParams, Shard, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.shard_store import name_snapshot_files, open_searcher, with_snapshot_paths
from tests.indexing.nightly import Database, draw_centers, draw_clustered, run_build

DAMAGED_COPIES = int(os.environ.get("INDEXMILL_DAMAGED", "200"))
CONFIG = IndexConfig.model_validate({"factory": "IVF8,Flat", "shards": 3, "rerank": "sq8", "nprobe": 8})
TUNED = TunedIndex(
    digest="t",
    files=(),
    shards="s",
    params=SearchParams(nprobe=8),
    target=None,
    met=None,
    recall=None,
    recall_bound=None,
    cpu_ms_per_query=None,
    latency_met=None,
    reason="as configured",
)


@dataclass(frozen=True)
class Published:
    """Two snapshots of one index, the second one live; queries, and the ids that the live one returns."""

    snapshots: Snapshots
    live: Path
    other: Path
    queries: np.ndarray
    expected: np.ndarray


@pytest.fixture
def published(root: Root) -> Published:
    database = Database(root, 16)
    cluster_centers = draw_centers(database.random, 20, 16)
    database.insert(draw_clustered(database.random, cluster_centers, 500))
    ids = []
    for number in range(2):
        _, built = run_build(root, "index", database, CONFIG)
        snapshots = Snapshots(root, "index")
        sources = {name: ref for position, shard in enumerate(built.shards) for name, ref in name_snapshot_files(shard, position).items()}
        manifest = make_manifest(snapshots.assign_id(str(number) * 64), str(number) * 64, len(database.ids), built.shards, sources)
        snapshots.assemble(manifest, sources)
        snapshots.publish(manifest.snapshot_id)
        ids.append(manifest.snapshot_id)
        database.insert(draw_clustered(database.random, cluster_centers, 60))
    queries = draw_clustered(database.random, cluster_centers, 20)
    return Published(snapshots, snapshots.get_path(ids[1]), snapshots.get_path(ids[0]), queries, search_live(snapshots, queries))


def make_manifest(snapshot_id: str, content: str, items: int, shards: Sequence[Shard], sources: dict[str, FileRef]) -> Manifest:
    return Manifest(
        name="index",
        snapshot_id=snapshot_id,
        parent=None,
        created_at="2026-01-01T00:00:00+00:00",
        content=content,
        config={"index": CONFIG.model_dump(mode="json")},
        modality="text",
        image_root=None,
        index_modality="text",
        embedding_stores={},
        truncated=0,
        search=TUNED,
        fingerprint="f",
        encoder={},
        datasets={},
        factory=CONFIG.factory,
        metric=CONFIG.metric,
        dim=16,
        items=items,
        database=items,
        query=0,
        rejected=0,
        split={},
        metrics={"map": 0.5},
        timings={},
        shards=tuple(with_snapshot_paths(shard, position) for position, shard in enumerate(shards)),
        files=tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items()),
        pool_files=(),
        verdict="published",
        failed_rules=(),
        force_reason=None,
        versions={},
        threads=1,
    )


def search_live(snapshots: Snapshots, queries: np.ndarray) -> np.ndarray:
    """Search the live snapshot, verifying all its files."""
    manifest = snapshots.read_manifest()
    folder = snapshots.get_path(manifest.snapshot_id)
    searcher = open_searcher(manifest.shards, lambda ref: folder / ref.path, manifest.metric, manifest.search.params)
    ids = searcher.search(queries, 10)[1]
    snapshots.verify(manifest)
    return ids


def truncate(raw: bytes, random: np.random.Generator) -> bytes:
    return raw[: random.integers(0, len(raw))]


def flip_bits(raw: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for position in random.integers(0, len(raw), random.integers(1, 4)):
        changed[position] ^= 1 << random.integers(0, 8)
    return bytes(changed)


def overwrite(raw: bytes, random: np.random.Generator) -> bytes:
    start, length = random.integers(0, len(raw)), random.integers(1, 64)
    return (raw[:start] + random.bytes(length) + raw[start + length :])[: len(raw)]


def change_digit(raw: bytes, random: np.random.Generator) -> bytes:
    """Change one digit, as a careless editor might, so that JSON stays valid."""
    positions = [position for position, byte in enumerate(raw) if 48 <= byte <= 57] or [0]
    position = positions[random.integers(0, len(positions))]
    return raw[:position] + bytes([48 + (raw[position] - 47) % 10]) + raw[position + 1 :]


KINDS: list[Callable[[bytes, np.random.Generator], bytes]] = [truncate, flip_bits, overwrite, change_digit]


def damage_live(live: Path, other: Path, random: np.random.Generator, count: int) -> Iterator[str]:
    """Damage the live snapshot in `count` ways, one at a time, and repair it again; yield the file's name."""
    names = sorted(path.name for path in live.iterdir())
    for number in range(count):
        name = "manifest.json" if number % 3 == 0 else names[random.integers(0, len(names))]
        path, twin = live / name, live / names[random.integers(0, len(names))]
        original, other_bytes, kind = path.read_bytes(), twin.read_bytes(), number % 6
        path.unlink()  # its bytes are shared with the pool by a hard link
        if kind < len(KINDS):
            path.write_bytes(KINDS[kind](original, random))
        elif kind == 4 and (other / name).exists():
            path.write_bytes((other / name).read_bytes())
        elif kind == 5 and path != twin:
            path.write_bytes(other_bytes)
        else:
            path.write_bytes(b"")
        if path.read_bytes() != original:
            yield f"{name}, {number}"
        path.write_bytes(original)


def test_no_damage_gives_wrong_results_or_a_crash(published: Published) -> None:
    """Truncation, flipped bits, overwritten bytes, changed digits, another snapshot's file or another file: each raises
    an error.
    """
    random, errors, tried = np.random.default_rng(0), [], 0
    for case in damage_live(published.live, published.other, random, DAMAGED_COPIES):
        tried += 1
        try:
            ids = search_live(published.snapshots, published.queries)
        except IndexmillError as error:
            errors.append(error)
            continue
        # Only whitespace between the manifest's values can change without harm.
        assert case.startswith("manifest.json"), case
        np.testing.assert_array_equal(ids, published.expected, err_msg=case)
    assert len(errors) > 0.95 * tried > 0.9 * 0.95 * DAMAGED_COPIES
    assert all(error.where and error.got and error.next_step for error in errors)
    np.testing.assert_array_equal(search_live(published.snapshots, published.queries), published.expected)


def test_the_manifest_of_another_snapshot_is_rejected(published: Published) -> None:
    """Its digest is right, but it belongs to another snapshot."""
    path = published.live / "manifest.json"
    path.write_bytes((published.other / "manifest.json").read_bytes())
    with pytest.raises(IndexmillError, match="a manifest was changed after it was written"):
        search_live(published.snapshots, published.queries)
