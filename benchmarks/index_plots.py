"""Plot for `benchmarks/index.py`: recall against queries per CPU second, and against bytes per vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (("qps_cpu_256", "queries per CPU second, batches of 256"), ("bytes", "resident bytes per vector"))
MIN_RECALL = 0.9  # what lies below it is not near any target


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw one line per index, with one point per target, by name beside its last point; ours are blue."""
    from benchmarks.plotting import OURS, PALETTE, label_points, split_panels

    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(results["rows"], key=lambda row: row["recall"]):
        if row["recall"] >= MIN_RECALL:
            by_name.setdefault(row["name"], []).append(row)
    others = iter(PALETTE[1:] * 3)
    colors = {name: OURS if name.startswith("ours") else next(others) for name in by_name}
    for axes, (column, label) in zip(split_panels(figure, 1, rows=2, height=8), PANELS, strict=True):
        axes.set(yscale="log", xlabel="recall@10", ylabel=label)
        for name, rows in by_name.items():
            axes.plot([row["recall"] for row in rows], [row[column] for row in rows], marker="o", color=colors[name])
        axes.grid()
        label_points(axes, [(rows[-1]["recall"], rows[-1][column], name, colors[name]) for name, rows in by_name.items()])
