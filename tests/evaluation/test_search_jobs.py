"""Exact search by ranges of content digests finds what one pass over the database finds."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.errors import DamagedFile
from indexmill.storage.root import Root
from indexmill.tasks.evaluation import ground_truth, search_jobs
from indexmill.tasks.evaluation.search_jobs import plan_search, search_in_jobs, split_digests
from indexmill.tasks.progress import ignore_progress
from indexmill.tasks.runner import LOCAL_RUNNER
from tests.evaluation.small_index import METRIC, SmallIndex


def split_test_digests(count: int) -> list[tuple[str, str]]:
    """As `split_digests`, for the digests d000 to d080 of the small index."""
    bounds = ["", *(f"d{80 * number // count:03d}" for number in range(1, count)), "g"]
    return list(itertools.pairwise(bounds))


@pytest.fixture
def small(root: Root, monkeypatch: pytest.MonkeyPatch) -> SmallIndex:
    monkeypatch.setattr(search_jobs, "split_digests", split_test_digests)
    return SmallIndex(root)


@pytest.mark.parametrize("block_items", [7, 30, 59])
def test_several_jobs_find_what_one_search_finds(small: SmallIndex, block_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 items in nine, two and two jobs, whose files are gone afterwards."""
    expected = small.compute_ground_truth(small.root.path / "one")
    for module in (ground_truth, search_jobs):
        monkeypatch.setattr(module, "BLOCK_ITEMS", block_items)
    found = small.compute_ground_truth(small.root.path / "several")
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)
    assert not list((small.root.path / "jobs").glob("*"))


def test_a_finished_block_is_reused(small: SmallIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a driver that was killed: its block is read and not searched again."""
    monkeypatch.setattr(search_jobs, "BLOCK_ITEMS", 30)
    jobs = plan_search(small.root, "0" * 64, small.embeddings, small.run.query_vectors, 10, METRIC)
    items = [search_jobs.run_search_job(small.root, job, ignore_progress) for job in jobs]
    path = small.root.file(items[0])
    with np.load(path) as file:
        np.savez(path, scores=file["scores"], ids=np.full_like(file["ids"], 777), items=file["items"])
    _, ids = search_in_jobs(small.root, jobs, small.embeddings, LOCAL_RUNNER, ignore_progress)
    assert 777 in ids


def test_items_without_a_vector_are_found_out(small: SmallIndex) -> None:
    """The jobs searched fewer items than the database has."""
    more = small.embeddings.model_copy(update={"database": small.embeddings.database + 1})
    jobs = plan_search(small.root, "0" * 64, more, small.run.query_vectors, 10, METRIC)
    with pytest.raises(DamagedFile, match="61 items"):
        search_in_jobs(small.root, jobs, more, LOCAL_RUNNER, ignore_progress)


@given(count=st.integers(1, 500), digests=st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=20))
def test_every_digest_is_in_exactly_one_range(count: int, digests: list[str]) -> None:
    ranges = split_digests(count)
    assert len(ranges) == count
    for digest in [*digests, "0" * 32, "f" * 32]:
        assert sum(low <= digest < high for low, high in ranges) == 1, json.dumps(digest)
