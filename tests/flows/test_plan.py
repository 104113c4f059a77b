"""A plan counts what the build then does, and a build that cannot fit is refused before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from indexmill.flows.planning import BuildPlan, available_memory, check_fit
from indexmill.storage.errors import InputError
from tests.conftest import SETTINGS, Build


@pytest.fixture
def plan(server: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the flow `plan-index`: plan(folder, root=...) -> plan."""
    from indexmill.flows.plan_index import plan_index

    def run(pictures: Path, *settings: str, root: Path = tmp_path / "root") -> dict[str, Any]:
        return plan_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS, *settings])

    return run


def test_a_plan_counts_what_the_build_then_does(next_build: Build, plan: Callable[..., dict[str, Any]], pictures: Path) -> None:
    """Nothing when nothing has changed; then 2 new, 1 changed, 3 removed, and a copy that needs no encoding."""
    unchanged = plan(pictures)
    assert (unchanged["unchanged"], unchanged["to_encode"], unchanged["seconds"], unchanged["training"]) == (120, 0, 0.0, "reused")
    assert unchanged["bytes"] == 0
    paths = sorted(pictures.rglob("*.png"))
    for path in paths[:3]:
        path.unlink()
    Image.new("RGB", (40, 20), "red").save(paths[10])
    Image.new("RGB", (20, 40), "blue").save(pictures / "1" / "new.png")
    shutil.copy(paths[20], pictures / "1" / "copy.png")
    changed = plan(pictures)
    assert [changed[name] for name in ("new", "changed", "removed", "unchanged")] == [2, 1, 3, 116]
    assert (changed["to_encode"], changed["items"]) == (2, 119)
    assert changed["encoding"][0]["rate"] > 0
    assert changed["seconds"] == pytest.approx(2 / changed["encoding"][0]["rate"], abs=0.1)
    summary = next_build(pictures)
    assert summary["encoded"] == changed["to_encode"]
    assert not summary["stages"]["encode"]["cached"]
    assert summary["stages"]["ingest"]["cached"], "the plan's own listing is cached"


def test_a_plan_for_an_empty_root_counts_everything_and_is_refused_where_it_cannot_fit(
    plan: Callable[..., dict[str, Any]], digits: Path
) -> None:
    """No estimate before the first build; a plan with an obstacle is refused with that obstacle."""
    first = plan(digits)
    assert (first["items"], first["new"], first["to_encode"], first["reused"], first["seconds"]) == (120, 120, 120, 0, None)
    build_plan = BuildPlan(**first)
    assert build_plan.obstacles == []
    assert build_plan.bytes > 120 * 1280 * 4
    assert 0 < build_plan.peak_bytes < build_plan.available_bytes <= available_memory() * 2
    check_fit(build_plan)
    elsewhere = plan(digits, "run.runner=dask", "run.address=tcp://scheduler:8786")
    assert elsewhere["peak_bytes"] < build_plan.peak_bytes - 10**9, "the workers encode, not this machine"
    too_large = {**build_plan.to_json(), "obstacles": ["needs 9.0 GB of memory; 4.0 GB available"]}
    with pytest.raises(InputError, match=r"9\.0 GB of memory"):
        check_fit(BuildPlan(**too_large))


def test_a_build_without_enough_memory_stops_before_it_encodes(
    build: Build, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has one megabyte of memory left."""
    monkeypatch.setattr("indexmill.flows.planning.available_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"of memory; 1\.0 MB available"):
        build(digits)
    assert not (tmp_path / "root" / "embeddings").exists()
