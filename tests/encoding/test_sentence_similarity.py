"""Genuine MiniLM on the two benchmarks of sentence similarity, against the figures that are known for it."""

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

pytestmark = pytest.mark.skipif(not REAL_DATA, reason="INDEXMILL_REAL_DATA names no folder of real data")

Pairs = list[tuple[str, str, float]]


def stsbenchmark() -> Pairs:
    """The 1,379 pairs of the test part, scored 0 to 5."""
    with (Path(REAL_DATA) / "stsbenchmark" / "sts-test.csv").open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row[5], row[6], float(row[4])) for row in rows]


def sick() -> Pairs:
    """All 9,927 pairs, scored 1 to 5."""
    pairs: Pairs = []
    for name in ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt"):
        with (Path(REAL_DATA) / "sick2014" / name).open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            pairs += [(row["sentence_A"], row["sentence_B"], float(row["relatedness_score"])) for row in rows]
    return pairs


@cache
def minilm(precision: Precision) -> Encoder:
    return load_encoder(load_config("demo-text").encoder, precision)


@cache
def spearman(benchmark: str, precision: Precision) -> float:
    """Hundred times the rank correlation of the sentences' cosine with the people's score."""
    pairs = {"sts": stsbenchmark, "sick": sick}[benchmark]()
    sentences = sorted({sentence for pair in pairs for sentence in pair[:2]})
    place = {sentence: number for number, sentence in enumerate(sentences)}
    encoded = encode_items(minilm(precision), sentences)
    assert not encoded.truncated.any()
    first, second = (encoded.vectors[[place[str(pair[side])] for pair in pairs]] for side in (0, 1))
    return float(100 * spearmanr(np.einsum("ij,ij->i", first, second), [pair[2] for pair in pairs]).statistic)


def test_the_benchmarks_are_whole() -> None:
    """1,379 and 9,927 pairs."""
    assert (len(stsbenchmark()), len(sick())) == (1379, 9927)


@pytest.mark.parametrize(("benchmark", "known"), [("sts", 82.03), ("sick", 77.58)])
def test_minilm_ranks_pairs_as_it_is_known_to(benchmark: str, known: float) -> None:
    """Within 0.1 of the published Spearman correlation; bfloat16 within 0.1 of float32."""
    assert spearman(benchmark, "float32") == pytest.approx(known, abs=0.1)
    assert spearman(benchmark, "bfloat16") == pytest.approx(spearman(benchmark, "float32"), abs=0.1)
