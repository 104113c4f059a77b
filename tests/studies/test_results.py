"""Which indexes and settings are compared by default, which rows are marked, and that the table has its types."""

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
        (1425, ["Flat", "IVF36,Flat", "HNSW32", "auto"]),  # 37 and 148, both held to 1425 // 39
        (9983, ["Flat", "IVF99,Flat", "IVF255,Flat", "HNSW32", "auto"]),
        (10_000, ["Flat", "IVF100,Flat", "IVF256,Flat", "IVF256,PQ48", "HNSW32", "auto"]),
        (1_000_000, ["Flat", "IVF1000,Flat", "IVF4000,Flat", "IVF4000,PQ48", "HNSW32", "auto"]),
    ],
)
def test_the_usual_indexes_are_sized_for_the_data(items: int, factories: list[str]) -> None:
    """√n and 4√n lists while each has 39 vectors to be trained on; a product quantizer only where its 256 centroids do."""
    assert [entry.factory for entry in plan_indexes(StudyConfig(), items, 384)] == factories


def test_a_config_that_names_its_indexes_gets_those_alone() -> None:
    """The defaults are not added to them."""
    own = (StudyIndexConfig(factory="IVF8,Flat"),)
    assert plan_indexes(StudyConfig(indexes=own), 10**6, 384) == own


@pytest.mark.parametrize(("dim", "count"), [(384, 48), (512, 64), (1280, 160), (576, 72), (100, 10), (7, 1), (13, 1)])
def test_a_product_quantizer_has_a_divisor_of_the_dimension(dim: int, count: int) -> None:
    """By hand: the largest one that leaves each byte at least 8 numbers."""
    assert choose_subquantizers(dim) == count


def test_widths_double_up_to_the_widest_and_given_ones_are_held_to_it() -> None:
    """36 lists are searched whole at last; a width that there is not is the widest there is, once."""
    assert plan_widths(StudyIndexConfig(factory="IVF36,Flat"), "nprobe", 36) == (1, 2, 4, 8, 16, 32, 36)
    assert plan_widths(StudyIndexConfig(factory="IVF4000,Flat"), "nprobe", 4000) == (1, 2, 4, 8, 16, 32, 64, 128)
    assert plan_widths(StudyIndexConfig(factory="HNSW32"), "ef_search", 4096) == (16, 32, 64, 128, 256, 512)
    assert plan_widths(StudyIndexConfig(factory="IVF36,Flat", nprobe=(100, 4, 200)), "nprobe", 36) == (4, 36)


def test_auto_is_tuned_for_targets_unless_widths_are_given() -> None:
    """Other factories are tuned only when asked for."""
    assert get_recall_targets(StudyIndexConfig(factory="auto")) == (0.9, 0.95, 0.99)
    assert get_recall_targets(StudyIndexConfig(factory="auto", nprobe=(1,))) == ()
    assert get_recall_targets(StudyIndexConfig(factory="HNSW32")) == ()
    assert get_recall_targets(StudyIndexConfig(factory="HNSW32", recall_targets=(0.8,))) == (0.8,)


def row(recall: float, speed: float, **fields: object) -> StudyRow:
    """A row with that recall@10 and so many queries a second."""
    given = {"ann_recall_at_10": recall, "batch_queries_per_second": speed, **fields}
    plain = {str: "", int: 1, float: 1.0, bool: False}
    every = {name: plain.get(field.annotation) for name, field in StudyRow.model_fields.items()}  # type: ignore[call-overload]
    return StudyRow.model_validate(every | given)


def test_the_front_and_the_best_row_by_hand() -> None:
    """(0.97, 50) is beaten by (0.98, 60), and so is one as good and slower; the best is the quickest at 0.95."""
    found = mark_best_rows([row(1, 10), row(0.98, 60), row(0.97, 50), row(0.9, 100), row(0.9, 90)], 0.95)
    assert [one.is_pareto_optimal for one in found] == [True, True, False, True, False]
    assert [one.best for one in found] == [False, True, False, False, False]
    assert not any(one.best for one in mark_best_rows([row(0.9, 1)], 0.95))


def test_equal_rows_do_not_beat_each_other() -> None:
    """Both stand on the front, and one of them is the best."""
    found = mark_best_rows([row(1, 10), row(1, 10)], 0.95)
    assert [one.is_pareto_optimal for one in found] == [True, True]
    assert sum(one.best for one in found) == 1


def test_the_table_has_the_types_of_its_rows(tmp_path: Path) -> None:
    """A column in which nothing was measured is still one of numbers."""
    rows = [row(1, 10, encoder="a<b>", map=None), row(0.5, 20, nprobe=None)]
    write_rows(tmp_path / "study.parquet", rows)
    table = pq.read_table(tmp_path / "study.parquet")
    assert table.schema.equals(STUDY_SCHEMA)
    assert (table.schema.field("map").type, table.schema.field("nprobe").type) == (pa.float64(), pa.int64())
    assert (table.schema.field("best").type, table.schema.field("encoder").type) == (pa.bool_(), pa.string())
    assert [StudyRow.model_validate(one) for one in table.to_pylist()] == rows
