"""A fake Hugging Face Hub for its own library and `datasets`, with large files on another host as on the real hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from tests.sources.faulty_server import Answer, FaultyServer

LARGE = {".parquet", ".png", ".jpg", ".zip", ".safetensors"}


class FakeHub(FaultyServer):
    """Data sets by name, each a dict of path -> bytes with one commit that `main` points to."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()

    def compute_commit(self, name: str) -> str:
        files = self.datasets[name]
        return hashlib.sha1(repr(sorted((path, content) for path, content in files.items())).encode()).hexdigest()

    def count_downloads(self) -> int:
        return self.count_requests("GET /cdn/") + sum("/resolve/" in line and line.startswith("GET") for line in self.requests)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        recursive = "recursive=true" in path.lower()
        path = unquote(urlsplit(path).path)
        if path.startswith("/cdn/"):
            contents = (content for files in self.datasets.values() for content in files.values())
            return Answer(body=next(content for content in contents if hashlib.sha256(content).hexdigest() == path[5:]))
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        name, action, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision", parts[3:] or ["main"]
        if name not in self.datasets:
            return Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if rest[0] not in {"main", self.compute_commit(name)}:
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        below = "/".join(rest[1:])
        match action:
            case "revision":
                return _make_json_answer(
                    {"id": name, "sha": self.compute_commit(name), "siblings": [_make_sibling(*file) for file in self._files(name)]}
                )
            case "tree":
                entries = _list_tree(self.datasets[name], below, recursive=recursive)
                return _make_json_answer(entries) if entries else Answer(404, headers={"X-Error-Code": "EntryNotFound"})
            case "resolve":
                return self._resolve(name, below)
        return Answer(404)

    def _files(self, name: str) -> list[tuple[str, bytes]]:
        return sorted(self.datasets[name].items())

    def _resolve(self, name: str, path: str) -> Answer:
        headers = {"X-Repo-Commit": self.compute_commit(name)}
        if name in self.gated:
            return Answer(403, headers=headers | {"X-Error-Code": "GatedRepo"})
        content = self.datasets[name].get(path)
        if content is None:
            return Answer(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        if PurePosixPath(path).suffix not in LARGE:
            return Answer(body=content, headers=headers | {"ETag": f'"{_compute_git_blob_id(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        linked_headers = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return Answer(302, headers=headers | linked_headers | {"Location": f"http://localhost:{self.port}/cdn/{digest}"})


def _make_sibling(path: str, content: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _compute_git_blob_id(content)}
    return sibling | _make_lfs_entry(path, content)


def _make_lfs_entry(path: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 130}} if PurePosixPath(path).suffix in LARGE else {}


def _list_tree(files: dict[str, bytes], below: str, *, recursive: bool) -> list[dict[str, object]]:
    """List a folder, and with `recursive` everything below it."""
    entries: dict[str, dict[str, object]] = {}
    for path, content in sorted(files.items()):
        for folder in list(PurePosixPath(path).parents)[-2::-1]:
            entries[str(folder)] = {"type": "directory", "path": str(folder), "oid": "0" * 40, "size": 0}
        entries[path] = {"type": "file", "path": path, "oid": _compute_git_blob_id(content), "size": len(content)}
        if lfs := _make_lfs_entry(path, content).get("lfs"):
            entries[path]["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    inside = {path: path.removeprefix(below).lstrip("/") for path in entries if not below or path.startswith(below + "/")}
    return [entries[path] for path, name in inside.items() if recursive or "/" not in name]


def _compute_git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _make_json_answer(value: object) -> Answer:
    return Answer(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})
