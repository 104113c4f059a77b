"""Study: one encoder's vectors in every index of the comparison. Nothing is remembered, since times are what is asked for."""

from __future__ import annotations

from prefect import task

from indexmill.configs.models import PipelineConfig
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.policy import options
from indexmill.tasks.studies.comparing import compare
from indexmill.tasks.studies.rows import Extraction, Row


@task(**options("study"))
def study(root: Root, encoder: str, config: PipelineConfig, embeddings: EmbeddingSet, extraction: Extraction) -> list[Row]:
    """The rows of the encoder that is called `encoder`. Nothing of the pipeline's index is read or written."""
    return compare(root, encoder, config, embeddings, extraction)
