"""A root in an object store, with a folder on this machine that holds copies of the objects in use.

An object's key is the file's path relative to the root. `commit` uploads before it renames, so what this machine has under
its final name, the store has too. A file is downloaded when it is first read, its digest is compared, and it stays for
the next build: objects that matter for long are immutable, since their names come from their content. What a snapshot
links to is stored once, under its name in the pool; of the snapshot itself only the manifest is an object.

Only this machine has: temporaries, the catalog, Prefect's files, downloaded sources and models.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from indexmill.storage import atomic
from indexmill.storage.errors import BuildInProgress, DamagedFile, RootUnusable
from indexmill.storage.locks import lease
from indexmill.storage.object_client import ObjectClient, ObjectInfo, get_endpoint
from indexmill.storage.object_leases import HeldLease, acquire, get_lease_seconds, hold, is_alive
from indexmill.storage.permissions import get_umask
from indexmill.storage.store import LOCAL_NAMES, FileInfo, FolderStore, build_swap_error, is_shared

CACHE_VARIABLE = "INDEXMILL_CACHE"
RETIRED = "retired.json"
# A reader writes a sign of life this often; a snapshot is not removed while its reader's last one is younger than ten of them.
READER_BEAT_SECONDS = 60.0
STOP_SECONDS = 10.0  # that a reader waits for its last request


def get_cache_folder(url: str) -> Path:
    """Return this machine's folder for the root at `url`, below INDEXMILL_CACHE or the user's cache folder."""
    parent = os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "indexmill"
    digest = hashlib.blake2b(f"{get_endpoint(url)} {url.rstrip('/')}".encode(), digest_size=5).hexdigest()
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url.split("://", 1)[1]).strip("-")[:80]
    return Path(parent).expanduser() / f"{name}-{digest}"


class ObjectStore:
    """The files of a root in an object store. Lists all objects once when it is opened; see `refresh`.

    Args:
        url: The bucket and prefix.
        folder: The folder for local copies (`get_cache_folder`).
        writable: Check that the store honors conditional writes.
        opened: This store, opened before: its connection and a copy of its listing are used, and nothing is asked.
            Files that are not listed are then looked up one by one, since others may have written them in between.

    Raises:
        StoreUnreachable, RootUnusable, InputError: as `ObjectClient`.
    """

    def __init__(self, url: str, folder: Path, *, writable: bool, opened: ObjectStore | None = None) -> None:
        self.client: ObjectClient = opened.client if opened else ObjectClient(url)
        self.location, self._folder, self._looks_up = self.client.url, folder, opened is not None
        self._held_leases: list[HeldLease] = []
        self._local = FolderStore(folder)
        if writable and not opened:
            self.client.check_conditional_writes()
        self._objects: dict[str, ObjectInfo]
        self._objects = dict(opened._objects) if opened else {entry.key: entry for entry in self.client.list()}

    def __getstate__(self) -> dict[str, object]:
        raise TypeError("a store holds connections and leases: open the root again by its location")

    def commit(self, temporary: Path, target: Path) -> None:
        """Upload the file, then rename it into place."""
        if not self._is_local(target):
            self._check_leases()
            self._upload(temporary, self._key(target))
        atomic.commit(temporary, target)

    def commit_if_absent(self, temporary: Path, target: Path) -> bool:
        """Create the object by a conditional write, for which a file is read into memory as a whole: parts have some 100 MB."""
        if self._is_local(target):
            return atomic.commit_if_absent(temporary, target)
        self._check_leases()
        key = self._key(target)
        if self.client.create(key, temporary.read_bytes()) is None:
            self._objects[key] = self.client.info(key) or ObjectInfo(key, 0, time.time())
            return False
        self._objects[key] = ObjectInfo(key, temporary.stat().st_size, time.time())
        atomic.commit(temporary, target)
        return True

    def fetch(self, path: Path) -> Path:
        """Download the file unless a copy of the same size is here; remove the copy of one that the store has no more."""
        if self._is_local(path):
            return path
        entry = self._find(self._key(path))
        if entry is None:
            path.unlink(missing_ok=True)
        elif _get_size(path) != entry.size:
            self._download(entry.key, path)
        return path

    def read(self, path: Path) -> bytes | None:
        """Read the object itself, not its copy."""
        if self._is_local(path):
            return self._local.read(path)
        content = self.client.read(self._key(path))
        return content.data if content else None

    def write(self, path: Path, content: bytes) -> None:
        """Write the object; this machine gets a copy when it fetches it."""
        self._check_leases()
        key = self._key(path)
        self.client.put(key, content)
        self._objects[key] = ObjectInfo(key, len(content), time.time())

    def swap(self, temporary: Path, target: Path, expected: bytes | None) -> None:
        """Replace the object by a conditional write."""
        if self._is_local(target):
            self._local.swap(temporary, target, expected)
            return
        self._check_leases()
        key, data = self._key(target), temporary.read_bytes()
        content = self.client.read(key)
        if (content.data if content else None) != expected:
            raise build_swap_error(target, content.data if content else None)
        version = self.client.create(key, data) if content is None else self.client.swap(key, data, content.version)
        if version is None:
            raise build_swap_error(target, self.read(target))
        self._objects[key] = ObjectInfo(key, len(data), time.time())
        atomic.commit(temporary, target)

    def list_files(self, folder: Path, pattern: str) -> list[Path]:
        """List the objects below a folder that match, without asking the store again."""
        if self._is_local_folder(folder):
            return self._local.list_files(folder, pattern)
        prefix = "" if folder == self._folder else self._key(folder) + "/"
        depth = pattern.count("/")
        keys = (key for key in self._objects if key.startswith(prefix))
        names = (key[len(prefix) :] for key in keys)
        if pattern != "**":
            names = (name for name in names if name.count("/") == depth and _matches(name, pattern))
        return sorted(folder / name for name in names)

    def list_folders(self, folder: Path) -> list[str]:
        """List the first parts of the names of all objects below a folder."""
        if self._is_local_folder(folder):
            return self._local.list_folders(folder)
        return sorted({path.relative_to(folder).parts[0] for path in self.list_files(folder, "**") if path.parent != folder})

    def refresh(self, folder: Path) -> None:
        """List the objects below a folder again."""
        if self._is_local_folder(folder):
            return
        prefix = "" if folder == self._folder else self._key(folder) + "/"
        objects = {key: entry for key, entry in self._objects.items() if not key.startswith(prefix)}
        self._objects = objects | {entry.key: entry for entry in self.client.list(prefix.rstrip("/"))}

    def for_job(self) -> ObjectStore:
        """Return a store with this connection and a listing of its own: jobs in threads must not change a common one."""
        return ObjectStore(self.location, self._folder, writable=False, opened=self)

    def info(self, path: Path) -> FileInfo | None:
        """Describe the object as it was listed, or a file that only this machine has."""
        if self._is_local(path):
            return self._local.info(path)
        entry = self._find(self._key(path))
        return FileInfo(entry.size, entry.modified) if entry else None

    def now(self) -> float:
        """Return the time that the store gives to an object written now."""
        key = f"probe/{uuid.uuid4().hex}"
        self.client.put(key, b"")
        try:
            entry = self.client.info(key)
        finally:
            self.client.delete(key)
        return entry.modified if entry else time.time()

    def remove(self, path: Path) -> None:
        """Delete the object, then its copy."""
        if not self._is_local(path):
            self._check_leases()
            self.client.delete(self._key(path))
            self._objects.pop(self._key(path), None)
        path.unlink(missing_ok=True)

    def fetch_link(self, source: Path, target: Path) -> None:
        """Fetch `source`, and link to it unless that was done before."""
        if _get_size(target) is None and _get_size(self.fetch(source)) is not None:
            target.parent.mkdir(mode=0o777 & ~get_umask(), parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
            atomic.link_or_copy(source, temporary)
            temporary.replace(target)

    def drop_copy(self, path: Path) -> bool:
        """Remove the local copy of a file, so that the next `fetch` downloads it."""
        path.unlink(missing_ok=True)
        return True

    def remove_stale_copies(self) -> None:
        """Remove this machine's copies of objects that the store has no more. The caller holds the root alone."""
        for path in self._folder.rglob("*"):
            if path.is_file() and not self._is_local(path) and self._key(path) not in self._objects:
                path.unlink()

    @contextmanager
    def lease(self, path: Path, *, holder: str, wait: bool = False, shared: bool = False) -> Iterator[None]:
        """Hold the lease here by a file lock and in the store by an object.

        A shared lease is an object for each holder. Whoever wants it alone takes `exclusive` first and then looks for
        sharers; a sharer writes its own first and then looks for `exclusive`. So one of the two sees the other.
        """
        key = f"leases/{self._key(path)}"
        with lease(path, holder=holder, wait=wait, shared=shared):
            if path.parent == self._folder:  # the root's own lease
                manager = self._hold_shared(key, holder) if shared else self._hold_alone(key, holder)
            else:
                manager = hold(self.client, key, holder, wait=wait)
            with manager as own_lease:
                self._held_leases.append(own_lease)
                try:
                    self.refresh(path.parent) if path.parent != self._folder else None
                    yield
                finally:
                    self._held_leases.remove(own_lease)

    @contextmanager
    def hold_reader(self, manifest: Path) -> Iterator[None]:
        """Write signs of life beside the snapshot while the block runs. A reader that may not write goes without them."""
        if self._key(manifest) not in self._objects:
            raise FileNotFoundError(manifest)
        key = f"{self._key(manifest.parent)}/readers/{uuid.uuid4().hex}"
        beat = ReaderBeat(self.client, key)
        try:
            if self.client.info(self._key(manifest)) is None:  # retired before the sign of life was seen
                raise FileNotFoundError(manifest)
            yield
        finally:
            beat.stop()

    def retire(self, manifest: Path) -> bool:
        """Replace the manifest by `retired.json`, unless a reader gave a sign of life lately.

        Its pool files are kept for a while (`storage.retention`), for readers that had read the manifest just before.
        """
        now, key = self.now(), self._key(manifest)
        self.refresh(manifest.parent)
        readers = self.list_files(manifest.parent, "readers/*")
        if any((info := self.info(path)) and now - info.modified < 10 * READER_BEAT_SECONDS for path in readers):
            return False
        content = self.client.read(key)
        if content is not None:
            self.client.put(f"{self._key(manifest.parent)}/{RETIRED}", content.data)
        for path in (manifest, *readers):
            self.remove(path)
        self.refresh(manifest.parent)
        return True

    @contextmanager
    def _hold_shared(self, key: str, holder: str) -> Iterator[HeldLease]:
        own = f"{key}/shared/{uuid.uuid4().hex}"
        with hold(self.client, own, holder) as own_lease:
            try:
                acquire(self.client, f"{key}/exclusive", holder, wait=True).release()
                yield own_lease
            finally:
                if own_lease.is_confirmed():
                    self.client.delete(own)

    @contextmanager
    def _hold_alone(self, key: str, holder: str) -> Iterator[HeldLease]:
        with hold(self.client, f"{key}/exclusive", holder) as own_lease:
            for entry in list(self.client.list(f"{key}/shared")):
                if is_alive(self.client, entry.key):
                    raise BuildInProgress(
                        "a build is running",
                        where=self.location,
                        got=f"a sign of life within {get_lease_seconds():.0f} s",
                        next_step="wait for it to end, or stop it",
                    )
                self.client.delete(entry.key)
            yield own_lease

    def _check_leases(self) -> None:
        for own_lease in self._held_leases:
            own_lease.check()

    def _upload(self, temporary: Path, key: str) -> None:
        self.client.put_file(key, temporary)
        self._objects[key] = ObjectInfo(key, temporary.stat().st_size, time.time())

    def _download(self, key: str, path: Path) -> None:
        path.parent.mkdir(mode=0o777 & ~get_umask(), parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            try:
                exists = self.client.fetch(key, temporary)
            except DamagedFile:
                self.remove(path)  # so that the build makes it again
                raise
            if exists:
                temporary.replace(path)
            else:
                self._objects.pop(key, None)
                path.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)

    def _find(self, key: str) -> ObjectInfo | None:
        entry = self._objects.get(key)
        if entry is None and self._looks_up and (entry := self.client.info(key)):
            self._objects[key] = entry
        return entry

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _is_local_folder(self, folder: Path) -> bool:
        return not folder.is_relative_to(self._folder) or self._key(folder).split("/")[0] in LOCAL_NAMES

    def _is_local(self, path: Path) -> bool:
        """Whether a file is only this machine's: what is not shared, and files outside the root."""
        return not path.is_relative_to(self._folder) or not is_shared(self._key(path))


class ReaderBeat:
    """Signs of life of one reader: an object that is written again every minute, for as long as it is open."""

    def __init__(self, client: ObjectClient, key: str) -> None:
        import threading

        self._client, self._key, self._stopped = client, key, threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        try:
            client.put(key, b"")
        except RootUnusable:  # credentials that may only read
            self._stopped.set()
        else:
            self._thread.start()

    def stop(self) -> None:
        """Stop, and remove the object, unless the store does not answer: then it ends by itself."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.wait(READER_BEAT_SECONDS):
            with suppress(Exception):  # the next beat tries again
                self._client.put(self._key, b"")
        with suppress(Exception):  # a reader that ends must not fail over its sign of life
            self._client.delete(self._key)


def _matches(name: str, pattern: str) -> bool:
    parts = zip(name.split("/"), pattern.split("/"), strict=True)
    return all(fnmatchcase(part, glob) for part, glob in parts)


def _get_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
