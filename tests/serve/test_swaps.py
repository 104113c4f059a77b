"""Nothing of a replaced snapshot stays in the process: no object, file, map or memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serve_swaps import measure_swaps
from indexmill.serve.http.limits import Limits
from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.schemas import SearchRequest
from indexmill.serve.http.service import Service
from indexmill.storage.root import Root
from tests.serve.publish_helper import publish_again

ALLOCATING = """
import ctypes, sys
from pathlib import Path
from indexmill.serve.http.allocator import return_freed_memory

def read_anonymous_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

def allocate(size):
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    return block

if not return_freed_memory():
    sys.exit("not glibc")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
before = read_anonymous_bytes()
libc.free(allocate(30 << 20))
block, later = allocate(20 << 20), allocate(100_000)
libc.free(block)
print(read_anonymous_bytes() - before)
"""


def list_open(folder: str) -> list[str]:
    """List the open files and maps of this process that are below a folder."""
    files = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    maps = [line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()]
    return [path for path in (*files, *maps) if path.startswith(folder)]


def test_no_object_file_or_map_of_a_replaced_snapshot_remains(root_copy: Path) -> None:
    """Nor of the first one, whose objects `gc.freeze` has hidden from the collector; so no cycle may hold a snapshot."""

    async def swap_three_times() -> None:
        metrics = Metrics()
        root = Root(root_copy, create=False)
        live = LiveIndex(root, "demo-images", metrics)
        service = Service({"demo-images": live}, Limits(), metrics)
        old_folders: list[str] = []
        references: list[weakref.ref[object]] = []
        counts = []
        for number in range(4):
            if number:
                publish_again(root_copy, "demo-images")
            await live.refresh()
            assert live.index is not None
            for raw in (True, False):
                await service.search(live.index, SearchRequest(vectors=np.eye(2, 1280), label="3"), raw=raw)
            assert [reference() for reference in references] == [None] * len(references)
            assert [path for folder in old_folders for path in list_open(folder)] == []
            counts.append(len(list_open(str(root_copy))))
            index = live.index
            references += [weakref.ref(part) for part in (index, index.searcher, index.items, index.searcher.shards[0])]
            old_folders.append(str(index.snapshot_dir))
            del index
        assert counts[1:] == counts[:1] * 3  # what the live one has open
        samples = [sample for metric in metrics.registry.collect() for sample in metric.samples if "snapshot" in sample.labels]
        assert [sample.labels["snapshot"] for sample in samples] == [live.snapshot_id]
        service.close()
        root.close()

    asyncio.run(swap_three_times())


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_returns_to_the_system() -> None:
    """After 30 MB were freed once, glibc by itself may keep 20 MB below whatever was allocated later."""
    kept = int(subprocess.run([sys.executable, "-c", ALLOCATING], capture_output=True, text=True, check=True).stdout)
    assert kept < 2 << 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_service_uses_as_much_after_thirty_swaps_as_after_ten(root_copy: Path) -> None:
    """Memory within 15 MB; the same open files; maps and threads but for a few of the libraries."""
    rows = measure_swaps(root_copy, 30, "sentences")
    tenth, last = rows[9], rows[-1]
    assert last["anonymous_mb"] < tenth["anonymous_mb"] + 15
    assert last["files"] == tenth["files"]
    assert last["maps"] < tenth["maps"] + 20
    assert last["threads"] < tenth["threads"] + 4
