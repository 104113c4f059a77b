"""Where Prefect keeps the records of stages, and what it may read back: records, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer

from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import Dataset, EmbeddingSet, Evaluation, Record, Snapshot, SplitDataset, ValidatedDataset

KINDS = (Record, Dataset, ValidatedDataset, SplitDataset, EmbeddingSet, TrainedIndex, IndexShards, TunedIndex, Evaluation, Snapshot)
NAMES = frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in KINDS)
AS_JSON = JSONSerializer().model_dump(mode="json")


class RecordFiles(LocalFileSystem):
    """A folder of files that Prefect writes and reads. One that holds anything but a record is as good as not there.

    Prefect reads a file by the serializer that the file itself names, which may be pickle, and its JSON may name any class to be made.
    """

    _block_type_name = "Indexmill records"

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]  # Prefect asks both ways
        """The bytes of a file. Raises ValueError where it is not there or holds no record."""
        place = self._resolve_path(path)
        content = place.read_bytes() if place.is_file() else b""
        if not holds_record(content):
            raise ValueError(f"{place} holds no record")
        return content

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return self.read_path(path)


def holds_record(content: bytes) -> bool:
    """Whether this is a record as Prefect writes it in JSON, and no other class is named in it."""
    named: list[Any] = []

    def note(value: dict[str, Any]) -> dict[str, Any]:
        named.extend(value[key] for key in ("__class__", "__exc_type__") if key in value)
        return value

    try:
        file = json.loads(content)
        json.loads(file["result"], object_hook=note)
        return bool(named) and NAMES.issuperset(named) and file["metadata"]["serializer"] == AS_JSON
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
