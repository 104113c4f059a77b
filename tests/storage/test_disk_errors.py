"""Library errors about files below a root become ours."""

from __future__ import annotations

from pathlib import Path

import faiss
import pytest

from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import DamagedFile


def test_an_index_that_was_cut_short_is_a_damaged_file(tmp_path: Path) -> None:
    """FAISS says so in a RuntimeError's words alone; any other RuntimeError stays what it is."""
    path = tmp_path / "shard.faiss"
    faiss.write_index(faiss.index_factory(8, "Flat"), str(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedFile, match="read error"), translate_disk_errors(tmp_path, "in the stage shard"):
        faiss.read_index(str(path))
    with pytest.raises(RuntimeError, match="another"), translate_disk_errors(tmp_path):
        raise RuntimeError("another")
