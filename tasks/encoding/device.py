"""Name the device that encodes, without importing torch."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path


@cache
def get_device_name() -> str:
    """Return the names of the NVIDIA GPUs, or the CPU's if there are none. Device profiles carry this name."""
    return ", ".join(_list_gpus()) or _read_field("model name", Path("/proc/cpuinfo")) or platform.processor() or platform.machine()


def has_gpu() -> bool:
    """Return whether NVIDIA's driver reports a GPU."""
    return bool(_list_gpus())


def _list_gpus() -> list[str]:
    return [_read_field("Model", path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]


def _read_field(name: str, path: Path) -> str:
    try:
        match = re.search(rf"^{name}\s*:\s*(.+)$", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    except OSError:
        return ""
    return match[1].strip() if match else ""
