"""Run in the peer's virtual environment: time its inference over a folder from the end of the first batch to the end of the last."""

import json
import sys
import time
from pathlib import Path

from clip_retrieval.clip_inference import main as peer
from clip_retrieval.clip_inference.mapper import ClipMapper

finished_batches = []  # (time, images) per batch
encode = ClipMapper.__call__


def encode_and_record(self: ClipMapper, item: dict) -> dict:
    """Encode a batch and record when it finished."""
    vectors = encode(self, item)
    finished_batches.append((time.perf_counter(), len(vectors["image_embs"])))
    return vectors


if __name__ == "__main__":  # its data loader may start processes that import this file
    ClipMapper.__call__ = encode_and_record
    peer.main(**json.loads(sys.argv[1]))
    if len(finished_batches) < 2:
        sys.exit("too few images; the first batch does not count")
    report = {"items": sum(count for _, count in finished_batches[1:]), "seconds": finished_batches[-1][0] - finished_batches[0][0]}
    Path(sys.argv[2]).write_text(json.dumps(report))
