"""Open the live snapshot of an index and search it in threads, again and again, until a file appears.

Arguments: root, index, number of threads, the file. Prints one line of JSON: the number of answers per snapshot, and the
errors. Beside the file, an empty file `read-ID` shows that the snapshot ID was read.
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
answers, errors = Counter[str](), list[str]()
faiss.omp_set_num_threads(1)


def read() -> None:
    """Check that an opened snapshot holds its own items and no others: the vector of an item finds that item first."""
    try:
        while not end.exists():
            index = open_index(root, name)
            assert len(index.items) == index.manifest.items == index.searcher.items
            item_id = int(index.items._ids[-1])
            result = index.search(items=[item_id], k=1).results[0][0]
            assert result.score > 0.999, result
            (end.parent / f"read-{index.manifest.snapshot_id}").touch()
            answers[f"{index.manifest.snapshot_id} {index.manifest.items}"] += 1
    except BaseException:
        errors.append(traceback.format_exc())


print("ready", flush=True)
readers = [threading.Thread(target=read) for _ in range(threads)]
for thread in readers:
    thread.start()
for thread in readers:
    thread.join()
print(json.dumps({"answers": answers, "errors": errors}))
