"""Runs in the peer's virtual environment: its inference over a folder, timed from the end of the first batch to that of the last."""

import json
import sys
import time
from pathlib import Path

from clip_retrieval.clip_inference import main as peer
from clip_retrieval.clip_inference.mapper import ClipMapper

finished = []  # (when, images) a batch
encode = ClipMapper.__call__


def counted(self: ClipMapper, item: dict) -> dict:
    """Encode a batch, and note when it was done."""
    vectors = encode(self, item)
    finished.append((time.perf_counter(), len(vectors["image_embs"])))
    return vectors


if __name__ == "__main__":  # its data loader may start processes that import this file
    ClipMapper.__call__ = counted
    peer.main(**json.loads(sys.argv[1]))
    if len(finished) < 2:
        sys.exit("too few images: its first batch is not counted")
    timed = {"items": sum(count for _, count in finished[1:]), "seconds": finished[-1][0] - finished[0][0]}
    Path(sys.argv[2]).write_text(json.dumps(timed))
