"""The items to encode: images of Caltech-101 and sentences of SICK, in a seeded order."""

from __future__ import annotations

import csv
import os
import random
import sys
from itertools import cycle, islice
from pathlib import Path

DATA_VARIABLE = "INDEXMILL_REAL_DATA"
SICK = ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt")


def sample_images(count: int) -> list[str]:
    """Return `count` paths of images, repeated if there are fewer."""
    return _sample([str(path) for path in (_get_data_folder() / "caltech101").rglob("*.jpg")], count)


def sample_tiny_images(count: int) -> list[str]:
    """Return `count` paths of images of 64 x 64 pixels, repeated if there are fewer."""
    return _sample([str(path) for path in (_get_data_folder() / "tiny-imagenet-200").rglob("*.JPEG")], count)


def sample_sentences(count: int) -> list[str]:
    """Return `count` distinct sentences, repeated if there are fewer."""
    texts: set[str] = set()
    for name in SICK:
        with (_get_data_folder() / "sick2014" / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                texts |= {row["sentence_A"], row["sentence_B"]}
    return _sample(list(texts), count)


def _get_data_folder() -> Path:
    if not (folder := os.environ.get(DATA_VARIABLE)):
        sys.exit(f"set {DATA_VARIABLE} to the folder that holds caltech101 and sick2014")
    return Path(folder).resolve()


def _sample(items: list[str], count: int) -> list[str]:
    items.sort()
    random.Random(0).shuffle(items)
    if not items:
        sys.exit(f"no items found under {os.environ[DATA_VARIABLE]}")
    return list(islice(cycle(items), count))
