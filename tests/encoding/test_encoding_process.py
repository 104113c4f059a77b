"""The process that encodes: the same vectors whatever happens to it, and none left behind."""

from __future__ import annotations

import os
import signal
import time
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
from indexmill.tasks.sources import Item
from tests.encoding.checkpoints import clip_folder
from tests.stage_inputs import Listed, divided

COUNT = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoderConfig:
    """A tiny CLIP model with random weights."""
    return OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{clip_folder(tmp_path_factory.mktemp('clip') / 'model')}")


@pytest.fixture
def split(root: Root) -> SplitDataset:
    """300 short texts."""
    return divided(
        root, Listed([Item(f"k{number}", text=f"thing number {number} of {number % 7}") for number in range(COUNT)], labeled=False)
    )


def job(root: Root, split: SplitDataset, config: OpenClipEncoderConfig, batch_size: int | None = 8) -> EncodeChunk:
    """All the texts as one shard."""
    plan = root.scratch.folder / "plan.parquet"
    EmbeddingStore(root, "f").write_encode_plan(root.file(split.table), COUNT, plan)
    files = (str(plan.with_name(name)) for name in ("part.parquet", "rejected.parquet"))
    return EncodeChunk(ModelSpec(config, "float32", "text"), str(plan), 0, None, *files, str(root.tmp), "float32", batch_size)


def vectors(job: EncodeChunk) -> dict[str, np.ndarray]:
    """Content digest -> vector, of the part that the job wrote."""
    rows = pq.read_table(job.part).to_pylist()
    return {row["content_digest"]: np.array(row["embedding"]) for row in rows}


def encoding() -> list[psutil.Process]:
    """Our processes that encode; other children, a Prefect server of another test say, are none of our business."""
    return [child for child in psutil.Process().children() if "indexmill.tasks.encoding.worker" in child.cmdline()]


def test_a_process_that_the_kernel_kills_begins_again_with_half_the_batch(
    root: Root, split: SplitDataset, config: OpenClipEncoderConfig
) -> None:
    """Killed in mid-shard, as the kernel does when memory runs out: all vectors in the end, those of an undisturbed run."""
    asked = job(root, split, config)
    with EncoderProcess() as process:
        undisturbed = process.encode(asked, lambda items: None)
        expected = vectors(asked)
    told: list[int] = []

    def kill_once(items: int) -> None:
        told.append(items)
        if len(told) == 2:
            os.kill(encoding()[0].pid, signal.SIGKILL)

    with EncoderProcess() as process:
        disturbed = process.encode(asked, kill_once)
        assert len(encoding()) == 1
    assert not encoding()
    assert (undisturbed.batch_size, disturbed.batch_size) == (8, 4)
    assert undisturbed.vectors == disturbed.vectors == sum(told) == COUNT
    found = vectors(asked)
    assert found.keys() == expected.keys()
    assert min(float(found[digest] @ vector) for digest, vector in expected.items()) > 1 - 1e-5


def test_a_process_that_is_lost_otherwise_is_a_passing_fault(root: Root, split: SplitDataset, config: OpenClipEncoderConfig) -> None:
    """It says how it ended, and the next job gets a new one."""
    asked = job(root, split, config)

    def stop(items: int) -> None:
        if items > 0:
            os.kill(encoding()[0].pid, signal.SIGTERM)

    with EncoderProcess() as process:
        with pytest.raises(WorkerLost, match="SIGTERM"):
            process.encode(asked, stop)
        assert process.encode(asked, lambda items: None).vectors == COUNT


def test_a_prepared_process_has_its_library_before_it_is_asked(root: Root, split: SplitDataset, config: OpenClipEncoderConfig) -> None:
    """It imports torch while nobody waits, is the process that then encodes, and one that is lost before that is a passing fault."""
    asked = job(root, split, config)
    with EncoderProcess() as process:
        process.preload(config)
        (prepared,) = encoding()
        end = time.monotonic() + 120
        while not any("libtorch" in mapped.path for mapped in prepared.memory_maps()):
            assert time.monotonic() < end
            time.sleep(0.2)
        assert process.encode(asked, lambda items: None).vectors == COUNT
        assert encoding() == [prepared]
    with EncoderProcess() as process:
        process.preload(config)
        encoding()[0].kill()
        assert process.encode(asked, lambda items: None).vectors == COUNT


def test_errors_come_out_as_they_were_raised(root: Root, split: SplitDataset, config: OpenClipEncoderConfig, tmp_path: Path) -> None:
    """A checkpoint that does not load is the user's to mend, with the message that says where."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text(
        (Path(config.model.removeprefix("local-dir:")) / "open_clip_config.json").read_text()
    )
    (tmp_path / "model" / "open_clip_pytorch_model.bin").write_bytes(b"no weights")
    broken = OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{tmp_path / 'model'}")
    with EncoderProcess() as process, pytest.raises(InputError, match=r"encoder\.model"):
        process.encode(job(root, split, broken), lambda items: None)


def test_the_fast_precision_is_compared_on_the_items_themselves(root: Root, split: SplitDataset, config: OpenClipEncoderConfig) -> None:
    """A random model in bfloat16 is nearly itself: the cosine says so, whatever the processor calls fastest."""
    plan = root.file(split.table)
    with EncoderProcess() as process:
        found = process.compare(ComparePrecision(ModelSpec(config, "float32", "text"), str(plan), None))
    assert found.items == (0 if found.tried == "float32" else COUNT)
    assert 0.99 < found.mean_cosine <= 1 + 1e-6
    assert found.passes == (found.mean_cosine >= 0.999 and found.overlap_at_10 >= 0.95)
