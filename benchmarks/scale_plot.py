"""Plot for `benchmarks/scale.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw CPU seconds per stage: bars for one size, lines over several."""
    from benchmarks.plotting import draw_bars, draw_lines, get_bars_height, split_panels

    sizes, stages = results["sizes"], [stage for stage in next(iter(results["sizes"].values())) if stage != "store"]
    if len(sizes) == 1:
        (size, measured), (cpu, memory) = *sizes.items(), split_panels(figure, 2, height=get_bars_height(len(stages)), sharey=True)
        draw_bars(cpu, {stage: measured[stage]["cpu"] for stage in stages}, unit="CPU seconds")
        draw_bars(memory, {stage: measured[stage]["peak_mb"] for stage in stages}, unit="peak memory, MB", text="{:,.0f}")
        figure.suptitle(f"{int(size):,} vectors with {results['dim']} dimensions", x=0.01, ha="left", fontweight="bold")
        return
    (axes,) = split_panels(figure, 1, height=4.5)
    axes.set(xscale="log", yscale="log")
    millions = [int(size) / 1e6 for size in sizes]
    series = {stage: (millions, [measured[stage]["cpu"] for measured in sizes.values()]) for stage in stages}
    draw_lines(axes, series, xlabel=f"million vectors with {results['dim']} dimensions", ylabel="CPU seconds")
    axes.set_xticks(millions, [f"{million:g}" for million in millions])
    axes.minorticks_off()
