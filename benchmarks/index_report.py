"""What `benchmarks/index.py` prints: a table, and the targets met or missed."""

from __future__ import annotations

from typing import Any

from benchmarks.index_measuring import BATCHES

BOTH = [("hnswlib", "build_cpu_s", 0.2), ("autofaiss", "build_cpu_s", 0.2)]
WANTED = {
    0.95: [("ScaNN", "qps_cpu_256", 0.9), ("hnswlib", "qps_cpu_256", 2.5), ("hnswlib", "qps_cpu_1", 1.3), ("hnswlib", "bytes", 0.1), *BOTH],
    0.99: [("ScaNN", "qps_cpu_256", 0.8), ("hnswlib", "qps_cpu_256", 4.0)],
}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: queries a CPU second, single query milliseconds, bytes a vector, build."""
    head = "| index | target | recall | single | 16 | 256 | p50 ms | p99 ms | bytes | build CPU s | peak MiB | tuning s |"
    lines = [
        f"| {row['name']} | {row['target'] if row['met'] else 'missed'} | {row['recall']:.4f} | "
        + " | ".join(f"{row[f'qps_cpu_{batch}']:,.0f}" for batch in BATCHES)
        + f" | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['bytes']:.0f} | {row['build_cpu_s']:.1f} | {row['peak_mib']:.0f} |"
        + f" {row['tuning_cpu_s']:.1f} |"
        for row in rows
    ]
    return "\n".join([head, "|---" * 12 + "|", *lines])


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """The targets, met or missed, where the peer is there; ours is the candidate of least CPU time in batches of 256."""
    said = exact_verdict(rows)
    for target in (0.95, 0.99):
        mine = [row for row in rows if row["name"].startswith("ours") and row["name"] != "ours exact"]
        ours = max((row for row in mine if row["target"] == target and row["met"]), key=lambda row: row["qps_cpu_256"], default=None)
        if ours is None:
            continue
        peers = {row["name"].split()[0]: row for row in rows if row["target"] == target}
        for name, column, share in WANTED[target]:
            if name in peers:
                got = ours[column] / peers[name][column]
                good = got >= share if column.startswith("qps") else got <= share
                said.append(f"{'met   ' if good else 'missed'} recall {target}: {column} {got:.2f} of {name}'s (asked {share})")
    return said


def exact_verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Exact search in batches of 256 against the bare matrix product, measured as the peer of that name."""
    speeds = {row["name"]: row["qps_cpu_256"] for row in rows}
    if not {"ours exact", "sgemm alone"} <= speeds.keys():
        return []
    got = speeds["ours exact"] / speeds["sgemm alone"]
    return [f"{'met   ' if got >= 0.9 else 'missed'} exact search: {got:.2f} of sgemm's rate (asked 0.9)"]
