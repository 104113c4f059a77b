"""Twelve simulated nightly builds: the cost of an update compared with a full build, and whether it is as good.

Run: python -m benchmarks.runbook [--items 200000] [--dim 384] [--factory IVF256,Flat]
"""

from __future__ import annotations

import argparse
import tempfile

from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from tests.indexing.runbook import play


def main() -> None:
    """Print one line per nightly build. Seconds are wall-clock, for train and shard together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--factory", default="IVF256,Flat")
    parser.add_argument("--nprobe", type=int, default=16)
    options = parser.parse_args()
    config = IndexConfig.model_validate({"factory": options.factory, "shard_bytes": options.items // 4 * (4 * options.dim + 8)})
    print("night   items  ids    exact  recall fresh  built/updated/reused  seconds    full build  training")
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        night_results = play(
            root, config, items=options.items, dim=options.dim, clusters=options.clusters, nprobe=options.nprobe, queries=1000
        )
        for number, result in enumerate(night_results):
            shard_counts = f"{result.built}/{result.updated}/{result.reused}"
            print(
                f"{number:5} {result.items:7}  {result.ids_equal!s:5}  {result.exact_equal!s:5}  {result.recall:.4f} "
                f"{result.fresh_recall:.4f}  {shard_counts:>20}  {result.seconds:7.1f}  {result.fresh_seconds:12.1f}  {result.reason}",
                flush=True,
            )
        root.close()


if __name__ == "__main__":
    main()
