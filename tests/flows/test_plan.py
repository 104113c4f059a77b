"""The plan: what it counts is what the build then does, and what cannot fit is refused before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from indexmill.flows.planning import BuildPlan, available_memory, check_fit
from indexmill.storage.errors import InputError
from tests.conftest import Build


@pytest.fixture
def plan(server: str, tmp_path: Path) -> Any:
    """Run the flow `plan-index` as `build` runs its own."""
    from indexmill.flows.plan_index import plan_index

    def run(pictures: Path, *settings: str) -> dict[str, Any]:
        return plan_index("demo-images", str(tmp_path / "root"), [f"dataset.path={pictures}", "encoder.precision=float32", *settings])

    return run


def test_a_plan_counts_what_the_build_then_does(build: Build, plan: Any, pictures: Path) -> None:
    """Everything at first; nothing when nothing changed; then 2 new, 1 changed, 3 removed, and a copy that needs no encoding."""
    first = plan(pictures)
    assert (first["items"], first["new"], first["to_encode"], first["reused"], first["seconds"]) == (120, 120, 120, 0, None)
    assert build(pictures)["encoded"] == 120
    again = plan(pictures)
    assert (again["unchanged"], again["to_encode"], again["seconds"], again["training"]) == (120, 0, 0.0, "reused")
    assert again["bytes"] == 0
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
    summary = build(pictures)
    assert summary["encoded"] == changed["to_encode"]
    assert not summary["stages"]["encode"]["cached"]
    assert summary["stages"]["ingest"]["cached"], "the plan's own listing is remembered"


def test_a_plan_that_cannot_fit_is_refused(plan: Any, pictures: Path) -> None:
    """By hand: a disk with less than the plan's bytes, and memory below its peak."""
    made = BuildPlan(**plan(pictures))
    assert made.obstacles == []
    assert made.bytes > 120 * 1280 * 4
    assert 0 < made.peak_bytes < made.available_bytes <= available_memory() * 2
    check_fit(made)
    small = {**made.to_json(), "obstacles": ["needs 9.0 GB of memory; 4.0 GB available"]}
    with pytest.raises(InputError, match=r"9\.0 GB of memory"):
        check_fit(BuildPlan(**small))


def test_a_build_without_room_stops_before_it_encodes(
    build: Build, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine says that one megabyte of memory is left."""
    monkeypatch.setattr("indexmill.flows.planning.available_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"of memory; 1\.0 MB available"):
        build(pictures)
    assert not (tmp_path / "root" / "embeddings").exists()
