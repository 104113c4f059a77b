"""Files behind URLs: listings, patterns, ranges and limits on a real S3 server, and what each failure says."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.urls import is_url
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.remote_files import FileMissing, FileTooLarge, RemoteFile, RemoteFiles
from tests.storage.object_server import SECRET
from tests.storage.s3_answers import Answer, ScriptedServer

QUICK = RetryPolicy(attempts=3, first_wait_s=0.01, timeout_s=0.5)
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def web() -> Iterator[Callable[[Callable[..., Answer | None]], str]]:
    """Start a web server that answers from a function of method, path, headers and body."""
    servers: list[ScriptedServer] = []

    def start(answer: Callable[..., Answer | None]) -> str:
        servers.append(ScriptedServer(answer))
        return servers[-1].url

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def files() -> RemoteFiles:
    """A reader that gives up soon."""
    return RemoteFiles(retry_policy=QUICK)


@pytest.fixture
def filled(bucket_url: str) -> str:
    """A prefix with five objects."""
    client = ObjectClient(bucket_url)
    for key in ("a/1.tar", "a/2.tar", "a/b/3.tar", "a/notes.txt", "ä b/%20.csv"):
        client.put(key, key.encode())
    return bucket_url


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("", ["a/1.tar", "a/2.tar", "a/b/3.tar", "a/notes.txt", "ä b/%20.csv"]),
        ("/a", ["a/1.tar", "a/2.tar", "a/b/3.tar", "a/notes.txt"]),
        ("/a/", ["a/1.tar", "a/2.tar", "a/b/3.tar", "a/notes.txt"]),
        ("/a/1.tar", ["a/1.tar"]),
        ("/a/*.tar", ["a/1.tar", "a/2.tar"]),
        ("/a/[!1].tar", ["a/2.tar"]),
        ("/a/[12].tar", ["a/1.tar", "a/2.tar"]),
        ("/**/*.tar", ["a/1.tar", "a/2.tar", "a/b/3.tar"]),
        ("/?/b/*", ["a/b/3.tar"]),
        ("/ä b/*.csv", ["ä b/%20.csv"]),
        ("/nothing/*", []),
    ],
)
def test_a_url_names_the_files_that_match(filled: str, pattern: str, keys: list[str], files: RemoteFiles) -> None:
    """Folders, files and patterns list what a shell's would, with size, ETag and time."""
    listed = list(files.list_files(filled + pattern))
    assert [file.url for file in listed] == [f"{filled}/{key}" for key in keys]
    assert all(file.size == len(key.encode()) and file.etag and file.modified > 1e9 for file, key in zip(listed, keys, strict=True))


def test_ranges_whole_files_and_downloads(bucket_url: str, files: RemoteFiles, tmp_path: Path) -> None:
    """A range is a slice, at the file's end too; a file over the limit is refused before it is read."""
    ObjectClient(bucket_url).put("file", CONTENT)
    url = f"{bucket_url}/file"
    files = pickle.loads(pickle.dumps(files))
    assert files.read_range(url, 300, 17) == CONTENT[300:317]
    assert files.read_range(url, len(CONTENT) - 5, 50) == CONTENT[-5:]
    assert files.read_range(url, 3, 0) == b""
    assert files.read(url, max_bytes=len(CONTENT)) == CONTENT
    info = files.fetch(url, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert info == files.info(url) == next(files.list_files(url))
    for read in (files.read, lambda url, max_bytes: files.fetch(url, tmp_path / "big", max_bytes=max_bytes)):
        with pytest.raises(FileTooLarge, match=r"at most 10,239 bytes\n.*10,240 bytes"):
            read(url, max_bytes=len(CONTENT) - 1)


def test_a_web_address_is_one_file_and_its_names_are_unquoted_once(web: Callable[..., str], files: RemoteFiles) -> None:
    """HEAD describes it; a space in its path is asked for as %20."""
    paths = []

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        paths.append(f"{method} {path}")
        return 200, {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 1970 00:01:00 GMT"}, CONTENT

    url = web(answer) + "/a%20b/c.csv"
    assert list(files.list_files(url)) == [RemoteFile(url, len(CONTENT), '"1"', 60.0)]
    assert files.read(url) == CONTENT
    assert paths == ["HEAD /a%20b/c.csv", "GET /a%20b/c.csv"]


def test_answers_that_fail_are_repeated(web: Callable[..., str], files: RemoteFiles) -> None:
    """503, a lost connection and a slow answer cost an attempt each; the third one counts."""
    for failure in ("status", "lost", "slow"):
        attempts: list[str] = []

        def answer(method: str, *_: object, failure: str = failure, attempts: list[str] = attempts) -> Answer | None:
            attempts.append(method)
            if len(attempts) < 3:
                if failure == "slow":
                    threading.Event().wait(0.8)
                return None if failure == "lost" else (503, {}, b"")
            return 200, {}, CONTENT

        assert files.read(web(answer) + "/file") == CONTENT
        assert len(attempts) == 3


def test_a_cut_answer_is_continued_or_read_again(web: Callable[..., str], files: RemoteFiles) -> None:
    """A server without ranges cuts the body; the whole file is asked for again, and in the end reported."""
    requests = []

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        requests.append(headers.get("Range"))
        is_cut = path == "/always" or requests.count(None) < 2
        return 200, {"Content-Length": str(len(CONTENT)), "Connection": "close"}, CONTENT[: 100 if is_cut else None]

    url = web(answer)
    assert files.read(url + "/once") == CONTENT
    with pytest.raises(SourceUnreachable, match="the server cannot be reached"):
        files.read(url + "/always")
    with pytest.raises(InputError, match=r"does not send parts(.|\n)*next: .*download the files"):
        files.read_range(url + "/once", 5, 5)


def test_errors_say_what_is_wrong_and_hold_no_secret(filled: str, files: RemoteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a bucket or credentials that are wrong end the read at once, with different messages."""
    with pytest.raises(FileMissing, match="there is no such file"):
        files.read(f"{filled}/a/9.tar")
    with pytest.raises(InputError, match="there is no such bucket"):
        list(files.list_files("s3://no-such-bucket-here/x/*"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET + "x")
    for url in (f"{filled}/a/1.tar", f"{filled}/a/*"):
        with pytest.raises(InputError, match="the server refuses the request") as caught:
            list(RemoteFiles(retry_policy=QUICK).list_files(url))
        assert SECRET not in str(caught.value)
        assert "AWS_SECRET_ACCESS_KEY" in caught.value.next_step


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/x", "https://host/x?token=secret", "ftp://host/x", "s3://", "https://host", "s3://a@b/c"]
)
def test_urls_with_secrets_are_refused(url: str, files: RemoteFiles) -> None:
    """Such a URL is not read, and its secret is not repeated."""
    with pytest.raises(InputError, match="this URL cannot be read") as caught:
        list(files.list_files(url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/../x", "http://127.0.0.1:9/a//x", "http://127.0.0.1:99999/x", "http://[::1/x", "s3://b/%00", "s3://[b]/x*"]
)
def test_urls_that_no_server_can_be_asked_for(url: str, files: RemoteFiles) -> None:
    """The path or the host is what is wrong, not Indexmill."""
    with pytest.raises(InputError, match="this URL cannot be read") as caught:
        list(files.list_files(url.replace("%00", "\0")))
    assert "empty names" in caught.value.expected


def test_a_web_server_has_no_wildcards(web: Callable[..., str], files: RemoteFiles) -> None:
    """The next step says how to name shards there."""
    url = web(lambda *_: (404, {}, b""))
    with pytest.raises(FileMissing, match=r"name them without wildcards, as in \{00000\.\.00012\}\.tar"):
        files.info(url + "/*.tar")


def test_a_server_that_never_answers_is_named(web: Callable[..., str], files: RemoteFiles) -> None:
    """The attempts end in an error that a build retries."""
    url = web(lambda *_: (500, {}, b"")) + "/file"
    with pytest.raises(SourceUnreachable, match=f"dataset.path: {url}"):
        files.info(url)


def test_paths_are_not_urls() -> None:
    """A colon or a slash alone does not make one."""
    assert [is_url(text) for text in ("s3://b/k", "https://h/p", "az://c/k", "C:/x", "data/x", "file:///x")] == [True] * 3 + [False] * 3
