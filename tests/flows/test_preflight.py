"""Checks before the slow stages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from indexmill.configs.loading import load_config
from indexmill.flows.preflight import check_sizes
from indexmill.storage.errors import InputError
from indexmill.storage.records import SplitDataset


@pytest.mark.parametrize(
    ("dataset", "advice"),
    [
        ({"source": "folder", "path": "p"}, "set dataset.path to the parent folder, or use --set dataset.labels=none"),
        ({"source": "folder", "path": "p", "labels": "metadata"}, "correct dataset.label_column (now label), or use --set dataset.labels"),
        ({"source": "kaggle", "handle": "a/b"}, "correct dataset.subdir or dataset.label_depth"),
        ({"source": "webdataset", "path": "p", "labels": "cls"}, "add shards with other labels, or use --set dataset.labels=none"),
        (
            {"source": "sql", "url": "sqlite:///x", "query": "SELECT 1", "key_column": "k", "text_column": "t", "label_column": "kind"},
            "correct dataset.label_column (now kind), or use --set dataset.label_column=null to skip relevance metrics",
        ),
        ({"source": "python", "target": "a:B"}, "yield rows with other labels, or set `labeled` of the source to False"),
        ({"source": "stdlib"}, "add items with other labels"),
    ],
)
def test_one_label_is_refused_with_the_keys_of_the_source(dataset: dict[str, Any], advice: str) -> None:
    """A key that the source does not have is never named."""
    split = SplitDataset.model_construct(labeled=True, labels=1, query_tables=(), database=5, query=2, image_root=None)
    config = load_config("demo-text", [f"dataset={json.dumps(dataset)}"])
    with pytest.raises(InputError, match="all items have one label") as raised:
        check_sizes(config, split)
    assert raised.value.next_step.startswith(advice)
