"""Cross-modal retrieval: the rank at which a text finds its image, and an image its text."""

from __future__ import annotations

import numpy as np

SCORES_AT_ONCE = 1 << 22  # 16 MB of scores, and about as much again for comparing them


def rank_partners(queries: np.ndarray, candidates: np.ndarray, query_pairs: np.ndarray, candidate_pairs: np.ndarray) -> np.ndarray:
    """The rank, from 1, of each query's first partner among all candidates by inner product: int64 (queries,).

    queries, candidates: float32 (n, dim), normalised for cosine. own (queries,), owner (candidates,): pair numbers; a query's partners are
    the candidates with its number (an image has several captions). Equal scores stand by ascending row. 0 for a query without a partner.
    A block holds SCORES_AT_ONCE scores, or those of one query where there are more candidates.
    """
    ranks = np.zeros(len(queries), np.int64)
    if not len(candidates):
        return ranks
    step = max(1, SCORES_AT_ONCE // len(candidates))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        ranks[block] = rank_first_partner(queries[block] @ candidates.T, query_pairs[block, None] == candidate_pairs)
    return ranks


def rank_first_partner(scores: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The rank, from 1, of the best scored partner in each row: int64 (n,); equals by ascending column, 0 where there is no partner.

    scores (n, candidates), larger is better; partners, bool of that shape.
    """
    theirs = np.where(partners, scores, -np.inf)
    first = theirs.argmax(axis=1)
    best = np.take_along_axis(theirs, first[:, None], axis=1)
    earlier = (scores == best) & (np.arange(scores.shape[1]) < first[:, None])
    ranks = 1 + (scores > best).sum(axis=1) + earlier.sum(axis=1)
    return np.where(partners.any(axis=1), ranks, 0)


def summarize_ranks(ranks: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """`recall_at_k` and `median_rank` over the queries that have a partner; nothing without such a query.

    Recall@k = (queries whose first partner stands among the first k) / (queries with a partner), the usage of image-text retrieval: one of
    several partners is enough. The median of an even number of ranks is the mean of the middle two.
    """
    held = ranks[ranks > 0]
    if not len(held):
        return {}
    return {f"recall_at_{k}": float((held <= k).mean()) for k in ks} | {"median_rank": float(np.median(held))}


def compute_cross_modal_metrics(texts: np.ndarray, images: np.ndarray, text_pair: np.ndarray, image_pair: np.ndarray) -> dict[str, float]:
    """Figures of text to image and image to text: `text_to_image_recall_at_1` and so on. Arguments as in `rank_partners`."""
    ways = {
        "text_to_image": rank_partners(texts, images, text_pair, image_pair),
        "image_to_text": rank_partners(images, texts, image_pair, text_pair),
    }
    return {f"{way}_{name}": value for way, ranks in ways.items() for name, value in summarize_ranks(ranks).items()}
