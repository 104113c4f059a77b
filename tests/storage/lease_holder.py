"""A process that takes a lease, writes one file after another under it, and says so: `lease_holder.py URL SECONDS`."""

from __future__ import annotations

import sys
import time

from indexmill.storage.errors import LeaseLost
from indexmill.storage.root import Root

if __name__ == "__main__":
    root = Root(sys.argv[1])
    deadline = time.monotonic() + float(sys.argv[2])
    try:
        with root.lease_index("name", "the other process"):
            print("held", flush=True)
            number = 0
            while time.monotonic() < deadline:
                root.scratch.write_text(root.index("name") / "shards" / f"{number}.txt", "x")
                number += 1
                time.sleep(0.05)
    except LeaseLost:
        print("lost", flush=True)
