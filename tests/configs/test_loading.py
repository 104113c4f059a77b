"""Configs are refused with the line, the key, and the key that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.storage.errors import InputError

GOOD = """name: mine
dataset:
  source: folder
  path: /pictures
encoder:
  kind: efficientnet-lite
  model: weights.pth
index:
  factory: Flat
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def refusal(tmp_path: Path, text: str, *settings: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text), settings)
    return str(caught.value)


def test_every_pipeline_that_comes_along_loads_under_its_own_name() -> None:
    """configs/NAME.yaml is the pipeline NAME."""
    assert list_bundled_pipelines()
    for name in list_bundled_pipelines():
        assert load_config(name).name == name


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    """`factroy` on line 9 was meant to be `factory`."""
    message = refusal(tmp_path, GOOD.replace("factory", "factroy"))
    assert "unknown key factroy" in message
    assert "index.factroy" in message
    assert "line 9" in message
    assert "did you mean factory?" in message


def test_a_key_of_another_source_is_unknown_and_the_keys_of_this_one_are_listed(tmp_path: Path) -> None:
    """Each source has keys of its own."""
    message = refusal(tmp_path, GOOD.replace("path: /pictures", "path: /pictures\n  pth: /x"))
    assert "unknown key pth" in message
    assert "line 5" in message
    assert "did you mean path?" in message


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    """A misspelt section would otherwise silently mean the defaults."""
    assert "did you mean split?" in refusal(tmp_path, GOOD + "splt:\n  seed: 1\n")


def test_a_wrong_value_is_told_with_what_was_expected(tmp_path: Path) -> None:
    """Value, bound and line."""
    message = refusal(tmp_path, GOOD + "split:\n  query_fraction: 1.5\n")
    assert "split.query_fraction" in message
    assert "less than 1" in message
    assert "1.5" in message
    assert "line 11" in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """The section is there, the key is not."""
    assert "encoder.model is missing" in refusal(tmp_path, GOOD.replace("  model: weights.pth\n", ""))


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    """A discriminator that fits nothing names what there is."""
    message = refusal(tmp_path, GOOD.replace("efficientnet-lite", "efficientnet"))
    assert "sentence-transformers" in message
    assert "line 5" in message or "line 6" in message


def test_settings_reach_nested_keys_and_are_read_as_yaml(tmp_path: Path) -> None:
    """--set index.shards=4 is a number, and sections that the file leaves out are made."""
    config = load_config(write(tmp_path, GOOD), ["index.shards=4", "evaluation.k=[10, 1, 1]", "split.seed=7"])
    assert (config.index.shards, config.evaluation.k, config.split.seed) == (4, (1, 10), 7)


def test_a_wrong_setting_is_blamed_on_the_command_line(tmp_path: Path) -> None:
    """Not on a line of the file."""
    assert "--set index.shrads" in refusal(tmp_path, GOOD, "index.shrads=4")
    assert "dotted.key=value" in refusal(tmp_path, GOOD, "index.shards")
    assert "name is 'mine'" in refusal(tmp_path, GOOD, "name.first=x")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [unclosed", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """Empty, a list, broken, binary: no traceback."""
    assert "mine.yaml" in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["../escape", "a/b", "A", "", "a" * 64, "é"])
def test_names_that_could_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    """A pipeline's name becomes a folder's."""
    assert "name" in refusal(tmp_path, GOOD.replace("name: mine", f'name: "{name}"'))


def test_an_unknown_pipeline_suggests_the_nearest() -> None:
    """A slip of the finger is answered with the name that was meant."""
    with pytest.raises(InputError, match="did you mean demo-text"):
        load_config("demo-txt")


def test_cosine_is_refused_without_normalised_vectors(tmp_path: Path) -> None:
    """Inner products of vectors of any length are no cosines."""
    assert "encoder.normalize" in refusal(tmp_path, GOOD, "encoder.normalize=false")
    assert load_config(write(tmp_path, GOOD), ["encoder.normalize=false", "index.metric=ip"]).index.metric == "ip"
