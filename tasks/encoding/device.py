"""Name the device that encodes, without importing torch."""

from __future__ import annotations

import os
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


def list_devices(visible: str | None, gpus: int) -> list[str | None]:
    """List the GPUs that encoding processes are started for, one process each; [None] for one process without a choice.

    Args:
        visible: The value of CUDA_VISIBLE_DEVICES; None if it is not set.
        gpus: GPUs of the machine.
    """
    devices = (
        [str(number) for number in range(gpus)] if visible is None else [name for entry in visible.split(",") if (name := entry.strip())]
    )
    return list(devices) if len(devices) > 1 else [None]


def list_own_devices() -> list[str | None]:
    """List the GPUs that this process may use, as `list_devices` does."""
    return list_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), len(_list_gpus()))


def _list_gpus() -> list[str]:
    return [_read_field("Model", path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]


def _read_field(name: str, path: Path) -> str:
    try:
        match = re.search(rf"^{name}\s*:\s*(.+)$", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    except OSError:
        return ""
    return match[1].strip() if match else ""
