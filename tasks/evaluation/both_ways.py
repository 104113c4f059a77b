"""Texts that find their images and images that find their texts, among the held-out ones."""

from __future__ import annotations

import numpy as np

from indexmill.storage.embeddings import joined, vectors
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.measures.crossmodal import both_ways


def caption_figures(root: Root, embeddings: EmbeddingSet, *, leaking: bool, most: int, seed: int) -> dict[str, float]:
    """`text_to_image_recall_at_1` and so on, over the query side alone; nothing unless images have captions.

    Candidates are the captions, or the images, of at most `most` held-out items: fewer than the index holds, as is the usage.
    """
    if embeddings.captions is None:
        return {}
    sides = []
    for side in (embeddings.captions, embeddings):
        with vectors(root, side, side="query", leaking=leaking, sample=(most, seed)) as blocks:
            sides.append(joined(blocks, side.dim))
    (text_ids, texts), (image_ids, images) = sides
    if not len(text_ids) or not len(image_ids):
        return {}
    return both_ways(texts, images, np.asarray(text_ids), np.asarray(image_ids))
