"""Copy a root to another place: between folders and object stores, resumable, with digests checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from indexmill.storage.atomic import link
from indexmill.storage.errors import InputError
from indexmill.storage.retention import pin
from indexmill.storage.root import Root, verify_file
from indexmill.storage.snapshots import Snapshots
from indexmill.storage.store import is_shared

# Written again under the same name, so an equal size does not mean equal content.
MUTABLE_FOLDERS = ("cache/", "encoders/", "studies/", "datasets/")


@dataclass(frozen=True)
class CopyResult:
    """How many files and bytes were copied, and how many files were there already."""

    copied: int
    bytes: int
    skipped: int


def copy_root(source: Root, target: Root, advance: Callable[[int], None]) -> CopyResult:
    """Copy everything that builds and readers share. What is only in the target stays there.

    Files come first, then the manifests, then the pointers: a reader of the target sees whole snapshots only, and a copy
    that was interrupted continues with what is missing.

    Args:
        source: Its builds wait for the copy to end, and the copy for them.
        target: The root to write to; it may be empty, or an older copy.
        advance: Called with the number of files that are done.

    Raises:
        BuildInProgress: when a build of one of the indexes runs in the target.
        DamagedFile: when a file of a snapshot is damaged in the source.
    """
    if str(source) == str(target):
        raise InputError("a root cannot be copied onto itself", where=str(source), next_step="choose another target")
    names = source.list_indexes()
    with ExitStack() as leases:
        leases.enter_context(source.hold_shared())
        leases.enter_context(target.hold_shared())
        for name in names:
            leases.enter_context(source.lease_index(name, "copy"))
            leases.enter_context(target.lease_index(name, "copy"))
        copied = total = skipped = 0
        for key in list_keys(source):
            size = _copy_file(source, target, key)
            copied, total, skipped = copied + (size is not None), total + (size or 0), skipped + (size is None)
            advance(1)
        for name in names:
            _copy_snapshots(Snapshots(source, name), Snapshots(target, name))
    return CopyResult(copied, total, skipped)


def list_keys(root: Root) -> Iterator[str]:
    """List the files to copy, relative to the root: all that are shared, except manifests, pins and pointers."""
    for path in root.list_files(root.path, "**"):
        key = path.relative_to(root.path).as_posix()
        parts = key.split("/")
        is_state = parts[0] == "indexes" and parts[2] in ("snapshots", "pins", "current")
        if is_shared(key) and not is_state:
            yield key


def _copy_file(source: Root, target: Root, key: str) -> int | None:
    """Copy a file and return its size; None when the target has it."""
    path, goal = source.path / key, target.path / key
    info, found = source.store.info(path), target.store.info(goal)
    if info is None or (found and found.size == info.size and not key.startswith(MUTABLE_FOLDERS)):
        return None
    with target.replace_atomically(goal) as temporary:
        shutil.copyfile(source.fetch(path), temporary)
    return info.size


def _copy_snapshots(source: Snapshots, target: Snapshots) -> None:
    for manifest in source.read_manifests():
        for ref in manifest.files:
            pooled = verify_file(target.root.fetch(target.root.path / manifest.sources[ref.path]), ref)
            if not (goal := target.get_path(manifest.snapshot_id) / ref.path).exists():
                link(pooled, goal, target.root.scratch)
        target.root.write_record(target.get_path(manifest.snapshot_id) / "manifest.json", manifest)
    for path in source.root.list_files(source.folder.parent / "pins", "*"):
        if path.name in target.list_ids():
            pin(target, path.name)
    if live := source.get_live_id():
        target.publish(live)
