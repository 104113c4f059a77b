"""A data set on the Hugging Face Hub, pinned to a commit, downloaded once per commit and then read from disk.

<root>/sources/<slug>/<commit>/images/<split>/…        images with their original bytes
<root>/sources/<slug>/<commit>/rows-<split>.parquet    key, label, text, path and size of every row
<root>/sources/<slug>/<commit>/inventory.json          written last
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, InputError, SourceUnreachable
from indexmill.storage.records import FrozenModel, Modality, read_record
from indexmill.storage.root import Root
from indexmill.tasks.hub_files import is_commit_hash
from indexmill.tasks.progress import track
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import INVENTORY_FILE, list_with_nearest, make_slug, read_pin, write_pin
from indexmill.tasks.sources.hf_hub import HubDataset
from indexmill.tasks.sources.row_cache import RowCacheWriter, get_rows_path


class Inventory(FrozenModel):
    """The content of a commit's folder: the number of rows per split, and the columns they came from."""

    id: str
    config: str | None
    splits: tuple[str, ...]
    commit: str
    rows: dict[str, int]
    columns: dict[str, str]


class HuggingFaceSource:
    """The rows of some splits. The hub is not contacted before `compute_revision` or `items` is called."""

    def __init__(self, config: HuggingFaceDatasetConfig, root: Root, retry_policy: RetryPolicy | None = None) -> None:
        self._config, self._root, self._retry_policy = config, root, retry_policy or RetryPolicy()
        self._splits = (config.split,) if isinstance(config.split, str) else config.split
        columns = {"image": config.image_column, "text": config.text_column, "label": config.label_column, "key": config.key_column}
        self._columns = {role: column for role, column in columns.items() if column}
        self._slug = make_slug("huggingface", config.id, config.config, self._splits, self._columns)
        self._commit = config.revision if is_commit_hash(config.revision) else None
        self.modality: Modality = "image" if config.image_column else "text"
        self.labeled = config.label_column is not None

    @property
    def image_root(self) -> Path | None:
        """The commit's folder; None for texts."""
        return self._get_folder() if self.modality == "image" else None

    def compute_revision(self) -> str:
        """Return a digest of what is read and of the commit that `dataset.revision` points to now; pins that commit."""
        revision = self._config.revision
        try:
            self._commit = self._hub.resolve_commit(revision)
        except SourceUnreachable:
            if not is_commit_hash(revision):
                raise
            self._commit = revision  # a full commit needs no lookup, so this works offline
        write_pin(self._root, self._slug, revision, self._commit)
        return json_digest([self._config.id, self._config.config, self._splits, self._columns, self._commit])

    def items(self) -> Iterator[Item]:
        """Yield the rows in order, split by split; downloads the commit if necessary."""
        folder = self._get_folder()
        inventory = read_record(folder / INVENTORY_FILE, Inventory) or self._download_with_progress()
        for split in inventory.splits:
            for batch in parquet.read_batches(get_rows_path(folder, split)):
                yield from (self._make_item(split, **row) for row in batch.to_pylist())

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: rows are not scored."""
        return iter(())

    @cached_property
    def _hub(self) -> HubDataset:
        return HubDataset(self._config.id, self._root.huggingface, self._retry_policy)

    def _resolve_commit(self) -> str:
        """Return the configured or last computed commit, else the pinned one, else the hub's current one."""
        if self._commit is None:
            revision = self._config.revision
            self._commit = read_pin(self._root, self._slug, revision) or self._hub.resolve_commit(revision)
        return self._commit

    def _get_folder(self) -> Path:
        return self._root.source(self._slug, self._resolve_commit())

    def _download_with_progress(self) -> Inventory:
        with track(f"downloading {self._config.id}", 1) as advance:
            with self._hub.translate_read_errors(self._config.config):
                inventory = self._hub.call_with_retries(self._download)
            advance(1)
        return inventory

    def _download(self) -> Inventory:
        """Write the missing rows and images of every split, then the inventory."""
        config, commit, folder = self._config, self._resolve_commit(), self._get_folder()
        builder = self._hub.load_builder(commit, config.config, streaming_above_bytes=config.streaming_above_bytes)
        available = [str(split) for split in builder.config.data_files or ()]
        for split in self._splits:
            if split not in available:
                raise _build_missing_split_error(config.id, split, available)
        writer = RowCacheWriter(columns=self._columns, folder=folder, root=self._root, read_file=self._hub.read_file)
        rows = {split: writer.write_split(split, builder.as_streaming_dataset(split=split)) for split in self._splits}
        inventory = Inventory(id=config.id, config=config.config, splits=self._splits, commit=commit, rows=rows, columns=self._columns)
        self._root.write_record(folder / INVENTORY_FILE, inventory)
        return inventory

    def _make_item(self, split: str, *, key: str, label: str | None, text: str | None, path: str | None, size: int | None) -> Item:
        if path is None or size is None:  # a text, or a row without an image, which validation rejects
            return Item(key=key, label=label, text=text, path=path, split=split)
        folder = self._get_folder()
        file = folder / path
        stat = file.stat() if file.is_file() else None
        if stat is None or stat.st_size != size:
            raise DamagedFile(
                "a downloaded image changed on disk",
                where=str(file),
                expected=f"{size} bytes",
                got=f"{stat.st_size} bytes" if stat else "no file",
                next_step=f"remove {folder}: the next build downloads it again",
            )
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=stat.st_mtime_ns, split=split)


def _build_missing_split_error(name: str, split: str, available: list[str]) -> InputError:
    return InputError(
        "the data set has no such split",
        where=f"dataset.split = {split}, of {name}",
        expected="a split of the data set",
        got=list_with_nearest(split, available),
        next_step="set dataset.split to one of them",
    )
