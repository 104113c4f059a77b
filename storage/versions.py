"""The versions of installed libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

STAND_INS = {"faiss-cpu": "faiss-gpu-cu12"}  # brings the same module


def installed(name: str) -> str:
    """The version of a distribution, or of the one that may be installed in its place, which is then named too."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name not in STAND_INS:
            raise
        return f"{STAND_INS[name]} {version(STAND_INS[name])}"
