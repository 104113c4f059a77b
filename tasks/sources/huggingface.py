"""A data set on the Hugging Face Hub, pinned to a commit, downloaded once per commit and then read from disk.

<root>/sources/<slug>/<commit>/images/<split>/…        images with their original bytes
<root>/sources/<slug>/<commit>/rows-<split>.parquet    key, label, text, path and size of every row
<root>/sources/<slug>/<commit>/inventory.json          written last"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, InputError, SourceUnreachable
from indexmill.storage.records import FrozenModel, Modality
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import INVENTORY_FILE, RetryPolicy, list_with_nearest, make_slug, read_pin, read_record, write_pin
from indexmill.tasks.sources.hf_hub import HubDataset
from indexmill.tasks.sources.row_cache import RowCacheWriter, get_rows_path


class Inventory(FrozenModel):
    """What a commit's folder holds: the rows of each split, and from which columns."""

    id: str
    config: str | None
    splits: tuple[str, ...]
    commit: str
    rows: dict[str, int]
    columns: dict[str, str]


class HuggingFaceSource:
    """The rows of some splits. Nothing is asked of the hub before `revision` or `items` is called."""

    def __init__(self, config: HuggingFaceDatasetConfig, root: Root, retry_policy: RetryPolicy | None = None) -> None:
        self._config, self._root, self._retry_policy = config, root, retry_policy or RetryPolicy()
        self._splits = (config.split,) if isinstance(config.split, str) else config.split
        named = {"image": config.image_column, "text": config.text_column, "label": config.label_column, "key": config.key_column}
        self._columns = {role: column for role, column in named.items() if column}
        self._slug = make_slug("huggingface", config.id, config.config, self._splits, self._columns)
        self.modality: Modality = "image" if config.image_column else "text"
        self.labeled = config.label_column is not None

    @cached_property
    def image_root(self) -> Path | None:
        """The commit's folder; None for texts."""
        return self._folder if self.modality == "image" else None

    def compute_revision(self) -> str:
        """Digest of what is read and of the commit that the revision stands for now."""
        name = self._config.revision
        try:
            self._commit = self._hub.resolve_commit(name)
        except SourceUnreachable:
            if not _is_commit_hash(name):
                raise
            self._commit = name  # a full commit stands for itself, so no network is needed to know it
        self.__dict__.pop("image_root", None)
        write_pin(self._root, self._slug, name, self._commit)
        return json_digest([self._config.id, self._config.config, self._splits, self._columns, self._commit])

    def items(self) -> Iterator[Item]:
        """Rows in their order, split by split; fetched first where the commit is not there yet."""
        inventory = read_record(self._folder / INVENTORY_FILE, Inventory) or self._fetch_with_progress()
        for split in inventory.splits:
            for batch in parquet.read_batches(get_rows_path(self._folder, split)):
                yield from (self._make_item(split, **row) for row in batch.to_pylist())

    def pairs(self) -> Iterator[ScoredPair]:
        """None: rows are not scored."""
        return iter(())

    @cached_property
    def _commit(self) -> str:
        """The commit that `revision` announced, in this process or an earlier one; else what the hub says now."""
        name = self._config.revision
        return name if _is_commit_hash(name) else read_pin(self._root, self._slug, name) or self._hub.resolve_commit(name)

    @cached_property
    def _hub(self) -> HubDataset:
        return HubDataset(self._config.id, self._root.huggingface, self._retry_policy)

    @property
    def _folder(self) -> Path:
        return self._root.source(self._slug, self._commit)

    def _fetch_with_progress(self) -> Inventory:
        with track(f"fetching {self._config.id}", 1) as advance:
            with self._hub.translate_read_errors(self._config.config):
                inventory = self._hub.call_with_retries(self._fetch)
            advance(1)
        return inventory

    def _fetch(self) -> Inventory:
        """Write what is not there yet of every split, then the inventory."""
        config = self._config
        builder = self._hub.load_builder(self._commit, config.config, streaming_above_bytes=config.streaming_above_bytes)
        available = [str(split) for split in builder.config.data_files or ()]
        for split in self._splits:
            if split not in available:
                raise _build_missing_split_error(config.id, split, available)
        writer = RowCacheWriter(self._columns, self._folder, self._root, self._hub.read_file)
        rows = {split: writer.write_split(split, builder.as_streaming_dataset(split=split)) for split in self._splits}
        inventory = Inventory(
            id=config.id, config=config.config, splits=self._splits, commit=self._commit, rows=rows, columns=self._columns
        )
        self._root.write_record(self._folder / INVENTORY_FILE, inventory)
        return inventory

    def _make_item(self, split: str, *, key: str, label: str | None, text: str | None, path: str | None, size: int | None) -> Item:
        if path is None or size is None:  # a text, or a row without an image, which validation rejects
            return Item(key=key, label=label, text=text, path=path, split=split)
        file = self._folder / path
        stat = file.stat() if file.is_file() else None
        if stat is None or stat.st_size != size:
            raise DamagedFile(
                "a fetched image is not as it was",
                where=str(file),
                expected=f"{size} bytes",
                got=f"{stat.st_size} bytes" if stat else "nothing",
                next_step=f"remove {self._folder}: the next build fetches it anew",
            )
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=stat.st_mtime_ns, split=split)


def _is_commit_hash(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _build_missing_split_error(name: str, split: str, available: list[str]) -> InputError:
    return InputError(
        "the data set has no such split",
        where=f"dataset.split = {split}, of {name}",
        expected="a split of the data set",
        got=list_with_nearest(split, available),
        next_step="name one of them in dataset.split",
    )
