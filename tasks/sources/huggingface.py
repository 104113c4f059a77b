"""A data set on the Hugging Face Hub, pinned to a commit, fetched once a commit, then read from disk alone.

<root>/sources/<slug>/<commit>/images/<split>/…        images in the bytes that the data set holds
<root>/sources/<slug>/<commit>/rows-<split>.parquet    key, label, text, path and size of every row
<root>/sources/<slug>/<commit>/inventory.json          written last
"""

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
from indexmill.tasks.sources.downloads import INVENTORY, Patience, nearest, pin, pinned, read_record, slug
from indexmill.tasks.sources.hub import Hub
from indexmill.tasks.sources.keeping import Keeper, rows_path
from indexmill.tasks.sources.listing import Item, Pair


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

    def __init__(self, config: HuggingFaceDatasetConfig, root: Root, patience: Patience | None = None) -> None:
        self._config, self._root, self._patience = config, root, patience or Patience()
        self._splits = (config.split,) if isinstance(config.split, str) else config.split
        named = {"image": config.image_column, "text": config.text_column, "label": config.label_column, "key": config.key_column}
        self._columns = {use: column for use, column in named.items() if column}
        self._slug = slug("huggingface", config.id, config.config, self._splits, self._columns)
        self.modality: Modality = "image" if config.image_column else "text"
        self.labelled = config.label_column is not None

    @cached_property
    def image_root(self) -> Path | None:
        """The commit's folder; None for texts."""
        return self._folder if self.modality == "image" else None

    def revision(self) -> str:
        """Digest of what is read and of the commit that the revision stands for now."""
        name = self._config.revision
        try:
            self._commit = self._hub.commit(name)
        except SourceUnreachable:
            if not _is_commit(name):
                raise
            self._commit = name  # a full commit stands for itself, so no network is needed to know it
        self.__dict__.pop("base", None)
        pin(self._root, self._slug, name, self._commit)
        return json_digest([self._config.id, self._config.config, self._splits, self._columns, self._commit])

    def items(self) -> Iterator[Item]:
        """Rows in their order, split by split; fetched first where the commit is not there yet."""
        inventory = read_record(self._folder / INVENTORY, Inventory) or self._fetched()
        for split in inventory.splits:
            for batch in parquet.read_batches(rows_path(self._folder, split)):
                yield from (self._item(split, **row) for row in batch.to_pylist())

    def pairs(self) -> Iterator[Pair]:
        """None: rows are not scored."""
        return iter(())

    @cached_property
    def _commit(self) -> str:
        """The commit that `revision` announced, in this process or an earlier one; else what the hub says now."""
        name = self._config.revision
        return name if _is_commit(name) else pinned(self._root, self._slug, name) or self._hub.commit(name)

    @cached_property
    def _hub(self) -> Hub:
        return Hub(self._config.id, self._root.huggingface, self._patience)

    @property
    def _folder(self) -> Path:
        return self._root.source(self._slug, self._commit)

    def _fetched(self) -> Inventory:
        with track(f"fetching {self._config.id}", 1) as advance:
            with self._hub.reading(self._config.config):
                inventory = self._hub.ask(self._fetch)
            advance(1)
        return inventory

    def _fetch(self) -> Inventory:
        """Write what is not there yet of every split, then the inventory."""
        config = self._config
        builder = self._hub.builder(self._commit, config.config, streaming_above=config.streaming_above_bytes)
        there = [str(split) for split in builder.config.data_files or ()]
        for split in self._splits:
            if split not in there:
                raise _no_split(config.id, split, there)
        keeper = Keeper(self._columns, self._folder, self._root, self._hub.read)
        rows = {split: keeper.keep(split, builder.as_streaming_dataset(split=split)) for split in self._splits}
        inventory = Inventory(
            id=config.id, config=config.config, splits=self._splits, commit=self._commit, rows=rows, columns=self._columns
        )
        self._root.write_record(self._folder / INVENTORY, inventory)
        return inventory

    def _item(self, split: str, *, key: str, label: str | None, text: str | None, path: str | None, size: int | None) -> Item:
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


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _no_split(name: str, split: str, there: list[str]) -> InputError:
    return InputError(
        "the data set has no such split",
        where=f"dataset.split = {split}, of {name}",
        expected="a split of the data set",
        got=nearest(split, there),
        next_step="name one of them in dataset.split",
    )
