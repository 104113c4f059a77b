"""The manifest: all that a snapshot is made of.

Its promise to those who read it. The form has a number, `schema_version`; docs/manifest.schema.json describes this one.

- Within a number no field goes away or changes its meaning. Fields may be added, with a default: a manifest without them is read, and a
  reader that does not know them passes over them.
- Anything else raises the number. Who meets a higher one than it knows refuses it by its number, and says what to do.
- All numbers from OLDEST to NEWEST are read. A sample of each is kept among the tests.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from indexmill.storage.index_records import Shard, TunedIndex
from indexmill.storage.names import RelativePath
from indexmill.storage.records import FileRef, FrozenModel, Modality

OLDEST_SCHEMA_VERSION, NEWEST_SCHEMA_VERSION = 2, 2


class Manifest(FrozenModel):
    """All that a snapshot is made of; the file written last in its folder.

    holds: what its vectors were made from, the items themselves or their captions. stores: fingerprint -> the table in the snapshot whose
    contents that embedding store has vectors of. truncated: items of which the encoder saw only the
    beginning. search: how the shards are searched, and how that was found. training: the digest of the trained index, why it is that one,
    and the signals of drift behind it. files and shards: paths relative to the snapshot's folder. pool: the files under the root that they
    were linked from. verdict: what the gate said; objections: the rules that were broken; forced: the reason given for publishing all the
    same. created_at: UTC, ISO 8601; told and never compared. seal: SHA-256 of all the rest; `indexmill.storage.snapshots` sets it and
    checks it.
    """

    schema_version: Literal[2] = 2
    name: str
    snapshot_id: str
    parent: str | None
    created_at: str
    content: str
    config: dict[str, Any]
    modality: Modality
    image_root: str | None
    index_modality: Modality
    embedding_stores: dict[str, RelativePath]
    fingerprint: str
    encoder: dict[str, Any]
    truncated: int
    datasets: dict[str, str]
    factory: str
    metric: str
    dim: int
    items: int
    database: int
    query: int
    rejected: int
    split: dict[str, int]
    metrics: dict[str, float]
    timings: dict[str, float]
    training: dict[str, Any] = Field(default_factory=dict)
    search: TunedIndex
    shards: tuple[Shard, ...]
    files: tuple[FileRef, ...]
    pool_files: tuple[RelativePath, ...]
    verdict: Literal["published", "refused"]
    failed_rules: tuple[str, ...]
    force_reason: str | None
    versions: dict[str, str]
    threads: int
    manifest_sha256: str = ""
