"""Scored sentence pairs in the formats of the STS benchmark and SICK, one item per distinct sentence.

The key is the digest of the normalized sentence, so a sentence is one item in however many pairs, files and corpora
it occurs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexmill.configs.datasets import StsDatasetConfig
from indexmill.storage.digests import content_digest, rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.validation.text_normalization import normalize_text


@dataclass(frozen=True)
class CorpusLayout:
    """How a corpus writes its pairs: its files with their splits, whether they have a header, and where the cells stand.

    Cells are set apart by tabs and quotes are literal; cells past the last one named are ignored.
    """

    files: dict[str, str]
    header: bool
    first: int
    second: int
    score: int


STS_BENCHMARK = CorpusLayout(
    {"sts-train.csv": "train", "sts-dev.csv": "dev", "sts-test.csv": "test"}, header=False, first=5, second=6, score=4
)
SICK = CorpusLayout(
    {"SICK_train.txt": "train", "SICK_trial.txt": "trial", "SICK_test_annotated.txt": "test"}, header=True, first=1, second=2, score=3
)


@dataclass(frozen=True)
class CorpusLine:
    """One line of a corpus."""

    first: str
    second: str
    score: float
    file: str
    split: str


class StsSource:
    """The sentences of one or both corpora, and their pairs with the raw score: 0 to 5 in the STS benchmark, 1 to 5 in SICK.

    An item's split is the one that its sentence first stands in. Listing holds a digest for every distinct sentence.
    """

    modality: Modality = "text"
    image_root: Path | None = None
    labeled = False

    def __init__(self, config: StsDatasetConfig) -> None:
        folders = {"stsbenchmark": (config.stsbenchmark, STS_BENCHMARK), "sick": (config.sick, SICK)}
        self._corpora = {name: (Path(folder).expanduser(), layout) for name, (folder, layout) in folders.items() if folder}
        for name, (folder, layout) in self._corpora.items():
            if missing := [file for file in layout.files if not (folder / file).is_file()]:
                raise InputError(
                    "a corpus is not whole",
                    where=f"dataset.{name} = {folder}",
                    expected=", ".join(layout.files),
                    got="no " + ", ".join(missing),
                    next_step=f"set dataset.{name} to the folder that holds these files",
                )

    def compute_revision(self) -> str:
        """Digest of every file's name, size and modification time."""
        files = (folder / file for folder, layout in self._corpora.values() for file in layout.files)
        return rows_digest((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)

    def items(self) -> Iterator[Item]:
        """The distinct sentences, in the order of the files."""
        seen: set[str] = set()
        for line in self._read_lines():
            for sentence in (line.first, line.second):
                if (key := _make_key(sentence)) not in seen:
                    seen.add(key)
                    yield Item(key=key, text=sentence, split=line.split)

    def pairs(self) -> Iterator[ScoredPair]:
        """Every line of the files."""
        for line in self._read_lines():
            yield ScoredPair(_make_key(line.first), _make_key(line.second), line.score, line.file, line.split)

    def _read_lines(self) -> Iterator[CorpusLine]:
        for folder, layout in self._corpora.values():
            for file, split in layout.files.items():
                yield from _read_file(folder / file, split, layout)


def _make_key(sentence: str) -> str:
    return content_digest(normalize_text(sentence).encode())


def _read_file(path: Path, split: str, layout: CorpusLayout) -> Iterator[CorpusLine]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            for cells in lines:
                if layout.header and lines.line_num == 1:
                    continue
                if len(cells) <= max(layout.first, layout.second, layout.score):
                    raise ValueError(f"{len(cells)} columns")
                if not math.isfinite(score := float(cells[layout.score])):
                    raise ValueError(f"the score {cells[layout.score]}")
                yield CorpusLine(cells[layout.first], cells[layout.second], score, path.name, split)
        except (ValueError, csv.Error) as problem:
            raise _build_malformed_line_error(path, lines.line_num, layout, str(problem)) from None


def _build_malformed_line_error(path: Path, line: int, layout: CorpusLayout, problem: str) -> InputError:
    columns = max(layout.first, layout.second, layout.score) + 1
    return InputError(
        "a line is not a scored pair of sentences",
        where=f"{path}, line {line}",
        expected=f"UTF-8, {columns} columns or more set apart by tabs, a number as score in column {layout.score + 1}",
        got=problem,
        next_step="mend the line, or take the file anew from its source",
    )
