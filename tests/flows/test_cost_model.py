"""The cost model by hand, and what `indexmill plan NAME --items` prints."""

from __future__ import annotations

import json
import math

import pytest
from typer.testing import CliRunner

from indexmill.configs.loading import load_config
from indexmill.configs.models import IndexConfig
from indexmill.flows.cli.app import app
from indexmill.flows.cost_model import (
    ScalePlan,
    assign_seconds,
    compute_sample,
    count_shards,
    exact_seconds,
    get_index_shape,
    plan_scale,
    train_seconds,
)
from indexmill.tasks.indexing.factory import make_index
from indexmill.tasks.indexing.training import compute_sample_size


def make_plan(items: float, *settings: str, cores: int = 16) -> ScalePlan:
    return plan_scale(load_config("minilm", [*settings]), round(items), cores=cores)


def test_flat_assignment_is_two_operations_per_list_and_dimension() -> None:
    """2 · 4,096 · 384 / 64e9 = 49 µs per vector; two lists per item, through all distances, take 64/22 of it."""
    assert assign_seconds(4096, 384) == pytest.approx(49.152e-6)
    assert assign_seconds(4096, 384, spill=True) == pytest.approx(49.152e-6 * 64 / 22)


def test_assignment_through_a_graph_grows_with_the_logarithm_of_the_lists() -> None:
    """176 µs per vector at 65,536 lists and 384 dimensions, as measured; 16/14 less at 2^14, half at 192 dimensions."""
    assert assign_seconds(65_536, 384) == pytest.approx(176e-6)
    assert assign_seconds(16_384, 384) == pytest.approx(176e-6 * 14 / 16)
    assert assign_seconds(65_536, 192) == pytest.approx(88e-6)
    assert assign_seconds(16_383, 384) > assign_seconds(16_384, 384) * 0.9


def test_k_means_is_flat_up_to_16_384_lists_and_then_has_two_levels() -> None:
    """Flat: 10 · 2 · 65,536 · 1,024 · 96 / 64e9 = 2.01 s. Two levels: 2 · 10 · 2 · 4.19M · 256 · 384 / 64e9 = 258 s, and three
    iterations of 4.19M · 106 µs = 1,334 s: a twelfth of the 33,000 s that flat k-means takes.
    """
    assert train_seconds(1024, 65_536, 96) == pytest.approx(2.0133, rel=1e-4)
    sample = 64 * 65_536
    levels = 40 * sample * 256 * 384 / 64e9
    assert levels == pytest.approx(257.7, rel=1e-3)
    assert train_seconds(65_536, sample, 384) == pytest.approx(levels + 3 * sample * 106e-6)
    assert train_seconds(65_536, sample, 384) < 10 * 2 * sample * 65_536 * 384 / 64e9 / 12


def test_exact_search_costs_nanoseconds_per_query_and_item() -> None:
    """3,000 queries among a billion vectors of 384 dimensions: 3e12 · (6.0 + 384 · 0.0045) ns = 23,184 s, or 6.44 core hours."""
    assert exact_seconds(10**9, 384, 3000) == pytest.approx(23_184)


def test_the_sample_is_that_of_the_training() -> None:
    """For every factory, the same number; none without training."""
    for factory in ("IVF1024,Flat", "IVF65536,PQ48", "PQ16", "IVF16384,PQ32x4fs"):
        index = IndexConfig(factory=factory)
        assert compute_sample(index, get_index_shape(index, 10**8, 384), 384) == compute_sample_size(index, 384)
    assert compute_sample(IndexConfig(factory="HNSW32"), get_index_shape(IndexConfig(factory="HNSW32"), 10, 384), 384) == 0


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF64,Flat", "IVF64,SQ8", "IVF64,SQfp16", "IVF64,PQ48", "IVF64,PQ48x4fs", "PCA96,IVF64,Flat", "HNSW32"]
)
def test_codes_have_the_size_that_faiss_gives_them(factory: str) -> None:
    """Flat stores four bytes per dimension, PQ48 48, PQ48x4fs 24; a graph two rings of 32 links."""
    from indexmill.tasks.indexing.factory import estimate_bytes_per_item

    shape = get_index_shape(IndexConfig(factory=factory), 10**6, 384)
    assert shape.code_bytes + 8 == estimate_bytes_per_item(make_index(IndexConfig(factory=factory), 384))


def test_shards_are_as_many_as_their_bytes_need() -> None:
    """256 MB hold 164,102 entries of 1,560 bytes: 7 files for a million; a number is kept."""
    assert count_shards(IndexConfig(), 10**6, 1560) == 7
    assert count_shards(IndexConfig(shards=3), 10**6, 1560) == 3


def test_costs_are_added_up_and_grow_with_the_items() -> None:
    """Hours are core hours divided by the cores, except where one core works; the price is that of the core hours."""
    plan = make_plan(1e8, "index.factory=auto")
    by_name = {stage.stage: stage for stage in plan.stages}
    assert list(by_name) == ["ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish"]
    assert by_name["encode"].core_hours == pytest.approx(1e8 / 359 / 3600)
    assert by_name["encode"].hours == pytest.approx(by_name["encode"].core_hours / 16)
    assert by_name["split"].hours == by_name["split"].core_hours
    assert plan.core_hours == pytest.approx(sum(stage.core_hours for stage in plan.stages))
    assert plan.compute_price == pytest.approx(plan.core_hours * 0.0425)
    assert plan.disk_price == pytest.approx(plan.disk_bytes / 1e9 * 0.08)
    # the store: 384 float32, 20 bytes of keys and 60 of other columns; and the table of ingest's four
    assert by_name["encode"].disk_bytes == 10**8 * (4 * 384 + 80 + 200)
    ten_times = make_plan(1e9, "index.factory=auto")
    growth = {name: math.log10(stage.core_hours / by_name[name].core_hours) for name, stage in zip(by_name, ten_times.stages, strict=True)}
    assert all(growth[name] == pytest.approx(1, abs=0.01) for name in ("ingest", "validate", "split", "encode"))
    assert 0.5 < growth["shard"] < 1.5


def test_a_billion_items_need_settings_of_their_own() -> None:
    """Few large files, more memory for training, and at most 4,096 chunks; none of it for a million."""
    plan = make_plan(1e9, "index.factory=auto")
    assert (plan.chunks, plan.chunk_rows) == (4070, 245_760)
    assert plan.recommended_shards <= 64 < plan.shards
    assert plan.recommended_factory.startswith("PCA256,IVF45248,PQ128x4fs")
    names = [setting.split("=")[0] for setting in plan.settings]
    assert names == ["index.shard_bytes", "index.train_memory", "encoder.storage_dtype"]
    advised = (f"index.shard_bytes={plan.recommended_shard_bytes}", f"index.train_memory={plan.recommended_train_memory}")
    followed = make_plan(1e9, "index.factory=auto", "encoder.storage_dtype=float16", *advised)
    assert followed.settings == ()
    assert make_plan(1e6, "index.factory=auto", "encoder.storage_dtype=float16").settings == ()


def test_a_million_vectors_cost_what_was_measured() -> None:
    """benchmarks/scale.py, 96 dimensions, one core: 16 CPU seconds of training and 42 of filling; the model is within 1.5 times."""
    plan = plan_scale(load_config("minilm", ["index.factory=auto", "split.mode=none", "index.shard_bytes=8MB"]), 10**6, cores=1, dim=96)
    seconds = {stage.stage: stage.core_hours * 3600 for stage in plan.stages}
    assert 16 / 1.5 < seconds["train"] < 16 * 1.5
    assert 42 / 1.5 < seconds["shard"] < 42 * 1.5
    assert plan.shards in (6, 7)


def test_the_command_prints_the_plan_without_a_root(tmp_path: object) -> None:
    """For people with every stage, and as JSON with the same numbers."""
    runner = CliRunner()
    arguments = ["plan", "minilm", "--items", "1e8", "--cores", "64", "--rate", "2000", "--core-price", "1", "--root", f"{tmp_path}/none"]
    printed = runner.invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    assert all(stage in printed.output for stage in ("encode", "train", "shard", "evaluate"))
    assert "100,000,000 items of 384 dimensions on 64 cores" in printed.output
    values = json.loads(runner.invoke(app, [*arguments, "--json"]).output)
    assert (values["items"], values["cores"]) == (10**8, 64)
    assert values["stages"][3]["core_hours"] == pytest.approx(1e8 / 2000 / 3600)
    assert values["compute_price"] == pytest.approx(values["core_hours"])
