"""A stand-in for Kaggle: the two calls that a data set takes, and the storage that the second leads to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from urllib.parse import urlsplit

from tests.sources.faulty_server import Answer, FaultyServer


class FakeKaggle(FaultyServer):
    """Archives by data set and version. digests and ranges: whether the storage gives an MD5 and takes up a download."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[int, bytes]] = {}
        self.private: set[str] = set()
        self.digests = True
        self.ranges = True

    def downloads(self) -> int:
        return self.asked("GET /storage/")

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        path = urlsplit(path).path
        if path.startswith("/storage/"):
            _, _, owner, name, version = path.split("/")
            return self._archive(self.datasets[f"{owner}/{name}"][int(version)])
        asked = json.loads(body)
        handle = f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        versions = self.datasets.get(handle, {})
        newest = max(versions, default=0)
        version = asked.get("datasetVersionNumber") or newest
        if handle in self.private:
            return _json(403, {"code": 403, "message": "Permission denied"})
        if version not in versions:
            return _json(404, {"code": 404, "message": "Not found"})
        if path.endswith("/DownloadDataset"):
            return Answer(302, headers={"Location": f"{self.url}/storage/{handle}/{version}"})
        return _json(200, {"ref": handle, "currentVersionNumber": newest})

    def _archive(self, content: bytes) -> Answer:
        headers = {"Content-Type": "application/zip"}
        if self.digests:
            headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        return Answer(body=content, headers=headers)


def zipped(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _json(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
