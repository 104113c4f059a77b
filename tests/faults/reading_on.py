"""Threads that open the live snapshot of an index and ask it, over and over, until a file appears.

Arguments: root, index, the number of threads, the file. On standard output one line of JSON: the answers by snapshot, and what went wrong.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path

import faiss

from indexmill.serve import open_index

root, name, threads, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
answers, troubles = Counter[str](), list[str]()
faiss.omp_set_num_threads(1)


def read() -> None:
    """An opened snapshot holds its own items and no other's: an item's own vector finds it first."""
    try:
        while not end.exists():
            index = open_index(root, name)
            assert len(index.items) == index.manifest.items == index.searcher.items
            wanted = int(index.items._ids[-1])
            found = index.search(items=[wanted], k=1).results[0][0]
            assert found.score > 0.999, found
            answers[f"{index.manifest.snapshot_id} {index.manifest.items}"] += 1
    except BaseException:
        troubles.append(traceback.format_exc())


print("ready", flush=True)
working = [threading.Thread(target=read) for _ in range(threads)]
for thread in working:
    thread.start()
for thread in working:
    thread.join()
print(json.dumps({"answers": answers, "troubles": troubles}))
