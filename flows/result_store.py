"""Store the records of stages for Prefect, and read back records only."""

from __future__ import annotations

import json
from typing import Any, cast

from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer
from pydantic import PrivateAttr

from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import Dataset, EmbeddingSet, Evaluation, Record, Snapshot, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root

RECORD_TYPES = (Record, Dataset, ValidatedDataset, SplitDataset, EmbeddingSet, TrainedIndex, IndexShards, TunedIndex, Evaluation, Snapshot)
RECORD_TYPE_NAMES = frozenset(f"{record_type.__module__}.{record_type.__qualname__}" for record_type in RECORD_TYPES)
JSON_SERIALIZER = JSONSerializer().model_dump(mode="json")


class RecordStorage(LocalFileSystem):
    """A folder for Prefect's result files. Files that do not hold a record are treated as missing.

    Prefect reads a result with the serializer named in the file, which may be pickle, and its JSON may name any class
    to instantiate. Refusing such files here keeps a planted file from running code.
    """

    _block_type_name = "Indexmill records"
    _root: Root = PrivateAttr()

    @classmethod
    def for_root(cls, root: Root) -> RecordStorage:
        """Return the storage of a root's cached records."""
        storage = cls(basepath=str(root.cache))
        storage._root = root
        return storage

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]  # Prefect calls both variants
        """Return the bytes of a file. Raises ValueError if it does not exist or holds no record."""
        file_path = self._resolve_path(path)
        content = self._root.store.read(file_path) or b""
        if not is_record_json(content):
            raise ValueError(f"{file_path} holds no record")
        return content

    async def aread_path(self, path: str) -> bytes:
        """Return the bytes of a file, as `read_path` does."""
        return self.read_path(path)

    def read_record(self, key: str) -> Record | None:
        """Return the record that Prefect stored under a cache key, or None if there is none that this version can read."""
        try:
            return cast(Record, JSONSerializer().loads(json.loads(self.read_path(key))["result"].encode()))
        except ValueError:
            return None

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> str:  # type: ignore[override]  # Prefect calls both variants
        """Write a file and return its path. One that is half written holds no record."""
        file_path = self._resolve_path(path)
        self._root.store.write(file_path, content)
        return str(file_path)

    async def awrite_path(self, path: str, content: bytes) -> str:
        """Write a file, as `write_path` does."""
        return self.write_path(path, content)


def is_record_json(content: bytes) -> bool:
    """Return whether this is a record in Prefect's JSON format that names no other class."""
    class_names: list[Any] = []

    def collect_class_names(value: dict[str, Any]) -> dict[str, Any]:
        class_names.extend(value[key] for key in ("__class__", "__exc_type__") if key in value)
        return value

    try:
        file = json.loads(content)
        json.loads(file["result"], object_hook=collect_class_names)
        return bool(class_names) and RECORD_TYPE_NAMES.issuperset(class_names) and file["metadata"]["serializer"] == JSON_SERIALIZER
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
