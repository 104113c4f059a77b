"""What tests share: one Prefect server, one encoding process and one finished build, and small real data."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Threads of linear algebra wait by computing: with two processes on two cores a small decomposition took fifty times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
HOME = Path(tempfile.mkdtemp(prefix="indexmill-tests-"))

from indexmill.flows.environment import prepare_environment  # noqa: E402

os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "900")  # on a busy machine a server takes minutes
prepare_environment(HOME)  # before anything imports Prefect

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from PIL import Image  # noqa: E402

from indexmill.storage.errors import InputError, PublishRefused  # noqa: E402
from indexmill.storage.onnx_exports import get_weights_path  # noqa: E402
from indexmill.storage.root import Root  # noqa: E402
from indexmill.tasks.encoding.onnx_export import ExportRequest  # noqa: E402
from indexmill.tasks.encoding.process import EncoderProcess  # noqa: E402
from indexmill.tasks.encoding.protocol import ExportEncoder, ExportResult  # noqa: E402
from indexmill.tasks.reports.model import ReportModel  # noqa: E402
from tests import examples  # noqa: E402
from tests.storage.object_server import ObjectServer  # noqa: E402

pytest_plugins = ["tests.kept_running"]

settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
settings.load_profile("any-speed")

QUICK_TIER = "not slow"  # as addopts in pyproject.toml has it
# The folders and files whose quick tests need the Prefect server: about half of the work.
BUILDING = (
    "tests/cluster/",
    "tests/exports/test_build.py",
    "tests/faults/",
    "tests/flows/",
    "tests/security/test_exposed.py",
    "tests/security/test_no_pickle.py",
    "tests/serve/",
)


def pytest_configure(config: pytest.Config) -> None:
    """Run a slow test that is named: `pytest tests/x.py::test_y` needs no -m. Tell the tests which tier this is."""
    if config.option.markexpr == QUICK_TIER and any("::" in argument for argument in config.args):
        config.option.markexpr = ""
    examples.is_quick = config.option.markexpr == QUICK_TIER


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all quick tests that build, so that there is one server, one encoding process and one finished build."""
    from xdist.scheduler import LoadFileScheduling

    class BuildsTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "builds" if nodeid.startswith(BUILDING) else super()._split_scope(nodeid)

    is_quick = config.option.markexpr == QUICK_TIER and config.getvalue("dist") == "loadfile"
    return BuildsTogether(config, log) if is_quick else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check that BUILDING names every file with a quick test that needs the server."""
    for item in items:
        needs_server = "server" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slow")
        if needs_server and not item.nodeid.startswith(BUILDING):
            raise pytest.UsageError(
                f"{item.nodeid} needs the Prefect server: add its file to BUILDING in tests/conftest.py, or mark it slow"
            )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how to run the tests that the quick tier leaves out."""
    if config.option.markexpr == QUICK_TIER:
        terminalreporter.write_line('Only the quick tests were run. All of them: make test-all, or pytest -m ""')


def pytest_sessionfinish() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """An empty root."""
    root = Root(tmp_path / "root")
    yield root
    root.close()


class SharedEncoder(EncoderProcess):
    """The encoding process of all builds in this test process, so that torch and a model are loaded once and not per build."""

    def __init__(self) -> None:
        super().__init__()
        self._exports: dict[str, tuple[ExportResult, dict[str, bytes]]] = {}

    def export(self, job: ExportEncoder) -> ExportResult:
        """Export each model once, and write the same files for the next builds: an export takes seconds."""
        if repr(job.model) not in self._exports:
            result = super().export(job)
            files = [Path(job.graph_path), get_weights_path(Path(job.graph_path)), Path(job.tokenizer_path)]
            self._exports[repr(job.model)] = result, {path.name: path.read_bytes() for path in files if path.is_file()}
        result, contents = self._exports[repr(job.model)]
        for name, content in contents.items():
            (Path(job.graph_path).parent / name).write_bytes(content)
        return result

    def stop(self) -> None:
        """Keep it for the next build, unless it has ended."""
        if self._running and self._process.poll() is not None:
            super().stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it after an unexpected error, which may have left a job unfinished."""
        if error is not None and not isinstance(error, InputError | PublishRefused):
            super().stop()


@pytest.fixture(scope="session")
def shared_encoder() -> Iterator[None]:
    """Flows that run in this process share one encoding process."""
    process = SharedEncoder()
    with pytest.MonkeyPatch.context() as patch:
        for user in ("flows.build_index", "flows.plan_index", "flows.study_index", "tasks.evaluation.encode_latency"):
            patch.setattr(f"indexmill.{user}.EncoderProcess", lambda: process)
        yield
    EncoderProcess.stop(process)


@pytest.fixture(scope="session")
def kept_plots() -> Iterator[None]:
    """Builds draw each plot once and show it in later reports too: drawing takes a third of a small build. `tests/reports` draws all."""
    from indexmill.tasks.reports import plots
    from indexmill.tasks.reports.html import render_html

    names = ("plot_cutoffs", "plot_precision_recall", "plot_recall_vs_speed")
    drawn: dict[str, str] = {}

    def keep(name: str, draw: Callable[..., str]) -> Callable[..., str]:
        return lambda *data: drawn[name] if name in drawn else drawn.setdefault(name, draw(*data))

    def render(report: ReportModel) -> str:
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(plots, name, keep(name, getattr(plots, name)))
            return render_html(report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.publishing.report.render_html", render)
        yield


@pytest.fixture(scope="session")
def few_exports() -> Iterator[None]:
    """In the quick tests builds export the tiny models that tests write, but not the real ones of packages, which takes long."""
    from indexmill.tasks import encode

    ensure = encode.ensure_onnx_export

    def ensure_if_tiny(root: Root, process: EncoderProcess, request: ExportRequest) -> None:
        is_real = str(getattr(request.config, "model", "")).startswith("package:")
        if not (examples.is_quick and is_real):
            ensure(root, process, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "ensure_onnx_export", ensure_if_tiny)
        yield


@pytest.fixture(scope="session")
def server(shared_encoder: None, few_exports: None, kept_plots: None) -> Iterator[str]:
    """The URL of a Prefect server that this process and its children use."""
    from indexmill.flows.local_prefect import embedded_server
    from indexmill.flows.prefect_server import get_configured_url

    with embedded_server() as ready:
        ready()
        copy_database(find_prefect_home() / "prefect.db", NEW_DATABASE)
        url = get_configured_url()
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            del os.environ["PREFECT_API_URL"]


NEW_DATABASE = HOME / "new-prefect.db"  # that of a server which has just started


def find_prefect_home() -> Path:
    """Return the folder of the tests' server: processes of pytest-xdist have that of the first one."""
    return Path(os.environ["PREFECT_HOME"])


def copy_database(database: Path, copy: Path) -> None:
    """Copy a SQLite database that may be open, for its owner alone. A server with a copy need not create the tables, half of its start."""
    if not database.exists():  # the server is one that the user has configured
        return
    copy.touch(0o600)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 handwritten digits, 12 per label, as PNGs in one folder per label."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    counts = dict.fromkeys(range(10), 0)
    for number, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        if counts[label] < 12:
            counts[label] += 1
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray((255 - pixels * 15.9).astype("uint8")).resize((32, 32)).save(folder / str(label) / f"{number:04d}.png")
    return folder


@pytest.fixture
def pictures(digits: Path, tmp_path: Path) -> Path:
    """The digits in a folder of the test's own, which it may change."""
    return Path(shutil.copytree(digits, tmp_path / "pictures"))


QUICK = ["evaluation.encode_latency_queries=0", "evaluation.projection_seconds=0"]  # neither matters to most tests
# In float32 a vector does not depend on the rest of its batch, and no precision is compared first.
SETTINGS = [*QUICK, "encoder.precision=float32", "encoder.chunk_rows=70", "index.shards=2"]

Build = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class FinishedBuild:
    """A root, and the summary of the build that filled it."""

    root: Path
    summary: dict[str, Any]


@pytest.fixture
def build(server: str, tmp_path: Path) -> Build:
    """Run the flow on a folder of images in this process: build(folder, "dotted.key=value", root=...) -> summary."""
    from indexmill.flows.build_index import build_index

    def run(pictures: Path, *settings: str, root: Path | None = None, config: str = "demo-images", **options: str) -> dict[str, Any]:
        defaults = [f"dataset.path={pictures}", "encoder.precision=float32"] if config == "demo-images" else []
        return build_index(config, str(root or tmp_path / "root"), [*defaults, *QUICK, *settings], **options)

    return run


@pytest.fixture(scope="session")
def finished_build(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedBuild:
    """The digits built with SETTINGS: two parts of vectors, two shards. Only to be read and copied."""
    from indexmill.flows.build_index import build_index

    root = tmp_path_factory.mktemp("finished") / "root"
    return FinishedBuild(root, build_index("demo-images", str(root), [f"dataset.path={digits}", *SETTINGS]))


def copy_encoded_digits(finished: FinishedBuild, root: Path) -> Path:
    """Copy what spares a build the slow work: vectors, the encoder's profile, and checks of images. Returns the root."""
    for name in ("embeddings", "encoders", "image_checks"):
        shutil.copytree(finished.root / name, root / name)
    return root


@pytest.fixture
def quick_build(build: Build, finished_build: FinishedBuild, tmp_path: Path) -> Build:
    """`build` for a test that does not look at encoding: the embedding store of its root has the digits' vectors already."""
    copy_encoded_digits(finished_build, tmp_path / "root")
    return build


@pytest.fixture
def next_build(finished_build: FinishedBuild, server: str, tmp_path: Path) -> Build:
    """Run the flow with SETTINGS in a copy of the finished root: next_build(folder, "dotted.key=value") -> summary."""
    from indexmill.flows.build_index import build_index

    root = Path(shutil.copytree(finished_build.root, tmp_path / "root"))

    def run(pictures: Path, *settings: str, **options: str) -> dict[str, Any]:
        return build_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS, *settings], **options)

    return run


@contextmanager
def without_onnx_export() -> Iterator[None]:
    """Within the block, builds in this process do not export their text encoder, which takes longer than most builds of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.encode.ensure_onnx_export", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """One S3 server for all tests."""
    server = ObjectServer(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket_url(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty prefix of the S3 server, with the environment of its clients and leases that are shorter than the default."""
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INDEXMILL_LEASE_SECONDS", "6")  # a busy machine may be silent for longer than a moment
    monkeypatch.setenv("INDEXMILL_STORE_PATIENCE", "60")
    return f"s3://tests/{uuid.uuid4().hex}"


@pytest.fixture
def open_machine(bucket_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Root]]:
    """Open the root of `bucket_url` as another machine does: with a cache folder of its own."""
    roots = []

    def open_root(machine: str, *, create: bool = True) -> Root:
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / machine))
        roots.append(Root(bucket_url, create=create))
        return roots[-1]

    yield open_root
    for root in roots:
        root.close()
