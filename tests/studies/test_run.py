"""One encoder's rows, over vectors whose neighbours and labels are worked out anew."""

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
STUDY_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "content_digest": pa.string(), "side": pa.string(), "leak": pa.bool_(), "label": pa.string()}
)

EXTRACTION = EncodeStats(encoded=1350, seconds=2.0, items_per_second=675.0, rate_from_profile=False)
INDEXES = [
    {"factory": "Flat"}, {"factory": "IVF12,Flat", "nprobe": [1, 4, 12]}, {"factory": "IVF12,PQ4x4", "nprobe": [12]},
    {"factory": "IVF12,PQ4x4", "nprobe": [12], "rerank": "exact", "rerank_candidates": 100}, {"factory": "HNSW16", "ef_search": [200]},
    {"factory": "IVF12,Flat", "recall_targets": [0.7]}, {"factory": "auto"},
]  # fmt: skip


class Data:
    """Clustered vectors in an embedding store, a label a cluster; every 9th query is nearly an item of the database."""

    def __init__(self, root: Root) -> None:
        random = np.random.default_rng(3)
        self.codes = random.integers(0, LABELS, DATABASE + QUERIES)
        vectors = random.standard_normal((LABELS, DIM))[self.codes] + 1.2 * random.standard_normal((len(self.codes), DIM))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.ids = np.sort(random.choice(2**60, len(vectors), replace=False))
        self.query = np.zeros(len(vectors), bool)
        self.query[random.choice(len(vectors), QUERIES, replace=False)] = True
        self.leak = self.query & (np.arange(len(vectors)) % 9 == 0)
        self.embeddings = self._stored(root)

    def _stored(self, root: Root) -> EmbeddingSet:
        digests = [content_digest(vector.tobytes()) for vector in self.vectors]
        store = EmbeddingStore(root, "f" * 8)
        add_vectors(store, self.ids.tolist(), digests, self.vectors)
        columns = [self.ids, digests, np.where(self.query, "query", "database"), self.leak, [f"label {code}" for code in self.codes]]
        path = root.path / "items.parquet"
        parquet.write_parquet(
            path, STUDY_SCHEMA, [pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=STUDY_SCHEMA)]
        )
        ref = root.make_ref(path)
        return EmbeddingSet(
            digest="d", files=(ref, *store.find_refs(path)), split="s", modality="text", fingerprint="f" * 8, encoder={}, dim=DIM,
            database=DATABASE, query=QUERIES, encoded=0, reused=0, rejected=0, truncated=0, items=ref, rejects=None,
        )  # fmt: skip


def config(**study: object) -> PipelineConfig:
    encoder = {"kind": "sentence-transformers", "model": "m"}
    return PipelineConfig.model_validate({"name": "some", "dataset": {"source": "stdlib"}, "encoder": encoder, "study": study})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    place = Root(tmp_path_factory.mktemp("root"))
    yield place
    place.close()


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
            return run_study(root, "ours", config(indexes=INDEXES), data.embeddings, EXTRACTION)
    finally:
        faiss.omp_set_num_threads(threads)


def of(rows: list[StudyRow], index: str, **fields: object) -> list[StudyRow]:
    return [row for row in rows if row.index == index and all(getattr(row, name) == value for name, value in fields.items())]


def answers(data: Data, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every database row for those queries, best first, and whether each has the query's label: in float64, with nothing of ours."""
    database = ~data.query
    scores = data.vectors[kept].astype(np.float64) @ data.vectors[database].astype(np.float64).T
    order = np.argsort(-scores, axis=1)
    return data.ids[database][order], data.codes[database][order] == data.codes[kept][:, None]


def test_exact_indexes_find_all_neighbours(rows: list[StudyRow]) -> None:
    """Brute force, Flat, lists that are all searched, and `auto`, which is Flat for so few."""
    exact = [*of(rows, "NumPy"), *of(rows, "Flat"), *of(rows, "IVF12,Flat", nprobe=12), *of(rows, "auto")]
    assert len(exact) == 4
    assert [(row.ann_recall_at_10, row.ann_distance_recall_at_10) for row in exact] == [(1, 1)] * 4
    assert of(rows, "auto")[0].factory == "Flat"


def test_relevance_is_that_of_the_full_ranking_worked_out_anew(rows: list[StudyRow], data: Data) -> None:
    """P@10, R@10 and average precision to a depth of 1,000 with all items of the label as denominator; near copies are not asked."""
    _, hits = answers(data, data.query & ~data.leak)
    first, deep = hits[:, :10].sum(axis=1), hits[:, :1000]
    precision = deep.cumsum(axis=1) / np.arange(1, 1001)
    expected = [(first / 10).mean(), (first / hits.sum(axis=1)).mean(), ((precision * deep).sum(axis=1) / hits.sum(axis=1)).mean()]
    for index in ("NumPy", "Flat"):
        row = of(rows, index)[0]
        assert [row.precision_at_10, row.recall_at_10, row.map] == pytest.approx(expected, abs=1e-9)
        assert row.queries == (data.query & ~data.leak).sum()


def test_recall_rises_with_the_lists_that_are_searched(rows: list[StudyRow]) -> None:
    """One, four, all twelve: a list holds a twelfth of the items and far more of a query's neighbours."""
    recalls = [row.ann_recall_at_10 for row in of(rows, "IVF12,Flat", recall_target=None)]
    assert 2 / 12 < recalls[0] < recalls[1] < recalls[2] == 1


def test_candidates_ranked_again_find_more_than_codes_alone(rows: list[StudyRow]) -> None:
    """Product-quantized codes lose neighbours; a hundred candidates ranked again from the vectors give most of them back."""
    plain, again = of(rows, "IVF12,PQ4x4", rerank="none")[0], of(rows, "IVF12,PQ4x4", rerank="exact")[0]
    assert plain.ann_recall_at_10 < again.ann_recall_at_10
    assert again.ann_recall_at_10 > 0.7
    assert (plain.mapped_bytes, again.params) == (0, "nprobe 12, rerank_candidates 100")
    assert again.mapped_bytes == pytest.approx(DATABASE * DIM * 4, abs=200)


def test_a_target_is_tuned_on_other_queries_and_told(rows: list[StudyRow]) -> None:
    """The setting that the tuning chose stands in the row, with what it was asked for."""
    tuned = of(rows, "IVF12,Flat", recall_target=0.7)
    assert len(tuned) == 1
    assert tuned[0].nprobe is not None
    assert tuned[0].ann_recall_at_10 >= 0.7


def test_bytes_are_those_of_the_files(rows: list[StudyRow]) -> None:
    """By hand: 16 float32 and an id for Flat and brute force; 2 bytes of codes for PQ; links besides for a graph."""
    assert of(rows, "NumPy")[0].bytes_per_vector == DIM * 4 + 8
    assert of(rows, "Flat")[0].bytes_per_vector == pytest.approx(DIM * 4 + 8, abs=1)
    assert of(rows, "HNSW16")[0].bytes_per_vector > DIM * 4 + 8 + 2 * 16 * 4
    assert of(rows, "IVF12,PQ4x4", rerank="none")[0].bytes_per_vector < of(rows, "IVF12,Flat")[0].bytes_per_vector / 2
    plain, again = of(rows, "IVF12,PQ4x4", rerank="none")[0], of(rows, "IVF12,PQ4x4", rerank="exact")[0]
    assert again.bytes_per_vector == pytest.approx(plain.bytes_per_vector + 8, abs=1)  # the ids, by which mapped vectors are found
    assert all(row.memory_bytes == pytest.approx(row.bytes_per_vector * DATABASE) for row in rows)


def test_what_is_told_of_all_rows(rows: list[StudyRow]) -> None:
    """Extraction is the encoder's; every figure of speed is there; one row is the best."""
    assert {(row.encoder, row.dim, row.database, row.encode_seconds, row.encoded) for row in rows} == {("ours", DIM, DATABASE, 2.0, 1350)}
    assert all(row.single_query_p50_ms > 0 and row.batch_queries_per_second > 0 and row.build_seconds > 0 for row in rows)
    assert all(row.threads >= 1 and row.single_query_p50_ms <= row.single_query_p95_ms for row in rows)
    assert sum(row.best for row in rows) == 1


def test_nothing_is_left_of_what_was_built(rows: list[StudyRow], root: Root) -> None:
    """No index under the root, and no temporary."""
    assert not (root.path / "indexes").exists()
    assert not [path for path in root.tmp.rglob("*") if path.suffix in (".faiss", ".npy")]


def test_a_sample_of_the_queries_is_tuned_on_the_others(root: Root, data: Data) -> None:
    """30 are asked, and no query that is asked is among those for tuning; where too few are left, the asked ones are."""
    few = load_query_set(root, config(max_queries=30), data.embeddings)
    assert (len(few.queries), len(few.tuning[0])) == (30, (data.query & ~data.leak).sum() - 30)
    assert not {row.tobytes() for row in few.queries} & {row.tobytes() for row in few.tuning[0]}
    most = load_query_set(root, config(max_queries=100), data.embeddings)
    assert most.tuning[0].tobytes() == most.queries.tobytes()
    ids, _ = answers(data, data.query)
    assert {tuple(sorted(row)) for row in few.exact.tolist()} <= {tuple(sorted(row)) for row in ids[:, :10].tolist()}


def test_without_queries_a_study_is_refused(root: Root, data: Data, tmp_path: Path) -> None:
    """The message says what to choose."""
    table = parquet.scan_sql(root.file(data.embeddings.items))
    path = root.path / "no-queries.parquet"
    parquet.copy_query(f"SELECT * FROM {table} WHERE side = 'database' ORDER BY item_id", path, temp_dir=tmp_path)
    none = data.embeddings.model_copy(update={"items": root.make_ref(path), "query": 0})
    with pytest.raises(InputError, match="nothing is held out"):
        load_query_set(root, config(), none)
