"""What a worker of a cluster runs: the check before a build relies on it, and single jobs."""

from __future__ import annotations

import os
import platform
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import IndexmillError
from indexmill.storage.object_client import ENDPOINT_VARIABLES
from indexmill.storage.permissions import UMASK_VARIABLE, apply_umask
from indexmill.storage.query_database import sharing_databases
from indexmill.storage.root import Root
from indexmill.tasks.progress import Advance, ignore_progress

CHECK_TIMEOUT_S = 20.0
# Settings of the libraries that the driver's environment has and a worker's may lack.
PASSED_VARIABLES = (
    UMASK_VARIABLE,
    "HF_HOME",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "TQDM_DISABLE",
    "TOKENIZERS_PARALLELISM",
    "OMP_WAIT_POLICY",
    # Of an object store, where it is and how it is used; never its credentials, which each machine has of its own.
    *ENDPOINT_VARIABLES.values(),
    "AWS_REGION",
    "INDEXMILL_STORE_PATIENCE",
)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs besides its job.

    Attributes:
        root: What `Root` opens.
        environment: Variables of the driver, for those that the worker lacks.
        build: A name that no other build has.
        stage: A number that rises with each of the build's stages.
    """

    root: str
    environment: Mapping[str, str]
    build: str
    stage: int = 0

    def apply(self) -> None:
        """Set the variables, and the umask."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        apply_umask()

    def for_next_stage(self) -> WorkerSetup:
        """Return the setup of the next stage's jobs, which read what this stage has written."""
        return replace(self, stage=self.stage + 1)


@dataclass(frozen=True)
class WorkerCheck:
    """What must hold on a worker.

    Attributes:
        setup: What a worker needs to open the root.
        nonce_path: A file that the driver wrote, relative to the root.
        nonce: What is in it.
        api_url: The Prefect server that the worker reports to.
        versions: The driver's versions of Python and Indexmill.
    """

    setup: WorkerSetup
    nonce_path: str
    nonce: str
    api_url: str
    versions: str


def make_setup(root: Root) -> WorkerSetup:
    """Make the setup of the workers of this process."""
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return WorkerSetup(root.location, environment, build=uuid.uuid4().hex)


def get_versions() -> str:
    """Return the versions that driver and workers must share."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor}, Indexmill {version('indexmill')}"


def check_worker(check: WorkerCheck) -> str:
    """Return what is wrong on this worker; empty if nothing is."""
    host = platform.node()
    if check.versions != get_versions():
        return f"{host} runs {get_versions()}, the build {check.versions}"
    check.setup.apply()
    try:
        root = Root(check.setup.root, create=False)
        if root.store.read(root.path / check.nonce_path) != check.nonce.encode():
            return f"{host} does not see {check.nonce_path} in {check.setup.root}, which the build has just written"
    except (IndexmillError, OSError) as error:
        return f"{host} cannot open the root {check.setup.root}: {' '.join(str(error).split())}"
    try:
        with urllib.request.urlopen(f"{check.api_url}/health", timeout=CHECK_TIMEOUT_S):  # noqa: S310 (the driver's own setting)
            return ""
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return f"{host} cannot reach the Prefect server at {check.api_url}: {reason}"


class WorkerRoot:
    """The root that this worker process keeps open between jobs.

    To open a root in an object store takes seven requests, which find out whether the store honors conditions, and one per
    thousand objects. So it is opened once per build, and its objects are listed again once per stage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a worker may do several jobs at a time
        self._setup: WorkerSetup | None = None
        self._root: Root | None = None

    def open(self, setup: WorkerSetup) -> Root:
        """Return the root for one job, which closes it."""
        with self._lock:
            if self._root is None or self._setup is None or self._setup.build != setup.build:
                self._root = Root(setup.root)
            elif self._setup.stage != setup.stage:
                self._root.store.refresh(self._root.path)
            self._setup = setup
            return self._root.for_job()


WORKER_ROOT = WorkerRoot()


def run_job_here(run: Callable[[Root, Any, Advance], Any], setup: WorkerSetup, job: Any) -> Any:
    """Do one job in this worker process, and return its record."""
    setup.apply()
    root = WORKER_ROOT.open(setup)
    try:
        with sharing_databases(), translate_disk_errors(root.path, f"on the worker {platform.node()}"):
            return run(root, job, ignore_progress)
    finally:
        root.close()
