"""Help FAISS's copy of OpenBLAS to recognize the processor.

The wheel `faiss-cpu` 1.15.1 has OpenBLAS 0.3.15, which takes Intel processors that are newer than it (Sapphire Rapids and
later) for one of 2004 without AVX. Exact search, k-means and assignment to lists then take two to four times as long. AMD's
are known by their family up to Zen 3; newer ones have the same instructions.
"""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

KERNELS_VARIABLE = "OPENBLAS_CORETYPE"
# Kernels of OpenBLAS for the processors of a vendor, the widest first, and what a processor must have for them.
KERNELS = {
    "GenuineIntel": {"SkylakeX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "Haswell": {"avx2", "fma"}},
    "AuthenticAMD": {"Zen": {"avx2", "fma"}},
}
ZEN_FAMILY = 23  # older ones have kernels of their own, and OpenBLAS knows them all


def choose_blas_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Name the kernels of a processor in the environment, unless they are named. Call this before importing FAISS.

    Args:
        cpuinfo: Linux's description of the processors; without one nothing is done.
    """
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:  # of the first core alone: there may be hundreds
            lines = list(takewhile(str.strip, file))
    except OSError:
        return
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", "").split())
    kernels = next((name for name, needed in KERNELS.get(fields.get("vendor_id", ""), {}).items() if needed <= flags), None)
    if kernels and not (kernels == "Zen" and int(fields.get("cpu family", 0)) < ZEN_FAMILY):
        os.environ.setdefault(KERNELS_VARIABLE, kernels)
