"""What the documents promise exists, and what exists is in the documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.configs.reference import render_reference
from indexmill.flows.cli.app import app
from indexmill.flows.deployments import ITEMS_LANDED_EVENT, get_pipeline_resource_id

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
BUILDS = [deployment for deployment in DEPLOYMENTS if "build_index" in deployment["entrypoint"]]


def commands() -> set[str]:
    return set(get_command(app).commands)  # type: ignore[attr-defined]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+(?:-[a-z]+)*):.*##", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))


def test_every_command_in_a_document_exists() -> None:
    """`indexmill VERB` in code, anywhere in README, ARCHITECTURE and the guides."""
    for document in DOCUMENTS:
        code = re.findall(r"```.*?```|`[^`\n]+`", document.read_text(encoding="utf-8"), re.S)
        named = {verb for piece in code for verb in re.findall(r"\bindexmill (?!import\b)([a-z]+)\b", piece)}
        assert named <= commands(), document.name


def test_the_command_reference_is_generated_from_the_code() -> None:
    """docs/cli.md is what `make docs` writes."""
    run = subprocess.run(
        [sys.executable, "-m", "typer", "indexmill.flows.cli.app", "utils", "docs", "--name", "indexmill", "--title", "Commands"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    written = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert run.stdout.strip() == written.strip(), "run `make docs`"
    assert set(re.findall(r"^## `indexmill ([a-z]+)`", written, re.M)) == commands()


def test_the_config_reference_is_generated_from_the_code() -> None:
    """docs/config.md is what `make docs` writes, and every key has a meaning."""
    assert (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8") == render_reference(), "run `make docs`"


def test_every_make_target_in_the_readme_exists_and_the_reverse() -> None:
    """`make TARGET` anywhere in README; the guides name no other."""
    assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)", README)) == targets()
    for document in DOCUMENTS:
        code = re.findall(r"```.*?```|`[^`\n]+`", document.read_text(encoding="utf-8"), re.S)
        assert {target for piece in code for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", piece)} <= targets(), document.name


def test_every_file_that_a_document_links_to_exists() -> None:
    """Pictures and pages."""
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_fits_on_one_page_and_leads_to_every_guide() -> None:
    """At most 150 lines; each page of docs/ is linked."""
    assert len(README.splitlines()) <= 150
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert f"docs/{page.name}" in README, page.name


def test_every_config_key_in_a_document_exists() -> None:
    """`section.key` in code, for the sections of a pipeline."""
    reference = (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8")
    known = {
        f"{title.split(',')[0]}.{key}"
        for title, table in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", reference, re.M | re.S)
        for key in re.findall(r"^\| `(\w+)`", table, re.M)
    }
    sections = "|".join(sorted({name.split(".")[0] for name in known} - {"pipeline"}))
    for document in DOCUMENTS:
        for piece in re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8")):
            for dotted in re.findall(rf"(?<![\w./])((?:{sections})(?:\.[a-z_]+)+)(?![\w/(])", piece):
                if not dotted.endswith((".html", ".parquet", ".py", ".json", ".yaml", ".trec")):
                    assert dotted in known or dotted.rpartition(".")[0] in known, f"{document.name}: {dotted}"


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
