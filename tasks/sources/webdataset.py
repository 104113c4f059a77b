"""Images in tar shards in WebDataset's layout: members with the same name up to the first dot are one sample.

A shard is read once, from start to end; after that each image is a range of it. What is broken costs its sample: it is
listed with the reason, and validation rejects it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from indexmill.configs.datasets import WebDatasetConfig
from indexmill.storage import parquet
from indexmill.storage.contents import MAX_CONTENT_BYTES, format_range_path
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import SourceUnreachable
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.image_files import SIGNATURE_BYTES, is_image_name
from indexmill.tasks.sources.item_listings import Entry, FileState, ItemListings, Skipped, UnreadableFile
from indexmill.tasks.sources.json_lines import describe_missing_field, read_json_fields
from indexmill.tasks.sources.shard_files import find_shards
from indexmill.tasks.sources.tar_reader import TarMember, read_members
from indexmill.tasks.sources.text_lines import find_invalid_text
from indexmill.tasks.validation.image_formats import detect_supported_format, detect_unsupported_format

TEXT_EXTENSIONS = ("txt", "json", "cls")
MAX_TEXT_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
BATCH_ROWS = 1024
MEMBERS_SCHEMA = pa.schema(
    {name: pa.string() for name in ("sample", "extension", "text", "content_digest", "fault")}
    | {"offset": pa.int64(), "size": pa.int64(), "is_image": pa.bool_()}
)


class _Name(NamedTuple):
    """A member's name: its sample, with folders, and the extension after the first dot."""

    sample: str
    extension: str


@dataclass(frozen=True)
class _Texts:
    """What stands beside an image: its label, its caption and its key, or why they cannot be read."""

    label: str | None = None
    caption: str | None = None
    key: str | None = None
    fault: str | None = None


class WebDatasetSource:
    """The samples of all shards. The key is the shard's path and the sample's name, unless key_column names a field.

    `skipped` counts members that belong to no image, after `items` has been read to its end.
    """

    modality: Modality = "image"

    def __init__(self, config: WebDatasetConfig, root: Root, *, relist: bool = False) -> None:
        self._config, self._root = config, root
        self._shards = find_shards(config.path.replace("{root}", str(root.path)))
        self.image_root = self._shards.image_root
        self.labeled = config.labels != "none"
        self.skipped: Counter[str] = Counter()
        settings = config.model_dump(include={"labels", "label_column", "captions", "caption_column", "key_column"})
        self._listings = ItemListings(root, "webdataset", [str(self.image_root), config.path, settings], relist=relist)
        self._needs_json = "json" in (config.labels, config.captions) or config.key_column is not None

    def compute_revision(self) -> str:
        """Return a digest of path, size and modification time or ETag of every shard. Reads no shard."""
        return rows_digest((file.path, file.size, file.mtime_ns, file.version) for file in self._shards.list_files())

    def items(self) -> Iterator[Item]:
        """Yield the samples shard by shard, in order of their names."""
        self.skipped.clear()
        files = self._shards.list_files()
        with track("listing shards", len(files)) as advance:
            for entry in self._listings.read(_count(files, advance), self._list_shard):
                if isinstance(entry, Skipped):
                    self.skipped[entry.kind] += entry.count
                else:
                    yield entry

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: images are not scored."""
        return iter(())

    def _list_shard(self, file: FileState) -> Iterator[Entry]:
        """List a shard: what is no sample as it comes, then the samples. A shard of many members is sorted on disk."""
        skipped: Counter[str] = Counter()
        with self._root.scratch.staging() as staging:
            listing = staging / "members.parquet"
            with parquet.open_writer(listing, MEMBERS_SCHEMA) as writer:
                rows: list[dict[str, Any]] = []
                for entry in self._read_shard(file):
                    if isinstance(entry, Item):
                        yield entry
                    elif isinstance(entry, Skipped):
                        skipped[entry.kind] += entry.count
                    else:
                        rows.append(entry)
                    if len(rows) == BATCH_ROWS:
                        writer.write(rows)
                        rows = []
                writer.write(rows)
            sql = f"SELECT * FROM {parquet.scan_sql(listing)} ORDER BY ALL"
            with parquet.query(sql, temp_dir=self._root.tmp) as batches:
                members = (row for batch in batches for row in batch.to_pylist())
                for sample, group in itertools.groupby(members, key=lambda row: str(row["sample"])):
                    further, item = self._make_item(file, sample, list(group))
                    skipped["further image of a sample"] += further
                    yield item
        yield from (Skipped(kind, count) for kind, count in sorted(skipped.items()) if count)

    def _read_shard(self, file: FileState) -> Iterator[Entry | dict[str, Any]]:
        """Yield a row for each member of a sample, and what is none. Raises UnreadableFile."""
        try:
            with self._shards.open_file(file) as archive:
                if not file.size:
                    yield Item(key=file.path, fault="the shard has no bytes")
                for member in read_members(archive, file.size):
                    yield self._read_member(file, archive, member)
        except SourceUnreachable:
            raise
        except OSError as error:
            raise UnreadableFile(error.strerror or str(error)) from None

    def _read_member(self, file: FileState, archive: BinaryIO, member: TarMember) -> Entry | dict[str, Any]:
        if not member.name:
            key = file.path if not member.offset else f"{file.path}:byte {member.offset}"
            return Item(key=key, fault=member.fault)
        name = _split_name(member.name)
        if name is None:
            return Item(key=f"{file.path}:byte {member.offset}", fault=f"the name leads out of the shard: {member.name[:200]!r}")
        if PurePosixPath(name.sample).name == "" or PurePosixPath(member.name).name.startswith("."):
            return Skipped("hidden")
        row = {"sample": name.sample, "extension": name.extension, "offset": member.offset, "size": member.size}
        if name.extension in TEXT_EXTENSIONS:
            text, fault = self._read_text(archive, member, name.extension)
            return row | {"is_image": False, "text": text, "fault": fault}
        if not _is_image(archive, member):
            return Skipped(member.kind if member.kind != "file" else f".{name.extension}"[:20] if name.extension else "without a suffix")
        fault = member.fault
        if not fault and member.size > MAX_CONTENT_BYTES:
            fault = f"the member has {member.size:,} bytes, more than {MAX_CONTENT_BYTES:,}"
        return row | {"is_image": True, "content_digest": None if fault else _digest_member(archive, member), "fault": fault}

    def _read_text(self, archive: BinaryIO, member: TarMember, extension: str) -> tuple[str | None, str | None]:
        """Return the text of a member and its fault, if the config asks for it."""
        config = self._config
        used = {"txt": config.captions == "text", "json": self._needs_json, "cls": config.labels == "cls"}
        if not used[extension] or member.fault:
            return None, f"the .{extension} cannot be read: {member.fault}" if used[extension] else None
        if member.size > MAX_TEXT_BYTES:
            return None, f"the .{extension} has {member.size:,} bytes, more than {MAX_TEXT_BYTES:,}"
        archive.seek(member.offset)
        try:
            return archive.read(member.size).decode("utf-8-sig"), None
        except UnicodeDecodeError as error:
            return None, f"the .{extension} is not UTF-8 at byte {error.start:,}"

    def _make_item(self, file: FileState, sample: str, members: list[dict[str, Any]]) -> tuple[int, Item]:
        """Return the item of a sample, and the number of its images that are not used."""
        key = f"{file.path}/{sample}"
        images = sorted((row for row in members if row["is_image"]), key=lambda row: (row["extension"].count("."), row["offset"]))
        if not images:
            return 0, Item(key=key, fault="the sample has no image")
        image = images[0]
        names = Counter(row["extension"] for row in members)
        repeated = [name for name in (image["extension"], *TEXT_EXTENSIONS) if names[name] > 1]
        texts = self._read_texts(sample, {row["extension"]: row for row in members if not row["is_image"]})
        fault = f"{names[repeated[0]]} members have this name with .{repeated[0]}" if repeated else image["fault"] or texts.fault
        if fault:
            return len(images) - 1, Item(key=key, fault=fault)
        return len(images) - 1, Item(
            key=key if texts.key is None else texts.key,
            label=texts.label,
            text=texts.caption,
            path=format_range_path(file.path, image["offset"], image["size"]),
            size=image["size"],
            mtime_ns=file.mtime_ns,
            content_digest=image["content_digest"],
        )

    def _read_texts(self, sample: str, rows: dict[str, dict[str, Any]]) -> _Texts:
        """Return label, caption and key of a sample, from its texts and its name."""
        config = self._config
        if fault := next((row["fault"] for row in rows.values() if row["fault"]), None):
            return _Texts(fault=fault)
        texts = {extension: row["text"] for extension, row in rows.items()}
        names = (
            config.label_column if config.labels == "json" else None,
            config.caption_column if config.captions == "json" else None,
            config.key_column,
        )
        label, caption, key = None, None, None
        if self._needs_json and texts.get("json") is not None:
            fields, fault = read_json_fields(texts["json"], names)
            if fault := fault or next(filter(None, (find_invalid_text(field) for field in fields if field)), None):
                return _Texts(fault=f"the .json: {fault}")
            label, caption, key = fields
            if config.labels == "json" and label is None:
                return _Texts(fault=f"the .json: {describe_missing_field(texts['json'], config.label_column)}, which label_column names")
        if config.key_column is not None and not key:
            return _Texts(fault=f"the sample has no .json with a field {config.key_column!r}, which key_column names")
        match config.labels:
            case "folder":
                label = PurePosixPath(sample).parent.name or None
            case "cls":
                label = (texts.get("cls") or "").strip() or None
        return _Texts(label, texts.get("txt") if config.captions == "text" else caption, key)


def _split_name(name: str) -> _Name | None:
    """Split a member's name as WebDataset does; None if it leads out of the archive."""
    parts = [part for part in name.replace("\0", "\\x00").split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return None
    stem, _, extension = parts[-1].partition(".")
    return _Name("/".join([*parts[:-1], stem]), extension.lower())


def _is_image(archive: BinaryIO, member: TarMember) -> bool:
    """Return whether a member has an image's suffix, or starts as an image does."""
    if is_image_name(member.name):
        return True
    if member.kind != "file" or member.fault:
        return False
    archive.seek(member.offset)
    start = archive.read(min(SIGNATURE_BYTES, member.size))
    return bool(detect_supported_format(start) or detect_unsupported_format(start))


def _digest_member(archive: BinaryIO, member: TarMember) -> str:
    """Return the content digest of a member (`storage.digests.content_digest`), read in blocks."""
    archive.seek(member.offset)
    digest, left = hashlib.blake2b(digest_size=16), member.size
    while left and (block := archive.read(min(left, BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    if left:
        raise OSError("the shard became shorter while it was read")
    return digest.hexdigest()


def _count(files: list[FileState], advance: Any) -> Iterator[FileState]:
    for file in files:
        yield file
        advance(1)
