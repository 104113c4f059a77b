"""Which contents a part of an embedding store holds, in a small file beside it.

`keys-00000-SIZE.parquet` has the columns of KEYS_SCHEMA from `part-00000.parquet` as long as that part has SIZE bytes: a part
that was rewritten has no keys until they are written again. What is missing in a store, and which parts a shard needs,
is found in these files, which are about a fiftieth of the store; parts are read for their vectors only.
The files are derived: without one, the part itself is read instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root

KEYS_SCHEMA = pa.schema({"content_digest": pa.string(), "truncated": pa.bool_()})


def write_keys(root: Root, part: Path, folder: Path) -> None:
    """Write the keys of a finished part, which may still have to be moved into `folder`, and remove older ones."""
    target = folder / _name_keys(part, part.stat().st_size)
    with root.replace_atomically(target) as temporary:
        parquet.write_parquet(temporary, KEYS_SCHEMA, parquet.read_batches(part, KEYS_SCHEMA.names))
    for stale in root.list_files(folder, f"keys-{_get_number(part)}-*.parquet"):
        if stale != target:
            root.remove(stale)


def has_keys(root: Root, part: Path) -> bool:
    """Whether the keys of a part can be read to the end."""
    keys = _fetch_keys(root, part)
    return keys is not None and not parquet.find_parquet_error(keys, thorough=True)


def remove_keys(root: Root, part: Path) -> None:
    """Remove the keys of a part, before it is rewritten or removed."""
    for keys in root.list_files(part.parent, f"keys-{_get_number(part)}-*.parquet"):
        root.remove(keys)


def find_keys(root: Root, part: Path) -> Path:
    """Return the file with the keys of a part: the part itself if there is no other."""
    keys = _fetch_keys(root, part)
    return keys if keys is not None and not parquet.find_parquet_error(keys) else root.fetch(part)


def scan_keys_sql(root: Root, parts: Sequence[Path]) -> str:
    """Return an SQL table of the contents of these parts: content_digest, truncated, and the number of the part."""
    scanned = parquet.scan_sql(*(find_keys(root, part) for part in parts), options="filename=true, union_by_name=true")
    number = "regexp_extract(filename, '(?:part|keys)-([0-9]+)[^/]*$', 1)::BIGINT"
    return f"(SELECT content_digest, truncated, {number} AS part FROM {scanned})"


def list_part_refs(embeddings: EmbeddingSet) -> tuple[FileRef, ...]:
    """List the parts that hold the vectors of a set, and not those of its captions, which may be of another store."""
    return tuple(ref for ref in embeddings.files if ref.path.startswith(f"embeddings/{embeddings.store_fingerprint}/part-"))


def find_parts(
    root: Root, embeddings: EmbeddingSet, contents_sql: str, group_by: Sequence[str] = ()
) -> dict[tuple[Any, ...], tuple[FileRef, ...]]:
    """Find the parts that hold the vectors of contents. Reads keys only, in one pass for all groups.

    Args:
        root: The root of the embedding store.
        embeddings: The set that the contents belong to.
        contents_sql: A SELECT with `content_digest` and the columns of `group_by`.
        group_by: Columns; by default there is one group, ().

    Returns:
        The values of the columns -> the parts, in the order of the store. Groups without a vector are not in it.
    """
    refs = {int(_get_number(Path(ref.path))): ref for ref in list_part_refs(embeddings)}
    if not refs:
        return {}
    columns = "".join(f"c.{name}, " for name in group_by)
    keys = scan_keys_sql(root, [root.path / ref.path for ref in refs.values()])
    sql = f"SELECT DISTINCT {columns}k.part FROM ({contents_sql}) c JOIN {keys} k USING (content_digest) ORDER BY ALL"
    parts: dict[tuple[Any, ...], tuple[FileRef, ...]] = {}
    for *group, number in parquet.fetch_rows(sql, temp_dir=root.tmp):
        parts[tuple(group)] = (*parts.get(tuple(group), ()), refs[number])
    return parts


def with_parts(embeddings: EmbeddingSet, items: FileRef, parts: Sequence[FileRef]) -> EmbeddingSet:
    """Return the set restricted to a table of its items and to the parts that hold their vectors."""
    return embeddings.model_copy(update={"items": items, "files": (items, *parts)})


def _fetch_keys(root: Root, part: Path) -> Path | None:
    """Fetch the keys that belong to a part of its present size; None if there are none."""
    info = root.store.info(part)
    keys = part.with_name(_name_keys(part, info.size if info else 0))
    return root.fetch(keys) if root.exists(keys) else None


def _name_keys(part: Path, size: int) -> str:
    return f"keys-{_get_number(part)}-{size}.parquet"


def _get_number(part: Path) -> str:
    return part.stem.removeprefix("part-")
