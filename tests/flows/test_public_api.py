"""The public API: what `import indexmill` offers, and that `indexmill.build` builds."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import indexmill
from tests.conftest import QUICK, FinishedBuild, copy_encoded_digits

REPOSITORY = Path(__file__).parents[2]
DOCUMENTED = {
    "BuildInProgress", "DamagedFile", "ExportFailed", "IndexmillError", "InputError", "PublishRefused", "RootUnusable", "SourceChanged",
    "SourceUnreachable", "__version__", "build", "load_config", "open_index",
}  # fmt: skip
HEAVY = ("torch", "faiss", "prefect", "duckdb", "pyarrow", "numpy", "pydantic", "polars", "matplotlib", "typer", "rich")


def run_python(code: str, folder: Path, **env: str) -> str:
    """Run a program outside the checkout, with these environment variables only; return what it prints."""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def make_settings(digits: Path) -> list[str]:
    return [f"dataset.path={digits}", "dataset.exclude_labels=['4','5','6','7','8','9']", "encoder.precision=float32", *QUICK]


def test_importing_indexmill_loads_nothing_heavy(tmp_path: Path) -> None:
    """Libraries are imported when a function that needs them is first used."""
    code = f"import sys, indexmill; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code, tmp_path, PYTHONPATH=str(REPOSITORY)) == "[]"


def test_the_folders_of_the_repository_are_no_top_level_packages(tmp_path: Path) -> None:
    """Outside the checkout, `import storage` fails; `indexmill.storage` is the only name of that package."""
    code = (
        "import importlib.util, indexmill.storage\n"
        "print([name for name in ('flows', 'tasks', 'configs', 'storage', 'serve') if importlib.util.find_spec(name)])"
    )
    assert run_python(code, tmp_path) == "[]"


def test_all_lists_exactly_the_documented_names() -> None:
    """Every name exists, has a docstring if it is a function or class, and is found by dir()."""
    assert set(indexmill.__all__) == DOCUMENTED
    assert list(indexmill.__all__) == sorted(indexmill.__all__)
    assert set(dir(indexmill)) >= DOCUMENTED
    objects = {name: getattr(indexmill, name) for name in indexmill.__all__ if name != "__version__"}
    assert [name for name, value in objects.items() if not inspect.getdoc(value)] == []
    assert all(issubclass(value, indexmill.IndexmillError) for value in objects.values() if inspect.isclass(value))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        indexmill.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_module_runs_as_a_command_and_prints_the_version() -> None:
    """`python -m indexmill --version` is the version of the package."""
    run = subprocess.run([sys.executable, "-m", "indexmill", "--version"], capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == f"indexmill {indexmill.__version__}"


def test_build_publishes_an_index_that_open_index_opens(finished_build: FinishedBuild, digits: Path, tmp_path: Path) -> None:
    """A build from the path of a YAML file: 48 digits, published, and searched from Python."""
    copy_encoded_digits(finished_build, tmp_path / "root")
    config = tmp_path / "digits.yaml"
    config.write_text((REPOSITORY / "configs" / "demo-images.yaml").read_text().replace("demo-images", "my-digits"))
    summary = indexmill.build(config, tmp_path / "root", settings=make_settings(digits))
    assert (summary["name"], summary["items"], summary["published"]) == ("my-digits", 48, True)
    image = sorted(digits.rglob("*.png"))[0]
    (results,) = indexmill.open_index(tmp_path / "root", "my-digits").search(images=[image], k=1).results
    assert results[0].key == image.relative_to(digits).as_posix()


@pytest.mark.slow
def test_build_takes_a_config_object_and_reuses_the_cached_stages(server: str, digits: Path, tmp_path: Path) -> None:
    """The same pipeline by name and as a PipelineConfig: the second build finds all its stages cached."""
    by_name = indexmill.build("demo-images", str(tmp_path / "root"), settings=make_settings(digits))
    config = indexmill.load_config("demo-images", make_settings(digits))
    by_config = indexmill.build(config, tmp_path / "root")
    assert by_config["snapshot_id"] == by_name["snapshot_id"]
    assert stages_run(by_config) == []
    assert stages_run(indexmill.build(config, tmp_path / "root", settings=["index.nprobe=3"])) != []


def test_build_raises_the_errors_of_the_command_line(tmp_path: Path) -> None:
    """An unknown pipeline and an unknown setting are InputErrors, before Prefect is started."""
    with pytest.raises(indexmill.InputError, match="no-such-pipeline"):
        indexmill.build("no-such-pipeline", tmp_path / "root")
    with pytest.raises(indexmill.InputError, match="factory"):
        indexmill.build(indexmill.load_config("demo-images"), tmp_path / "root", settings=["index.factroy=Flat"])
    assert not (tmp_path / "root").exists()


def stages_run(summary: dict[str, Any]) -> list[str]:
    return [name for name, run in summary["stages"].items() if not run["cached"]]
