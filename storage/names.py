"""Names and paths from elsewhere, before anything is put or looked for under them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator


def is_relative_inside(path: str) -> bool:
    """Whether a path, put below a folder, stays there. A backslash counts as a slash; what only looks like two dots leads nowhere."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def is_plain_name(name: str) -> bool:
    """Whether this is the name of one file or folder."""
    return is_relative_inside(name) and "/" not in name and name not in ("", ".")


def _check_relative(path: str) -> str:
    if not is_relative_inside(path):
        raise ValueError("a path inside of its folder is expected")
    return path


# In a record: a path relative to the root or to a snapshot's folder.
RelativePath = Annotated[str, AfterValidator(_check_relative)]
