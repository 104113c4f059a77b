"""Versions of installed libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SUBSTITUTE_DISTRIBUTIONS = {"faiss-cpu": "faiss-gpu-cu12"}  # installs the same module
OPTIONAL_DISTRIBUTIONS = frozenset({"pillow-heif"})


def get_installed_version(name: str) -> str:
    """Return the version of a distribution, the name and version of its substitute, or `none` for an optional one."""
    try:
        return version(name)
    except PackageNotFoundError:
        if name in OPTIONAL_DISTRIBUTIONS:
            return "none"
        if name not in SUBSTITUTE_DISTRIBUTIONS:
            raise
        return f"{SUBSTITUTE_DISTRIBUTIONS[name]} {version(SUBSTITUTE_DISTRIBUTIONS[name])}"
