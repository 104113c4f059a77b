"""The report as a browser sees it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Build

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_the_report_opens_from_disk_with_its_pictures_and_without_a_complaint(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Loaded by a real browser with no network: verdict, plots and thumbnails are there, the console stays empty."""
    report = Path(build(pictures)["report"])
    copy = Path(shutil.copy(report, tmp_path / "alone.html"))  # what it needs must be inside
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    run = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert '<span class="verdict published">published</span>' in run.stdout
    assert run.stdout.count("<svg") == 2
    assert run.stdout.count('src="data:image/jpeg;base64,') >= 7
    assert [line for line in run.stderr.splitlines() if "CONSOLE" in line] == []
    shot = tmp_path / "phone.png"
    subprocess.run([*command, "--window-size=420,900", f"--screenshot={shot}", copy.as_uri()], capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 10_000
