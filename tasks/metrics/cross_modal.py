"""Cross-modal retrieval: the rank at which a text finds its image, and an image its text."""

from __future__ import annotations

import numpy as np

SCORES_AT_ONCE = 1 << 22  # 16 MB of scores, and about as much again to compare them


def compute_cross_modal_metrics(texts: np.ndarray, images: np.ndarray, text_pairs: np.ndarray, image_pairs: np.ndarray) -> dict[str, float]:
    """Compute `text_to_image_recall_at_1`, `image_to_text_median_rank` and so on, in both directions.

    Args:
        texts: float32 (texts, dim).
        images: float32 (images, dim).
        text_pairs: the pair number of each text, int (texts,).
        image_pairs: the pair number of each image, int (images,).

    Returns:
        Metric name -> value, as in `summarize_ranks`.
    """
    ranks_by_direction = {
        "text_to_image": rank_partners(texts, images, text_pairs, image_pairs),
        "image_to_text": rank_partners(images, texts, image_pairs, text_pairs),
    }
    return {
        f"{direction}_{name}": value for direction, ranks in ranks_by_direction.items() for name, value in summarize_ranks(ranks).items()
    }


def rank_partners(queries: np.ndarray, candidates: np.ndarray, query_pairs: np.ndarray, candidate_pairs: np.ndarray) -> np.ndarray:
    """Find the rank of each query's best partner among all candidates by inner product; ties by ascending row.

    A query's partners are the candidates with its pair number: an image may have several captions.

    Args:
        queries: float32 (n, dim), normalized for cosine.
        candidates: float32 (m, dim), normalized for cosine.
        query_pairs: pair numbers, int (n,).
        candidate_pairs: pair numbers, int (m,).

    Returns:
        int64 (n,), counted from 1; 0 for a query without a partner. Holds SCORES_AT_ONCE scores at a time, or those of
        one query.
    """
    ranks = np.zeros(len(queries), np.int64)
    if not len(candidates):
        return ranks
    step = max(1, SCORES_AT_ONCE // len(candidates))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        ranks[block] = rank_first_partner(queries[block] @ candidates.T, query_pairs[block, None] == candidate_pairs)
    return ranks


def rank_first_partner(scores: np.ndarray, is_partner: np.ndarray) -> np.ndarray:
    """Find the rank of the best-scored partner in each row; ties by ascending column.

    Args:
        scores: (n, candidates), higher is better.
        is_partner: bool (n, candidates).

    Returns:
        int64 (n,), counted from 1; 0 for a row without a partner.
    """
    partner_scores = np.where(is_partner, scores, -np.inf)
    first = partner_scores.argmax(axis=1)
    best = np.take_along_axis(partner_scores, first[:, None], axis=1)
    is_earlier_tie = (scores == best) & (np.arange(scores.shape[1]) < first[:, None])
    ranks = 1 + (scores > best).sum(axis=1) + is_earlier_tie.sum(axis=1)
    return np.where(is_partner.any(axis=1), ranks, 0)


def summarize_ranks(ranks: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Compute `recall_at_k` and `median_rank` over the queries that have a partner; empty without such a query.

    Recall@k = (queries with a partner among the first k) / (queries with a partner), as is usual in image-text
    retrieval: one of several partners is enough. The median of an even number of ranks is the mean of the middle two.
    """
    partner_ranks = ranks[ranks > 0]
    if not len(partner_ranks):
        return {}
    return {f"recall_at_{k}": float((partner_ranks <= k).mean()) for k in ks} | {"median_rank": float(np.median(partner_ranks))}
