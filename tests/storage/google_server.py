"""A stand-in for Google Cloud Storage: the part of its XML API that the real client uses, with conditions and signatures.

No emulator that installs from a registry has this API's conditional writes (fake-gcs-server and gcp-storage-emulator have
those of the JSON API), and the client speaks no other. Objects are in memory. As documented by Google: every write of an object gives it a
higher generation; `x-goog-if-generation-match` names the generation that a write replaces, 0 for none; every request
carries a token that the service account's key has signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.storage.s3_answers import Answer, ScriptedServer

BUCKET = "tests"
KEEP = re.compile(r"x-goog-meta-|content-type$")


@dataclass(frozen=True)
class StoredObject:
    data: bytes
    generation: int
    headers: dict[str, str]


@dataclass
class GoogleServer:
    """Objects of one bucket, and the key of the only account that may use it."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def __post_init__(self) -> None:
        self._lock, self._generation = threading.Lock(), 1_000
        self._server = ScriptedServer(self.answer)
        self.url = self._server.url

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def environment(self, key: rsa.RSAPrivateKey | None = None) -> dict[str, str]:
        """The environment variables of a client; with another key, of one that may do nothing."""
        pem = (key or self.key).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        account = {"type": "service_account", "client_email": "tests@example.com", "private_key_id": "1", "private_key": pem.decode()}
        return {"GOOGLE_BASE_URL": self.url, "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer one request."""
        parts, headers = urlsplit(url), {name.lower(): value for name, value in headers.items()}
        bucket, _, name = unquote(parts.path).removeprefix("/").partition("/")
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if not self._is_signed(headers.get("authorization", "")):
            return fail(401, "AuthenticationRequired")
        if bucket != BUCKET:
            return fail(404, "NoSuchBucket")
        with self._lock:
            if not name:
                return self._list(query)
            if "uploads" in query or "uploadId" in query:
                return self._upload_part(method, name, query, headers, body)
            if method == "PUT":
                return self._put(name, headers, body)
            if (found := self.objects.get(name)) is None:
                return fail(404, "NoSuchKey")
            if method == "DELETE":
                del self.objects[name]
                return 204, {}, b""
            return self._get(found, headers.get("range"))

    def _is_signed(self, authorization: str) -> bool:
        try:
            scheme, token = authorization.split()
            signed, _, signature = token.rpartition(".")
            claims = json.loads(_decode(signed.split(".")[1]))
            self.key.public_key().verify(_decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, IndexError, InvalidSignature):
            return False
        return bool(scheme == "Bearer" and claims["iss"] == "tests@example.com")

    def _put(self, name: str, headers: dict[str, str], data: bytes) -> Answer:
        found = self.objects.get(name)
        condition = headers.get("x-goog-if-generation-match")
        if condition is not None and int(condition) != (found.generation if found else 0):
            return fail(412, "PreconditionFailed")
        self._generation += 1
        kept = {key: value for key, value in headers.items() if KEEP.match(key)}
        self.objects[name] = stored = StoredObject(data, self._generation, kept)
        return 200, describe(stored), b""

    def _get(self, found: StoredObject, span: str | None) -> Answer:
        headers = {**found.headers, **describe(found)}
        if span is None:
            return 200, headers, found.data
        first, _, last = span.removeprefix("bytes=").partition("-")
        data = found.data[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(data) - 1}/{len(found.data)}"
        return 206, headers, data

    def _list(self, query: dict[str, str]) -> Answer:
        """List up to two objects at once, so that a listing takes several requests."""
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.objects[name].data)}</Size>"
            f"<LastModified>2026-11-30T12:00:00Z</LastModified><ETag>{describe(self.objects[name])['ETag']}</ETag></Contents>"
            for name in names[:2]
        )
        more = f"<NextContinuationToken>{escape(names[1])}</NextContinuationToken>" if len(names) > 2 else ""
        return 200, {}, f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode()

    def _upload_part(self, method: str, name: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
        if "uploads" in query:
            upload = f"upload-{len(self.uploads)}"
            self.uploads[upload] = {}
            self.uploads_headers = headers
            return 200, {}, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode()
        parts = self.uploads[query["uploadId"]]
        if method == "PUT":
            parts[int(query["partNumber"])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        status, answer, _ = self._put(name, self.uploads_headers, b"".join(parts[number] for number in sorted(parts)))
        etag = f"<ETag>{escape(answer['ETag'])}</ETag>"
        return status, answer, f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>".encode()


def describe(stored: StoredObject) -> dict[str, str]:
    """The headers of every answer about an object."""
    etag = f'"{hashlib.md5(stored.data).hexdigest()}"'
    return {"ETag": etag, "x-goog-generation": str(stored.generation), "Last-Modified": formatdate(usegmt=True)}


def fail(status: int, code: str) -> Answer:
    return status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
