"""A fake Kaggle: the two API calls for a data set, and the storage that the second redirects to."""

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
    """Archives by data set and version.

    has_digests: whether the storage states an MD5. has_ranges: whether a download can be resumed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[int, bytes]] = {}
        self.private: set[str] = set()
        self.has_digests = True
        self.has_ranges = True

    def count_downloads(self) -> int:
        return self.count_requests("GET /storage/")

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        path = urlsplit(path).path
        if path.startswith("/storage/"):
            _, _, owner, name, version = path.split("/")
            return self._answer_archive(self.datasets[f"{owner}/{name}"][int(version)])
        request = json.loads(body)
        handle = f"{request['ownerSlug']}/{request['datasetSlug']}"
        versions = self.datasets.get(handle, {})
        newest = max(versions, default=0)
        version = request.get("datasetVersionNumber") or newest
        if handle in self.private:
            return _make_json_answer(403, {"code": 403, "message": "Permission denied"})
        if version not in versions:
            return _make_json_answer(404, {"code": 404, "message": "Not found"})
        if path.endswith("/DownloadDataset"):
            return Answer(302, headers={"Location": f"{self.url}/storage/{handle}/{version}"})
        return _make_json_answer(200, {"ref": handle, "currentVersionNumber": newest})

    def _answer_archive(self, content: bytes) -> Answer:
        headers = {"Content-Type": "application/zip"}
        if self.has_digests:
            headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"
        if self.has_ranges:
            headers["Accept-Ranges"] = "bytes"
        return Answer(body=content, headers=headers)


def make_zip(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
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


def _make_json_answer(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
