"""What a build does before its flow: read the revision once, load the encoder, start a server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.loading import load_config
from indexmill.flows import early_encoder, local_runs
from indexmill.flows.early_encoder import start_encoder_early, take_early_encoder
from indexmill.flows.server_process import is_environment_complete
from indexmill.storage.root import Root
from indexmill.tasks.encoding.protocol import ModelSpec
from indexmill.tasks.gpu_slot import LIMIT_VARIABLE
from indexmill.tasks.sources import revisions
from indexmill.tasks.sources.revisions import read_revisions, reading_revisions_once


class FakeProcess:
    """Notes what is asked of an encoding process."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append("stop")

    def preload(self, config: EncoderConfig, model: ModelSpec | None) -> None:
        self.calls.append(f"preload {config.kind} {model.precision if model else None}")


def test_a_revision_is_read_once_in_the_block(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source is read, and outside of the block each call reads."""
    read: list[str] = []

    def note(config: object, root: Root) -> str:
        read.append(str(getattr(config, "path", "")))
        return f"revision {len(read)}"

    monkeypatch.setattr(revisions, "read_source_revision", note)
    root = Root(tmp_path / "root")
    here, elsewhere = (load_config("demo-images", [f"dataset.path={folder}"]) for folder in (digits, tmp_path))
    with reading_revisions_once():
        assert [read_revisions(config, root).combined for config in (here, here, elsewhere, here)] == [
            "revision 1", "revision 1", "revision 2", "revision 1",
        ]  # fmt: skip
    assert [read_revisions(here, root).combined for _ in range(2)] == ["revision 3", "revision 4"]


def test_the_encoder_that_was_started_early_is_taken_once(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads the model in the config's precision, and ends with the block even if no build has taken it."""
    process = FakeProcess()
    monkeypatch.setattr(early_encoder, "EncoderProcess", lambda: process)
    monkeypatch.setattr("indexmill.tasks.encoding.precision.has_gpu", lambda: False)
    config = load_config("demo-images", [f"dataset.path={digits}", "encoder.precision=float32"])
    with start_encoder_early(config, Root(tmp_path / "root")):
        assert process.calls == ["preload efficientnet-lite float32"]
        assert [take_early_encoder(), take_early_encoder()] == [process, None]
    assert process.calls[-1] == "stop"
    process.calls.clear()
    with start_encoder_early(config, Root(tmp_path / "root"), is_first=True):
        assert process.calls == ["preload efficientnet-lite None"]
    assert take_early_encoder() is None


def test_a_run_with_a_server_of_its_own_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server has no limits; a server that is configured has one."""
    from indexmill.flows import local_prefect, local_runs, prefect_server

    monkeypatch.setattr(local_prefect, "embedded_server", lambda started: nullcontext(lambda: None))
    monkeypatch.setenv(LIMIT_VARIABLE, "gpu")
    for url, limit in (("", ""), ("http://127.0.0.1:4200/api", "gpu")):
        monkeypatch.setattr(prefect_server, "get_configured_url", lambda url=url: url)
        with local_runs._start_prefect():
            assert os.environ[LIMIT_VARIABLE] == limit
        assert os.environ[LIMIT_VARIABLE] == "gpu"


@pytest.mark.slow
def test_a_run_has_a_server_of_its_own_without_loading_it(tmp_path: Path) -> None:
    """It starts before Prefect is imported and ends with its block. PREFECT_API_URL names it, there is no GPU limit to wait for, and
    this process never imports the server."""
    code = f"""
import os, sys
from pathlib import Path
from indexmill.flows.environment import prepare_environment
prepare_environment(Path({str(tmp_path)!r}))
from indexmill.flows.local_runs import _start_prefect
from indexmill.flows.server_process import is_environment_complete, start_server
assert is_environment_complete()
with start_server() as early:
    assert "prefect" not in sys.modules
    with _start_prefect(early, ["colorsys"]):
        from indexmill.flows.prefect_server import check_server, get_configured_url
        check_server(get_configured_url())
        assert get_configured_url() == early.url and "colorsys" in sys.modules
        print(repr(os.environ[{LIMIT_VARIABLE!r}]), "prefect.server.api.server" in sys.modules)
    assert early.process.poll() is None
assert early.process.poll() is not None
print(repr(get_configured_url()), {LIMIT_VARIABLE!r} in os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != LIMIT_VARIABLE}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.stdout.splitlines() == ["'' False", "'' False"], run.stderr


@pytest.mark.parametrize(
    ("file", "content", "is_complete"),
    [
        ("pyproject.toml", "[project]\ndependencies = ['prefect']", True),
        ("pyproject.toml", "[tool.prefect.api]\nurl = 'http://127.0.0.1:1/api'", False),
        ("prefect.toml", "[api]\nurl = 'http://127.0.0.1:1/api'", False),
        (".env", "OTHER=1", True),
        (".env", "PREFECT_API_URL=http://127.0.0.1:1/api", False),
        ("home/profiles.toml", "[profiles.mine]\nPREFECT_API_URL = 'http://127.0.0.1:1/api'", False),
    ],
)
def test_no_server_is_started_before_prefect_has_read_its_files(
    file: str, content: str, is_complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of them may name a server, which the build has to use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    assert not is_environment_complete()  # Prefect is imported here, and may have other settings
    monkeypatch.delitem(sys.modules, "prefect")
    assert is_environment_complete()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert is_environment_complete() == is_complete
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert not is_environment_complete()


def test_server_and_encoder_start_early_if_there_is_work(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server first, since the build waits for it; neither for a source that has not changed."""
    calls: list[str] = []

    @contextmanager
    def start_server() -> Iterator[str]:
        calls.append("server")
        yield "a server"

    @contextmanager
    def start_encoder(*_: object, is_first: bool) -> Iterator[None]:
        calls.append("first encoder" if is_first else "encoder")
        yield

    monkeypatch.setattr(local_runs, "is_environment_complete", lambda: True)
    monkeypatch.setattr(local_runs, "start_server", start_server)
    monkeypatch.setattr(early_encoder, "start_encoder_early", start_encoder)
    root, settings = Root(tmp_path / "root"), [f"dataset.path={digits}"]

    def start() -> tuple[object, list[str]]:
        calls.clear()
        with local_runs._start_early_if_changed("demo-images", str(root), settings) as early:
            return early, list(calls)

    assert start() == ((True, "a server"), ["server", "first encoder"])
    revision = read_revisions(load_config("demo-images", settings), root).combined
    root.scratch.write_text(root.revision_file("demo-images"), revision + "\n")
    assert start() == ((False, None), [])
    root.scratch.write_text(root.revision_file("demo-images"), "another\n")
    assert start() == ((True, "a server"), ["server", "encoder"])
    monkeypatch.setattr(local_runs, "is_environment_complete", lambda: False)
    assert start() == ((True, None), ["encoder"])
