"""Versions of installed libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SUBSTITUTE_DISTRIBUTIONS = {"faiss-cpu": "faiss-gpu-cu12"}  # installs the same module


def get_installed_version(name: str) -> str:
    """Return the version of a distribution, or the name and version of its substitute."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name not in SUBSTITUTE_DISTRIBUTIONS:
            raise
        return f"{SUBSTITUTE_DISTRIBUTIONS[name]} {version(SUBSTITUTE_DISTRIBUTIONS[name])}"
