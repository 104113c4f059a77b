"""What all commands have in common: panels of help, and the answer to an index that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from indexmill.flows.cli.app import app

COMMANDS = (["search", "NAME", "text"], ["snapshots", "NAME"], ["show", "NAME"], ["diff", "NAME", "00001-a"], ["rollback", "NAME"],
            ["pin", "NAME"], ["verify", "NAME"], ["merge", "NAME"], ["history", "NAME"])  # fmt: skip


def make_index(root: Path, name: str) -> None:
    """Make a snapshot as far as its name goes; nothing here reads its manifest."""
    folder = root / "indexes" / name / "snapshots" / "00001-aaaaaaaaaa"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def run(root: Path, command: list[str], name: str) -> str:
    result = CliRunner().invoke(app, [name if part == "NAME" else part for part in command] + ["--root", str(root)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_help_groups_every_command_into_four_panels() -> None:
    """Build, Look, Serve, Keep, in this order; no command is left over, and every one has a short description."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    panels = [command.rich_help_panel for command in commands.values()]
    assert list(dict.fromkeys(panels)) == ["Build", "Look", "Serve", "Keep"]
    assert [name for name, command in commands.items() if not 10 < len(command.help.split("\n")[0]) < 80] == []
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert [panel for panel in ("Build", "Look", "Serve", "Keep") if f"─ {panel} ─" not in shown] == []


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_an_unknown_index_is_answered_with_those_that_exist(command: list[str], tmp_path: Path) -> None:
    """A name that is no pipeline is not proposed to be built; a name that is nearly right is corrected."""
    for name in ("my-birds", "my-cats"):
        make_index(tmp_path, name)
    (tmp_path / "indexes" / "unfinished" / "snapshots").mkdir(parents=True)  # nothing was built: it is not listed
    message = run(tmp_path, command, "quux")
    assert "error: there is no index quux\n" in message
    assert "expected: one of: my-birds, my-cats\n" in message
    assert "indexmill build quux" not in message
    assert "next:     did you mean my-birds?" in run(tmp_path, command, "my-brids")


def test_an_index_that_is_a_bundled_pipeline_can_be_built(tmp_path: Path) -> None:
    """Then the next step is the command that builds it, also under an empty root."""
    assert "next:     indexmill build demo-text" in run(tmp_path, ["show", "NAME"], "demo-text")
    message = run(tmp_path, ["show", "NAME"], "quux")
    assert "there is none under this root yet" in message
    assert "next:     build one first: indexmill pipelines" in message
