"""Metrics by functions of one's own (`indexmill.tasks.extensions.protocols.Measure`), from the rankings of each set of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indexmill.configs.models import EvaluationConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.judgment import Judgment
from indexmill.tasks.evaluation.own_queries import load_names
from indexmill.tasks.evaluation.relevance import ConfidenceIntervals, bootstrap_means
from indexmill.tasks.extensions.loading import load_function, translate_failures
from indexmill.tasks.extensions.protocols import Rankings
from indexmill.tasks.extensions.targets import Target, find_target
from indexmill.tasks.metrics.per_label import UNLABELED

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,59}")
RESERVED_NAMES = ("item_id", "label", "neighbors", "query", "query_set", "relevant")  # other columns of per_query.parquet

Value = float | np.ndarray


@dataclass(frozen=True)
class OwnMeasures:
    """What the measures gave.

    Attributes:
        judgments: Those of all sets, with the values per query among their `ann_metrics`.
        metrics: Name -> value; those of a further set carry its name.
        intervals: The 95 % bootstrap interval of each metric with a value for every query.
    """

    judgments: list[Judgment]
    metrics: dict[str, float]
    intervals: ConfidenceIntervals


class LoadedMeasure(NamedTuple):
    """A measure and where it is from."""

    target: Target
    function: Callable[[Rankings], Any]


def find_measure_versions(config: EvaluationConfig) -> dict[str, dict[str, str]]:
    """Return measure -> the versions of its distributions. Imports and checks the measures, before anything slow has run.

    Raises:
        InputError: A measure does not exist, does not fit, or has no version.
    """
    return {measure.target.name: measure.target.versions for measure in load_measures(config)}


def load_measures(config: EvaluationConfig) -> list[LoadedMeasure]:
    """Import the functions in `evaluation.measures`. Raises InputError like `find_measure_versions`."""
    targets = [find_target(name, group="indexmill.measures", key="evaluation.measures") for name in config.measures]
    return [LoadedMeasure(target, load_function(target)) for target in targets]


def compute_own_measures(
    root: Root, config: EvaluationConfig, judgments: list[Judgment], queries: EmbeddingSet, *, known: Collection[str]
) -> OwnMeasures:
    """Call every measure with the rankings of every set.

    Args:
        root: The storage root.
        config: Names the measures.
        judgments: The sets of queries.
        queries: The held-out items, if the queries are none of one's own.
        known: Names of other metrics, which a measure must not use.

    Raises:
        InputError: A measure raised an error, or returned something other than metrics.
    """
    result, measures = OwnMeasures([], {}, {}), load_measures(config)
    for judgment in judgments:
        rankings = build_rankings(root, judgment, queries, max(config.k)) if measures else None
        taken = {*RESERVED_NAMES, *(name.rpartition("/")[2] for name in known), *judgment.relevance.metrics, *judgment.ann_metrics}
        values = _call_measures(measures, rankings, taken) if rankings else {}
        columns = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        means, intervals = bootstrap_means({name: column for name, column in columns.items() if np.isfinite(column).all()})
        means |= {name: float(np.nanmean(column)) for name, column in columns.items() if name not in means and np.isfinite(column).any()}
        means |= {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
        result.judgments.append(judgment._replace(ann_metrics=judgment.ann_metrics | columns))
        result.metrics.update({judgment.prefix + name: means[name] for name in values if name in means})
        result.intervals.update({judgment.prefix + name: interval for name, interval in intervals.items()})
    return result


def build_rankings(root: Root, judgment: Judgment, queries: EmbeddingSet, depth: int) -> Rankings:
    """Build what a measure gets: the first `depth` results of each query, by the keys of items and queries."""
    run, relevance, labels = judgment.run, judgment.relevance, judgment.judge.labels
    retrieved = run.retrieved[:, :depth]
    query_names = load_names(root, judgment.own.embeddings if judgment.own else queries, run.query_ids)
    item_names = load_names(root, judgment.judge.indexed, retrieved)
    relevant = np.zeros(retrieved.shape, dtype=bool)
    for row, ranking, hits in zip(np.flatnonzero(relevance.judged), relevance.retrieved, relevance.hits, strict=True):
        relevant[row] = np.isin(retrieved[row], ranking[hits])
    label_names = np.array([*labels.names, None], dtype=object)  # UNLABELED is the last one

    def name_labels(codes: np.ndarray) -> np.ndarray:
        return label_names[np.where(codes == UNLABELED, len(labels.names), codes)]

    return Rankings(
        query_set=judgment.own.name if judgment.own else "",
        query_keys=_map_names(run.query_ids, query_names),
        query_labels=name_labels(relevance.labels),
        keys=_map_names(retrieved, item_names),
        labels=name_labels(labels.lookup(retrieved)),
        scores=run.scores[:, :depth].copy(),
        judged=relevance.judged.copy(),
        relevant=relevant,
    )


def _map_names(ids: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Return the names of ids as an object array of their shape; None for id -1."""
    array = np.empty(ids.shape, dtype=object)
    array.ravel()[:] = [names.get(item_id) for item_id in ids.ravel().tolist()]
    return array


def _call_measures(measures: list[LoadedMeasure], rankings: Rankings, taken: Collection[str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for measure in measures:
        with translate_failures(measure.target):
            measured = measure.function(rankings)
        values |= _check_values(measured, len(rankings.query_keys), {*taken, *values}, measure.target)
    return values


def _check_values(measured: Any, queries: int, taken: Collection[str], target: Target) -> dict[str, Value]:
    if not isinstance(measured, Mapping):
        raise _build_error(target, "a mapping: metric -> number, or one number per query", f"an object of class {type(measured).__name__}")
    values: dict[str, Value] = {}
    for name, value in measured.items():
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise _build_error(target, "names of lower-case letters, digits and underscores", repr(name)[:100])
        if name in taken:
            raise InputError(
                "a measure's metric has the name of another one",
                where=target.location,
                expected="names of no other metrics",
                got=name,
                next_step="rename the metric in the measure (docs/evaluation.md)",
            )
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.empty((0, 0))
        is_number, is_column = array.ndim == 0 and bool(np.isfinite(array)), array.shape == (queries,) and not np.isinf(array).any()
        if not is_number and not is_column:
            raise _build_error(
                target,
                f"for {name} a finite number, or {queries} of them, one per query (NaN where it has none)",
                str(value)[:100] if array.ndim == 0 else f"an array of shape {array.shape}",
            )
        values[name] = float(array) if is_number else array
    return values


def _build_error(target: Target, expected: str, got: str) -> InputError:
    return InputError(
        "a measure returned something other than metrics",
        where=target.location,
        expected=expected,
        got=got,
        next_step="correct the measure (docs/evaluation.md)",
    )
