"""The columns of the tables of items. Each stage adds its own to those of the one before."""

from __future__ import annotations

import pyarrow as pa

LISTED_COLUMNS = {
    "item_id": pa.int64(),
    "key": pa.string(),
    "label": pa.string(),
    "text": pa.string(),
    "path": pa.string(),
    "given_split": pa.string(),
}
# With what validation adds: which contents are equal, and which must stay on one side of the split.
VALID_COLUMNS = LISTED_COLUMNS | {"content_digest": pa.string(), "content_group": pa.string()}
# With what the split adds.
SIDED_COLUMNS = VALID_COLUMNS | {"side": pa.string()}
