"""A damaged snapshot never answers wrongly and never crashes: it is refused by name. INDEXMILL_DAMAGED=1000 tries a thousand copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.serve.published import PublishedIndex
from indexmill.storage.errors import IndexmillError
from indexmill.storage.index_records import SearchParams, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.shard_store import name_snapshot_files, with_snapshot_paths
from tests.indexing.nightly import Database, centres, clustered, night

COPIES = int(os.environ.get("INDEXMILL_DAMAGED", "200"))
CONFIG = IndexConfig.model_validate({"factory": "IVF8,Flat", "shards": 3, "rerank": "sq8", "nprobe": 8})
SEARCH = TunedIndex(
    digest="t", files=(), shards="s", params=SearchParams(nprobe=8), target=None, met=None, recall=None, recall_bound=None,
    cpu_ms_per_query=None, latency_met=None, reason="as configured",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Two snapshots of one index, the second live; queries, and what the live one answers."""

    snapshots: Snapshots
    live: Path
    other: Path
    queries: np.ndarray
    answers: np.ndarray


@pytest.fixture
def published(root: Root) -> Published:
    database = Database(root, 16)
    around = centres(database.random, 20, 16)
    database.insert(clustered(database.random, around, 500))
    ids = []
    for number in range(2):
        _, filled = night(root, "index", database, CONFIG)
        snapshots = Snapshots(root, "index")
        sources = {name: ref for place, shard in enumerate(filled.shards) for name, ref in name_snapshot_files(shard, place).items()}
        files = tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items())
        manifest = Manifest(
            name="index", snapshot_id=snapshots.assign_id(str(number) * 64), parent=None, created_at="2026-01-01T00:00:00+00:00",
            content=str(number) * 64, config={"index": CONFIG.model_dump(mode="json")}, modality="text", image_root=None, index_modality="text",
            embedding_stores={}, truncated=0, search=SEARCH, fingerprint="f",
            encoder={}, datasets={}, factory=CONFIG.factory, metric=CONFIG.metric, dim=16, items=len(database.ids),
            database=len(database.ids), query=0, rejected=0, split={}, metrics={"map": 0.5}, timings={},
            shards=tuple(with_snapshot_paths(shard, place) for place, shard in enumerate(filled.shards)), files=files, pool_files=(),
            verdict="published", failed_rules=(), force_reason=None, versions={}, threads=1,
        )  # fmt: skip
        snapshots.assemble(manifest, sources)
        snapshots.publish(manifest.snapshot_id)
        ids.append(manifest.snapshot_id)
        database.insert(clustered(database.random, around, 60))
    queries = clustered(database.random, around, 20)
    return Published(snapshots, snapshots.get_path(ids[1]), snapshots.get_path(ids[0]), queries, asked(snapshots, queries))


def asked(snapshots: Snapshots, queries: np.ndarray) -> np.ndarray:
    """What the live snapshot answers, all its files checked."""
    manifest = snapshots.read_manifest()
    found = PublishedIndex(snapshots.root, snapshots.name).searcher.search(queries, 10)[1]
    snapshots.verify(manifest)
    return found


def truncated(raw: bytes, random: np.random.Generator) -> bytes:
    return raw[: random.integers(0, len(raw))]


def flipped(raw: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for place in random.integers(0, len(raw), random.integers(1, 4)):
        changed[place] ^= 1 << random.integers(0, 8)
    return bytes(changed)


def overwritten(raw: bytes, random: np.random.Generator) -> bytes:
    start, length = random.integers(0, len(raw)), random.integers(1, 64)
    return (raw[:start] + random.bytes(length) + raw[start + length :])[: len(raw)]


def swapped_numbers(raw: bytes, random: np.random.Generator) -> bytes:
    """A digit becomes another: what a careless editor does to a manifest, and JSON does not notice."""
    places = [place for place, byte in enumerate(raw) if 48 <= byte <= 57] or [0]
    place = places[random.integers(0, len(places))]
    return raw[:place] + bytes([48 + (raw[place] - 47) % 10]) + raw[place + 1 :]


KINDS: list[Callable[[bytes, np.random.Generator], bytes]] = [truncated, flipped, overwritten, swapped_numbers]


def damaged(live: Path, other: Path, random: np.random.Generator, count: int) -> Iterator[str]:
    """Damage the live snapshot in `count` ways, one at a time, and mend it again."""
    names = sorted(path.name for path in live.iterdir())
    for number in range(count):
        name = "manifest.json" if number % 3 == 0 else names[random.integers(0, len(names))]
        path, twin = live / name, live / names[random.integers(0, len(names))]
        sound, beside, kind = path.read_bytes(), twin.read_bytes(), number % 6
        path.unlink()  # its bytes are shared with the pool by a hard link
        if kind < len(KINDS):
            path.write_bytes(KINDS[kind](sound, random))
        elif kind == 4 and (other / name).exists():
            path.write_bytes((other / name).read_bytes())
        elif kind == 5 and path != twin:
            path.write_bytes(beside)
        else:
            path.write_bytes(b"")
        if path.read_bytes() != sound:
            yield f"{name}, {number}"
        path.write_bytes(sound)


def test_no_damage_gives_a_wrong_answer_or_a_crash(published: Published) -> None:
    """Truncated, bits flipped, bytes overwritten, digits changed, another snapshot's file, another file's bytes: each is refused."""
    random, told, tried = np.random.default_rng(0), [], 0
    for what in damaged(published.live, published.other, random, COPIES):
        tried += 1
        try:
            found = asked(published.snapshots, published.queries)
        except IndexmillError as problem:
            told.append(problem)
            continue
        # Only blanks between the manifest's values can change without harm.
        assert what.startswith("manifest.json"), what
        np.testing.assert_array_equal(found, published.answers, err_msg=what)
    assert len(told) > 0.95 * tried > 0.9 * 0.95 * COPIES
    assert all(problem.where and problem.got and problem.next_step for problem in told)
    np.testing.assert_array_equal(asked(published.snapshots, published.queries), published.answers)


def test_another_snapshots_manifest_is_refused(published: Published) -> None:
    """It is sealed and whole, but of another snapshot."""
    path = published.live / "manifest.json"
    path.write_bytes((published.other / "manifest.json").read_bytes())
    with pytest.raises(IndexmillError, match="a manifest was changed after it was written"):
        asked(published.snapshots, published.queries)
