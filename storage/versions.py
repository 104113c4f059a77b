"""The versions of installed libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SUBSTITUTE_DISTRIBUTIONS = {"faiss-cpu": "faiss-gpu-cu12"}  # brings the same module


def get_installed_version(name: str) -> str:
    """The version of a distribution, or of the one that may be installed in its place, which is then named too."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name not in SUBSTITUTE_DISTRIBUTIONS:
            raise
        return f"{SUBSTITUTE_DISTRIBUTIONS[name]} {version(SUBSTITUTE_DISTRIBUTIONS[name])}"
