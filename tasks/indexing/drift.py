"""Drift: whether the data are still like those that an index was trained on.

    changed    share of contents that the database of today and that of the training do not have in common
    imbalance  lists * sum of n (n - 1) / (m (m - 1)), for n of m sampled vectors in a list: 1 when filled evenly (FAISS's imbalance factor,
               without its bias on small samples)
    list_error, code_error   mean squared distance of sampled vectors to the centroid of their list, and to what their codes stand for
    new        share of the database that was not there at training
    recall     recall@10 of probes against exact search, both among the sampled vectors, at a sixteenth of the lists

Today's errors and recall are those of contents that were not there at training. All samples are drawn by keyed hashes.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import DriftConfig, IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, knn

RECALL_K = 10
IdsAndVectors = tuple[np.ndarray, np.ndarray]  # item ids int64 (n,), float32 (n, dim)
MIN_NEW_VECTORS = 100  # fewer new vectors say little


def drift(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, index: faiss.Index, config: IndexConfig) -> dict[str, float]:
    """Today's signals. Without any change only `compute_changed_fraction` is told, and what concerns new vectors only where there are enough to tell."""
    found = {"changed": compute_changed_fraction(root, embeddings, trained)}
    if not found["changed"]:
        return found
    whole, new = _read_database_sample(root, embeddings, config), _read_new_contents(root, embeddings, trained, config)
    found |= {"new": new[0]} | compute_imbalance(index, whole[1])
    if len(new[2]) < MIN_NEW_VECTORS:
        return found
    return found | compute_errors(index, new[2]) | compute_recall(index, whole, new[1:], config)


def check_drift(signals: dict[str, float], baseline: dict[str, float], limits: DriftConfig) -> tuple[list[str], list[str]]:
    """(the signals past their limits, those within), each in words.

    Errors and recall count by the share of vectors that are new: what those do to the mean over the whole database.
    """
    both = {name: (signals[name], baseline[name]) for name in signals.keys() & baseline.keys() if baseline[name]}
    told = [(signals["changed"], limits.max_changed, "changed {:.3g}")]
    if "imbalance" in both:
        told.append((both["imbalance"][0] / both["imbalance"][1], limits.max_imbalance, "imbalance {:.3g} times"))
    for name in ("list_error", "code_error"):
        if name in both:
            rise = signals["new"] * (both[name][0] / both[name][1] - 1)
            told.append((rise, limits.max_error_rise, name.replace("_", " ") + " risen by {:.3g}"))
    if "recall" in both:
        told.append((signals["new"] * (both["recall"][1] - both["recall"][0]), limits.max_recall_drop, "recall fallen by {:.3g}"))
    words = [(value > limit, f"{text.format(value)}, at most {limit:g}") for value, limit, text in told]
    return [text for past, text in words if past], [text for past, text in words if not past]


def compute_changed_fraction(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex) -> float:
    """1 - shared / larger, in distinct contents: 0 for the same database, 1 for another."""
    then = f"SELECT DISTINCT content_digest FROM {parquet.scan_sql(root.file(trained.rows))}"
    now = f"SELECT DISTINCT content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database'"
    sql = f"SELECT (SELECT count(*) FROM ({then})), (SELECT count(*) FROM ({now})), count(*) FROM (({then}) INTERSECT ({now}))"
    before, after, shared = parquet.fetch_rows(sql, temp_dir=root.tmp)[0]
    return float(1 - shared / max(before, after))


def measure_baseline(root: Root, embeddings: EmbeddingSet, index: faiss.Index, config: IndexConfig) -> dict[str, float]:
    """The baseline: all signals, over a sample of the database. Memory: the sample, twice."""
    sample = _read_database_sample(root, embeddings, config)
    return compute_imbalance(index, sample[1]) | compute_errors(index, sample[1]) | compute_recall(index, sample, sample, config)


def compute_imbalance(index: faiss.Index, sample: np.ndarray) -> dict[str, float]:
    """How unevenly the sample falls into the lists; nothing without lists."""
    ivf = find_ivf(index)
    if ivf is None or len(sample) < 2:
        return {}
    counts = np.bincount(ivf.quantizer.search(_apply_transforms(index, sample), 1)[1].ravel(), minlength=ivf.nlist).astype(np.float64)
    return {"imbalance": float(ivf.nlist * (counts * (counts - 1)).sum() / (len(sample) * (len(sample) - 1)))}


def compute_errors(index: faiss.Index, sample: np.ndarray) -> dict[str, float]:
    """Mean squared distances of the sample to its lists' centroids, and to what its codes decode to; only those that an index has."""
    found, ivf = {}, find_ivf(index)
    if ivf is not None:
        rotated = _apply_transforms(index, sample)
        nearest = ivf.quantizer.search(rotated, 1)[1].ravel()
        found["list_error"] = _mean_squared_distance(rotated, ivf.quantizer.reconstruct_batch(nearest))
    if isinstance(ivf, faiss.IndexIVFPQFastScan):
        # FAISS 1.15 forgets it on reading a file, and then decodes from wherever that points.
        ivf.fine_quantizer = ivf.pq  # type: ignore[attr-defined]
    codec = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    try:
        code_error = _mean_squared_distance(sample, codec.sa_decode(codec.sa_encode(sample)))
    except RuntimeError:  # the family has no codec of its own
        return found
    return found | ({"code_error": code_error} if code_error > 1e-9 else {})


def compute_recall(index: faiss.Index, sample: IdsAndVectors, queries: IdsAndVectors, config: IndexConfig) -> dict[str, float]:
    """recall@10 of at most `drift.queries` of the probes, each searched among the sample without itself."""
    ids, filled = sample[0], faiss.deserialize_index(faiss.serialize_index(index))
    if len(ids) <= 10 * RECALL_K:
        return {}
    filled.add_with_ids(sample[1], ids)
    ivf = find_ivf(filled)
    if ivf is not None:
        ivf.nprobe = max(1, ivf.nlist // 16)
    rows = np.random.default_rng(config.seed).permutation(len(queries[0]))[: config.drift.queries]
    asked, own = queries[1][rows], queries[0][rows]
    found = _drop_self(filled.search(asked, RECALL_K + 1)[1], own)
    exact = _drop_self(ids[knn(asked, sample[1], RECALL_K + 1, FAISS_METRICS[config.metric])[1]], own)
    return {"recall": float(np.mean([len(np.intersect1d(mine, right)) for mine, right in zip(found, exact, strict=True)]) / RECALL_K)}


def _drop_self(found: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
    """The first DEPTH ids of each row that are not the probe's own."""
    return [row[row != mine][:RECALL_K] for row, mine in zip(found, own, strict=True)]


def _read_database_sample(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> IdsAndVectors:
    with open_vectors(root, embeddings, side="database", sample=(config.drift.sample, config.seed + 1)) as blocks:
        return concatenate_blocks(blocks, embeddings.dim)


def _read_new_contents(
    root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, config: IndexConfig
) -> tuple[float, np.ndarray, np.ndarray]:
    """Contents that were not there at training: their share of the database, and the ids and vectors of a sample of them."""
    with root.scratch.staging() as folder:
        new = folder / "new.parquet"
        sql = (
            f"FROM (SELECT item_id, content_digest, side FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database') "
            f"ANTI JOIN {parquet.scan_sql(root.file(trained.rows))} USING (content_digest) ORDER BY item_id"
        )
        share = parquet.copy_query(sql, new, temp_dir=root.tmp) / embeddings.database
        view = embeddings.model_copy(update={"items": root.make_ref(new, digest=False)})
        with open_vectors(root, view, side="database", sample=(config.drift.sample, config.seed)) as blocks:
            return share, *concatenate_blocks(blocks, embeddings.dim)


def _apply_transforms(index: faiss.Index, sample: np.ndarray) -> np.ndarray:
    """The sample as the lists see it: after the transforms (OPQ, PCA) that stand before them."""
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for position in range(chain.size()):
            sample = faiss.downcast_VectorTransform(chain.at(position)).apply(sample)
    return sample


def _mean_squared_distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.square(left - right).sum(axis=1).mean())
