"""What a build of any size costs, by stage: core hours, memory and disk, from measured constants.

Every constant names where it was measured; a core is one of two shared vCPUs of an AMD EPYC with AVX-512, if no other
machine is named. Formulas are linear in the items unless they say otherwise. They are estimates for planning, within a
factor of about two: caches, disks and other processors change them. (On a busy Intel Xeon, filling took 0.97 to 1.3 times
the estimate, and joins 1.6 times; docs/benchmarks.md, "Scale".)
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from indexmill.configs.models import IndexConfig, PipelineConfig
from indexmill.tasks.encoding.chunk_size import choose_chunk_rows
from indexmill.tasks.evaluation.extra_metrics import MAX_SCORES
from indexmill.tasks.indexing.auto_factory import propose_candidates
from indexmill.tasks.indexing.coarse_quantizer import LEVEL_ITERATIONS, MANY_LISTS, REFINEMENTS
from indexmill.tasks.indexing.factory import min_training_items
from indexmill.tasks.indexing.shard_builder import MAX_CONCURRENT_SHARDS
from indexmill.tasks.indexing.training import MIN_SAMPLE_SIZE, TRAINING_SAMPLE_COPIES

# docs/benchmarks.md, "Ingest, validate, split": 35,484, 3,946 and 44,034 files a second on 2 cores; texts are not decoded
LIST_CPU_S, IMAGE_CHECK_CPU_S, TEXT_CHECK_CPU_S, SPLIT_CPU_S = 28e-6, 506e-6, 30e-6, 23e-6
# docs/benchmarks.md, "Encoding": items a second and core in bfloat16, reading and preparing included. Models of `transformers`
# are like those of `open-clip`; nothing is known of `python`.
ENCODE_RATES = {"sentence-transformers": 359.0, "open-clip": 15.0, "timm": 40.0, "efficientnet-lite": 53.0}
ENCODE_RATES |= {"transformers": 15.0, "python": 15.0}
ASSUMED_DIMS = {"sentence-transformers": 384, "open-clip": 512, "timm": 512, "efficientnet-lite": 1280, "transformers": 768, "python": 512}
# docs/benchmarks.md, "Scale": tables digested, joins with the store's keys, and sorting rows into shards, per item
DIGEST_CPU_S, JOIN_CPU_S, ASSIGN_ROWS_CPU_S = 0.44e-6, 0.5e-6, 2.5e-6
TABLE_DIGESTS, KEY_JOINS = 5, 4  # ingest, validate, split, encode, shards; missing, in use, truncated, parts of shards
# docs/benchmarks.md, "Scale": 8.9 CPU seconds to read, join and sort a million float32 vectors of 384 dimensions
READ_CPU_S_PER_BYTE = 8.9e-6 / (4 * 384)
# docs/benchmarks.md, "Scale": 70 to 75 GFLOP/s per core in flat k-means and flat assignment (96 dimensions, 4,096 and
# 16,384 lists); 64 at 384 dimensions and 65,536 lists, where a million vectors take 780 CPU seconds
FLAT_FLOPS = 64e9
# 176 CPU seconds per million vectors of 384 dimensions through HNSW32, 64 candidates, 65,536 lists; 106 with 16 candidates
GRAPH_CPU_S_PER_DIM, REFINE_CPU_S_PER_DIM, GRAPH_LISTS = 176e-6 / 384, 106e-6 / 384, 65_536
# Assigning items to one or two lists with all their distances, as `auto` does: 37 and 93 CPU seconds per million vectors of
# 256 dimensions with 1,600 and 4,096 lists
SPILL_FLOPS = 22e9
FLAT_ITERATIONS = 10  # FAISS's default for inverted lists
HNSW_CPU_S_PER_DIM = 360e-6 / 384  # HNSW32 over the items themselves: 36 CPU seconds for 100,000 vectors of 384 dimensions
CODE_CPU_S_PER_DIM = 10e-6 / 384  # encoding one vector by a product quantizer and adding it
FILL_CPU_S = 9e-6  # adding entries, writing and digesting the files of a shard, per item: docs/benchmarks.md, "Scale"
TRIAL_CPU_S_PER_DIM = 32 / 384  # what `auto` spends on comparing four candidates
# Exact search, per query and item: 6.4 ns at 96 dimensions (docs/benchmarks.md, "Scale"), 7.7 ns at 384
EXACT_PAIR_S, EXACT_PAIR_S_PER_DIM = 6.0e-9, 4.5e-12
TUNE_CPU_S = 1.2  # per 1,000 queries and shard: docs/benchmarks.md, "Scale"
TUNING_QUERIES = 1000
HASH_BYTES_PER_S = 1e9  # SHA-256 of the files of a snapshot
DRIVER_BYTES = 1 << 30  # DuckDB within its limit, blocks of rows, libraries: docs/benchmarks.md, "Scale"
ENCODER_BYTES = 2 << 30
TABLE_BYTES, TABLES = 200, 4  # an item's row in the tables of ingest, validate, split and encode
KEY_BYTES, ROW_BYTES = 20, 60  # an embedding's keys, and its other columns
SHARD_MIN_BYTES, SHARD_MAX_COUNT = 256_000_000, 64  # every shard adds a search per query, and holds the centroids
SMALL_SHARDS = 2  # encode chunks per shard, at least: then filling fetches at most 1.5 times the store

# On demand in us-east-1: c5.4xlarge, 16 vCPUs, 0.68 $/h (AWS, Auto Scaling guide, example of weights, read November 2026);
# gp3, 0.08 $ per GB and month (May 2025). Prices change: --core-price and --disk-price.
CORE_HOUR_PRICE, DISK_GB_MONTH_PRICE = 0.68 / 16, 0.08


@dataclass(frozen=True)
class StageCost:
    """One stage: core hours, hours on all cores, peak memory of its largest process, and what it adds to the disk."""

    stage: str
    core_hours: float
    hours: float
    memory_bytes: int
    disk_bytes: int
    note: str


@dataclass(frozen=True)
class ScalePlan:
    """The cost of a first build of `items` items.

    Args:
        name: The pipeline.
        items: Items on both sides.
        dim: Dimensions of a vector.
        factory: The factory that the costs are for: the config's, or what `auto` would compare first.
        recommended_factory: What `auto` would compare first.
        lists: Inverted lists of `factory`.
        shards: Files of the index, for `shard_bytes`.
        shard_bytes: The config's.
        recommended_shards: Fewer, larger files, where `recommended_shard_bytes` is larger.
        recommended_shard_bytes: For at most SHARD_MAX_COUNT files.
        recommended_train_memory: For `train_points_per_list` vectors per list.
        chunk_rows: Contents per encode chunk.
        chunks: Encode chunks.
        cores: Cores that work at the same time.
        stages: One per stage, in order.
        core_hours: Of all stages.
        hours: Of all stages.
        memory_bytes: The largest of the stages.
        disk_bytes: Of all stages.
        served_bytes: Memory of a service that holds the index.
        compute_price: Dollars for `core_hours`.
        disk_price: Dollars a month for `disk_bytes`.
        settings: What to set, and why.
    """

    name: str
    items: int
    dim: int
    factory: str
    recommended_factory: str
    lists: int
    shards: int
    shard_bytes: int
    recommended_shards: int
    recommended_shard_bytes: int
    recommended_train_memory: int
    chunk_rows: int
    chunks: int
    cores: int
    stages: tuple[StageCost, ...]
    core_hours: float
    hours: float
    memory_bytes: int
    disk_bytes: int
    served_bytes: int
    compute_price: float
    disk_price: float
    settings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class IndexShape:
    """What an index factory costs.

    lists: inverted lists. code_bytes: per entry, without the id. entries: lists that hold an item. has_codes: whether
    vectors are encoded. rerank_bytes: of the vectors that are stored for re-ranking. spill: whether second lists are found.
    is_graph: HNSW over the items.
    """

    factory: str
    lists: int
    code_bytes: int
    entries: int
    has_codes: bool
    rerank_bytes: int
    spill: bool = False
    is_graph: bool = False


def plan_scale(
    config: PipelineConfig,
    items: int,
    *,
    cores: int,
    dim: int | None = None,
    rate: float | None = None,
    core_price: float = CORE_HOUR_PRICE,
    disk_price: float = DISK_GB_MONTH_PRICE,
) -> ScalePlan:
    """Estimate a first build of `items` distinct items.

    Args:
        config: The pipeline.
        items: Items on both sides.
        cores: Cores that work at the same time, on one machine or on several.
        dim: Dimensions of a vector; by default what models of this encoder's kind usually have.
        rate: Items a second that one core, or one GPU in its place, encodes; by default of a small model on a CPU.
        core_price: Dollars per core hour.
        disk_price: Dollars per GB and month.
    """
    kind, index = config.encoder.kind, config.index
    dim, rate = dim or ASSUMED_DIMS[kind], rate or ENCODE_RATES[kind]
    queries = round(items * config.split.query_fraction) if config.split.mode == "hash" else 0
    database = max(1, items - queries)
    recommended = propose_candidates(database, dim, index.memory_budget)[0]
    shape = get_index_shape(index, database, dim)
    entry_bytes = (shape.code_bytes + 8) * shape.entries
    centroid_bytes = 4 * shape.lists * dim
    shards = count_shards(index, database, entry_bytes)
    shard_bytes = min(database * entry_bytes, int(index.shard_bytes)) if index.shards == "auto" else -(-database * entry_bytes // shards)
    wanted_bytes = max(SHARD_MIN_BYTES, -(-database * entry_bytes // SHARD_MAX_COUNT))
    chunk_rows = choose_chunk_rows(config.encoder.chunk_rows, items, cores, rate)
    sample = compute_sample(index, shape, dim)
    number_bytes = 2 if config.encoder.storage_dtype == "float16" else 4
    truth_queries = min(queries, config.evaluation.max_queries) + min(queries, TUNING_QUERIES)
    read_s = database * 4 * dim * READ_CPU_S_PER_BYTE
    store_bytes = items * (dim * number_bytes + KEY_BYTES + ROW_BYTES)
    index_bytes = database * (entry_bytes + shape.rerank_bytes) + shards * centroid_bytes
    check_s = TEXT_CHECK_CPU_S if kind == "sentence-transformers" else IMAGE_CHECK_CPU_S
    fill_memory = MAX_CONCURRENT_SHARDS * (shard_bytes + centroid_bytes)

    def cost(stage: str, seconds: float, memory: int, disk: float, note: str, *, parallel: bool = True) -> StageCost:
        hours = seconds / 3600
        return StageCost(stage, hours, hours / (cores if parallel else 1), memory, round(disk), note)

    tables = items * TABLE_BYTES
    stages = (
        cost("ingest", items * (LIST_CPU_S + DIGEST_CPU_S), DRIVER_BYTES, tables, "lists and digests on one core", parallel=False),
        cost("validate", items * (check_s + DIGEST_CPU_S), DRIVER_BYTES, tables, "images are decoded on all cores"),
        cost("split", items * (SPLIT_CPU_S + DIGEST_CPU_S), DRIVER_BYTES, tables, "on one core; leaks not counted", parallel=False),
        cost("encode", items / rate, ENCODER_BYTES, store_bytes + tables, f"{rate:,.0f} items a second and core"),
        cost(
            "train",
            train_seconds(shape.lists, sample, dim)
            + (TRIAL_CPU_S_PER_DIM * dim if index.factory == "auto" else 0)
            + sample * 4 * dim * READ_CPU_S_PER_BYTE,
            max(DRIVER_BYTES, TRAINING_SAMPLE_COPIES * sample * dim * 4),
            centroid_bytes,
            f"{sample:,} vectors, {'two levels' if shape.lists >= MANY_LISTS else 'flat k-means'}",
        ),
        cost(
            "shard",
            database * add_seconds(shape, dim) + read_s + items * (KEY_JOINS * JOIN_CPU_S + ASSIGN_ROWS_CPU_S + DIGEST_CPU_S),
            max(DRIVER_BYTES, fill_memory),
            index_bytes,
            f"{shards:,} files",
        ),
        cost(
            "tune",
            exact_seconds(database, dim, min(queries, TUNING_QUERIES)) + read_s + shards * TUNE_CPU_S,
            DRIVER_BYTES + database * entry_bytes,
            0,
            "exact neighbors of 1,000 queries; the index in memory",
        ),
        cost(
            "evaluate",
            exact_seconds(database, dim, truth_queries - min(queries, TUNING_QUERIES)) + 2 * read_s,
            DRIVER_BYTES + database * entry_bytes,
            4 * dim * database if queries and database <= MAX_SCORES else 0,
            "exact neighbors; up to 200 million, a temporary copy of the vectors for whole rankings",
        ),
        cost("publish", (index_bytes + store_bytes / 100) / HASH_BYTES_PER_S, DRIVER_BYTES, index_bytes * queries / database, "digests"),
    )
    core_hours, disk_bytes = sum(stage.core_hours for stage in stages), sum(stage.disk_bytes for stage in stages)
    wanted_shards = max(1, -(-database * entry_bytes // wanted_bytes))
    wanted_memory = TRAINING_SAMPLE_COPIES * max(MIN_SAMPLE_SIZE, shape.lists * index.train_points_per_list) * dim * 4
    return ScalePlan(
        name=config.name,
        items=items,
        dim=dim,
        factory=shape.factory,
        recommended_factory=recommended.factory + (" in two lists" if recommended.spill else ""),
        lists=shape.lists,
        shards=shards,
        shard_bytes=shard_bytes,
        recommended_shards=wanted_shards,
        recommended_shard_bytes=wanted_bytes,
        recommended_train_memory=wanted_memory,
        chunk_rows=chunk_rows,
        chunks=-(-items // chunk_rows),
        cores=cores,
        stages=stages,
        core_hours=core_hours,
        hours=sum(stage.hours for stage in stages),
        memory_bytes=max(stage.memory_bytes for stage in stages),
        disk_bytes=disk_bytes,
        served_bytes=items * (entry_bytes + 8) + shards * centroid_bytes,
        compute_price=core_hours * core_price,
        disk_price=disk_bytes / 1e9 * disk_price,
        settings=_list_settings(config, shape, shards, wanted_shards, wanted_bytes, wanted_memory, chunk_rows, shard_bytes // entry_bytes),
    )


def get_index_shape(index: IndexConfig, database: int, dim: int) -> IndexShape:
    """Describe the config's factory, or the first one that `auto` would compare."""
    if index.factory == "auto":
        candidate = propose_candidates(database, dim, index.memory_budget)[0]
        if not candidate.subquantizers:
            return IndexShape(candidate.factory, candidate.lists, 4 * dim, 1, False, 0)
        code_bytes, spill = candidate.subquantizers // 2, candidate.spill
        return IndexShape(candidate.factory, candidate.lists, code_bytes, 1 + spill, True, 4 * dim, spill)
    lists = max([0, *(int(count) for count in re.findall(r"IVF(\d+)", index.factory))])
    rerank_bytes = {"none": 0, "sq8": dim, "fp16": 2 * dim, "exact": 4 * dim}[index.rerank]
    return IndexShape(
        index.factory,
        lists,
        _get_code_bytes(index.factory, dim),
        1,
        "PQ" in index.factory,
        rerank_bytes,
        is_graph=not lists and "HNSW" in index.factory,
    )


def compute_sample(index: IndexConfig, shape: IndexShape, dim: int) -> int:
    """Compute the training sample as `training.compute_sample_size` does; 0 for an index that needs no training."""
    if not shape.lists and not shape.has_codes:
        return 0
    minimum = min_training_items(shape.factory)
    wanted = max(minimum * index.train_points_per_list, MIN_SAMPLE_SIZE)
    return max(minimum, min(wanted, int(index.train_memory) // (4 * dim * TRAINING_SAMPLE_COPIES)))


def train_seconds(lists: int, sample: int, dim: int) -> float:
    """CPU seconds of k-means: flat, 2 · sample · lists · dim operations per iteration; from MANY_LISTS on in two levels
    of √lists clusters each, and REFINEMENTS iterations with all lists through a graph.
    """
    if lists < MANY_LISTS:
        return FLAT_ITERATIONS * 2 * sample * lists * dim / FLAT_FLOPS
    levels = 2 * LEVEL_ITERATIONS * 2 * sample * math.sqrt(lists) * dim / FLAT_FLOPS
    return levels + REFINEMENTS * sample * REFINE_CPU_S_PER_DIM * dim * _graph_growth(lists)


def assign_seconds(lists: int, dim: int, *, spill: bool = False) -> float:
    """CPU seconds to find the nearest of the lists of one vector: 2 · lists · dim operations; from MANY_LISTS on through a
    graph, whose cost grows with the logarithm of the lists. spill: by `soar.ListAssigner`, as for `auto`.
    """
    if lists < MANY_LISTS:
        return 2 * lists * dim / (SPILL_FLOPS if spill else FLAT_FLOPS)
    return GRAPH_CPU_S_PER_DIM * dim * _graph_growth(lists)


def add_seconds(shape: IndexShape, dim: int) -> float:
    """CPU seconds to add one vector to its lists or to a graph, to encode it, and to write it."""
    seconds = FILL_CPU_S + assign_seconds(shape.lists, dim, spill=shape.spill)
    if shape.has_codes:
        seconds += CODE_CPU_S_PER_DIM * dim
    return seconds + (HNSW_CPU_S_PER_DIM * dim if shape.is_graph else 0)


def exact_seconds(database: int, dim: int, queries: int) -> float:
    """CPU seconds of exact search: products and the selection of the best, for every query and item."""
    return database * queries * (EXACT_PAIR_S + EXACT_PAIR_S_PER_DIM * dim)


def count_shards(index: IndexConfig, database: int, entry_bytes: int) -> int:
    """Count the files of the database side."""
    if index.shards != "auto":
        return index.shards
    return max(1, -(-database // max(1, int(index.shard_bytes) // entry_bytes)))


def _graph_growth(lists: int) -> float:
    return math.log(lists) / math.log(GRAPH_LISTS)


def _get_code_bytes(factory: str, dim: int) -> int:
    """Bytes of one code: of the product or scalar quantizer that the factory ends in, or of the vector."""
    if match := re.search(r"PQ(\d+)(?:x(\d+))?", factory.rpartition(",")[2]):
        return -(-int(match[1]) * int(match[2] or 8) // 8)
    if match := re.search(r"SQ(\d+|fp16)", factory):
        return 2 * dim if match[1] == "fp16" else -(-dim * int(match[1]) // 8)
    if match := re.search(r"(?:PCAR?|OPQ\d+_)(\d+)", factory):
        dim = int(match[1])
    links = re.search(r"^HNSW(\d+)", factory)
    return 4 * dim + (8 * int(links[1]) if links else 0)


def _round_up(number: int) -> str:
    return f"{math.ceil(number / 1e8) / 10:.1f}GB"


def _list_settings(
    config: PipelineConfig,
    shape: IndexShape,
    shards: int,
    wanted_shards: int,
    wanted_bytes: int,
    wanted_memory: int,
    chunk_rows: int,
    shard_rows: int,
) -> tuple[str, ...]:
    """List the settings that answer what breaks first at this size."""
    index, settings = config.index, []
    if shards > 2 * wanted_shards:
        settings.append(
            f"index.shard_bytes={_round_up(wanted_bytes)}: {wanted_shards:,} files instead of {shards:,}, each of which is searched"
        )
    if shape.lists and wanted_memory > int(index.train_memory):
        settings.append(
            f"index.train_memory={_round_up(wanted_memory)}: {index.train_points_per_list} training vectors per list, as configured"
        )
    if index.factory == "Flat" and shape.rerank_bytes == 0 and shards > SHARD_MAX_COUNT:
        settings.append("index.factory=auto: codes and lists, instead of comparing every vector")
    if shards > 1 and chunk_rows * SMALL_SHARDS > shard_rows:
        settings.append(
            f"encoder.chunk_rows={max(1, shard_rows // SMALL_SHARDS)}: two parts per shard, so that filling reads few parts twice"
        )
    if config.encoder.storage_dtype == "float32":
        settings.append("encoder.storage_dtype=float16: half the store")
    return tuple(settings)
