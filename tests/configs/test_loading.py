"""Config errors name the line, the key and the key that was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.storage.errors import InputError

VALID = """name: mine
dataset:
  source: folder
  path: /pictures
encoder:
  kind: efficientnet-lite
  model: weights.pth
index:
  factory: Flat
"""


def write_config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def read_error(tmp_path: Path, text: str, *settings: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(write_config(tmp_path, text), settings)
    return str(caught.value)


def test_every_bundled_pipeline_loads_under_its_own_name() -> None:
    """configs/NAME.yaml defines the pipeline NAME."""
    assert list_bundled_pipelines()
    for name in list_bundled_pipelines():
        assert load_config(name).name == name


def test_an_unknown_key_is_reported_with_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    """`factroy` on line 9 was meant to be `factory`."""
    message = read_error(tmp_path, VALID.replace("factory", "factroy"))
    assert "unknown key factroy" in message
    assert "index.factroy" in message
    assert "line 9" in message
    assert "did you mean factory?" in message


def test_an_unknown_key_lists_the_keys_of_its_source_alone(tmp_path: Path) -> None:
    """Each source has its own keys."""
    message = read_error(tmp_path, VALID.replace("path: /pictures", "path: /pictures\n  pth: /x"))
    assert "unknown key pth" in message
    assert "line 5" in message
    assert "did you mean path?" in message
    assert "label_depth" in message
    assert "stsbenchmark" not in message


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    """A misspelled section would otherwise silently mean the defaults."""
    assert "did you mean split?" in read_error(tmp_path, VALID + "splt:\n  seed: 1\n")


def test_an_invalid_value_is_reported_with_its_bound_and_line(tmp_path: Path) -> None:
    """The message has all three."""
    message = read_error(tmp_path, VALID + "split:\n  query_fraction: 1.5\n")
    assert "split.query_fraction" in message
    assert "less than 1" in message
    assert "1.5" in message
    assert "line 11" in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """The section exists, the key does not."""
    assert "encoder.model is missing" in read_error(tmp_path, VALID.replace("  model: weights.pth\n", ""))


def test_an_unknown_kind_lists_the_valid_kinds(tmp_path: Path) -> None:
    """It proposes the nearest one."""
    message = read_error(tmp_path, VALID.replace("efficientnet-lite", "efficientnet"))
    assert "sentence-transformers" in message
    assert "did you mean efficientnet-lite?" in message
    assert "line 5" in message or "line 6" in message


FAULTY = """name: mine
dataset:
  source: folder
  pth: hunter2
  flavor: hunter2
split:
  mode: hush
encoder:
  kind: efficientnet-lite
"""


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    """Each has its line, what was expected or got, and the nearest valid key."""
    message = read_error(tmp_path, FAULTY)
    assert message.startswith("the config has 4 errors\n")
    for part in (
        "unknown key pth, and the key dataset.path is missing\n     where:    dataset.pth, line 4",
        "did you mean path? rename the key",
        "unknown key flavor\n     where:    dataset.flavor, line 5",
        "split.mode is not valid\n     where:    split.mode, line 7\n     expected: 'hash', 'given' or 'none'\n     got:      'hush'",
        "did you mean hash?",
        "the key encoder.model is missing\n     where:    encoder.model, line 8",
    ):
        assert part in message, message
    assert message.count("mine.yaml") == 1
    assert "the key dataset.path is missing" not in message.replace("and the key dataset.path is missing", "")


def test_the_value_of_an_unknown_key_is_never_repeated(tmp_path: Path) -> None:
    """It may be a password.

    This holds beside other errors, in sections of the wrong type and below an unknown source too.
    """
    secret = "  token: hunter2\n"
    for text in (
        FAULTY,
        VALID.replace("  factory: Flat\n", "  factory: Flat\n" + secret),
        VALID.replace("  path: /pictures\n", secret),
        VALID.replace("source: folder", "source: floder").replace("  path: /pictures\n", secret),
        VALID.replace("source: folder", "surce: folder").replace("  path: /pictures\n", secret),
        VALID.replace("name: mine\n", "name:\n" + secret),
        VALID.replace("name: mine\n", "name: mine\nevaluation:\n  k:\n    - {token: hunter2}\n"),
        VALID + "study:\n  indexes: {token: hunter2}\n",
        VALID + "token: hunter2: hunter2\n",
    ):
        assert "hunter2" not in read_error(tmp_path, text)
    for setting in ("token=hunter2", "token.nested=hunter2", "token=[hunter2"):
        assert "hunter2" not in read_error(tmp_path, VALID + "token: hunter2\n", setting)


def test_a_misspelled_source_key_is_recognized(tmp_path: Path) -> None:
    """The key that chooses the section's model gets a proposal too."""
    message = read_error(tmp_path, VALID.replace("source: folder", "surce: folder"))
    assert "the key dataset.source is missing" in message
    assert "did you mean source? rename surce" in message
    assert "huggingface" in message


def test_settings_reach_nested_keys_and_are_read_as_yaml(tmp_path: Path) -> None:
    """--set index.shards=4 is a number, and missing sections are created."""
    config = load_config(write_config(tmp_path, VALID), ["index.shards=4", "evaluation.k=[10, 1, 1]", "split.seed=7"])
    assert (config.index.shards, config.evaluation.k, config.split.seed) == (4, (1, 10), 7)


def test_an_invalid_setting_is_located_on_the_command_line(tmp_path: Path) -> None:
    """It is not located on a line of the file."""
    assert "--set index.shrads" in read_error(tmp_path, VALID, "index.shrads=4")
    assert "dotted.key=value" in read_error(tmp_path, VALID, "index.shards")
    assert "name is 'mine'" in read_error(tmp_path, VALID, "name.first=x")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [unclosed", "\x00"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """An empty, broken or binary file and a list are all input errors."""
    assert "mine.yaml" in read_error(tmp_path, text)


@pytest.mark.parametrize("name", ["../escape", "a/b", "A", "", "a" * 64, "é"])
def test_names_that_could_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    """The pipeline's name is also the name of a folder."""
    assert "name" in read_error(tmp_path, VALID.replace("name: mine", f'name: "{name}"'))


def test_an_unknown_pipeline_suggests_the_nearest() -> None:
    """A typo gets a proposal."""
    with pytest.raises(InputError, match="did you mean demo-text"):
        load_config("demo-txt")


def test_cosine_needs_normalized_vectors(tmp_path: Path) -> None:
    """Inner products of vectors that are not normalized are not cosines."""
    assert "encoder.normalize" in read_error(tmp_path, VALID, "encoder.normalize=false")
    assert load_config(write_config(tmp_path, VALID), ["encoder.normalize=false", "index.metric=ip"]).index.metric == "ip"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("  queries: log.txt", ["dataset.queries is not valid", "pairs, or a file that ends with"]),
        ("  queries: {pth: log.csv}", ["unknown key pth", "dataset.queries.path is missing"]),
        ("  queries: {path: log.csv, id_colum: q}", ["unknown key id_colum", "did you mean id_column?", "line 5"]),
        ("  judgements: qrels.txt", ["dataset.queries as a file"]),
        ("  queries: pairs\n  judgements: qrels.txt", ["dataset.queries as a file"]),
    ],
)
def test_queries_are_a_file_a_section_or_pairs(tmp_path: Path, lines: str, expected: list[str]) -> None:
    """Each error is about the form that was meant, with its line."""
    message = read_error(tmp_path, VALID.replace("  path: /pictures", f"  path: /pictures\n{lines}"))
    assert [part for part in expected if part not in message] == []


def test_with_queries_of_ones_own_no_item_is_held_out_by_default(tmp_path: Path) -> None:
    """Nor are leaks looked for; without them, the dump of a config is what it was before there were such keys."""
    own = load_config(write_config(tmp_path, VALID), ["dataset.queries=log.csv", "split.seed=3"])
    assert (own.split.mode, own.split.leaks, own.split.seed) == ("none", "keep", 3)
    assert own.own_queries is not None
    plain = load_config(write_config(tmp_path, VALID))
    assert (plain.split.mode, plain.split.leaks, plain.own_queries) == ("hash", "exclude", None)
    dumped = plain.model_dump(mode="json")
    assert not {"queries", "judgements"} & set(dumped["dataset"])
    assert "sets" not in dumped["evaluation"]


def test_a_config_may_be_json_with_characters_in_two_halves(tmp_path: Path) -> None:
    """JSON writes an emoji as two escapes, which YAML reads as two halves of a character."""
    values = yaml.safe_load(VALID)
    values["dataset"]["path"] = "/pictures/\U0001f600"
    text = json.dumps(values)
    assert "\\ud83d\\ude00" in text
    assert getattr(load_config(write_config(tmp_path, text)).dataset, "path", None) == "/pictures/\U0001f600"
    assert "not readable YAML" in read_error(tmp_path, text.replace("\\ude00", ""))


def test_a_name_that_no_file_can_have_is_an_unknown_pipeline() -> None:
    with pytest.raises(InputError, match="there is no pipeline"):
        load_config("x" * 5000)
