"""The section `run` says where a build runs, and appears in nothing that identifies a result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig
from indexmill.flows.local_runs import _write_config_file
from indexmill.storage.errors import InputError

CLUSTER = ["run.runner=dask", "run.address=tcp://host:8786"]


def test_the_section_is_in_no_dump_but_that_for_people() -> None:
    """Cache keys, snapshot ids and manifests are made of dumps; they are those of configs without the section."""
    plain, distributed = load_config("demo-text"), load_config("demo-text", CLUSTER)
    assert plain.model_dump(mode="json", by_alias=True) == distributed.model_dump(mode="json", by_alias=True)
    assert "run" not in distributed.model_dump(mode="json")
    assert distributed.dump_all()["run"]["address"] == "tcp://host:8786"


def test_a_config_object_keeps_its_runner_on_the_way_to_the_flow() -> None:
    """`indexmill.build` writes it to a file; without the section the file has none either."""
    config = load_config("demo-text", CLUSTER)
    with _write_config_file(config) as path:
        assert load_config(path) == config
    values = config.model_dump(mode="json", by_alias=True)
    with _write_config_file(PipelineConfig.model_validate(values)) as path:
        assert not yaml.safe_load(Path(path).read_text()).get("run")


def test_an_address_needs_a_cluster() -> None:
    with pytest.raises(InputError, match=r"run\.runner: dask or ray"):
        load_config("demo-text", CLUSTER[1:])
