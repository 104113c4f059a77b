"""Checks of file names and paths that come from outside, against path traversal."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator


def is_relative_inside(path: str) -> bool:
    """Whether a path, joined to a folder, stays inside it. A backslash counts as a slash."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def is_plain_name(name: str) -> bool:
    """Whether this is the name of a single file or folder."""
    return is_relative_inside(name) and "/" not in name and name not in ("", ".")


def _check_relative(path: str) -> str:
    if not is_relative_inside(path):
        raise ValueError("expected a relative path that stays inside its folder")
    return path


# A path in a record, relative to the root or to a snapshot's folder.
RelativePath = Annotated[str, AfterValidator(_check_relative)]
