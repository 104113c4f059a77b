"""Sentences about how the items and the queries were encoded, for the report."""

from __future__ import annotations

from collections.abc import Iterator

from indexmill.storage.manifests import Manifest
from indexmill.tasks.reports.formats import format_count, pluralize


def list_encoding_notes(manifest: Manifest) -> list[str]:
    """List what a reader of the metrics should know of the encoding: truncated texts, prompts, dimensions."""
    return [*_describe_truncation(manifest), *_describe_prompts(manifest), *_describe_dimensions(manifest)]


def _describe_truncation(manifest: Manifest) -> Iterator[str]:
    if manifest.truncated:
        truncated = pluralize(manifest.truncated, "item", "items")
        yield f"The encoder truncated {truncated} of {format_count(manifest.items)} to its maximum length." + _describe_estimate(manifest)
    if manifest.vectors is not None and manifest.vectors != manifest.items:
        yield (
            f"The index holds {format_count(manifest.vectors)} chunks of {format_count(manifest.items)} items. A search returns items, each"
            " by its best chunk; a held-out item that stands in for a query is its first chunk."
        )


def _describe_estimate(manifest: Manifest) -> str:
    if (estimate := manifest.chunk_estimate) is None:
        return ""
    about = "" if estimate.sampled == estimate.texts else "about "
    return (
        f" With dataset.chunk={{tokens: {estimate.tokens}, overlap: {estimate.overlap}}} the index would hold {about}"
        f"{format_count(estimate.chunks)} vectors instead of {format_count(estimate.texts)}, and nothing would be lost."
    )


def _describe_prompts(manifest: Manifest) -> Iterator[str]:
    prompts = {role: prompt for role, prompt in manifest.prompts.items() if prompt}
    if prompts:
        yield "Prompts: " + "; ".join(f"“{prompt}” precedes every {role}" for role, prompt in sorted(prompts.items())) + "."
    if manifest.query_fingerprint and manifest.query:
        yield (
            "Held-out items that stand in for queries are encoded as documents, so the metrics from them do not show what the query"
            " prompt gains."
        )


def _describe_dimensions(manifest: Manifest) -> Iterator[str]:
    if dimensions := manifest.encoder.get("dimensions"):
        yield f"Only the first {format_count(dimensions)} numbers of each vector are used (encoder.dimensions)."
