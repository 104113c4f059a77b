"""Shared parts of downloaded sources: folder names, revision pins and archives.

<root>/sources/<slug>/pin-*.json                 the revision that a moving name (a branch, `newest`) last pointed to
<root>/sources/<slug>/<revision>/inventory.json  written last: its presence proves the folder complete
"""

from __future__ import annotations

import difflib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.names import is_relative_inside
from indexmill.storage.records import FrozenModel, read_record
from indexmill.storage.root import Root

INVENTORY_FILE = "inventory.json"


class RevisionPin(FrozenModel):
    """The revision that `name` pointed to when the provider was last asked."""

    name: str
    revision: str


def make_slug(provider: str, name: str, *options: object) -> str:
    """Return a readable folder name whose digest differs for every data set and every choice of options."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return f"{provider}-{readable}-{json_digest([provider, name, *options])[:8]}"


def write_pin(root: Root, slug: str, name: str, revision: str) -> None:
    """Store the revision that `name` points to, so that later stages read this one, with or without a network."""
    root.write_record(_get_pin_path(root, slug, name), RevisionPin(name=name, revision=revision))


def read_pin(root: Root, slug: str, name: str) -> str | None:
    """Return the revision that `name` last pointed to, or None if it was never resolved."""
    pin = read_record(_get_pin_path(root, slug, name), RevisionPin)
    return pin.revision if pin else None


def list_with_nearest(name: str, available: Iterable[str]) -> str:
    """Return `a, b, c; nearest: b` for an error message."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (", ".join(names) or "none") + (f"; nearest: {close[0]}" if close else "")


def unpack_archive(archive: Path, folder: Path, *, where: str) -> tuple[int, int]:
    """Unpack a zip or tar archive into the new folder `folder`.

    Args:
        archive: The archive. It is deleted if it is damaged or unsafe.
        folder: The folder to create.
        where: The data set, for errors.

    Returns:
        The number of files and their total size in bytes.

    Raises:
        DamagedFile: The archive cannot be unpacked.
        InputError: A member is a link or a device, or its path leads out of the folder.
    """
    folder.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zip_file:
                for member in zip_file.infolist():
                    is_plain = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG, stat.S_IFDIR}
                    _check_member(member.filename, is_plain=is_plain, where=where)
                zip_file.extractall(folder)  # noqa: S202 (every member was checked)
        else:
            with tarfile.open(archive) as tar_file:
                for entry in tar_file:
                    _check_member(entry.name, is_plain=entry.isfile() or entry.isdir(), where=where)
                tar_file.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        archive.unlink()
        raise build_archive_error(where, "a zip or tar archive", f"{type(error).__name__}: {error}") from None
    except InputError:
        archive.unlink()
        raise
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def build_archive_error(where: str, expected: str, got: str) -> DamagedFile:
    """Build the error for a downloaded archive that is damaged."""
    return DamagedFile(
        "a downloaded archive is damaged",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the archive is downloaded again; if the error persists, report it to the data set's owner",
    )


def _get_pin_path(root: Root, slug: str, name: str) -> Path:
    return root.source(slug, f"pin-{json_digest(name)[:8]}.json")


def _check_member(name: str, *, is_plain: bool, where: str) -> None:
    if not is_plain or not is_relative_inside(name):
        raise InputError(
            "an archive member could write or read outside of its folder",
            where=f"{where}, member {name}",
            expected="plain files and folders with paths inside the archive",
            got="a link, a device or a path that leads out",
            next_step="do not use this data set; report it to its owner",
        )
