"""Making an export of an encoder of texts, once, in the process that has the model loaded anyway, and keeping it only if it is sound."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from indexmill.configs.encoders import EncoderConfig, SentenceTransformersEncoder
from indexmill.storage import tables
from indexmill.storage.atomic import commit
from indexmill.storage.errors import IndexmillError
from indexmill.storage.exports import Export, damaged, recall_export, remember_export
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.encoders.exported import runs_here
from indexmill.tasks.encoders.identity import identify
from indexmill.tasks.encoders.jobs import Exported, ExportTexts, Model
from indexmill.tasks.encoders.process import EncoderProcess, WorkerLost
from indexmill.tasks.progress import track

LEAST_COSINE = 0.9999
SAMPLE = 64
FAILED = Exported(dim=0, prompt="", compared=0, least_cosine=0.0)


def export_once(root: Root, process: EncoderProcess, config: EncoderConfig, asked: EmbeddingSet) -> None:
    """Write the encoder as an ONNX graph under the root, unless that was done before or the libraries for it are not installed.

    A sample of the data set's texts, of all lengths, is encoded both ways; where one text's vectors are not within LEAST_COSINE, or the
    model has no such form, no files are kept, and text queries go on being encoded as the items were. No build fails for it.
    """
    if not isinstance(config, SentenceTransformersEncoder) or asked.modality != "text" or not (runs_here() and find_spec("onnx")):
        return
    model = identify(config).fingerprint
    known = recall_export(root, model)
    if known is not None and not damaged(root, known):
        return
    shutil.rmtree(root.exported(model), ignore_errors=True)
    with root.scratch.staging() as staging, track("exporting the encoder", 1) as advance:
        sample = _sample(root, asked, staging / "sample.parquet")
        graph, tokenizer = staging / "graph.onnx", staging / "tokenizer.json"
        try:
            found = process.export(ExportTexts(Model(config, "float32", "text"), str(sample), str(graph), str(tokenizer)))
        except WorkerLost:
            return  # for want of memory, most likely: another night there may be enough
        except (IndexmillError, RuntimeError):
            found = FAILED
        export = Export(**found._asdict(), holds=found.least_cosine >= LEAST_COSINE)
        if export.holds:
            refs = {}
            for name, file in (("graph", graph), ("tokenizer", tokenizer)):
                commit(file, target := root.exported(model) / file.name)
                refs[name] = root.ref(target)
            export = export.model_copy(update=refs)
        remember_export(root, model, export)
        advance(1)


def _sample(root: Root, asked: EmbeddingSet, target: Path) -> Path:
    """The longest text of each of SAMPLE equal parts of the items by length."""
    parts = f"SELECT text, ntile({SAMPLE}) OVER (ORDER BY length(text), content_digest) AS part"
    sql = f"SELECT arg_max(text, length(text)) AS text FROM ({parts} FROM {tables.parquet(root.file(asked.items))}) GROUP BY part"
    tables.copy(sql, target, spill=root.tmp)
    return target
