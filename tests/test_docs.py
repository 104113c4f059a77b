"""What the documents promise exists, and what exists is in the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.flows.cli.app import app
from indexmill.flows.deployments import ITEMS_LANDED_EVENT, get_pipeline_resource_id

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
BUILDS = [deployment for deployment in DEPLOYMENTS if "build_index" in deployment["entrypoint"]]


def commands() -> set[str]:
    return set(get_command(app).commands)  # type: ignore[attr-defined]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))


def test_every_command_in_the_readme_exists_and_the_reverse() -> None:
    """`indexmill VERB` anywhere in README."""
    code = re.findall(r"```.*?```|`[^`\n]+`", README, re.S)
    named = {verb for piece in code for verb in re.findall(r"\bindexmill ([a-z]+)\b", piece)}
    assert named == commands()


def test_every_make_target_in_the_readme_exists_and_the_reverse() -> None:
    """`make TARGET` anywhere in README."""
    assert set(re.findall(r"make ([a-z]+)", README)) == targets()


def test_every_file_that_a_document_links_to_exists() -> None:
    """Pictures and pages."""
    for document in (REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.parametrize("deployment", BUILDS, ids=[deployment["name"] for deployment in BUILDS])
def test_every_deployment_runs_a_pipeline_by_its_name(deployment: dict[str, object]) -> None:
    """Named like the config that it builds, described alike, through the flow `build-index`."""
    from indexmill.flows.build_index import build_index

    config = load_config(deployment["parameters"]["config"])  # type: ignore[index]
    assert deployment["name"] == config.name
    assert deployment["description"] == config.description
    assert deployment["entrypoint"] == f"{build_index.fn.__module__}.{build_index.fn.__name__}"
    assert build_index.name == "build-index"
    assert deployment["triggers"][0]["match"] == {"prefect.resource.id": get_pipeline_resource_id(config.name)}  # type: ignore[index]
    assert deployment["triggers"][0]["expect"] == [ITEMS_LANDED_EVENT]  # type: ignore[index]


def test_every_pipeline_has_a_deployment_and_no_two_start_together() -> None:
    """Schedules are staggered, so that one machine runs them one after another."""
    assert sorted(deployment["name"] for deployment in BUILDS) == list_bundled_pipelines()
    crons = [schedule["cron"] for deployment in BUILDS for schedule in deployment["schedules"]]
    assert len(crons) == len(set(crons)) == len(BUILDS)


def test_one_more_deployment_watches_the_sources() -> None:
    """Every few minutes, and never beside itself."""
    from indexmill.flows.watch_sources import watch_sources

    (watch,) = [deployment for deployment in DEPLOYMENTS if deployment not in BUILDS]
    assert watch["entrypoint"] == f"{watch_sources.fn.__module__}.{watch_sources.fn.__name__}"
    assert watch["schedules"] == [{"interval": 300}]
    assert watch["concurrency_limit"]["limit"] == 1


def test_pins_name_versions_and_no_place() -> None:
    """constraints.txt works with any package index."""
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+)?", line), line
