"""Library errors about files below a root become errors of Indexmill."""

from __future__ import annotations

from pathlib import Path

import faiss
import pytest

from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import DamagedFile


def test_a_truncated_index_is_a_damaged_file(tmp_path: Path) -> None:
    """FAISS raises a RuntimeError that only its message identifies; other RuntimeErrors pass unchanged."""
    path = tmp_path / "shard.faiss"
    faiss.write_index(faiss.index_factory(8, "Flat"), str(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedFile, match="read error"), translate_disk_errors(tmp_path, "in the stage shard"):
        faiss.read_index(str(path))
    with pytest.raises(RuntimeError, match="another"), translate_disk_errors(tmp_path):
        raise RuntimeError("another")
