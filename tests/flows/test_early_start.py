"""What a build does before its flow: read the revision once, load the encoder, start a server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.loading import load_config
from indexmill.flows import early_encoder
from indexmill.flows.early_encoder import start_encoder_early, take_early_encoder
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
    assert take_early_encoder() is None


def test_a_run_with_a_server_of_its_own_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server has no limits; a server that is configured has one."""
    from indexmill.flows import local_prefect, local_runs, prefect_server

    monkeypatch.setattr(local_prefect, "embedded_server", lambda: nullcontext(lambda: None))
    monkeypatch.setenv(LIMIT_VARIABLE, "gpu")
    for url, limit in (("", ""), ("http://127.0.0.1:4200/api", "gpu")):
        monkeypatch.setattr(prefect_server, "get_configured_url", lambda url=url: url)
        with local_runs._start_prefect():
            assert os.environ[LIMIT_VARIABLE] == limit
        assert os.environ[LIMIT_VARIABLE] == "gpu"


@pytest.mark.slow
def test_a_run_has_a_server_of_its_own_without_loading_it(tmp_path: Path) -> None:
    """PREFECT_API_URL names it, there is no GPU limit to wait for, and this process never imports the server."""
    code = f"""
import os, sys
from pathlib import Path
from indexmill.flows.environment import prepare_environment
prepare_environment(Path({str(tmp_path)!r}))
from indexmill.flows.local_runs import _start_prefect
from indexmill.flows.prefect_server import check_server, get_configured_url
with _start_prefect():
    check_server(get_configured_url())
    print(repr(os.environ[{LIMIT_VARIABLE!r}]), "prefect.server.api.server" in sys.modules)
print(repr(get_configured_url()), {LIMIT_VARIABLE!r} in os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != LIMIT_VARIABLE}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.stdout.splitlines() == ["'' False", "'' False"], run.stderr
