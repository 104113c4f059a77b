"""README's quick start, followed by a newcomer with a folder of images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_quick_start_leads_from_a_folder_to_a_search(digits: Path, tmp_path: Path) -> None:
    """The config and the commands as written, with the newcomer's own folder in place of /data/birds."""
    (config,) = re.findall(r"```yaml\n(name: birds.*?)```", README, re.S)
    (tmp_path / "birds.yaml").write_text(config.replace("/data/birds", str(digits)))
    block = next(block for block in re.findall(r"```sh\n(.*?)```", README, re.S) if "indexmill check birds.yaml" in block)
    image = sorted(digits.glob("3/*.png"))[0]
    commands = [line.split("#")[0].split() for line in block.splitlines()]
    assert [command[1] for command in commands] == ["check", "plan", "build", "search"]
    for command in commands:
        arguments = [argument.replace("/data/birds/robin/1.jpg", str(image)) for argument in command[1:]]
        run = subprocess.run([sys.executable, "-m", "indexmill", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
        assert run.returncode == 0, run.stderr
    assert f"3/{image.name}" in run.stdout.splitlines()[1]
