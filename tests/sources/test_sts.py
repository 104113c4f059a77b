"""Scored sentence pairs: the STS benchmark and SICK."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.configs.datasets import StsDatasetConfig
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.base import ScoredPair
from indexmill.tasks.sources.sts import StsSource, _make_key

HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"


def write_benchmark(folder: Path, **files: str) -> StsDatasetConfig:
    """Write a benchmark folder; files that are not given are empty."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        (folder / f"sts-{split}.csv").write_text(files.get(split, ""), "utf-8")
    return StsDatasetConfig(source="sts", stsbenchmark=str(folder))


def write_sick(folder: Path, **files: str) -> StsDatasetConfig:
    folder.mkdir(exist_ok=True)
    for name in ("SICK_train", "SICK_trial", "SICK_test_annotated"):
        (folder / f"{name}.txt").write_text(HEADER + files.get(name, ""), "utf-8")
    return StsDatasetConfig(source="sts", sick=str(folder))


def format_line(first: str, second: str, score: str = "2.500", *extras: str) -> str:
    return "\t".join(["main", "MSRvid", "2012test", "0024", score, first, second, *extras]) + "\n"


def make_key(text: str) -> str:
    return content_digest(text.encode())


def test_items_are_the_distinct_sentences(tmp_path: Path) -> None:
    """A sentence in two pairs is one item with the split of its first occurrence and its digest as the key."""
    source = StsSource(write_benchmark(tmp_path / "sts", train=format_line("A cat.", "A dog."), test=format_line("A cat.", "A cow.")))
    assert [(item.key, item.text, item.split, item.label) for item in source.items()] == [
        (make_key("A cat."), "A cat.", "train", None),
        (make_key("A dog."), "A dog.", "train", None),
        (make_key("A cow."), "A cow.", "test", None),
    ]
    assert not source.labeled


def test_pairs_have_the_raw_score_file_and_split(tmp_path: Path) -> None:
    """Every line is a pair of item keys with its score as written."""
    source = StsSource(
        write_benchmark(tmp_path / "sts", dev=format_line("A cat.", "A dog.", "3.200"), test=format_line("A dog.", "A dog.", "5"))
    )
    assert list(source.pairs()) == [
        ScoredPair(make_key("A cat."), make_key("A dog."), 3.2, "sts-dev.csv", "dev"),
        ScoredPair(make_key("A dog."), make_key("A dog."), 5.0, "sts-test.csv", "test"),
    ]


def test_sentences_that_differ_in_spacing_are_one_item(tmp_path: Path) -> None:
    """Spacing and the encoding of accents make no second item."""
    source = StsSource(write_benchmark(tmp_path / "sts", train=format_line("A  café ", "A cafe\u0301")))
    assert [item.key for item in source.items()] == [make_key("A café")]
    assert [(pair.key_a, pair.key_b) for pair in source.pairs()] == [(make_key("A café"), make_key("A café"))]


def test_quotes_in_sentences_are_literal(tmp_path: Path) -> None:
    """A quote that is never closed is part of the sentence and does not join lines."""
    source = StsSource(write_benchmark(tmp_path / "sts", train=format_line('"Stop', 'He said "no"') + format_line("b", "c")))
    assert [item.text for item in source.items()] == ['"Stop', 'He said "no"', "b", "c"]


def test_extra_columns_are_ignored(tmp_path: Path) -> None:
    """Attributions after the second sentence are not part of it."""
    source = StsSource(write_benchmark(tmp_path / "sts", train=format_line("a", "b", "1", "http://x", "y")))
    assert [item.text for item in source.items()] == ["a", "b"]


def test_sick_is_read_with_its_header(tmp_path: Path) -> None:
    """SICK has other columns and a header, and its splits are train, trial and test."""
    config = write_sick(
        tmp_path / "sick", SICK_trial="4\tA kid.\tA man.\t4.5\tNEUTRAL\n", SICK_test_annotated="6\tA kid.\tA boy.\t1\tNEUTRAL\n"
    )
    source = StsSource(config)
    assert list(source.pairs()) == [
        ScoredPair(make_key("A kid."), make_key("A man."), 4.5, "SICK_trial.txt", "trial"),
        ScoredPair(make_key("A kid."), make_key("A boy."), 1.0, "SICK_test_annotated.txt", "test"),
    ]
    assert [item.split for item in source.items()] == ["trial", "trial", "test"]


def test_two_corpora_share_their_sentences(tmp_path: Path, root: Root) -> None:
    """A sentence in both corpora is one item; the pairs have the file names of their corpora."""
    config = StsDatasetConfig(
        source="sts",
        stsbenchmark=write_benchmark(tmp_path / "sts", test=format_line("A cat.", "A dog.")).stsbenchmark,
        sick=write_sick(tmp_path / "sick", SICK_train="1\tA cat.\tA cow.\t2\tNEUTRAL\n").sick,
    )
    source = open_source(config, root)
    assert [item.text for item in source.items()] == ["A cat.", "A dog.", "A cow."]
    assert [pair.file for pair in source.pairs()] == ["sts-test.csv", "SICK_train.txt"]


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        ("main\tMSRvid\t2012\t1\t2.0\tonly one\n", "6 columns"),
        ("no tabs at all\n", "1 columns"),
        ("\n", "0 columns"),
        (format_line("a", "b", "much"), "could not convert string to float: 'much'"),
        (format_line("a", "b", "nan"), "the score nan"),
    ],
)
def test_a_malformed_line_is_refused_by_file_and_line(tmp_path: Path, bad: str, got: str) -> None:
    """Too few columns, an empty line, or a score that is not a finite number."""
    source = StsSource(write_benchmark(tmp_path / "sts", dev=format_line("a", "b") + bad))
    for listing in (source.items, source.pairs):
        with pytest.raises(InputError) as raised:
            list(listing())
        assert raised.value.where == f"{tmp_path / 'sts/sts-dev.csv'}, line 2"
        assert raised.value.got == got


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    """The error names a file that is not UTF-8."""
    config = write_benchmark(tmp_path / "sts")
    (tmp_path / "sts/sts-train.csv").write_bytes(format_line("caf\xe9", "b").encode("latin-1"))
    with pytest.raises(InputError, match="scored pair") as raised:
        list(StsSource(config).items())
    assert "sts-train.csv" in raised.value.where


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Opening an incomplete corpus fails, and the error names the file."""
    config = write_benchmark(tmp_path / "sts")
    (tmp_path / "sts/sts-dev.csv").unlink()
    with pytest.raises(InputError, match="is incomplete") as raised:
        StsSource(config)
    assert raised.value.got == "no sts-dev.csv"


def test_the_revision_changes_with_the_files(tmp_path: Path) -> None:
    """The revision stays while the files stay, and changes when one is rewritten."""
    config = write_benchmark(tmp_path / "sts", train=format_line("a", "b"))
    before = StsSource(config).compute_revision()
    assert StsSource(config).compute_revision() == before
    (tmp_path / "sts/sts-train.csv").write_text(format_line("a", "bc"))
    assert StsSource(config).compute_revision() != before


@given(st.text(), st.text())
def test_keys_are_equal_exactly_for_equal_sentences(first: str, second: str) -> None:
    """Two sentences share a key exactly if they have the same words between whitespace."""
    import unicodedata

    def words(text: str) -> list[str]:
        return unicodedata.normalize("NFC", text).split()

    assert (_make_key(first) == _make_key(second)) == (words(first) == words(second))
    assert _make_key(f" {first}\n") == _make_key(first)


def test_the_real_corpora_are_read_completely(real_data: Path) -> None:
    """8,628 pairs of the STS benchmark and 9,927 of SICK; every pair names two items; scores keep their scales."""
    source = StsSource(StsDatasetConfig(source="sts", stsbenchmark=str(real_data / "stsbenchmark"), sick=str(real_data / "sick2014")))
    pairs, keys = list(source.pairs()), [item.key for item in source.items()]
    assert Counter(pair.file for pair in pairs) == {
        "sts-train.csv": 5749,
        "sts-dev.csv": 1500,
        "sts-test.csv": 1379,
        "SICK_train.txt": 4500,
        "SICK_trial.txt": 500,
        "SICK_test_annotated.txt": 4927,
    }
    assert len(keys) == len(set(keys))
    assert {key for pair in pairs for key in (pair.key_a, pair.key_b)} == set(keys)
    sick_scores = [pair.score for pair in pairs if pair.file.startswith("SICK")]
    assert (min(sick_scores), max(sick_scores)) == (1.0, 5.0)
    assert (min(pair.score for pair in pairs), max(pair.score for pair in pairs)) == (0.0, 5.0)
