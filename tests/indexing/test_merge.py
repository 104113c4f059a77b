"""Merging all shards into one file that plain FAISS reads and that answers alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.tasks.indexing.autofaiss_info import build_index_infos
from indexmill.tasks.indexing.merge import merge_shards
from tests.indexing.nightly import Database, draw_centers, draw_clustered, make_searcher, run_build

DIM = 16


@dataclass(frozen=True)
class BuiltShards:
    """Three shards of one index, their items, and the results of a search for some queries."""

    database: Database
    shards: list[tuple[Path, FileRef]]
    queries: np.ndarray
    scores: np.ndarray
    ids: np.ndarray


def build_shards(root: Root, factory: str) -> BuiltShards:
    database = Database(root, DIM)
    cluster_centers = draw_centers(database.random, 20, DIM)
    database.insert(draw_clustered(database.random, cluster_centers, 600))
    config = IndexConfig.model_validate({"factory": factory, "shards": 3})
    built = run_build(root, "index", database, config)[1]
    queries = draw_clustered(database.random, cluster_centers, 40)
    scores, ids = make_searcher(root, built, config, nprobe=8).search(queries, 10)
    return BuiltShards(database, [(root.file(shard.index), shard.index) for shard in built.shards], queries, scores, ids)


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("Flat", marks=pytest.mark.slow),
        pytest.param("SQ8", marks=pytest.mark.slow),
        "HNSW8",
        "IVF8,Flat",
        "IVF8,PQ8x4fs",
        pytest.param("PCA8,IVF8,SQ8", marks=pytest.mark.slow),
    ],
)
def test_the_merged_file_answers_as_the_shards_do(factory: str, root: Root, tmp_path: Path) -> None:
    """faiss.read_index alone reads it; with hardly any memory, pageable lists are in a file of their own."""
    built = build_shards(root, factory)
    for max_memory in (10**9, 1):
        output, lists_path = tmp_path / f"out-{max_memory}" / "all.faiss", tmp_path / f"out-{max_memory}" / "all.ivfdata"
        output.parent.mkdir()
        vectors, on_disk = merge_shards(built.shards, output, max_memory=max_memory, lists_path=lists_path)
        assert vectors == 600
        assert on_disk == lists_path.exists() == (max_memory == 1 and factory in ("IVF8,Flat", "PCA8,IVF8,SQ8"))
        merged = faiss.read_index(str(output))
        assert merged.ntotal == 600
        if "IVF" in factory:
            faiss.extract_index_ivf(merged).nprobe = 8
        if factory == "HNSW8":
            faiss.downcast_index(merged.index).hnsw.efSearch = 64
        scores, ids = merged.search(built.queries, 10)
        np.testing.assert_allclose(scores, built.scores, atol=0.1 if factory == "HNSW8" else 1e-5)
        assert np.mean([len(np.intersect1d(row, expected)) for row, expected in zip(ids, built.ids, strict=True)]) > 9.6
        assert set(ids.ravel().tolist()) <= set(built.database.ids.tolist())
        assert sorted(path.name for path in output.parent.iterdir()) == (["all.faiss", "all.ivfdata"] if on_disk else ["all.faiss"])


def test_a_damaged_shard_is_not_merged(root: Root, tmp_path: Path) -> None:
    """And no output file is left."""
    shards = build_shards(root, "IVF8,Flat").shards
    path = shards[1][0]
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    for max_memory in (1, 10**9):
        with pytest.raises(DamagedFile):
            merge_shards(shards, tmp_path / "all.faiss", max_memory=max_memory, lists_path=tmp_path / "all.ivfdata")
    assert not list(tmp_path.glob("*all*"))


@pytest.mark.slow
def test_a_family_that_faiss_cannot_merge_is_rejected_with_a_next_step(root: Root, tmp_path: Path) -> None:
    """NSG graphs support neither merging nor adding."""
    shards = build_shards(root, "NSG8").shards
    with pytest.raises(InputError, match=r"index\.shards: 1"):
        merge_shards(shards, tmp_path / "all.faiss", max_memory=1, lists_path=tmp_path / "all.ivfdata")


def test_index_infos_have_the_keys_of_autofaiss() -> None:
    """100 vectors of 4 numbers are 1,600 bytes; 400 bytes compress them four to one.

    A squared error of 0.01 is 10 % of length 1.
    """
    infos = build_index_infos(
        IndexConfig(factory="IVF100,PQ4", nprobe=12),
        ["shard-00000.faiss"],
        size=400,
        vectors=100,
        dim=4,
        lists=100,
        timings={"single_query_p50_ms": 0.5, "single_query_p99_ms": 2.0},
        baseline={"code_error": 0.01},
    )
    assert infos == {
        "index_key": "IVF100,PQ4",
        "index_param": "nprobe=12",
        "index_path": "shard-00000.faiss",
        "size in bytes": 400,
        "avg_search_speed_ms": 0.5,
        "99p_search_speed_ms": 2.0,
        "reconstruction error %": pytest.approx(10),
        "nb vectors": 100,
        "vectors dimension": 4,
        "compression ratio": 4.0,
    }
