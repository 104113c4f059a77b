"""What a stage's record is remembered by."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.states import Failed

from configs.models import SplitConfig
from storage.errors import InputError
from storage.records import Record
from storage.root import Root
from tasks.policy import StageCache, passes, stage_key


def test_the_key_depends_on_digests_config_version_and_libraries_and_not_on_the_place(tmp_path: Path) -> None:
    """A root can be moved, and a file list can change, without any stage being done again."""

    def key(
        name: str = "split", version: int = 1, libraries: tuple[str, ...] = (), digest: str = "d", seed: int = 0, place: str = "a"
    ) -> str:
        inputs = {"root": Root(tmp_path / place), "dataset": Record(digest=digest, files=()), "config": SplitConfig(seed=seed)}
        return stage_key(name, StageCache(stage_version=version, libraries=libraries), inputs)

    assert key() == key(place="b")
    assert len({key(), key("other"), key(version=2), key(libraries=("numpy",)), key(digest="e"), key(seed=1)}) == 6


@pytest.mark.parametrize(
    ("problem", "again"), [(ConnectionError(), True), (TimeoutError(), True), (InputError("no"), False), (ValueError("no"), False)]
)
def test_only_faults_that_pass_are_tried_again(problem: Exception, again: bool) -> None:
    """The network may come back; a wrong config will be as wrong the next time."""
    import asyncio

    assert asyncio.run(passes(None, None, Failed(data=problem))) is again  # type: ignore[arg-type]
