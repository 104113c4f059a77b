"""One file of all shards, which plain FAISS reads, and which answers as they do."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.root import Root
from indexmill.tasks.indexing.autofaiss_info import build_index_infos
from indexmill.tasks.indexing.merge import merge_shards
from tests.indexing.nightly import Database, centres, clustered, night, searcher

DIM = 16


def filled(root: Root, factory: str) -> tuple[Database, IndexConfig, list[tuple[Path, object]], np.ndarray]:
    database = Database(root, DIM)
    around = centres(database.random, 20, DIM)
    database.insert(clustered(database.random, around, 600))
    config = IndexConfig.model_validate({"factory": factory, "shards": 3})
    shards = night(root, "index", database, config)[1].shards
    queries = clustered(database.random, around, 40)
    answers = searcher(root, night(root, "index", database, config)[1], config, nprobe=8).search(queries, 10)
    return database, config, [(root.file(shard.index), shard.index) for shard in shards], np.array([queries, answers], object)


@pytest.mark.parametrize("memory", [10**9, 1])
@pytest.mark.parametrize("factory", ["Flat", "SQ8", "HNSW8", "IVF8,Flat", "IVF8,PQ8x4fs", "PCA8,IVF8,SQ8"])
def test_the_merged_file_answers_as_the_shards_do(factory: str, memory: int, root: Root, tmp_path: Path) -> None:
    """Read by faiss.read_index alone; with next to no memory, lists that can be paged in lie in a file of their own."""
    database, _, shards, (queries, (scores, found)) = filled(root, factory)
    output, lists = tmp_path / "out" / "all.faiss", tmp_path / "out" / "all.ivfdata"
    output.parent.mkdir()
    vectors, on_disk = merge_shards(shards, output, memory=memory, lists=lists)  # type: ignore[arg-type]
    assert vectors == 600
    assert on_disk == lists.exists() == (memory == 1 and factory in ("IVF8,Flat", "PCA8,IVF8,SQ8"))
    merged = faiss.read_index(str(output))
    assert merged.ntotal == 600
    if "IVF" in factory:
        faiss.extract_index_ivf(merged).nprobe = 8
    if factory == "HNSW8":
        faiss.downcast_index(merged.index).hnsw.efSearch = 64
    got, ids = merged.search(queries, 10)
    np.testing.assert_allclose(got, scores, atol=0.1 if factory == "HNSW8" else 1e-5)
    assert np.mean([len(np.intersect1d(mine, right)) for mine, right in zip(ids, found, strict=True)]) > 9.6
    assert set(ids.ravel().tolist()) <= set(database.ids.tolist())
    assert sorted(path.name for path in output.parent.iterdir()) == (["all.faiss", "all.ivfdata"] if on_disk else ["all.faiss"])


def test_a_damaged_shard_is_not_merged(root: Root, tmp_path: Path) -> None:
    """And nothing is left where the output would be."""
    _, _, shards, _ = filled(root, "IVF8,Flat")
    path = shards[1][0]
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    for memory in (1, 10**9):
        with pytest.raises(DamagedFile):
            merge_shards(shards, tmp_path / "all.faiss", memory=memory, lists=tmp_path / "all.ivfdata")  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*all*"))


def test_a_family_that_faiss_cannot_merge_is_refused_with_a_way_out(root: Root, tmp_path: Path) -> None:
    """NSG graphs neither merge nor take more."""
    _, _, shards, _ = filled(root, "NSG8")
    with pytest.raises(InputError, match=r"index\.shards: 1"):
        merge_shards(shards, tmp_path / "all.faiss", memory=1, lists=tmp_path / "all.ivfdata")  # type: ignore[arg-type]


def test_index_infos_have_the_keys_of_autofaiss() -> None:
    """100 vectors of 4 numbers are 1,600 bytes; in 400 bytes that is four to one. A squared error of 0.01 is 10 % of length 1."""
    infos = build_index_infos(
        IndexConfig(factory="IVF100,PQ4", nprobe=12), ["shard-00000.faiss"], size=400, vectors=100, dim=4, lists=100,
        timings={"single_query_p50_ms": 0.5, "single_query_p99_ms": 2.0}, baseline={"code_error": 0.01},
    )  # fmt: skip
    assert infos == {
        "index_key": "IVF100,PQ4", "index_param": "nprobe=12", "index_path": "shard-00000.faiss", "size in bytes": 400,
        "avg_search_speed_ms": 0.5, "99p_search_speed_ms": 2.0, "reconstruction error %": pytest.approx(10), "nb vectors": 100,
        "vectors dimension": 4, "compression ratio": 4.0,
    }  # fmt: skip
