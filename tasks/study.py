"""Study: one encoder's vectors in every index of the comparison. Nothing is remembered, since times are what is asked for."""

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
    """The rows of the encoder that is called `encoder`. Nothing of the pipeline's index is read or written."""
    return run_study(root, encoder, config, embeddings, encode_stats)
