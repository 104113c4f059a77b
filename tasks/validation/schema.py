"""Validate batches of the items table with pandera.

A row that fails becomes a reject with a reason, not an error.
"""

from __future__ import annotations

from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from indexmill.tasks.validation.rejects import RejectReason


def build_items_schema(*, modality: str, labeled: bool, max_text_length: int) -> pa.DataFrameSchema:
    """Build the schema of a valid row. Each check's error is the reason code of a row that fails it.

    Args:
        modality: `text` rows need a text, `image` rows a path.
        labeled: Whether every row needs a label.
        max_text_length: The longest text in characters.
    """
    text = [_require_nonempty("empty_text"), pa.Check.str_length(max_value=max_text_length, error="text_too_long")]
    return pa.DataFrameSchema(
        {
            "item_id": pa.Column(pl.Int64, pa.Check.gt(0, error="bad_id")),
            "key": pa.Column(pl.String, _require_nonempty("empty_key")),
            "label": pa.Column(pl.String, _require_nonempty("empty_label"), nullable=not labeled),
            "text": pa.Column(pl.String, text, nullable=modality != "text"),
            "path": pa.Column(pl.String, _require_nonempty("empty_path"), nullable=modality != "image"),
            "content_digest": pa.Column(pl.String, pa.Check.str_matches("^[0-9a-f]{32}$", error="bad_digest")),
        }
    )


def find_invalid_rows(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> dict[int, RejectReason]:
    """Return row number -> reason for the invalid rows of a batch. Of several failures of a row, the first counts."""
    try:
        schema.validate(frame, lazy=True)
        return {}
    except SchemaErrors as error:
        reasons: dict[int, RejectReason] = {}
        for failure in error.failure_cases.to_dicts():
            if failure["index"] is None:
                raise  # the table itself is wrong (a missing column, another type), not a row
            reasons.setdefault(int(failure["index"]), _describe_failure(failure))
        return reasons


def _require_nonempty(reason: str) -> pa.Check:
    return pa.Check.str_length(min_value=1, error=reason)


def _describe_failure(failure: dict[str, Any]) -> RejectReason:
    column = failure["column"]
    if failure["check"] != "not_nullable":
        return RejectReason(str(failure["check"]), f"{column} is {str(failure['failure_case'])[:200]!r}")
    if column == "content_digest":
        return RejectReason("unopenable", "the file does not exist or cannot be read")
    if column == "path":
        return RejectReason("missing_path", "the file does not exist, is outside the data set, or has a name that is not UTF-8")
    return RejectReason(f"missing_{column}", f"the item has no {column}")
