"""A stand-in for the Hugging Face Hub: just what its library and `datasets` ask for, large files on another host as on the real one."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from tests.sources.faulty_server import Answer, FaultyServer

LARGE = {".parquet", ".png", ".jpg", ".zip", ".safetensors"}


class FakeHub(FaultyServer):
    """Data sets by name, each a dict of path -> bytes with one commit that `main` stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()

    def commit(self, name: str) -> str:
        files = self.datasets[name]
        return hashlib.sha1(repr(sorted((path, content) for path, content in files.items())).encode()).hexdigest()

    def downloads(self) -> int:
        return self.asked("GET /cdn/") + sum("/resolve/" in line and line.startswith("GET") for line in self.requests)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        recursive = "recursive=true" in path.lower()
        path = unquote(urlsplit(path).path)
        if path.startswith("/cdn/"):
            contents = (content for files in self.datasets.values() for content in files.values())
            return Answer(body=next(content for content in contents if hashlib.sha256(content).hexdigest() == path[5:]))
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        name, verb, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision", parts[3:] or ["main"]
        if name not in self.datasets:
            return Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if rest[0] not in {"main", self.commit(name)}:
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        below = "/".join(rest[1:])
        match verb:
            case "revision":
                return _json({"id": name, "sha": self.commit(name), "siblings": [_sibling(*file) for file in self._files(name)]})
            case "tree":
                entries = _tree(self.datasets[name], below, recursive=recursive)
                return _json(entries) if entries else Answer(404, headers={"X-Error-Code": "EntryNotFound"})
            case "resolve":
                return self._resolve(name, below)
        return Answer(404)

    def _files(self, name: str) -> list[tuple[str, bytes]]:
        return sorted(self.datasets[name].items())

    def _resolve(self, name: str, path: str) -> Answer:
        head = {"X-Repo-Commit": self.commit(name)}
        if name in self.gated:
            return Answer(403, headers=head | {"X-Error-Code": "GatedRepo"})
        content = self.datasets[name].get(path)
        if content is None:
            return Answer(404, headers=head | {"X-Error-Code": "EntryNotFound"})
        if PurePosixPath(path).suffix not in LARGE:
            return Answer(body=content, headers=head | {"ETag": f'"{_git_blob(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return Answer(302, headers=head | linked | {"Location": f"http://localhost:{self.port}/cdn/{digest}"})


def _sibling(path: str, content: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _git_blob(content)}
    return sibling | _lfs(path, content)


def _lfs(path: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 130}} if PurePosixPath(path).suffix in LARGE else {}


def _tree(files: dict[str, bytes], below: str, *, recursive: bool) -> list[dict[str, object]]:
    """What lies in a folder, and with `recursive` below it."""
    found: dict[str, dict[str, object]] = {}
    for path, content in sorted(files.items()):
        for folder in list(PurePosixPath(path).parents)[-2::-1]:
            found[str(folder)] = {"type": "directory", "path": str(folder), "oid": "0" * 40, "size": 0}
        found[path] = {"type": "file", "path": path, "oid": _git_blob(content), "size": len(content)}
        if lfs := _lfs(path, content).get("lfs"):
            found[path]["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    inside = {path: path.removeprefix(below).lstrip("/") for path in found if not below or path.startswith(below + "/")}
    return [found[path] for path, name in inside.items() if recursive or "/" not in name]


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: object) -> Answer:
    return Answer(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})
