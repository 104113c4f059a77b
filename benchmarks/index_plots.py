"""Plot for `benchmarks/index.py`: recall against queries per CPU second, and bytes per vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_RECALL = 0.9  # what lies below it is not near any target


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw one line per index, with one point per target, and a bar for its memory; ours are blue."""
    from benchmarks.plotting import OURS, PALETTE, draw_bars, get_bars_height, label_points, write_plain_numbers

    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(results["rows"], key=lambda row: row["recall"]):
        if row["recall"] >= MIN_RECALL:
            by_name.setdefault(row["name"], []).append(row)
    others = iter(PALETTE[1:] * 3)
    colors = {name: OURS if name.startswith("ours") else next(others) for name in by_name}
    bars_height = get_bars_height(len(by_name))
    figure.set_size_inches(9, 4.5 + bars_height)
    speeds, memory = figure.subplots(2, 1, height_ratios=(4.5, bars_height))
    speeds.set(yscale="log", xlabel="recall@10", ylabel="queries per CPU second, batches of 256")
    write_plain_numbers(speeds)
    speeds.grid()
    for name, rows in by_name.items():
        speeds.plot([row["recall"] for row in rows], [row["qps_cpu_256"] for row in rows], marker="o", color=colors[name])
    sizes = {name: rows[-1]["bytes"] for name, rows in sorted(by_name.items(), key=lambda item: item[1][-1]["bytes"])}
    draw_bars(memory, sizes, unit="resident bytes per vector", text="{:,.0f}", colors=[colors[name] for name in sizes])
    label_points(speeds, [(rows[-1]["recall"], rows[-1]["qps_cpu_256"], name, colors[name]) for name, rows in by_name.items()])
