"""The real MiniLM on two sentence similarity benchmarks, compared with its published results."""

from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from indexmill.configs.loading import load_config
from indexmill.storage.records import Precision
from indexmill.tasks.encoding import Encoder, load_encoder
from indexmill.tasks.encoding.base import encode_items

REAL_DATA = os.environ.get("INDEXMILL_REAL_DATA", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL_DATA, reason="set INDEXMILL_REAL_DATA to a folder of real data"),
]

Pairs = list[tuple[str, str, float]]


def read_stsbenchmark() -> Pairs:
    """The 1,379 pairs of the test split, scored 0 to 5."""
    with (Path(REAL_DATA) / "stsbenchmark" / "sts-test.csv").open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row[5], row[6], float(row[4])) for row in rows]


def read_sick() -> Pairs:
    """All 9,927 pairs, scored 1 to 5."""
    pairs: Pairs = []
    for name in ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt"):
        with (Path(REAL_DATA) / "sick2014" / name).open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            pairs += [(row["sentence_A"], row["sentence_B"], float(row["relatedness_score"])) for row in rows]
    return pairs


@cache
def load_minilm(precision: Precision) -> Encoder:
    return load_encoder(load_config("demo-text").encoder, precision)


@cache
def compute_spearman(benchmark: str, precision: Precision) -> float:
    """100 times the rank correlation of the cosine of two sentences with their human score."""
    pairs = {"sts": read_stsbenchmark, "sick": read_sick}[benchmark]()
    sentences = sorted({sentence for pair in pairs for sentence in pair[:2]})
    rows = {sentence: number for number, sentence in enumerate(sentences)}
    encoded = encode_items(load_minilm(precision), sentences)
    assert not encoded.truncated.any()
    first, second = (encoded.vectors[[rows[str(pair[position])] for pair in pairs]] for position in (0, 1))
    return float(100 * spearmanr(np.einsum("ij,ij->i", first, second), [pair[2] for pair in pairs]).statistic)


def test_the_benchmarks_are_complete() -> None:
    """1,379 and 9,927 pairs."""
    assert (len(read_stsbenchmark()), len(read_sick())) == (1379, 9927)


@pytest.mark.parametrize(("benchmark", "published"), [("sts", 82.03), ("sick", 77.58)])
def test_minilm_reaches_its_published_correlation(benchmark: str, published: float) -> None:
    """Within 0.1 of the published Spearman correlation; bfloat16 within 0.1 of float32."""
    assert compute_spearman(benchmark, "float32") == pytest.approx(published, abs=0.1)
    assert compute_spearman(benchmark, "bfloat16") == pytest.approx(compute_spearman(benchmark, "float32"), abs=0.1)
