"""Archives from elsewhere: looked through, then unpacked."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.names import is_relative_inside


def unpack(archive: Path, folder: Path, *, where: str) -> tuple[int, int]:
    """Unpack a zip or tar archive whose members are all plain files and folders inside of `folder`; the files and their bytes.

    An archive that is refused is removed.
    """
    folder.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    mode = stat.S_IFMT(member.external_attr >> 16)
                    _refuse_unless(is_relative_inside(member.filename) and mode in {0, stat.S_IFREG, stat.S_IFDIR}, member.filename, where)
                packed.extractall(folder)  # noqa: S202 (every member was looked at)
        else:
            with tarfile.open(archive) as bundle:
                for entry in bundle:
                    _refuse_unless(is_relative_inside(entry.name) and (entry.isfile() or entry.isdir()), entry.name, where)
                bundle.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as problem:
        archive.unlink()
        raise damaged(where, "a zip or tar archive", f"{type(problem).__name__}: {problem}") from None
    except InputError:
        archive.unlink()
        raise
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def damaged(where: str, expected: str, got: str) -> DamagedFile:
    """The error of a download that is not what its provider says."""
    return DamagedFile(
        "a downloaded archive is not what the provider says it is",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the archive is fetched anew; if it stays so, tell the data set's owner",
    )


def _refuse_unless(harmless: bool, name: str, where: str) -> None:
    if not harmless:
        raise InputError(
            "the archive holds a member that could write or read outside of its folder",
            where=f"{where}, member {name}",
            expected="plain files and folders with paths inside of the archive",
            got="a link, a device or a path that leads out",
            next_step="do not use this data set; tell its owner",
        )
