"""The default indexes and search parameters of a study, the marked rows, and the types of the table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.configs.models import StudyConfig, StudyIndexConfig
from indexmill.tasks.studies.plan import choose_subquantizers, get_recall_targets, plan_indexes, plan_widths
from indexmill.tasks.studies.results import STUDY_SCHEMA, StudyRow, mark_best_rows, write_rows


@pytest.mark.parametrize(
    ("items", "factories"),
    [
        (90, ["Flat", "IVF2,Flat", "HNSW32", "auto"]),  # 90 // 39
        (1425, ["Flat", "IVF36,Flat", "HNSW32", "auto"]),  # 37 and 148, both limited to 1425 // 39
        (9983, ["Flat", "IVF99,Flat", "IVF255,Flat", "HNSW32", "auto"]),
        (10_000, ["Flat", "IVF100,Flat", "IVF256,Flat", "IVF256,PQ48", "HNSW32", "auto"]),
        (1_000_000, ["Flat", "IVF1000,Flat", "IVF4000,Flat", "IVF4000,PQ48", "HNSW32", "auto"]),
    ],
)
def test_default_indexes_are_sized_for_the_data(items: int, factories: list[str]) -> None:
    """√n and 4√n lists with 39 training vectors each; a product quantizer only if each of its 256 centroids has as many."""
    assert [entry.factory for entry in plan_indexes(StudyConfig(), items, 384)] == factories


def test_configured_indexes_replace_the_defaults() -> None:
    """No default index is added to them."""
    own = (StudyIndexConfig(factory="IVF8,Flat"),)
    assert plan_indexes(StudyConfig(indexes=own), 10**6, 384) == own


@pytest.mark.parametrize(("dim", "count"), [(384, 48), (512, 64), (1280, 160), (576, 72), (100, 10), (7, 1), (13, 1)])
def test_the_number_of_subquantizers_divides_the_dimension(dim: int, count: int) -> None:
    """By hand: the largest divisor that leaves at least 8 dimensions per byte."""
    assert choose_subquantizers(dim) == count


def test_widths_double_up_to_the_maximum_and_configured_ones_are_limited_to_it() -> None:
    """The last of 36 lists is searched too; configured widths above the maximum become the maximum, once."""
    assert plan_widths(StudyIndexConfig(factory="IVF36,Flat"), "nprobe", 36) == (1, 2, 4, 8, 16, 32, 36)
    assert plan_widths(StudyIndexConfig(factory="IVF4000,Flat"), "nprobe", 4000) == (1, 2, 4, 8, 16, 32, 64, 128)
    assert plan_widths(StudyIndexConfig(factory="HNSW32"), "ef_search", 4096) == (16, 32, 64, 128, 256, 512)
    assert plan_widths(StudyIndexConfig(factory="IVF36,Flat", nprobe=(100, 4, 200)), "nprobe", 36) == (4, 36)


def test_auto_is_tuned_for_recall_targets_unless_widths_are_configured() -> None:
    """Other factories are tuned only if targets are configured."""
    assert get_recall_targets(StudyIndexConfig(factory="auto")) == (0.9, 0.95, 0.99)
    assert get_recall_targets(StudyIndexConfig(factory="auto", nprobe=(1,))) == ()
    assert get_recall_targets(StudyIndexConfig(factory="HNSW32")) == ()
    assert get_recall_targets(StudyIndexConfig(factory="HNSW32", recall_targets=(0.8,))) == (0.8,)


def make_row(recall: float, speed: float, **fields: object) -> StudyRow:
    """A row with this recall@10 and this many queries per second."""
    columns = {"ann_recall_at_10": recall, "batch_queries_per_second": speed, **fields}
    defaults = {str: "", int: 1, float: 1.0, bool: False}
    default_row = {name: defaults.get(field.annotation) for name, field in StudyRow.model_fields.items()}  # type: ignore[call-overload]
    return StudyRow.model_validate(default_row | columns)


def test_pareto_optimal_and_best_rows_are_marked() -> None:
    """(0.97, 50) is dominated by (0.98, 60), and (0.9, 90) by (0.9, 100); the best is the fastest with recall 0.95 or more."""
    marked = mark_best_rows([make_row(1, 10), make_row(0.98, 60), make_row(0.97, 50), make_row(0.9, 100), make_row(0.9, 90)], 0.95)
    assert [row.is_pareto_optimal for row in marked] == [True, True, False, True, False]
    assert [row.best for row in marked] == [False, True, False, False, False]
    assert not any(row.best for row in mark_best_rows([make_row(0.9, 1)], 0.95))


def test_equal_rows_do_not_dominate_each_other() -> None:
    """Both are Pareto-optimal, and one of them is the best."""
    marked = mark_best_rows([make_row(1, 10), make_row(1, 10)], 0.95)
    assert [row.is_pareto_optimal for row in marked] == [True, True]
    assert sum(row.best for row in marked) == 1


def test_the_table_has_the_types_of_its_rows(tmp_path: Path) -> None:
    """A column without any value still has a numeric type."""
    rows = [make_row(1, 10, encoder="a<b>", map=None), make_row(0.5, 20, nprobe=None)]
    write_rows(tmp_path / "study.parquet", rows)
    table = pq.read_table(tmp_path / "study.parquet")
    assert table.schema.equals(STUDY_SCHEMA)
    assert (table.schema.field("map").type, table.schema.field("nprobe").type) == (pa.float64(), pa.int64())
    assert (table.schema.field("best").type, table.schema.field("encoder").type) == (pa.bool_(), pa.string())
    assert [StudyRow.model_validate(columns) for columns in table.to_pylist()] == rows
