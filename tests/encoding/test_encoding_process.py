"""The encoding process: the same vectors whatever happens to it, and no process is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from indexmill.configs.encoders import OpenClipEncoderConfig
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding.process import EncoderProcess, WorkerLost
from indexmill.tasks.encoding.protocol import ComparePrecision, EncodeChunk, ModelSpec
from indexmill.tasks.progress import ignore_progress
from indexmill.tasks.sources import Item
from tests.encoding.checkpoints import write_clip_folder
from tests.stage_inputs import ListSource, run_split

COUNT = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoderConfig:
    """A tiny CLIP model with random weights."""
    return OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{write_clip_folder(tmp_path_factory.mktemp('clip') / 'model')}")


@pytest.fixture(scope="module")
def process(_ignore_earlier_children: None) -> Iterator[EncoderProcess]:
    """One process for all tests, since it takes seconds to start; none is left at the end."""
    with EncoderProcess() as process:
        yield process
    assert not list_workers()


@pytest.fixture
def split(root: Root) -> SplitDataset:
    """300 short texts."""
    return run_split(
        root, ListSource([Item(f"k{number}", text=f"thing number {number} of {number % 7}") for number in range(COUNT)], labeled=False)
    )


def make_job(root: Root, split: SplitDataset, config: OpenClipEncoderConfig, batch_size: int | None = 8) -> EncodeChunk:
    """Encode all texts as one chunk."""
    plan = root.scratch.folder / "plan.parquet"
    EmbeddingStore(root, "f").write_encode_plan(root.file(split.table), COUNT, plan)
    return EncodeChunk(
        model=ModelSpec(config, "float32", "text"),
        plan=str(plan),
        number=0,
        image_root=None,
        part=str(plan.with_name("part.parquet")),
        rejected=str(plan.with_name("rejected.parquet")),
        temp_dir=str(root.tmp),
        storage_dtype="float32",
        batch_size=batch_size,
    )


def read_vectors(job: EncodeChunk) -> dict[str, np.ndarray]:
    """Content digest -> vector, from the part that the job wrote."""
    rows = pq.read_table(job.part).to_pylist()
    return {row["content_digest"]: np.array(row["embedding"]) for row in rows}


def list_workers() -> list[psutil.Process]:
    """The encoding processes that this module started; tests of other modules may have left theirs running."""
    return [child for child in psutil.Process().children() if child.pid not in earlier_children and is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "indexmill.tasks.encoding.worker" in process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return False


earlier_children: set[int] = set()


@pytest.fixture(scope="module", autouse=True)
def _ignore_earlier_children() -> None:
    earlier_children.clear()
    earlier_children.update(child.pid for child in psutil.Process().children())


@pytest.mark.slow
def test_a_killed_process_starts_again_with_half_the_batch_size(
    process: EncoderProcess, root: Root, split: SplitDataset, config: OpenClipEncoderConfig
) -> None:
    """Killed in the middle of a chunk, as the kernel does when memory runs out: the vectors of an undisturbed run."""
    job = make_job(root, split, config)
    undisturbed = process.encode(job, ignore_progress)
    expected = read_vectors(job)
    progress: list[int] = []

    def kill_once(items: int) -> None:
        progress.append(items)
        if len(progress) == 2:
            os.kill(list_workers()[0].pid, signal.SIGKILL)

    disturbed = process.encode(job, kill_once)
    assert len(list_workers()) == 1
    assert (undisturbed.batch_size, disturbed.batch_size) == (8, 4)
    assert undisturbed.vectors == disturbed.vectors == sum(progress) == COUNT
    vectors = read_vectors(job)
    assert vectors.keys() == expected.keys()
    assert min(float(vectors[digest] @ vector) for digest, vector in expected.items()) > 1 - 1e-5


@pytest.mark.slow
def test_a_process_that_ends_otherwise_is_a_transient_error(
    process: EncoderProcess, root: Root, split: SplitDataset, config: OpenClipEncoderConfig
) -> None:
    """The error says how it ended, and the next job starts a new process."""
    job = make_job(root, split, config)

    def terminate(items: int) -> None:
        if items > 0:
            os.kill(list_workers()[0].pid, signal.SIGTERM)

    with pytest.raises(WorkerLost, match="SIGTERM"):
        process.encode(job, terminate)
    assert process.encode(job, ignore_progress).vectors == COUNT


@pytest.mark.slow
def test_preload_imports_the_library_before_the_first_job(
    process: EncoderProcess, root: Root, split: SplitDataset, config: OpenClipEncoderConfig
) -> None:
    """The preloaded process is the one that encodes; if it dies before the first job, that job starts another."""
    job = make_job(root, split, config)
    process.stop()
    process.preload(config)
    (preloaded,) = list_workers()
    end = time.monotonic() + 600
    while not any("libtorch" in mapped.path for mapped in preloaded.memory_maps()):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert process.encode(job, ignore_progress).vectors == COUNT
    assert list_workers() == [preloaded]
    process.stop()
    process.preload(config)
    list_workers()[0].kill()
    assert process.encode(job, ignore_progress).vectors == COUNT


@pytest.mark.slow
def test_errors_cross_the_pipe(
    process: EncoderProcess, root: Root, split: SplitDataset, config: OpenClipEncoderConfig, tmp_path: Path
) -> None:
    """A checkpoint that does not load is an InputError that names the config key."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text(
        (Path(config.model.removeprefix("local-dir:")) / "open_clip_config.json").read_text()
    )
    (tmp_path / "model" / "open_clip_pytorch_model.bin").write_bytes(b"no weights")
    broken = OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{tmp_path / 'model'}")
    with pytest.raises(InputError, match=r"encoder\.model"):
        process.encode(make_job(root, split, broken), ignore_progress)


@pytest.mark.slow
def test_the_fast_precision_is_compared_on_the_items(
    process: EncoderProcess, root: Root, split: SplitDataset, config: OpenClipEncoderConfig
) -> None:
    """A random model in bfloat16 is close to itself in float32, whichever precision is fastest here."""
    plan = root.file(split.table)
    comparison = process.compare_precisions(ComparePrecision(ModelSpec(config, "float32", "text"), str(plan), None))
    assert comparison.items == (0 if comparison.tried == "float32" else COUNT)
    assert 0.99 < comparison.mean_cosine <= 1 + 1e-6
    assert comparison.passes == (comparison.mean_cosine >= 0.999 and comparison.overlap_at_10 >= 0.95)
