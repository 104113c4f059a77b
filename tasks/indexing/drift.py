"""Drift: whether the data still resemble those that an index was trained on.

    changed     fraction of contents that today's database and that of the training do not share
    imbalance   lists * sum of n (n - 1) / (m (m - 1)), for n of m sampled vectors in a list: 1 if filled evenly
                (FAISS's imbalance factor, without its bias on small samples)
    list_error  mean squared distance of sampled vectors to the centroid of their list
    code_error  mean squared distance of sampled vectors to their decoded codes
    new         fraction of the database that was added since training
    recall      recall@10 of queries against exact search, both among the sampled vectors, at a sixteenth of the lists

Today's errors and recall are those of contents added since training. All samples are drawn by keyed hashes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss
import numpy as np

from indexmill.configs.models import DriftConfig, IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, unwrap_id_map
from indexmill.tasks.metrics.exact_search import knn

RECALL_K = 10
MIN_NEW_VECTORS = 100  # fewer give unreliable signals
MIN_CODE_ERROR = 1e-9  # below it, codes are lossless


class Sample(NamedTuple):
    """Item ids int64 (n,) and their vectors float32 (n, dim)."""

    ids: np.ndarray
    vectors: np.ndarray


class NewContents(NamedTuple):
    """Contents added since training: their fraction of the database, and a sample of them."""

    fraction: float
    sample: Sample


class DriftCheck(NamedTuple):
    """One message per signal, by whether it exceeds its limit."""

    exceeded: list[str]
    within: list[str]


def measure_drift(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, index: faiss.Index, config: IndexConfig) -> dict[str, float]:
    """Measure today's signals: only `changed` if it is 0, and no errors and recall if there are fewer than
    MIN_NEW_VECTORS new vectors.
    """
    changed = compute_changed_fraction(root, embeddings, trained)
    if not changed:
        return {"changed": changed}
    sample, new = _read_database_sample(root, embeddings, config), _read_new_contents(root, embeddings, trained, config)
    signals = {"changed": changed, "new": new.fraction} | compute_imbalance(index, sample.vectors)
    if len(new.sample.ids) < MIN_NEW_VECTORS:
        return signals
    return signals | compute_errors(index, new.sample.vectors) | compute_recall(index, sample, new.sample, config)


def measure_baseline(root: Root, embeddings: EmbeddingSet, index: faiss.Index, config: IndexConfig) -> dict[str, float]:
    """Measure the baseline at training: all signals over a sample of the database. Memory: the sample, twice."""
    sample = _read_database_sample(root, embeddings, config)
    return compute_imbalance(index, sample.vectors) | compute_errors(index, sample.vectors) | compute_recall(index, sample, sample, config)


def check_drift(signals: dict[str, float], baseline: dict[str, float], limits: DriftConfig) -> DriftCheck:
    """Compare the signals with their limits.

    Errors and recall are weighted by the fraction of new vectors: by their effect on the mean over the whole database.
    """
    pairs = {name: (signals[name], baseline[name]) for name in signals.keys() & baseline.keys() if baseline[name]}
    checks = [(signals["changed"], limits.max_changed, "changed {:.3g}")]
    if "imbalance" in pairs:
        current, at_training = pairs["imbalance"]
        checks.append((current / at_training, limits.max_imbalance, "imbalance {:.3g} times"))
    for name in ("list_error", "code_error"):
        if name in pairs:
            current, at_training = pairs[name]
            checks.append(
                (signals["new"] * (current / at_training - 1), limits.max_error_rise, name.replace("_", " ") + " risen by {:.3g}")
            )
    if "recall" in pairs:
        current, at_training = pairs["recall"]
        checks.append((signals["new"] * (at_training - current), limits.max_recall_drop, "recall fallen by {:.3g}"))
    messages = [(value > limit, f"{text.format(value)}, at most {limit:g}") for value, limit, text in checks]
    return DriftCheck([text for is_past, text in messages if is_past], [text for is_past, text in messages if not is_past])


def compute_changed_fraction(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex) -> float:
    """Compute 1 - shared / larger in distinct contents: 0 for the same database, 1 for a disjoint one."""
    baseline_sql = f"SELECT DISTINCT content_digest FROM {parquet.scan_sql(root.file(trained.rows))}"
    candidate_sql = f"SELECT DISTINCT content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database'"
    sql = (
        f"SELECT (SELECT count(*) FROM ({baseline_sql})), (SELECT count(*) FROM ({candidate_sql})), "
        f"count(*) FROM (({baseline_sql}) INTERSECT ({candidate_sql}))"
    )
    baseline_count, candidate_count, shared = parquet.fetch_rows(sql, temp_dir=root.tmp)[0]
    return float(1 - shared / max(baseline_count, candidate_count))


def compute_imbalance(index: faiss.Index, vectors: np.ndarray) -> dict[str, float]:
    """Compute how unevenly float32 vectors (n, dim) fall into the lists; nothing without lists."""
    ivf = find_ivf(index)
    if ivf is None or len(vectors) < 2:
        return {}
    counts = np.bincount(ivf.quantizer.search(_apply_transforms(index, vectors), 1)[1].ravel(), minlength=ivf.nlist).astype(np.float64)
    return {"imbalance": float(ivf.nlist * (counts * (counts - 1)).sum() / (len(vectors) * (len(vectors) - 1)))}


def compute_errors(index: faiss.Index, vectors: np.ndarray) -> dict[str, float]:
    """Compute the list error and the code error of float32 vectors (n, dim), as far as the index has lists and lossy
    codes.
    """
    errors, ivf = {}, find_ivf(index)
    if ivf is not None:
        transformed = _apply_transforms(index, vectors)
        nearest = ivf.quantizer.search(transformed, 1)[1].ravel()
        errors["list_error"] = _mean_squared_distance(transformed, ivf.quantizer.reconstruct_batch(nearest))
    if isinstance(ivf, faiss.IndexIVFPQFastScan):
        # FAISS 1.15 does not set it on reading a file, and then decodes from an invalid pointer.
        ivf.fine_quantizer = ivf.pq  # type: ignore[attr-defined]
    codec = unwrap_id_map(index)
    try:
        code_error = _mean_squared_distance(vectors, codec.sa_decode(codec.sa_encode(vectors)))
    except RuntimeError:  # the family has no codec of its own
        return errors
    return errors | ({"code_error": code_error} if code_error > MIN_CODE_ERROR else {})


def compute_recall(index: faiss.Index, sample: Sample, queries: Sample, config: IndexConfig) -> dict[str, float]:
    """Compute recall@10 of at most `drift.queries` queries, each searched among the sample without itself.

    Nothing for tiny samples.
    """
    if len(sample.ids) <= 10 * RECALL_K:
        return {}
    filled = faiss.deserialize_index(faiss.serialize_index(index))
    filled.add_with_ids(sample.vectors, sample.ids)
    ivf = find_ivf(filled)
    if ivf is not None:
        ivf.nprobe = max(1, ivf.nlist // 16)
    rows = np.random.default_rng(config.seed).permutation(len(queries.ids))[: config.drift.queries]
    query_vectors, query_ids = queries.vectors[rows], queries.ids[rows]
    retrieved = _drop_self(filled.search(query_vectors, RECALL_K + 1)[1], query_ids)
    exact_rows = knn(query_vectors, sample.vectors, RECALL_K + 1, FAISS_METRICS[config.metric])[1]
    exact = _drop_self(sample.ids[exact_rows], query_ids)
    common = [len(np.intersect1d(row, exact_row)) for row, exact_row in zip(retrieved, exact, strict=True)]
    return {"recall": float(np.mean(common) / RECALL_K)}


def _drop_self(retrieved: np.ndarray, query_ids: np.ndarray) -> list[np.ndarray]:
    """Return the first RECALL_K ids of each row that are not the query's own."""
    return [row[row != query_id][:RECALL_K] for row, query_id in zip(retrieved, query_ids, strict=True)]


def _read_database_sample(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> Sample:
    with open_vectors(root, embeddings, side="database", sample=(config.drift.sample, config.seed + 1)) as blocks:
        return Sample(*concatenate_blocks(blocks, embeddings.dim))


def _read_new_contents(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, config: IndexConfig) -> NewContents:
    with root.scratch.staging() as folder:
        new_rows = folder / "new.parquet"
        sql = (
            f"FROM (SELECT item_id, content_digest, side FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database') "
            f"ANTI JOIN {parquet.scan_sql(root.file(trained.rows))} USING (content_digest) ORDER BY item_id"
        )
        fraction = parquet.copy_query(sql, new_rows, temp_dir=root.tmp) / embeddings.database
        view = embeddings.model_copy(update={"items": root.make_ref(new_rows, digest=False)})
        with open_vectors(root, view, side="database", sample=(config.drift.sample, config.seed)) as blocks:
            return NewContents(fraction, Sample(*concatenate_blocks(blocks, embeddings.dim)))


def _apply_transforms(index: faiss.Index, vectors: np.ndarray) -> np.ndarray:
    """Apply the transforms (OPQ, PCA) that precede the lists."""
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for position in range(chain.size()):
            vectors = faiss.downcast_VectorTransform(chain.at(position)).apply(vectors)
    return vectors


def _mean_squared_distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.square(left - right).sum(axis=1).mean())
