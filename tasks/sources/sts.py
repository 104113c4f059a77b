"""Scored sentence pairs in the formats of the STS benchmark and SICK, one item per distinct sentence.

The key is the digest of the normalized sentence. A sentence that occurs in several pairs, files or corpora is one
item.
"""

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
    """The file format of a corpus: tab-separated, quotes literal, columns past the last one used ignored.

    Attributes:
        files: File name -> split.
        has_header: Whether the first line of a file is a header.
        first_column: Index of the first sentence's column, from 0.
        second_column: Index of the second sentence's column.
        score_column: Index of the score's column.
    """

    files: dict[str, str]
    has_header: bool
    first_column: int
    second_column: int
    score_column: int

    @property
    def min_columns(self) -> int:
        """The number of columns that a line needs."""
        return max(self.first_column, self.second_column, self.score_column) + 1


STS_BENCHMARK = CorpusLayout(
    files={"sts-train.csv": "train", "sts-dev.csv": "dev", "sts-test.csv": "test"},
    has_header=False,
    first_column=5,
    second_column=6,
    score_column=4,
)
SICK = CorpusLayout(
    files={"SICK_train.txt": "train", "SICK_trial.txt": "trial", "SICK_test_annotated.txt": "test"},
    has_header=True,
    first_column=1,
    second_column=2,
    score_column=3,
)


@dataclass(frozen=True)
class CorpusLine:
    """One line of a corpus: two sentences and their score."""

    first: str
    second: str
    score: float
    file: str
    split: str


class StsSource:
    """The sentences of one or both corpora, and their pairs with the raw scores.

    Scores are 0 to 5 in the STS benchmark and 1 to 5 in SICK.

    An item's split is the one in which its sentence occurs first. Listing keeps one digest per distinct sentence in
    memory.
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
                    "a corpus is incomplete",
                    where=f"dataset.{name} = {folder}",
                    expected=", ".join(layout.files),
                    got="no " + ", ".join(missing),
                    next_step=f"set dataset.{name} to the folder with these files",
                )

    def compute_revision(self) -> str:
        """Return a digest of every file's name, size and modification time."""
        files = (folder / file for folder, layout in self._corpora.values() for file in layout.files)
        return rows_digest((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)

    def items(self) -> Iterator[Item]:
        """Yield the distinct sentences, in the order of the files."""
        seen: set[str] = set()
        for line in self._read_lines():
            for sentence in (line.first, line.second):
                if (key := _make_key(sentence)) not in seen:
                    seen.add(key)
                    yield Item(key=key, text=sentence, split=line.split)

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield one pair per line of the files."""
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
                if layout.has_header and lines.line_num == 1:
                    continue
                if len(cells) < layout.min_columns:
                    raise ValueError(f"{len(cells)} columns")
                if not math.isfinite(score := float(cells[layout.score_column])):
                    raise ValueError(f"the score {cells[layout.score_column]}")
                yield CorpusLine(
                    first=cells[layout.first_column], second=cells[layout.second_column], score=score, file=path.name, split=split
                )
        except (ValueError, csv.Error) as error:
            raise _build_malformed_line_error(path, lines.line_num, layout, str(error)) from None


def _build_malformed_line_error(path: Path, line: int, layout: CorpusLayout, got: str) -> InputError:
    return InputError(
        "a line is not a scored pair of sentences",
        where=f"{path}, line {line}",
        expected=f"UTF-8, at least {layout.min_columns} tab-separated columns, a number as the score in column {layout.score_column + 1}",
        got=got,
        next_step="fix the line, or download the file again",
    )
