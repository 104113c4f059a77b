"""Plots for `benchmarks/index.py`: recall against queries per CPU second, and against bytes per vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLOTS = (("qps", "qps_cpu_256", "queries per CPU second, batches of 256"), ("bytes", "bytes", "resident bytes per vector"))


def plot(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write recall-qps.png and recall-bytes.png: one line per index, one point per target."""
    for short, column, label in PLOTS:
        figure, axes = plt.subplots(figsize=(8, 5))
        for number, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
            points = sorted((row["recall"], row[column]) for row in rows if row["name"] == name)
            marker = "o" if name.startswith("ours") else "x"
            axes.plot(
                *zip(*points, strict=True), marker=marker, color=f"C{number % 10}", linestyle="-" if number < 10 else "--", label=name
            )
        axes.set(xlabel="recall@10", ylabel=label, yscale="log")
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(folder / f"recall-{short}.png", dpi=120)
        plt.close(figure)
