"""The output of `benchmarks/index.py`: a table, and the targets met or missed."""

from __future__ import annotations

from typing import Any

from benchmarks.index_measuring import BATCHES

BUILD_TARGETS = [("hnswlib", "build_cpu_s", 0.2), ("autofaiss", "build_cpu_s", 0.2)]
TARGETS = {
    0.95: [
        ("ScaNN", "qps_cpu_256", 0.9),
        ("hnswlib", "qps_cpu_256", 2.5),
        ("hnswlib", "qps_cpu_1", 1.3),
        ("hnswlib", "bytes", 0.1),
        *BUILD_TARGETS,
    ],
    0.99: [("ScaNN", "qps_cpu_256", 0.8), ("hnswlib", "qps_cpu_256", 4.0)],
}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Format a Markdown table: queries per CPU second, milliseconds of single queries, bytes per vector, build cost."""
    head = "| index | target | recall | single | 16 | 256 | p50 ms | p99 ms | bytes | build CPU s | peak MiB | tuning s |"
    lines = [
        f"| {row['name']} | {row['target'] if row['met'] else 'missed'} | {row['recall']:.4f} | "
        + " | ".join(f"{row[f'qps_cpu_{batch}']:,.0f}" for batch in BATCHES)
        + f" | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['bytes']:.0f} | {row['build_cpu_s']:.1f} | {row['peak_mib']:.0f} |"
        + f" {row['tuning_cpu_s']:.1f} |"
        for row in rows
    ]
    return "\n".join([head, "|---" * 12 + "|", *lines])


def check_targets(rows: list[dict[str, Any]]) -> list[str]:
    """Compare with the peers that were measured. Ours is the candidate with the least CPU time in batches of 256."""
    lines = check_exact_search(rows)
    for target in (0.95, 0.99):
        our_rows = [row for row in rows if row["name"].startswith("ours") and row["name"] != "ours exact"]
        ours = max((row for row in our_rows if row["target"] == target and row["met"]), key=lambda row: row["qps_cpu_256"], default=None)
        if ours is None:
            continue
        peers = {row["name"].split()[0]: row for row in rows if row["target"] == target}
        for name, column, share in TARGETS[target]:
            if name in peers:
                ratio = ours[column] / peers[name][column]
                is_met = ratio >= share if column.startswith("qps") else ratio <= share
                lines.append(f"{'met   ' if is_met else 'missed'} recall {target}: {column} {ratio:.2f} of {name}'s (target {share})")
    return lines


def check_exact_search(rows: list[dict[str, Any]]) -> list[str]:
    """Compare exact search in batches of 256 with the bare matrix product."""
    speeds = {row["name"]: row["qps_cpu_256"] for row in rows}
    if not {"ours exact", "sgemm alone"} <= speeds.keys():
        return []
    ratio = speeds["ours exact"] / speeds["sgemm alone"]
    return [f"{'met   ' if ratio >= 0.9 else 'missed'} exact search: {ratio:.2f} of sgemm's rate (target 0.9)"]
