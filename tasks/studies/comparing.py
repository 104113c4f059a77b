"""One encoder's part of a study: brute force, and every index with every setting."""

from __future__ import annotations

from collections.abc import Iterator

from indexmill.configs.models import IndexConfig, PipelineConfig, StudiedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexes.choosing import RECALL_TARGET
from indexmill.tasks.indexes.searcher import CANDIDATES, Searcher
from indexmill.tasks.indexes.tuning import Setting, tune
from indexmill.tasks.measures.speed import bytes_a_vector
from indexmill.tasks.progress import track
from indexmill.tasks.studies.asking import Asked, asked
from indexmill.tasks.studies.building import Made, brute_force, built, index_config
from indexmill.tasks.studies.entries import entries, targets, widths
from indexmill.tasks.studies.rows import Extraction, Figures, Row, marked

BRUTE_FORCE = "NumPy"


def compare(root: Root, encoder: str, config: PipelineConfig, embeddings: EmbeddingSet, extraction: Extraction) -> list[Row]:
    """All rows of one encoder, which is called `encoder` in them. Indexes are built one after another; one is on disk at a time."""
    held = embeddings.of(config.index.holds)
    wanted = entries(config.study, held.database, held.dim)
    rows = []
    with track(f"comparing indexes, {encoder}", len(wanted) + 1) as advance:
        questions = asked(root, config, embeddings)
        about = {"encoder": encoder, "dim": held.dim, "database": held.database, "queries": len(questions.queries)}
        about |= {"encoded": extraction.encoded, "extraction_seconds": extraction.seconds, "extraction_remembered": extraction.remembered}
        about |= {"extraction_items_per_second": extraction.items_per_second}
        with brute_force(root, held, config.index.metric) as (searching, made):
            rows.append(_row(about, BRUTE_FORCE, made, Setting(), None, questions.measure(searching)))
        advance(1)
        for entry in wanted:
            with built(root, config.name, held, index_config(config.index, entry)) as (searcher, made):
                for setting, target in _settings(entry, searcher, questions, config.index):
                    rows.append(_row(about, entry.factory, made, setting, target, questions.measure(searcher)))
            advance(1)
    return marked(rows, config.index.recall_target or RECALL_TARGET)


def _settings(entry: StudiedIndex, searcher: Searcher, questions: Asked, config: IndexConfig) -> Iterator[tuple[Setting, float | None]]:
    """Set the searcher one way after another; yields each setting, and the recall that it was tuned for."""
    dial, widest = searcher.width
    candidates = (entry.candidates or config.candidates or CANDIDATES) if searcher.stores else None
    if not dial:
        yield Setting(), None
    elif tuned_for := targets(entry):
        for target in tuned_for:
            yield tune(searcher, *questions.tuning, target).chosen.setting, target
    else:
        for width in widths(entry, dial, widest):
            setting = Setting(**{dial: width}, candidates=candidates)
            searcher.widen(nprobe=setting.nprobe, ef_search=setting.ef_search, candidates=candidates)
            yield setting, None


def _row(about: dict[str, object], index: str, made: Made, setting: Setting, target: float | None, figures: Figures) -> Row:
    looked = {"nprobe": setting.nprobe, "ef_search": setting.ef_search, "candidates": setting.candidates}
    return Row.model_validate(
        about | looked | figures.model_dump() | {
            "index": index, "factory": made.factory, "rerank": made.rerank, "recall_target": target,
            "setting": ", ".join(f"{name} {value}" for name, value in looked.items() if value is not None),
            "build_seconds": made.seconds, "build_cpu_seconds": made.cpu_seconds, "bytes": made.bytes, "mapped_bytes": made.mapped_bytes,
            "bytes_a_vector": bytes_a_vector([made.bytes], made.items),
        }
    )  # fmt: skip
