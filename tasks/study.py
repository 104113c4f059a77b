"""Study: measure every index of the comparison with one encoder's vectors. Never cached, since it measures time."""

from __future__ import annotations

from prefect import task

from indexmill.configs.models import PipelineConfig
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.studies.results import EncodeStats, StudyRow
from indexmill.tasks.studies.run import run_study


@task(**get_task_options("study"))
def study(root: Root, encoder: str, config: PipelineConfig, embeddings: EmbeddingSet, encode_stats: EncodeStats) -> list[StudyRow]:
    """Return the rows of one encoder, named `encoder` in them. The pipeline's own index is neither read nor written."""
    return run_study(root, encoder, config, embeddings, encode_stats)
