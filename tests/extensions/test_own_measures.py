"""Measures of one's own: what they get, what they may return, and where their values go."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexmill.configs.models import EvaluationConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.judgment import Judgment
from indexmill.tasks.evaluation.own_measures import OwnMeasures, build_rankings, compute_own_measures, find_measure_versions
from indexmill.tasks.evaluation.relevance import RelevanceJudge
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.extensions.protocols import Measure, Rankings
from tests.evaluation.embedding_sets import write_embeddings
from tests.extensions.packages import DOCS, install_package, read_example
from tests.stage_inputs import read_rows

SIDES: list[Side] = ["database"] * 6 + ["query"] * 3
LABELS = ["a", "a", "b", "a", None, "b", "a", "b", "c"]
GROUPS = ["g1", "g2", "g3", "g4", "g5", "g6", "g1", "g8", "g9"]  # query 7 is a duplicate of item 1
RETRIEVED = [[1, 3, 2, 4], [3, 5, 6, -1], [1, 2, 3, 4]]

CODE = """
import numpy as np

def hits(rankings):
    return {"hits": rankings.relevant.sum(axis=1), "queries_seen": len(rankings.query_keys)}

def partial(rankings):
    values = rankings.relevant.sum(axis=1).astype(float)
    values[~rankings.judged] = np.nan
    return {"hits_of_judged": values, "of_none": np.full(len(values), np.nan)}

def collide(rankings): return {"map": 1.0}
def repeat(rankings): return {"hits": 1.0}
def name(rankings): return {"Hit Rate": 1.0}
def shape(rankings): return {"short": np.zeros(2)}
def infinite(rankings): return {"ratio": float("inf")}
def missing(rankings): return {"ratio": float("nan")}
def text(rankings): return {"ratio": "high"}
def number(rankings): return 1.0
def fail(rankings): return {"ratio": 1 / 0}
def column(rankings): return {"label": 1.0}
"""


@pytest.fixture
def package(site: Path) -> Iterator[Path]:
    yield install_package(site, "acme-scores", {"code": CODE})


@pytest.fixture
def judgment(root: Root) -> Judgment:
    """Queries 7, 8 and 9 with four results each."""
    embeddings = write_embeddings(root, np.eye(9), SIDES, LABELS, GROUPS)
    scores = np.array([[9, 8, 7, 6], [5, 4, 3, 2], [4, 3, 2, 1]], np.float32)
    run = RetrievalRun(np.array([7, 8, 9]), np.eye(9, dtype=np.float32)[6:], scores, np.array(RETRIEVED))
    judge = RelevanceJudge(root, embeddings, embeddings)
    none: Any = None
    return Judgment(none, judge, run, none, {"ann_recall_at_10": np.ones(3)}, judge.judge_by_label(run, (1, 2)))


def measure(root: Root, judgment: Judgment, *names: str, known: tuple[str, ...] = ()) -> OwnMeasures:
    config = EvaluationConfig(k=(4,), measures=[f"acme_scores.code:{name}" for name in names])
    return compute_own_measures(root, config, [judgment], judgment.judge.indexed, known=known)


def test_a_measure_gets_keys_labels_and_what_is_relevant(root: Root, judgment: Judgment) -> None:
    """The first three ranks as a user gets them. Query 7 is a duplicate of item 1, which is therefore not relevant to it; query 9
    has a label that the database lacks, so that it is not judged."""
    rankings = build_rankings(root, judgment, judgment.judge.indexed, 3)
    keys = {row["item_id"]: row["key"] for row in read_rows(root, judgment.judge.indexed.items)}
    assert rankings.query_set == ""
    assert rankings.query_keys.tolist() == [keys[7], keys[8], keys[9]]
    assert rankings.query_labels.tolist() == ["a", "b", "c"]
    assert rankings.keys.tolist() == [[keys[item] for item in row[:3]] for row in RETRIEVED]
    assert rankings.labels.tolist() == [["a", "b", "a"], ["b", None, "b"], ["a", "a", "b"]]
    assert rankings.scores.tolist() == [[9, 8, 7], [5, 4, 3], [4, 3, 2]]
    assert rankings.judged.tolist() == [True, True, False]
    assert rankings.relevant.tolist() == [[False, False, True], [True, False, True], [False] * 3]
    deep = build_rankings(root, judgment, judgment.judge.indexed, 10)
    assert deep.keys.shape == (3, 4)
    assert deep.keys[1, 3] is None
    assert deep.labels[1, 3] is None


@pytest.mark.usefixtures("package")
def test_values_per_query_become_a_mean_an_interval_and_a_column(root: Root, judgment: Judgment) -> None:
    """Hits 2, 2 and 0; over the judged queries 2. What has no value for any query is not measured."""
    own = measure(root, judgment, "hits", "partial")
    assert own.metrics == pytest.approx({"hits": 4 / 3, "queries_seen": 3, "hits_of_judged": 2})
    assert list(own.intervals) == ["hits"]
    low, high = own.intervals["hits"]
    assert 0 <= low < 4 / 3 < high <= 2
    columns = own.judgments[0].ann_metrics
    assert columns["hits"].tolist() == [2, 2, 0]
    assert columns["hits_of_judged"][:2].tolist() == [2, 2]
    assert list(columns) == ["ann_recall_at_10", "hits", "hits_of_judged", "of_none"]


def test_without_measures_nothing_changes(root: Root, judgment: Judgment) -> None:
    """The judgments are the same."""
    own = measure(root, judgment)
    assert own.metrics == own.intervals == {}
    assert own.judgments[0].ann_metrics.keys() == judgment.ann_metrics.keys()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("names", "got"), [
    (["collide"], "map"), (["hits", "repeat"], "hits"), (["name"], "'Hit Rate'"), (["shape"], "an array of shape (2,)"),
    (["infinite"], "inf"), (["missing"], "nan"), (["text"], "an array of shape (0, 0)"), (["number"], "an object of class float"),
    (["column"], "label"),
])  # fmt: skip
def test_anything_but_metrics_is_an_error(names: list[str], got: str, root: Root, judgment: Judgment) -> None:
    """Names that are taken or odd, wrong lengths, and numbers that are not finite."""
    is_taken = got in ("map", "hits", "label")
    message = "a measure's metric has the name of another one" if is_taken else "a measure returned something other than metrics"
    with pytest.raises(InputError, match=message) as failed:
        measure(root, judgment, *names)
    assert failed.value.got == got
    assert failed.value.where == f"evaluation.measures = acme_scores.code:{names[-1]}"  # the name once


@pytest.mark.usefixtures("package")
def test_an_error_of_a_measure_has_its_line(root: Root, judgment: Judgment) -> None:
    """And the name of a metric of another set, or of the whole build, is taken too."""
    with pytest.raises(InputError, match="ZeroDivisionError") as failed:
        measure(root, judgment, "fail")
    assert "(code.py, line" in failed.value.got
    with pytest.raises(InputError, match="names of no other metrics"):
        measure(root, judgment, "hits", known=("rare/queries_seen",))


def test_the_versions_of_measures_are_found_before_a_build(package: Path) -> None:
    """They are part of the cache key. A measure that does not exist ends the build at its start."""
    config = EvaluationConfig(measures=["acme_scores.code:hits", "acme_scores.code:partial"])
    versions = {"acme-scores": "1.0"}
    assert find_measure_versions(config) == {"acme_scores.code:hits": versions, "acme_scores.code:partial": versions}
    assert find_measure_versions(EvaluationConfig()) == {}
    with pytest.raises(InputError, match="did you mean hits"):
        find_measure_versions(EvaluationConfig(measures=["acme_scores.code:hit"]))
    with pytest.raises(InputError, match="correct the name after the colon"):  # not the module np
        find_measure_versions(EvaluationConfig(measures=["acme_scores.code:nope"]))


def test_the_guide_prints_the_protocol_and_its_example_fits(site: Path, root: Root, judgment: Judgment) -> None:
    """At most 30 lines together. Labels a and b, b alone, and a and b among the first results."""
    protocols = inspect.getsource(Rankings), inspect.getsource(Measure)
    guide = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert all(protocol.rstrip() in guide for protocol in protocols)
    assert sum(len(protocol.splitlines()) for protocol in protocols) <= 30
    install_package(site, "acme-search", {"measures": read_example("acme_search/measures.py")})
    config = EvaluationConfig(measures=["acme_search.measures:label_diversity"])
    own = compute_own_measures(root, config, [judgment], judgment.judge.indexed, known=())
    assert own.metrics == pytest.approx({"labels_in_first_10": 5 / 3})
