"""Locations of contents: files, and what is inside one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.contents import (
    find_contained_location,
    format_cell_path,
    format_range_path,
    is_image_root_there,
    join_location,
    read_content,
    read_content_digest,
    split_location,
)
from indexmill.storage.digests import content_digest

PATHS = st.lists(st.text("ab.+0_ é/", min_size=1).filter(lambda part: not part.startswith("/")), min_size=1, max_size=3).map(
    lambda parts: os.path.normpath("/".join(parts)).lstrip("/")
)


@given(PATHS, st.integers(0, 10**13), st.integers(0, 10**10))
def test_a_range_is_found_again_and_no_file_looks_like_one(path: str, offset: int, size: int) -> None:
    """A normal path has no empty part, so it is never taken for a range or a cell."""
    inside = format_range_path(path, offset, size)
    assert split_location(inside) == (path, inside.removeprefix(path))
    assert split_location(path) == (path, "")
    cell = format_cell_path(path, group=3, row=size, element=0, column="a//1+2")
    assert split_location(cell) == (path, cell.removeprefix(path))
    assert split_location(f"s3://123/4/5/6/{inside}") == (f"s3://123/4/5/6/{path}", inside.removeprefix(path))


def test_contents_are_read_where_they_are(tmp_path: Path) -> None:
    """A whole file, a range of it, an empty range; short files, limits and folders are errors."""
    (tmp_path / "f.tar").write_bytes(b"0123456789")
    assert read_content(f"{tmp_path}/f.tar") == b"0123456789"
    assert read_content(join_location(tmp_path, format_range_path("f.tar", 2, 3))) == b"234"
    assert read_content(join_location(tmp_path, format_range_path("f.tar", 10, 0))) == b""
    assert read_content_digest(tmp_path, "f.tar//1+2") == content_digest(b"12")
    for path, limit in (("f.tar//8+3", None), ("f.tar//0+9", 8), ("f.tar", 9), ("none//0+1", None), ("f.tar//0/0/0/image", None)):
        with pytest.raises(OSError, match=r"."):
            read_content(join_location(tmp_path, path), limit)
    assert [read_content_digest(tmp_path, path) for path in (None, "", "none", "a\0b", "f.tar//9+9")] == [None] * 5


@pytest.mark.parametrize("path", ["../f.tar//0+1", "link.tar//0+1", "link.tar", "../f.tar//0/0/0/x"])
def test_no_range_of_a_file_outside_the_image_root(tmp_path: Path, path: str) -> None:
    """Links are followed first."""
    (tmp_path / "f.tar").write_bytes(b"0")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.tar").symlink_to("../f.tar")
    (tmp_path / "in/own.tar").write_bytes(b"0")
    assert find_contained_location(tmp_path / "in", path) is None
    assert find_contained_location(tmp_path / "in", "own.tar//0+1") == f"{tmp_path}/in/own.tar//0+1"
    assert find_contained_location("https://host/a", "../b.tar//0+1") is None
    assert find_contained_location("https://host/a", "b.tar//0+1") == "https://host/a/b.tar//0+1"


def test_a_folder_must_be_there_and_a_url_is_not_asked(tmp_path: Path) -> None:
    """A worker that lacks the folder differs from one that can reach the bucket."""
    assert [is_image_root_there(root) for root in (str(tmp_path), f"{tmp_path}/none", "s3://bucket/a")] == [True, False, True]
