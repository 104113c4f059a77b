"""The items of the measurements: Caltech-101's pictures and SICK's sentences, in a seeded order."""

from __future__ import annotations

import csv
import os
import random
import sys
from itertools import cycle, islice
from pathlib import Path

VARIABLE = "INDEXMILL_REAL_DATA"
SICK = ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt")


def pictures(count: int) -> list[str]:
    """Paths; when there are fewer, they come again."""
    return _taken([str(path) for path in (_folder() / "caltech101").rglob("*.jpg")], count)


def sentences(count: int) -> list[str]:
    """Distinct sentences; when there are fewer, they come again."""
    found: set[str] = set()
    for name in SICK:
        with (_folder() / "sick2014" / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                found |= {row["sentence_A"], row["sentence_B"]}
    return _taken(list(found), count)


def _folder() -> Path:
    if not (folder := os.environ.get(VARIABLE)):
        sys.exit(f"set {VARIABLE} to the folder that holds caltech101 and sick2014")
    return Path(folder).resolve()


def _taken(found: list[str], count: int) -> list[str]:
    found.sort()
    random.Random(0).shuffle(found)
    if not found:
        sys.exit(f"there is nothing to encode under {os.environ[VARIABLE]}")
    return list(islice(cycle(found), count))
