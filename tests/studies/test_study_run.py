"""The rows of one encoder, over vectors whose neighbors and relevance are computed independently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from indexmill.configs.models import PipelineConfig
from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.metrics import latency
from indexmill.tasks.studies.queries import load_query_set
from indexmill.tasks.studies.results import EncodeStats, StudyRow
from indexmill.tasks.studies.run import run_study
from tests.storage.embedding_parts import add_vectors

DIM, LABELS, DATABASE, QUERIES = 16, 8, 1200, 150
ITEMS_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "content_digest": pa.string(), "side": pa.string(), "leak": pa.bool_(), "label": pa.string()}
)
ENCODE_STATS = EncodeStats(encoded=1350, seconds=2.0, items_per_second=675.0, rate_from_profile=False)
INDEXES = [
    {"factory": "Flat"},
    {"factory": "IVF12,Flat", "nprobe": [1, 4, 12]},
    {"factory": "IVF12,PQ4x4", "nprobe": [12]},
    {"factory": "IVF12,PQ4x4", "nprobe": [12], "rerank": "exact", "rerank_candidates": 100},
    {"factory": "HNSW16", "ef_search": [200]},
    {"factory": "IVF12,Flat", "recall_targets": [0.7]},
    {"factory": "auto"},
]


class Data:
    """Clustered vectors in an embedding store, one label per cluster; every 9th query is marked as a leak."""

    def __init__(self, root: Root) -> None:
        random = np.random.default_rng(3)
        self.codes = random.integers(0, LABELS, DATABASE + QUERIES)
        vectors = random.standard_normal((LABELS, DIM))[self.codes] + 1.2 * random.standard_normal((len(self.codes), DIM))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.ids = np.sort(random.choice(2**60, len(vectors), replace=False))
        self.is_query = np.zeros(len(vectors), bool)
        self.is_query[random.choice(len(vectors), QUERIES, replace=False)] = True
        self.is_leak = self.is_query & (np.arange(len(vectors)) % 9 == 0)
        self.embeddings = self._write_embeddings(root)

    def _write_embeddings(self, root: Root) -> EmbeddingSet:
        digests = [content_digest(vector.tobytes()) for vector in self.vectors]
        store = EmbeddingStore(root, "f" * 8)
        add_vectors(store, self.ids.tolist(), digests, self.vectors)
        columns = [self.ids, digests, np.where(self.is_query, "query", "database"), self.is_leak, [f"label {code}" for code in self.codes]]
        path = root.path / "items.parquet"
        parquet.write_parquet(
            path, ITEMS_SCHEMA, [pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=ITEMS_SCHEMA)]
        )
        ref = root.make_ref(path)
        return EmbeddingSet(
            digest="d",
            files=(ref, *store.find_refs(path)),
            split="s",
            modality="text",
            fingerprint="f" * 8,
            encoder={},
            dim=DIM,
            database=DATABASE,
            query=QUERIES,
            encoded=0,
            reused=0,
            rejected=0,
            truncated=0,
            items=ref,
            rejects=None,
        )


def make_config(**study: object) -> PipelineConfig:
    encoder = {"kind": "sentence-transformers", "model": "m"}
    return PipelineConfig.model_validate({"name": "some", "dataset": {"source": "stdlib"}, "encoder": encoder, "study": study})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    storage_root = Root(tmp_path_factory.mktemp("root"))
    yield storage_root
    storage_root.close()


@pytest.fixture(scope="module")
def data(root: Root) -> Data:
    return Data(root)


@pytest.fixture(scope="module")
def rows(root: Root, data: Data) -> list[StudyRow]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(latency, "MAX_SECONDS", 0.05)
            return run_study(root, "ours", make_config(indexes=INDEXES), data.embeddings, ENCODE_STATS)
    finally:
        faiss.omp_set_num_threads(threads)


def select(rows: list[StudyRow], index: str, **fields: object) -> list[StudyRow]:
    return [row for row in rows if row.index == index and all(getattr(row, name) == value for name, value in fields.items())]


def rank_database(data: Data, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank the database for the masked queries in float64: ids, best first, and whether each item has the query's label."""
    database = ~data.is_query
    scores = data.vectors[mask].astype(np.float64) @ data.vectors[database].astype(np.float64).T
    order = np.argsort(-scores, axis=1)
    return data.ids[database][order], data.codes[database][order] == data.codes[mask][:, None]


def test_exact_indexes_find_all_neighbors(rows: list[StudyRow]) -> None:
    """Brute force, Flat, IVF with all lists searched, and `auto`, which picks Flat for a small database."""
    exact = [*select(rows, "NumPy"), *select(rows, "Flat"), *select(rows, "IVF12,Flat", nprobe=12), *select(rows, "auto")]
    assert len(exact) == 4
    assert [(row.ann_recall_at_10, row.ann_distance_recall_at_10) for row in exact] == [(1, 1)] * 4
    assert select(rows, "auto")[0].factory == "Flat"


def test_relevance_metrics_equal_those_of_an_independent_full_ranking(rows: list[StudyRow], data: Data) -> None:
    """P@10, R@10 and average precision at depth 1,000, where all items of the label are relevant; leaks are left out."""
    _, hits = rank_database(data, data.is_query & ~data.is_leak)
    hits_at_10, deep = hits[:, :10].sum(axis=1), hits[:, :1000]
    precision = deep.cumsum(axis=1) / np.arange(1, 1001)
    expected = [
        (hits_at_10 / 10).mean(),
        (hits_at_10 / hits.sum(axis=1)).mean(),
        ((precision * deep).sum(axis=1) / hits.sum(axis=1)).mean(),
    ]
    for index in ("NumPy", "Flat"):
        row = select(rows, index)[0]
        assert [row.precision_at_10, row.recall_at_10, row.map] == pytest.approx(expected, abs=1e-9)
        assert row.queries == (data.is_query & ~data.is_leak).sum()


def test_recall_rises_with_nprobe(rows: list[StudyRow]) -> None:
    """One, four, all twelve lists: the nearest list holds a twelfth of the items and far more of a query's neighbors."""
    recalls = [row.ann_recall_at_10 for row in select(rows, "IVF12,Flat", recall_target=None)]
    assert 2 / 12 < recalls[0] < recalls[1] < recalls[2] == 1


def test_reranking_raises_recall(rows: list[StudyRow]) -> None:
    """Product quantization loses neighbors; re-ranking a hundred candidates with the vectors recovers most of them."""
    plain, reranked = select(rows, "IVF12,PQ4x4", rerank="none")[0], select(rows, "IVF12,PQ4x4", rerank="exact")[0]
    assert plain.ann_recall_at_10 < reranked.ann_recall_at_10
    assert reranked.ann_recall_at_10 > 0.7
    assert (plain.mapped_bytes, reranked.params) == (0, "nprobe 12, rerank_candidates 100")
    assert reranked.mapped_bytes == pytest.approx(DATABASE * DIM * 4, abs=200)


def test_a_row_names_the_recall_target_it_was_tuned_for(rows: list[StudyRow]) -> None:
    """The row has the search parameters that tuning chose, and reaches the target."""
    tuned = select(rows, "IVF12,Flat", recall_target=0.7)
    assert len(tuned) == 1
    assert tuned[0].nprobe is not None
    assert tuned[0].ann_recall_at_10 >= 0.7


def test_bytes_are_the_sizes_of_the_files(rows: list[StudyRow]) -> None:
    """By hand: 16 float32 and an id for Flat and brute force; 2 bytes of codes for PQ; vectors, ids and links for a graph."""
    assert select(rows, "NumPy")[0].bytes_per_vector == DIM * 4 + 8
    assert select(rows, "Flat")[0].bytes_per_vector == pytest.approx(DIM * 4 + 8, abs=1)
    assert select(rows, "HNSW16")[0].bytes_per_vector > DIM * 4 + 8 + 2 * 16 * 4
    assert select(rows, "IVF12,PQ4x4", rerank="none")[0].bytes_per_vector < select(rows, "IVF12,Flat")[0].bytes_per_vector / 2
    plain, reranked = select(rows, "IVF12,PQ4x4", rerank="none")[0], select(rows, "IVF12,PQ4x4", rerank="exact")[0]
    assert reranked.bytes_per_vector == pytest.approx(plain.bytes_per_vector + 8, abs=1)  # the ids, by which mapped vectors are looked up
    assert all(row.memory_bytes == pytest.approx(row.bytes_per_vector * DATABASE) for row in rows)


def test_all_rows_have_encode_stats_and_speed(rows: list[StudyRow]) -> None:
    """Encode stats are the encoder's, all speeds are measured, and one row is the best."""
    assert {(row.encoder, row.dim, row.database, row.encode_seconds, row.encoded) for row in rows} == {("ours", DIM, DATABASE, 2.0, 1350)}
    assert all(row.single_query_p50_ms > 0 and row.batch_queries_per_second > 0 and row.build_seconds > 0 for row in rows)
    assert all(row.threads >= 1 and row.single_query_p50_ms <= row.single_query_p95_ms for row in rows)
    assert sum(row.best for row in rows) == 1


def test_study_indexes_are_deleted(rows: list[StudyRow], root: Root) -> None:
    """Neither an index nor a temporary file is left under the root."""
    assert not (root.path / "indexes").exists()
    assert not [path for path in root.tmp.rglob("*") if path.suffix in (".faiss", ".npy")]


def test_search_parameters_are_tuned_on_queries_outside_the_sample(root: Root, data: Data) -> None:
    """None of the 30 sampled queries is used for tuning; if too few are left over, the sampled ones are."""
    small_set = load_query_set(root, make_config(max_queries=30), data.embeddings)
    assert (len(small_set.queries), len(small_set.tuning_queries)) == (30, (data.is_query & ~data.is_leak).sum() - 30)
    assert not {row.tobytes() for row in small_set.queries} & {row.tobytes() for row in small_set.tuning_queries}
    large_set = load_query_set(root, make_config(max_queries=100), data.embeddings)
    assert large_set.tuning_queries.tobytes() == large_set.queries.tobytes()
    ids, _ = rank_database(data, data.is_query)
    assert {tuple(sorted(row)) for row in small_set.exact_ids.tolist()} <= {tuple(sorted(row)) for row in ids[:, :10].tolist()}


def test_a_study_without_queries_is_refused(root: Root, data: Data, tmp_path: Path) -> None:
    """The error says which settings would hold queries out."""
    table = parquet.scan_sql(root.file(data.embeddings.items))
    path = root.path / "no-queries.parquet"
    parquet.copy_query(f"SELECT * FROM {table} WHERE side = 'database' ORDER BY item_id", path, temp_dir=tmp_path)
    without_queries = data.embeddings.model_copy(update={"items": root.make_ref(path), "query": 0})
    with pytest.raises(InputError, match="no queries are held out"):
        load_query_set(root, make_config(), without_queries)
